"""Lu, Mao and Nayak (ICLR 2021): the score-norm identity and how attention learns its topic words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from attnscope.models.bag_of_words_attention import BagOfWordsAttention
from attnscope.models.bag_of_words_descent import Descent
from attnscope.studies import Claim, Curve, Part, Study, at_least, at_most, near
from attnscope.studies._dynamics_about import ABOUT
from attnscope.studies._dynamics_figures import histograms, traced_word
from attnscope.studies._score_norm import Recorded, balance_drift, identity_norm, record, relative_deviation
from attnscope.studies._sentiment_dynamics import sentiment_part
from attnscope.tasks.topic_words import TopicWords
from attnscope.tasks.word_bags import WordBags, bags

# Training loss read from the authors' own figures (vector PDFs of their first release), reading error 0.005.
FIGURE_LOSS = {
    "FC": {1: 1.386, 500: 1.169, 750: 0.569, 1000: 0.184, 1500: 0.017, 2000: 0.008, 3000: 0.004},
    "TC": {1: 1.386, 500: 1.378, 750: 1.371, 1000: 1.359, 1500: 1.255, 2000: 0.143, 2500: 0.008, 3000: 0.003},
    "TL": {
        1: 1.401,
        500: 1.385,
        1000: 1.383,
        1500: 1.380,
        2000: 1.363,
        2500: 0.811,
        3000: 0.350,
        5000: 0.002,
    },
}
ABLATION_LOSS = {
    ("FC", "full"): {500: 1.177, 1000: 0.226, 2000: 0.008, 6000: 0.001},
    ("FC", "KF"): {500: 1.276, 1000: 1.172, 2000: 0.994, 3000: 0.851, 4000: 0.736, 6000: 0.566},
    ("FC", "EF"): {500: 1.389, 1000: 1.389, 2000: 1.388, 4000: 1.386, 6000: 1.384},
    ("TC", "full"): {500: 1.374, 1000: 1.342, 2000: 0.119, 6000: 0.0001},
    ("TC", "KF"): {500: 1.375, 1000: 1.356, 2000: 1.211, 3000: 0.725, 4000: 0.259, 6000: 0.056},
    ("TC", "EF"): {500: 1.383, 1000: 1.382, 2000: 1.379, 4000: 1.365, 6000: 1.187},
}
ABLATION_NORM = {
    ("FC", "full"): 3.42,
    ("FC", "KF"): 9.05,
    ("FC", "EF"): 0.274,
    ("TC", "full"): 3.22,
    ("TC", "KF"): 6.78,
    ("TC", "EF"): 0.275,
}
# Final score of a topic word in the authors' ablation figures, and what their histograms span (by eye).
ABLATION_SCORE = {("FC", "full"): 3.73, ("TC", "full"): 3.50}
HISTOGRAM_NOISE = 0.03
EPOCHS = {
    "smoke": {"FC": 1500, "TC": 2600, "TL": 3200},
    "small": {"FC": 3000, "TC": 3000, "TL": 5000},
    "paper": {"FC": 5000, "TC": 5000, "TL": 5000},
}
N_DATA_SETS = {
    "smoke": {"FC": 2, "TC": 2, "TL": 2},
    "small": {"FC": 12, "TC": 3, "TL": 3},
    "paper": {"FC": 12, "TC": 6, "TL": 6},
}


@dataclass(frozen=True)
class Lu2021dynamics(Study):
    """The dynamics of training attention: synthetic sentences, the ablation, and real sentences.

    Attributes:
        data: folder of the `stsa.*` files (SST-2 and SST-5); without it the sentiment part runs on the
            movie reviews of an installed package, and says what it leaves out.
    """

    data: Path | None = None

    title: ClassVar[str] = "On the Dynamics of Training Attention Models"
    reference: ClassVar[str] = "Lu, Mao, Nayak, ICLR 2021, arXiv:2011.10036"
    about: ClassVar[str] = ABOUT

    def parts(self, scale: str) -> list[tuple[str, Callable[[], Part]]]:
        """Synthetic runs, exact laws, ablation, extensions, sentiment."""
        found: list[tuple[str, Callable[[], Part]]] = [
            (f"synthetic {head}", partial(_synthetic, head, scale)) for head in ("FC", "TC", "TL")
        ]
        found.append(("exact laws", _laws))
        found += [(f"ablation {head}", partial(_ablation, head, scale)) for head in ("FC", "TC")]
        found.append(("extensions", partial(_extensions, scale)))
        found += sentiment_part(scale, self.data)
        return found


def _extend(part: Part, more: Part) -> None:
    part.curves += more.curves
    part.figures.update(more.figures)


def _bags(task: TopicWords) -> tuple[WordBags, ...]:
    """Train, validation, test over the whole vocabulary, topic words first."""
    train, valid, test = task.splits()
    every = [(task.all_words(), 0)]
    ordered = bags([every + train, valid, test])
    whole = ordered[0]
    return (WordBags(whole.counts[1:], whole.labels[1:], whole.vocabulary), *ordered[1:])


def _synthetic(head: str, scale: str) -> Part:
    part = Part(figures={"loss": ("epoch", "training loss"), "identity": ("score", "||q|| ||v||")})
    losses, worst, separated, accuracy, conserved, attention, monotone, noise = [], [], [], [], [], [], [], []
    epochs = EPOCHS[scale][head]
    for seed in range(N_DATA_SETS[scale][head]):
        task = TopicWords(seed=seed)
        train, _, test = _bags(task)
        model = BagOfWordsAttention(len(train.vocabulary), task.n_topics, head)
        run = record(Descent(model, train.counts, train.labels), epochs, words=range(len(task.topic_words())))
        deviation = relative_deviation(run, m=task.n_noise)
        worst.append(float(np.max(np.abs(deviation[run.scores > 0.1]))))
        losses.append(run.losses)
        descent = run.descent
        topics = descent.scores[: len(task.topic_words())]
        others = descent.scores[len(task.topic_words()) :]
        separated.append(float(topics.min() - np.abs(others).max()))
        noise.append(float(np.abs(others).max()))
        accuracy.append(descent.accuracy(test.counts, test.labels))
        conserved.append(float(abs(descent.scores.sum())))
        shares = descent.attention(train.counts)[:, : len(task.topic_words())]
        attention.append(float(shares.sum() / len(train.labels)))
        monotone.append(float((np.diff(run.scores, axis=0) > 0).mean()))
        if seed == 0:
            part.curves += _identity_curves(head, run.scores, run.norms, task.n_noise)
            if epochs == 5000:
                _extend(part, histograms(head, descent, len(task.topic_words())))
    mean = np.mean(losses, axis=0)
    part.curves += [
        Curve("loss", head, list(range(1, epochs + 1, 25)), mean[::25].tolist()),
        Curve(
            "loss",
            f"{head}, authors' figure",
            list(FIGURE_LOSS[head]),
            list(FIGURE_LOSS[head].values()),
            True,
        ),
    ]
    n_seeds = f"{len(losses)} data sets of 800 sentences, {epochs} epochs, start of seed 3"
    part.claims += [
        at_most(
            f"{head}: score-norm identity, worst relative error for s > 0.1",
            "section 3, identity",
            0.02,
            max(worst),
            n_seeds,
        ),
        at_most(f"{head}: sum of scores is conserved", "exact law 2", 1e-9, max(conserved), n_seeds),
        *_figure_losses(head, np.asarray(losses)),
    ]
    if epochs == 5000 or head != "TL":  # TL learns its last topics late
        part.claims += [
            at_least(
                f"{head}: least topic score less the largest of other words",
                "figure, histograms",
                0.4,
                min(separated),
                f"{n_seeds}; each: {', '.join(f'{value:.2f}' for value in separated)}"
                + ("; in the least of them the last topic is learnt only now" if head == "TL" else ""),
            ),
            at_most(
                f"{head}: largest |score| of other words",
                "figure, histograms",
                HISTOGRAM_NOISE,
                max(noise),
                n_seeds,
            ),
            at_least(
                f"{head}: share of records in which topic scores rise",
                "mutual promotion",
                0.985,
                float(np.mean(monotone)),
                n_seeds,
            ),
            at_least(f"{head}: test accuracy", "section 5", 0.999, min(accuracy), n_seeds),
        ]
    if scale == "paper":
        expected = {"FC": 0.73, "TC": 0.61, "TL": 0.33}[head]
        part.claims.append(
            near(
                f"{head}: mean attention on the topic word at 5000 epochs",
                "double-logarithmic approach to 1",
                expected,
                float(np.mean(attention)),
                0.1,
                "the limit is 1, approached as ln ln t: never near 1 in practice",
            )
        )
    if head == "TL":
        part.claims.append(_three_steps(np.asarray(losses), epochs))
    return part


def _figure_losses(head: str, losses: np.ndarray) -> list[Claim]:
    """The loss at listed epochs, as a median over data sets: on its steep part it varies with the draw."""
    steep = {"FC": 1000, "TC": 1500, "TL": 2500}[head]
    smooth = {"FC": 500, "TC": 1000, "TL": 2000}[head]
    chosen = [smooth, steep] if len(losses) >= 6 else [smooth]
    return [
        near(
            f"{head}: training loss at epoch {epoch}",
            "authors' figure",
            FIGURE_LOSS[head][epoch],
            float(np.median(losses[:, epoch - 1])),
            0.10,
            f"median of {len(losses)} data sets, "
            f"from {losses[:, epoch - 1].min():.3f} to {losses[:, epoch - 1].max():.3f}",
        )
        for epoch in chosen
    ]


def _three_steps(losses: np.ndarray, epochs: int) -> Claim:
    """TL learns its topics one after another: the loss falls in steps, FC and TC fall once."""
    counts = [_descents(loss) for loss in losses]
    bound = 2 if epochs < 5000 else 3
    return at_least(
        "TL: separate descents of the loss",
        "authors' figure, three-step descent",
        bound,
        float(np.median(counts)),
        f"descents in each data set: {counts}, {epochs} epochs",
    )


def _descents(loss: np.ndarray) -> int:
    """How many separate peaks the speed of descent has, on a smoothed curve."""
    smooth = np.convolve(loss, np.ones(25) / 25, mode="valid")
    speed = -np.gradient(smooth)
    peak = speed.max()
    fast = [i for i in range(20, len(speed) - 20) if speed[i] == speed[i - 20 : i + 21].max() and speed[i] > 0.1 * peak]
    kept: list[int] = []
    for index in fast:
        if not kept or speed[kept[-1] : index].min() < 0.6 * min(speed[kept[-1]], speed[index]):
            kept.append(index)
    return len(kept)


def _identity_curves(head: str, scores: np.ndarray, norms: np.ndarray, m: int) -> list[Curve]:
    order = np.argsort(scores[:, 0])[::20]
    s = scores[order, 0]
    return [
        Curve("identity", f"{head}, measured", s.tolist(), norms[order, 0].tolist()),
        Curve("identity", f"{head}, identity", s.tolist(), identity_norm(s, m).tolist(), reference=True),
    ]


def _laws() -> Part:
    """Laws that need no assumption, and how the drift of a conserved quantity follows the step size."""
    task = TopicWords(n_other=200, n_noise=10, n_train=400, seed=0)
    train, _, _ = _bags(task)
    drifts = {}
    for lr in (0.4, 0.2, 0.1):
        model = BagOfWordsAttention(len(train.vocabulary), task.n_topics, "TC", embedding_sd=0.1)
        drifts[lr] = balance_drift(Descent(model, train.counts, train.labels, lr=lr), int(120 / lr))
    ratio = drifts[0.4] / drifts[0.1]
    note = ", ".join(f"lr {lr:g}: {drift:.2e}" for lr, drift in drifts.items())
    return Part(
        claims=[
            near(
                "TC: drift of E^T E - W W^T falls linearly with the step (ratio for steps 0.4 and 0.1)",
                "exact law 3",
                4.0,
                ratio,
                0.15,
                note,
            )
        ]
    )


def _ablation(head: str, scale: str) -> Part:
    """Keys frozen, embeddings frozen, and neither, from embeddings of standard deviation 0.1."""
    epochs, n_sets = (1000, 1) if scale == "smoke" else (6000, 3)
    part = Part(figures={f"ablation {head}": ("epoch", "training loss")})
    final: dict[str, float] = {}
    for arm in ("full", "KF", "EF"):
        runs = [_ablation_run(head, arm, epochs, seed) for seed in range(n_sets)]
        losses = [run.losses for run in runs]
        norms, scores = [float(run.norms[-1, 0]) for run in runs], [float(run.scores[-1, 0]) for run in runs]
        loss = np.median(losses, axis=0)
        final[arm] = float(loss[-1])
        expected = ABLATION_LOSS[head, arm]
        part.curves += [
            Curve(f"ablation {head}", arm, list(range(1, epochs + 1, 25)), loss[::25].tolist()),
            Curve(
                f"ablation {head}", f"{arm}, authors' figure", list(expected), list(expected.values()), reference=True
            ),
        ]
        _extend(part, traced_word(head, arm, runs[0]))
        # The full model's loss is either on its steep part or a number near zero; 10 % is asked of smooth curves.
        for epoch in (1000, 6000):
            if epoch <= epochs and arm != "full":
                seen = [float(run[epoch - 1]) for run in losses]
                note = f"embedding sd 0.1, median of {n_sets} data sets, {min(seen):.3f} to {max(seen):.3f}"
                if arm == "EF" and epoch == 6000:
                    note += "; keys fit the words whose frozen embedding happens to suit, which depends on the data"
                place = "authors' figure, ablation"
                part.claims.append(
                    near(
                        f"{head}-{arm}: loss at epoch {epoch}",
                        place,
                        expected[epoch],
                        float(np.median(seen)),
                        0.10,
                        note,
                    )
                )
        if epochs == 6000:
            part.claims.append(
                near(
                    f"{head}-{arm}: ||q|| ||v|| of a topic word at 6000",
                    "authors' figure, ablation",
                    ABLATION_NORM[head, arm],
                    float(np.median(norms)),
                    0.15,
                )
            )
        if epochs == 6000 and (head, arm) in ABLATION_SCORE:
            part.claims.append(
                near(
                    f"{head}-{arm}: score of a topic word at 6000",
                    "authors' figure, ablation",
                    ABLATION_SCORE[head, arm],
                    float(np.median(scores)),
                    0.15,
                )
            )
    lowest = final["full"] / min(final["KF"], final["EF"])
    bound = 0.5 if epochs == 6000 or head == "FC" else 1.0
    part.claims.append(
        at_most(
            f"{head}: loss of joint training over the better ablation's at {epochs}",
            "section 5, ablation",
            bound,
            lowest,
        )
    )
    return part


def _ablation_run(head: str, arm: str, epochs: int, seed: int) -> Recorded:
    """One run, with the first topic word recorded."""
    task = TopicWords(seed=seed)
    train, _, _ = _bags(task)
    model = BagOfWordsAttention(
        len(train.vocabulary),
        task.n_topics,
        head,
        embedding_sd=0.1,
        train_keys=arm != "KF",
        train_embeddings=arm != "EF",
    )
    return record(Descent(model, train.counts, train.labels), epochs, words=[0])


def _extensions(scale: str) -> Part:
    """What the paper leaves open: a trainable query, and keys that learn at another rate than embeddings."""
    epochs = 1200 if scale == "smoke" else 3000
    task = TopicWords(seed=0)
    train, _, _ = _bags(task)
    words = range(len(task.topic_words()))
    part = Part()
    model = BagOfWordsAttention(len(train.vocabulary), task.n_topics, "FC", train_query=True)
    run = record(Descent(model, train.counts, train.labels), epochs, words=words)
    fixed = BagOfWordsAttention(len(train.vocabulary), task.n_topics, "FC")
    base = record(Descent(fixed, train.counts, train.labels), epochs, words=words)
    broken = float(np.max(np.abs(relative_deviation(run, m=task.n_noise)[run.scores > 0.1])))
    kept = float(np.max(np.abs(relative_deviation(base, m=task.n_noise)[base.scores > 0.1])))
    part.claims.append(
        at_least(
            "FC, trainable query: the identity's worst error against the fixed query's",
            "extension",
            2.0,
            broken / kept,
            f"{broken:.3f} against {kept:.3f}: the law does not close when ||q|| moves",
        )
    )
    for ratio in (0.25, 4.0):
        start = BagOfWordsAttention(len(train.vocabulary), task.n_topics, "FC")
        descent = Descent(start, train.counts, train.labels, lr_key=0.1 * ratio)
        found = record(descent, epochs, words=words)
        worst = float(np.max(np.abs(relative_deviation(found, m=task.n_noise, rate_ratio=ratio)[found.scores > 0.1])))
        part.claims.append(
            at_most(
                f"FC, keys learn {ratio:g} times as fast: the identity with its right side times {ratio:g}",
                "extension",
                0.02,
                worst,
            )
        )
    return part
