"""A diagnosis as text, JSON, SARIF or GitHub annotations; an anatomy as a tree. No torch."""

from __future__ import annotations

from attnscope.formats.github import to_github
from attnscope.formats.sarif import to_sarif
from attnscope.formats.terminal import print_text, text
from attnscope.formats.tree import anatomy_tree
from attnscope.formats.whole import to_json

__all__ = ["anatomy_tree", "print_text", "text", "to_github", "to_json", "to_sarif"]
