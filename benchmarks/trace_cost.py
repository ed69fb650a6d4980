"""What `attnscope.trace` costs, beside a plain forward pass.

The promise is at most three plain forward passes plus a quarter second. `--process-time` counts processor
seconds instead of seconds on the wall: the honest clock on a machine that others use too. Run:

    python benchmarks/trace_cost.py [--json] [--repeats 5] [--only NAME] [--process-time]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from attnscope.anatomy.trace import trace
from attnscope.case import default_forward

PASSES = 3.0
SECONDS = 0.25


@dataclass(frozen=True)
class Cost:
    """Median times of one model, in seconds."""

    model: str
    parameters: int
    attentions: int
    forward: float
    trace: float
    forward_spread: float
    trace_spread: float

    @property
    def ratio(self) -> float:
        return self.trace / self.forward

    @property
    def above_three_passes(self) -> float:
        return self.trace - PASSES * self.forward

    @property
    def kept(self) -> bool:
        return self.above_three_passes <= SECONDS


class Han(nn.Module):
    """Words make sentences, sentences make a document: two additive attentions over GRUs."""

    def __init__(self, vocabulary: int = 5000, d_embed: int = 100, n_hidden: int = 50) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, d_embed)
        self.grus = nn.ModuleList(
            nn.GRU(width, n_hidden, bidirectional=True, batch_first=True) for width in (d_embed, 2 * n_hidden)
        )
        self.projections = nn.ModuleList(nn.Linear(2 * n_hidden, 100) for _ in range(2))
        self.contexts = nn.ParameterList(nn.Parameter(torch.randn(100) * 0.1) for _ in range(2))
        self.classify = nn.Linear(2 * n_hidden, 5)

    def pool(self, level: int, x: Tensor, mask: Tensor) -> Tensor:
        hidden, _ = self.grus[level](x)
        scores = torch.tanh(self.projections[level](hidden)) @ self.contexts[level]
        pattern = scores.masked_fill(~mask, -1e9).softmax(-1)
        return (pattern.unsqueeze(-1) * hidden).sum(1)

    def forward(self, documents: Tensor) -> Tensor:
        b, s, w = documents.shape
        mask = documents != 0
        sentences = self.pool(0, self.embed(documents.view(b * s, w)), mask.view(b * s, w)).view(b, s, -1)
        return self.classify(self.pool(1, sentences, mask.any(-1)))


def hugging_face(model: str, config: str, kernel: str, **settings: Any) -> nn.Module:
    import transformers

    built = getattr(transformers, config)(**settings)
    built._attn_implementation = kernel
    return getattr(transformers, model)(built)


def distilbert(kernel: str) -> tuple[nn.Module, Any]:
    model = hugging_face("DistilBertForSequenceClassification", "DistilBertConfig", kernel)
    tokens = torch.randint(1000, 20000, (16, 64))
    mask = torch.ones_like(tokens)
    mask[::2, 50:] = 0
    return model, {"input_ids": tokens, "attention_mask": mask}


def gpt2() -> tuple[nn.Module, Any]:
    model = hugging_face("GPT2LMHeadModel", "GPT2Config", "sdpa", n_layer=6, n_embd=384, n_head=6, vocab_size=8000,
        bos_token_id=1, eos_token_id=2,
    )
    return model, {"input_ids": torch.randint(0, 8000, (8, 64))}


def vit() -> tuple[nn.Module, Any]:
    model = hugging_face(
        "ViTForImageClassification", "ViTConfig", "eager", hidden_size=384, num_hidden_layers=8,
        num_attention_heads=6, intermediate_size=1536, image_size=96, patch_size=16,
    )
    return model, {"pixel_values": torch.randn(8, 3, 96, 96)}


def han() -> tuple[nn.Module, Any]:
    documents = torch.randint(1, 5000, (16, 8, 25))
    documents[::3, 6:] = 0
    return Han(), documents


def encoder() -> tuple[nn.Module, Any]:
    layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True)
    return nn.TransformerEncoder(layer, 6), torch.randn(16, 64, 256)


MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "DistilBERT 6x768 eager": lambda: distilbert("eager"),
    "DistilBERT 6x768 sdpa": lambda: distilbert("sdpa"),
    "GPT-2 6x384 sdpa": gpt2,
    "ViT 8x384 eager": vit,
    "TransformerEncoder 6x256": encoder,
    "HAN 2x100": han,
}


Clock = Callable[[], float]


def timed(work: Callable[[], Any], repeats: int, clock: Clock) -> tuple[float, float]:
    """Median and spread (largest less smallest) of some runs, after one that is not counted."""
    work()
    seconds = []
    for _ in range(repeats):
        start = clock()
        work()
        seconds.append(clock() - start)
    return statistics.median(seconds), max(seconds) - min(seconds)


def measure(name: str, repeats: int, clock: Clock) -> Cost:
    torch.manual_seed(0)
    model, batch = MODELS[name]()
    model.eval()
    forward, forward_spread = timed(lambda: default_forward(model, batch), repeats, clock)
    traced, traced_spread = timed(lambda: trace(model, batch), repeats, clock)
    return Cost(
        name, sum(parameter.numel() for parameter in model.parameters()), len(trace(model, batch).attentions),
        forward, traced, forward_spread, traced_spread,
    )


def table(costs: list[Cost]) -> Table:
    drawn = Table(title=f"trace beside a plain forward pass ({torch.get_num_threads()} thread(s), eval mode)")
    for column in ("model", "parameters", "attentions", "forward", "trace", "ratio", "trace - 3 forward", "promise"):
        drawn.add_column(column, justify="left" if column == "model" else "right")
    for cost in costs:
        drawn.add_row(
            cost.model, f"{cost.parameters / 1e6:.1f} M", str(cost.attentions),
            f"{cost.forward * 1e3:.0f} ms ± {cost.forward_spread * 5e2:.0f}",
            f"{cost.trace * 1e3:.0f} ms ± {cost.trace_spread * 5e2:.0f}", f"{cost.ratio:.2f}",
            f"{cost.above_three_passes * 1e3:+.0f} ms", "kept" if cost.kept else "[red]broken[/red]",
        )
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--process-time", action="store_true", help="count processor seconds, not wall seconds")
    parser.add_argument("--only", default="", help="models whose name contains this")
    asked = parser.parse_args()
    clock = time.process_time if asked.process_time else time.perf_counter
    costs = [measure(name, asked.repeats, clock) for name in MODELS if asked.only.lower() in name.lower()]
    if asked.json:
        print(json.dumps([{**asdict(cost), "ratio": cost.ratio, "kept": cost.kept} for cost in costs], indent=2))
    else:
        Console(width=120).print(table(costs))
    raise SystemExit(0 if all(cost.kept for cost in costs) else 1)


if __name__ == "__main__":
    main()
