"""The errors attnscope raises: each names the user's object, what was seen, what was expected, the next step."""

from __future__ import annotations


class AttnscopeError(Exception):
    """Root of every error that attnscope raises on purpose."""


class CaseError(AttnscopeError):
    """The case cannot be used: its model, batches, loss or factory do not do what a case must."""


class TraceError(AttnscopeError):
    """The forward pass could not be watched."""


class NotDeterministicError(AttnscopeError):
    """Loss or gradient differ between two identical evaluations, so curvature would be noise."""


class CatalogueError(AttnscopeError):
    """No member of that name, or a member file that breaks its family's contract."""


class RecordError(AttnscopeError):
    """A stored file is missing, half-written, of another version, or not ours."""
