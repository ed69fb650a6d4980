"""What a command need not import it does not import: pages, rules and help open without torch."""

import subprocess
import sys

import pytest

WITHOUT_TORCH = [
    "attnscope",
    "attnscope.findings",
    "attnscope.readings",
    "attnscope.record",
    "attnscope.pages.page",
    "attnscope.pages.notebook",
    "attnscope.formats",
    "attnscope.explanations",
    "attnscope.catalogue",
    "attnscope.cli",
    "attnscope.anatomy.blocks",
    "attnscope.pages.study_page",
]


def modules_after(code: str) -> set[str]:
    """The names in `sys.modules` after running `code` in a fresh interpreter."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(found.stdout.split("\n"))


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_module_opens_without_torch(module: str) -> None:
    assert "torch" not in modules_after(f"import {module}")


@pytest.mark.parametrize("arguments", [["--help"], ["rules"], ["explain", "MSK101"], ["check", "--help"]])
def test_command_runs_without_torch(arguments: list[str]) -> None:
    code = f"""
import contextlib, io
sys.argv = ['attnscope', *{arguments!r}]
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    from attnscope.cli import main
    main()
assert len(out.getvalue()) > 100
"""
    found = modules_after(code)
    assert "torch" not in found
    assert "transformers" not in found


def test_listing_a_family_imports_no_member() -> None:
    found = modules_after("from attnscope import catalogue; assert catalogue.names('lenses')")
    assert not [name for name in found if name.startswith("attnscope.lenses.")]


def test_the_root_names_only_its_verbs() -> None:
    import attnscope

    assert len(attnscope.__all__) <= 10
    for verb in attnscope.__all__:
        assert getattr(attnscope, verb).__doc__
    with pytest.raises(AttributeError, match="its verbs are"):
        attnscope.diagnoze
