"""How attention learns its words in two models, through the lenses: prints docs/training_dynamics.md.

python benchmarks/training_dynamics.py > docs/training_dynamics.md
"""

from __future__ import annotations

import argparse
import itertools
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from attnscope import Case, catalogue, train
from attnscope.models.bag_of_words_attention import BagOfWordsAttention
from attnscope.models.distilbert import Distilbert, weights_folder
from attnscope.models.han import Han
from attnscope.readings import Reading
from attnscope.record import Run
from attnscope.tasks.keyed_documents import KeyedDocuments
from attnscope.tasks.movie_reviews import MovieReviews
from attnscope.tasks.topic_words import TopicWords

LENSES = (
    "token_score", "token_value_norm", "score_norm_agreement", "score_norm_identity", "score_sum",
    "discriminative_attention", "attended_purity",
)
ABOUT = """# How attention learns its words

A run of any model that reads tokens and has one label per example can be followed with

```python
run = attnscope.train(case, 300, lenses=["discriminative_attention", "attended_purity", "score_norm_agreement",
                                         "token_score", "token_value_norm"], every=50, run="runs/first")
run.series("attended_purity").values        # [step, layer, head]
```

or, beside a loop of your own, `with attnscope.watch(model, optimizer, batches, lenses=[...]) as w: ... w.step(loss)`.
Which tokens decide the label is measured from the case's batches: a token counts when its association with the label
is larger than that of any token in 95 % of 200 shuffles of the labels, so give enough examples (a thousand for
reviews). `purity` is smoothed: a token seen once counts as a third of pure. The same lenses are tested on an encoder
and on DistilBERT; each passes over all of the case's batches, so on a large model fire them rarely.

In the tables, *share* is the attention on such tokens (the largest head; *uniform* is what equal weights give),
*purity* that of the most attended token of each example (largest head; *chance* is the same tokens under shuffled
labels, largest head), *together* the correlation over token types between the growth of the score and of the norm of
the value path since the start (per attention).
"""


def bag_of_words() -> tuple[Case, Any, int]:
    """Free keys and embeddings on generated sentences: the exact laws apply."""
    task = TopicWords(n_other=1000, n_train=300, seed=0)
    column = {word: index for index, word in enumerate(task.all_words().split())}
    sentences, _, _ = task.splits()
    tokens = torch.tensor([[column[word] for word in text.split()] for text, _ in sentences])
    model = BagOfWordsAttention(len(column), task.n_topics, "FC").double()
    optimizer = torch.optim.SGD([model.key.weight, model.embedding.weight], lr=0.3)
    return Case(model, [(tokens, torch.tensor([label for _, label in sentences]))], optimizer=optimizer), None, 420


def han() -> tuple[Case, Any, int]:
    """A hierarchical attention network on generated documents."""
    task = KeyedDocuments()
    torch.manual_seed(0)
    model = Han(**task.sizes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    kept = [task.batch(number, 128) for number in range(4)]
    fresh = (task.batch(number) for number in itertools.count(10))
    return Case(model, kept, optimizer=optimizer, expects=task.expects), fresh, 240


def distilbert() -> tuple[Case, Any, int]:
    """DistilBERT with pre-trained weights, fine-tuned on real movie reviews; 1024 reviews are looked at."""
    from transformers import AutoTokenizer

    model = Distilbert(pretrained=True, seed=0).build()
    task = MovieReviews(max_length=32, batch_size=32, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(weights_folder())
    batches = list(itertools.islice(task.batches(task.read()[0], tokenizer), 96))
    optimizer = torch.optim.AdamW([item for item in model.parameters() if item.requires_grad], lr=1e-4)
    return Case(model, batches[:32], optimizer=optimizer, max_batches=32), iter(batches[32:]), 60


CASES: dict[str, Callable[[], tuple[Case, Any, int]]] = {
    "bag of words": bag_of_words, "HAN": han, "DistilBERT": distilbert,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--select", default="", help="only models whose name holds this")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(ABOUT)
    command = "python benchmarks/training_dynamics.py"
    print(f"Made by `{command}` (torch {torch.__version__}, {platform.machine()}, 1 thread).")
    for name, make in CASES.items():
        if asked.select not in name:
            continue
        started = time.perf_counter()
        case, batches, steps = make()
        run = train(case, steps, lenses=LENSES, every=max(20, steps // 6), batches=batches)
        print(f"\n## {name}\n\n{(make.__doc__ or '').strip()} {steps} steps.\n")
        table(run)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return 0


def table(run: Run) -> None:
    """One row per record, then what the last record says in words."""
    print("| step | loss | share | uniform | purity | chance | together |")
    print("|---|---|---|---|---|---|---|")
    for step in run.steps:
        held = run.at(step)
        share, purity = held["discriminative_attention"], held["attended_purity"]
        cells = [
            shown(held.get("training_loss")), largest(share), highest(share, "uniform"), largest(purity),
            highest(purity, "chance"), ", ".join(f"{value:.2f}" for value in held["score_norm_agreement"].values),
        ]
        print(f"| {step} | {' | '.join(cells)} |")
    last = run.at(run.steps[-1])
    correlation = catalogue.load("run_lenses", "score_norm_correlation")().measure(run)
    median = ", ".join("-" if value is None else f"{value:.2f}" for value in correlation.facts["median_of_top"])
    print(f"\n- Score with norm over the run, median correlation, types with half the largest score or more: {median}.")
    words = [row for row in last["attended_purity"].facts["words"] if row]
    print(f"- Most attended at the end, first attention (token, share, purity, examples): {listed(words[0][:5])}.")
    for name in ("score_norm_identity", "score_sum"):
        reading = last[name]
        said = reading.facts["worst"] if name == "score_norm_identity" and reading.ok else reading.values.tolist()
        print(f"- `{name}`: {said if reading.ok else reading.note}.")
    said = "; ".join(filter(None, (last[name].note for name in ("score_norm_agreement", "attended_purity"))))
    print(f"- Said in words: {said or 'nothing'}.")


def shown(reading: Reading | None) -> str:
    return "" if reading is None else f"{float(reading.values):.3f}"


def largest(reading: Reading) -> str:
    return f"{np.nanmax(reading.values):.3f}" if np.isfinite(reading.values).any() else reading.note or "-"


def highest(reading: Reading, fact: str) -> str:
    rows = [np.atleast_1d(row) for row in reading.facts.get(fact, []) if row is not None]
    numbers = np.concatenate(rows) if rows else np.zeros(0)
    return f"{numbers.max():.3f}" if numbers.size else "-"


def listed(rows: list[list[float]]) -> str:
    return "; ".join(f"{int(row[0])}, {row[1]:.2f}, {row[2]:.2f}, {int(row[3])}" for row in rows)


if __name__ == "__main__":
    raise SystemExit(main())
