"""Why a case fails, in one clause each; the pages print them beside the failures."""

from __future__ import annotations

from fnmatch import fnmatchcase

# Pattern of the case's name (`kind/model/variant`, or `group: name` for a control) -> why.
REASONS: dict[str, str] = {
    "shared-by-mistake/*": "the mistake is in the constructor, which no forward pass runs; the line is where the "
    "shared weight is used",
    "parameter-without-use/*": "what is missing is a call, and no line holds it; the unused parameter is named",
    "not-registered/*": "the mistake is in the constructor; the line is where the unregistered weight is used",
    "positions-missing/*": "what is missing is an addition, and no line holds it; the unused positions are named",
    "attention-across-examples/*": "the axes are exchanged outside the attention; the line is the score product that "
    "then spans the examples",
    "residual-dropped/hf-llama/*": "what uses the attention's output next is a normalisation module, and the line is "
    "inside that module",
    "rotary-positions/*": "the line is the score product in which the rotation is missed, not the call that "
    "misplaced it",
    "cache-position/*": "positions are counted in another function than the attention; the line is the score product "
    "whose scores disagree with a fresh pass",
    "labels-unshifted/hf-gpt2/*": "the edited model still calls its old loss and throws the result away; the line is "
    "of that call",
    "future-leak/fused-decoder/triu-*": "the wrong mask is built in the constructor; the line is where it is applied",
    "scale/hf-*": "the factor is computed in the constructor; the line is where it multiplies",
    "swapped/*": "the exchange leaves a working model: the loss moved by what the row says, which is within what "
    "healthy models show when weights are exchanged",
}


def reason_for(name: str) -> str:
    """The reason whose pattern fits the name first."""
    return next((reason for pattern, reason in REASONS.items() if fnmatchcase(name, pattern)), "not explained yet")
