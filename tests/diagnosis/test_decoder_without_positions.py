"""A causal model that leaves positions out on purpose gets a note; one that forgets its table a warning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnscope.examine import diagnose
from attnscope.findings import Severity
from attnscope.models.gpt import Gpt


class Forgetful(Gpt):
    """Has a table of positions and does not add it."""

    def forward(self, input_ids: Tensor) -> Tensor:  # type: ignore[override]
        hidden = self.tokens(input_ids)
        for block in self.blocks:
            hidden, _ = block(hidden, None)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


def severities(model: nn.Module) -> dict[str, Severity]:
    ids = torch.randint(0, 20, (8, 13))
    diagnosis = diagnose(model, [(ids[:, :-1], ids[:, 1:])])
    return {finding.kind: finding.severity for finding in diagnosis.findings}


def test_without_positions() -> None:
    torch.manual_seed(0)
    model = Forgetful(n_tokens=20, n_positions=16, d_model=32, n_heads=4)
    assert any(severity is not Severity.NOTE for severity in severities(model).values())
    del model.positions
    assert severities(model) == {"positions_missing": Severity.NOTE}
