"""The dynamics on real sentences: accuracy, the identity over the top words, purity, and a traced sentence."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from attnscope.errors import CaseError
from attnscope.models.bag_of_words_attention import BagOfWordsAttention
from attnscope.models.bag_of_words_descent import Descent
from attnscope.studies import Claim, Curve, Part, at_least, at_most
from attnscope.studies._score_norm import identity_norm
from attnscope.tasks.movie_reviews import MovieReviews
from attnscope.tasks.stanford_sentiment import StanfordSentiment
from attnscope.tasks.word_bags import PADDING, WordBags, bags, words

Array = npt.NDArray[np.float64]

TRACED_WORDS = ("powerful", "stupid", "solid", "suffers", "mess")
TRACED_SENTENCE = "a powerful sequel and one of the best films of the year"
WIDTH = {"FC": 200, "TC": 100}
PATIENCE, LONGEST = 2000, 52
MOST_EPOCHS = {"smoke": 600, "small": 25_000, "paper": 75_000}
# Test accuracies of an independent run of the released code's settings and seed, one run each (the paper's
# printed table is within 1.3 points of them); padding is an ordinary trainable word, as in the released code.
ACCURACY = {
    ("SST-2", "FC"): 0.8023,
    ("SST-2", "TC"): 0.7952,
    ("SST-5", "FC"): 0.3977,
    ("SST-5", "TC"): 0.4158,
}
MASKED_ACCURACY = {("SST-2", "FC"): 0.8062, ("SST-2", "TC"): 0.7974, ("SST-5", "TC"): 0.4023}


@dataclass
class Training:
    """A run to early stopping; `scores`, `norms` `[record, word]`, norms times ||q||."""

    best: Descent
    last: Descent
    best_epoch: int
    epochs: int
    at: list[int]
    scores: Array
    norms: Array


def sentiment_part(scale: str, data: Path | None) -> list[tuple[str, Callable[[], Part]]]:
    """The parts on real sentences that the scale and the data allow."""
    found: list[tuple[str, Callable[[], Part]]] = []
    if data is None:
        found.append(("movie reviews FC", partial(_reviews, "FC", scale)))
        if scale != "smoke":
            found.append(("movie reviews TC", partial(_reviews, "TC", scale)))
        return [*found, ("SST", _without_sst)]
    sets = {
        "smoke": [("SST-2", "FC")],
        "small": [("SST-2", "FC"), ("SST-2", "TC"), ("SST-5", "FC")],
        "paper": list(ACCURACY),
    }[scale]
    found += [(f"{name} {head}", partial(_sst, data, name, head, scale)) for name, head in sets]
    if scale == "paper":
        found += [
            (f"{name} {head}, padding masked", partial(_masked, data, name, head)) for name, head in MASKED_ACCURACY
        ]
        found.append(("early stopping with trainable padding", partial(_fragility, data)))
        found += [
            ("movie reviews FC", partial(_reviews, "FC", scale)),
            ("movie reviews TC", partial(_reviews, "TC", scale)),
        ]
    return found


def _without_sst() -> Part:
    return Part(
        skipped=[
            "SST-2 and SST-5: their files have no known licence and come with nothing; give their folder with --data"
        ]
    )


def train(splits: tuple[WordBags, ...], head: str, *, most_epochs: int, seed: int = 3, every: int = 500) -> Training:
    """Full-batch descent until the validation loss has not improved for 2000 epochs; keeps the best state."""
    fitted, valid = splits[0], splits[1]
    model = BagOfWordsAttention(len(fitted.vocabulary), fitted.n_classes, head, d_embedding=WIDTH[head], seed=seed)
    descent = Descent(model, fitted.counts, fitted.labels, from_zero=True)
    query = float(np.linalg.norm(descent.query))
    lowest, best, best_epoch = np.inf, _kept(descent), 0
    at, scores, norms = [0], [descent.scores.copy()], [descent.norms() * query]
    epoch = 0
    while epoch < most_epochs and epoch - best_epoch < PATIENCE:
        descent.step()
        epoch += 1
        loss = descent.loss(valid.counts, valid.labels)
        if loss < lowest:
            lowest, best, best_epoch = loss, _kept(descent), epoch
        if epoch % every == 0:
            at.append(epoch)
            scores.append(descent.scores.copy())
            norms.append(descent.norms() * query)
    ended = _restored(descent, _kept(descent))
    return Training(_restored(descent, best), ended, best_epoch, epoch, at, np.array(scores), np.array(norms))


State = tuple[Array, Array, list[Array]]


def _kept(descent: Descent) -> State:
    """The state alone: the data are large and shared."""
    return descent.scores.copy(), descent.table.copy(), [value.copy() for value in descent.head]


def _restored(descent: Descent, state: State) -> Descent:
    twin = deepcopy(
        descent,
        {
            id(descent.counts): descent.counts,
            id(descent.counts_T): descent.counts_T,
            id(descent.start): descent.start,
            id(descent.keys): descent.keys,
        },
    )
    twin.scores, twin.table, twin.head = state
    return twin


def _sst(data: Path, name: str, head: str, scale: str) -> Part:
    labels = "binary" if name == "SST-2" else "fine"
    texts = StanfordSentiment(data, labels).splits()
    splits = bags(texts, pad_to=LONGEST)
    run = train(splits, head, most_epochs=MOST_EPOCHS[scale])
    part = _common(name, head, splits, run, finished=scale != "smoke")
    if scale == "smoke":
        return part
    accuracy = run.best.accuracy(splits[2].counts, splits[2].labels)
    part.claims.insert(0, _accuracy_claim(f"{name} {head}: test accuracy", ACCURACY[name, head], accuracy, run))
    if name == "SST-2":
        part.claims += _purity(splits[0], run, head)
        if head == "FC":
            part.claims += _traced(splits[0], run)
            part.curves += _traced_curves(splits[0], run)
            part.figures["traced words"] = ("epoch", "score")
    return part


def _accuracy_claim(name: str, expected: float, measured: float, run: Training) -> Claim:
    return Claim(
        name,
        "section 5, table of accuracies",
        f"{100 * expected:.1f} %",
        "1.5 points",
        measured,
        abs(measured - expected) <= 0.015,
        f"seed 3, stopped at {run.epochs}, best epoch {run.best_epoch}",
    )


def _masked(data: Path, name: str, head: str) -> Part:
    splits = bags(StanfordSentiment(data, "binary" if name == "SST-2" else "fine").splits())
    run = train(splits, head, most_epochs=MOST_EPOCHS["paper"])
    measured = run.best.accuracy(splits[2].counts, splits[2].labels)
    return Part(
        claims=[
            _accuracy_claim(f"{name} {head}, padding masked: test accuracy", MASKED_ACCURACY[name, head], measured, run)
        ]
    )


def _fragility(data: Path) -> Part:
    """With trainable padding and the authors' patience, other seeds of SST-2 TC stop on the plateau."""
    splits = bags(StanfordSentiment(data).splits(), pad_to=LONGEST)
    found = []
    for seed in (0, 1, 2):
        run = train(splits, "TC", most_epochs=30_000, seed=seed)
        found.append((run.epochs, run.best.accuracy(splits[2].counts, splits[2].labels)))
    stopped = sum(accuracy < 0.6 for _, accuracy in found)
    note = "; ".join(f"stop at {epochs}: {100 * accuracy:.1f} %" for epochs, accuracy in found)
    return Part(
        claims=[
            at_least(
                "SST-2 TC: of 3 other seeds, those that early stopping ends on the plateau",
                "fragility of the released settings",
                2.0,
                float(stopped),
                f"{note}. Padding learns the class prior first; use a mask, or more patience",
            )
        ]
    )


def _reviews(head: str, scale: str) -> Part:
    """Real sentences for whoever has only the package."""
    try:
        fitted, held_out = MovieReviews(n_held_out=1024).read()
    except CaseError as error:
        return Part(skipped=[f"movie reviews: {error}"])
    usable = [
        [(text, label) for text, label in rows if words(text)] for rows in (fitted, held_out[:512], held_out[512:])
    ]
    splits = bags(usable)
    run = train(splits, head, most_epochs=min(MOST_EPOCHS[scale], 25_000))
    part = _common("movie reviews", head, splits, run, finished=scale != "smoke")
    if scale != "smoke":
        measured = run.best.accuracy(splits[2].counts, splits[2].labels)
        part.claims.append(
            at_least(
                f"movie reviews {head}: test accuracy",
                "extension",
                0.70,
                measured,
                f"512 sentences, padding masked, stopped at {run.epochs}",
            )
        )
        part.claims += _purity(splits[0], run, head, "movie reviews", place="extension")
    return part


def _common(name: str, head: str, splits: tuple[WordBags, ...], run: Training, *, finished: bool) -> Part:
    """The identity and the growth of score with norm, over the hundred words of largest score."""
    fitted = splits[0]
    top = _top_words(fitted, run)
    theory = identity_norm(run.scores[-1, top], _words_beside(fitted)[top])
    deviation = (run.norms[-1, top] - theory) / theory
    correlation = [float(np.corrcoef(run.scores[:, word], run.norms[:, word])[0, 1]) for word in top]
    part = Part(figures={f"{name} {head}: top words": ("score", "||q|| ||v||")})
    order = np.argsort(run.scores[-1, top])
    x = run.scores[-1, top][order]
    part.curves = [
        Curve(f"{name} {head}: top words", "measured", x.tolist(), run.norms[-1, top][order].tolist()),
        Curve(f"{name} {head}: top words", "identity", x.tolist(), theory[order].tolist(), reference=True),
    ]
    where = f"100 words of largest score, {run.epochs} epochs"
    part.claims.append(
        at_least(
            f"{name} {head}: score and norm grow together (median correlation over time)",
            "section 5, about 0.97",
            0.9,
            float(np.median(correlation)),
            where,
        )
        if finished
        else at_least(
            f"{name} {head}: score and norm grow together (median correlation over time)",
            "section 5",
            0.8,
            float(np.nanmedian(correlation)),
            where,
        )
    )
    if finished:
        middle = float(np.median(deviation))
        part.claims.append(
            Claim(
                f"{name} {head}: median deviation from the identity",
                "section 5, SST figures",
                "4 to 14 %",
                "3 to 17 %",
                middle,
                0.03 <= abs(middle) <= 0.17,
                f"{where}; quartiles {np.quantile(deviation, 0.25):+.3f}, {np.quantile(deviation, 0.75):+.3f}",
            )
        )
    return part


def _top_words(fitted: WordBags, run: Training, n: int = 100) -> npt.NDArray[np.int64]:
    scores = run.scores[-1].copy()
    if PADDING in fitted.vocabulary:
        scores[fitted.column(PADDING)] = -np.inf
    scores[np.asarray(fitted.counts.sum(0)).ravel() == 0] = -np.inf
    return np.argsort(scores)[::-1][:n]


def _real_counts(fitted: WordBags) -> tuple[sparse.csr_matrix, Array]:
    """Counts without padding, and each sentence's number of real words."""
    counts = fitted.counts.tolil()
    if PADDING in fitted.vocabulary:
        counts[:, fitted.column(PADDING)] = 0
    kept = counts.tocsr()
    kept.eliminate_zeros()
    return kept, np.asarray(kept.sum(1)).ravel()


def _words_beside(fitted: WordBags) -> Array:
    """`[word]`: mean length of the sentences with the word, less one: the identity's m on real text."""
    counts, lengths = _real_counts(fitted)
    present = (counts > 0).astype(float)
    occurrences = np.asarray(present.sum(0)).ravel()
    return np.asarray((present.T @ lengths) / occurrences.clip(min=1) - 1).clip(min=1.0)


def _purity(
    fitted: WordBags,
    run: Training,
    head: str,
    name: str = "SST-2",
    place: str = "section 5, purity and frequency",
) -> list[Claim]:
    """The most attended word of each sentence: how one-sided its sentences' labels are, and how frequent it is."""
    counts, _ = _real_counts(fitted)
    present = (counts > 0).astype(float)
    positive = np.asarray(present.T @ (fitted.labels == 1)).ravel()
    total = np.asarray(present.sum(0)).ravel().clip(min=1)
    purity = np.abs(2 * positive - total) / total
    first, last = _attended(present, run.scores[1]), _attended(present, run.scores[-1])
    found = [(purity[first].mean(), purity[last].mean(), total[first].mean(), total[last].mean())]
    early, late, common, rare = found[0]
    return [
        at_least(
            f"{name} {head}: purity of the most attended words rises (last over first)",
            place,
            1.5,
            float(late / early),
            f"{early:.2f} at epoch {run.at[1]}, {late:.2f} at {run.at[-1]}",
        ),
        at_most(
            f"{name} {head}: frequency of the most attended words falls (last over first)",
            place,
            0.5,
            float(rare / common),
            f"{common:.0f} sentences at epoch {run.at[1]}, {rare:.0f} at {run.at[-1]}",
        ),
    ]


def _attended(present: sparse.csr_matrix, scores: Array) -> npt.NDArray[np.int64]:
    """The word of largest score in each sentence."""
    rows = present.tocsr()
    return np.array([row[np.argmax(scores[row])] for row in np.split(rows.indices, rows.indptr[1:-1])])


def _traced(fitted: WordBags, run: Training) -> list[Claim]:
    top = {fitted.vocabulary[index] for index in _top_words(fitted, run)}
    sentence = words(TRACED_SENTENCE)
    columns = [fitted.column(word) for word in sentence]
    best = run.scores[:, fitted.column("best")]
    weights = np.exp(run.scores[-1][columns])
    share = float(np.exp(run.scores[-1][fitted.column("powerful")]) / weights.sum())
    return [
        at_least(
            "SST-2 FC: traced words among the hundred of largest score",
            "figures 5 words",
            5.0,
            float(len(top & set(TRACED_WORDS))),
            ", ".join(sorted(top & set(TRACED_WORDS))),
        ),
        at_least(
            "SST-2 FC: attention on 'powerful' among the traced sentence's words",
            "traced sentence",
            0.11,
            share,
            f"uniform would be {1 / len(columns):.3f}; padding left out of the share",
        ),
        at_most(
            "SST-2 FC: score of 'best' at the end over its peak",
            "traced sentence: rises, then falls",
            0.8,
            float(best[-1] / best.max()),
            f"peak {best.max():.3f} at epoch {run.at[int(best.argmax())]}, end {best[-1]:.3f}",
        ),
    ]


def _traced_curves(fitted: WordBags, run: Training) -> list[Curve]:
    return [
        Curve("traced words", word, run.at, run.scores[:, fitted.column(word)].tolist())
        for word in (*TRACED_WORDS, "best")
    ]
