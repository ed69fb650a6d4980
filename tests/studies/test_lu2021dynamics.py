"""The fast algebra against autograd, the laws of the dynamics, the study, and bad input."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnscope import catalogue
from attnscope.cli import main
from attnscope.errors import CaseError
from attnscope.models.bag_of_words_attention import HEADS, BagOfWordsAttention
from attnscope.models.bag_of_words_descent import Descent
from attnscope.studies import Part, Study, lu2021dynamics
from attnscope.studies._dynamics_figures import histograms
from attnscope.studies._score_norm import identity_norm
from attnscope.studies._sentiment_dynamics import _without_sst
from attnscope.studies._sentiment_words import Training, Words
from attnscope.tasks.stanford_sentiment import StanfordSentiment
from attnscope.tasks.topic_words import TopicWords
from attnscope.tasks.word_bags import WordBags, bags

SMALL = TopicWords(n_other=40, n_noise=6, n_train=60, n_valid=5, n_test=5)


def tokens_of(bag: WordBags) -> torch.Tensor:
    """The sentences as padded index lists: each word as often as it is counted."""
    rows = []
    for start, stop in zip(bag.counts.indptr, bag.counts.indptr[1:], strict=False):
        row = bag.counts.indices[start:stop]
        rows.append(np.repeat(row, bag.counts.data[start:stop].astype(int)))
    return torch.tensor(np.stack(rows))


def naive_run(model: BagOfWordsAttention, bag: WordBags, epochs: int, lr: float) -> list[float]:
    """Plain autograd and torch's SGD, in float64."""
    tokens, labels = tokens_of(bag), torch.tensor(bag.labels)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(epochs):
        loss = torch.nn.functional.cross_entropy(model(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "frozen", [{}, {"train_keys": False}, {"train_embeddings": False}, {"train_query": True}], ids=str
)
def test_descent_is_autograd(head: str, frozen: dict[str, bool]) -> None:
    bag, *_ = bags(SMALL.splits())
    model = BagOfWordsAttention(len(bag.vocabulary), 4, head, d_embedding=7, embedding_sd=0.1, **frozen).double()
    with torch.no_grad():
        model.key.weight.normal_(0, 0.3)
    descent = Descent(model, bag.counts, bag.labels, lr=0.5)
    fast = [descent.step() for _ in range(40)]
    slow = naive_run(model, bag, 40, 0.5)
    assert np.max(np.abs(np.array(fast) - np.array(slow))) < 1e-10
    assert np.max(np.abs(descent.scores - (model.key.weight @ model.query).detach().numpy())) < 1e-10
    assert np.max(np.abs(descent.embeddings() - model.embedding.weight.detach().numpy())) < 1e-10


@pytest.mark.parametrize("head", ["FC", "TC"])
def test_small_form_is_autograd_from_zero(head: str) -> None:
    bag, *_ = bags(SMALL.splits())
    model = BagOfWordsAttention(len(bag.vocabulary), 4, head, d_embedding=12).double()
    torch.nn.init.zeros_(model.embedding.weight)
    descent = Descent(model, bag.counts, bag.labels, lr=0.5, from_zero=True)
    fast = [descent.step() for _ in range(60)]
    slow = naive_run(model, bag, 60, 0.5)
    assert np.max(np.abs(np.array(fast) - np.array(slow))) < 1e-10
    assert np.max(np.abs(descent.embeddings() - model.embedding.weight.detach().numpy())) < 1e-10
    assert np.allclose(descent.norms(), model.embedding.weight.norm(dim=1).detach().numpy(), atol=1e-10)


def test_start_reproduces_the_published_query_norms() -> None:
    # ||q||^2 for the vocabularies of the released figures, seed 3.
    for n_words, n_classes, head, width, expected in (
        (5008, 4, "FC", 10, 1.4321),
        (17440, 2, "FC", 200, 0.8987),
        (17440, 2, "TC", 100, 0.4171),
        (19376, 5, "FC", 200, 0.4761),
        (19376, 5, "TC", 100, 1.0426),
    ):
        model = BagOfWordsAttention(n_words, n_classes, head, d_embedding=width)
        assert float(model.query.square().sum()) == pytest.approx(expected, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), head=st.sampled_from(HEADS), lr=st.floats(0.01, 1.0))
def test_sum_of_scores_is_conserved(seed: int, head: str, lr: float) -> None:
    bag, *_ = bags(TopicWords(n_other=30, n_noise=5, n_train=30, n_valid=5, n_test=5, seed=seed).splits())
    descent = Descent(BagOfWordsAttention(len(bag.vocabulary), 4, head, seed=seed), bag.counts, bag.labels, lr=lr)
    for _ in range(50):
        descent.step()
    assert abs(descent.scores.sum()) < 1e-9


def test_identity_norm_of_the_dossier_table() -> None:
    for score, expected in ((0.1, 0.459), (0.5, 1.032), (1, 1.474), (2, 2.154), (3.5, 3.196), (5, 4.974)):
        assert identity_norm(np.array(score), 20.0) == pytest.approx(expected, abs=6e-4)


def test_frozen_keys_break_the_identity() -> None:
    """The lens's departure: with frozen keys the norms grow and the scores stay, far from the identity."""
    bag, *_ = bags(SMALL.splits())
    descent = Descent(BagOfWordsAttention(len(bag.vocabulary), 4, "FC", train_keys=False), bag.counts, bag.labels)
    for _ in range(300):
        descent.step()
    topics = [bag.column(word) for word in SMALL.topic_words()]
    assert np.all(descent.scores == 0)
    assert descent.norms()[topics].min() * np.linalg.norm(descent.query) > 0.2


def test_smoke_scale_holds_without_any_data() -> None:
    result = catalogue.load("studies", "lu2021dynamics")().run("smoke")
    failed = [(claim.name, claim.expected, claim.measured) for claim in result.claims if not claim.holds]
    assert not failed
    assert len(result.claims) > 15
    assert any("SST" in reason for reason in result.skipped)


class Few(Study):
    """Two quick parts of the study."""

    title = reference = "none"
    name = "few"  # type: ignore[assignment]

    def parts(self, scale: str) -> list[tuple[str, Callable[[], Part]]]:
        return [("laws", lu2021dynamics._laws), ("no data", _without_sst)]


def test_several_workers_find_the_same() -> None:
    alone, seen = Few().run(), []
    together = Few().run(workers=2, progress=lambda done, total, what: seen.append((done, total, what)))
    assert together.claims == alone.claims
    assert together.skipped == alone.skipped
    assert seen[-1] == (2, 2, "done")
    with pytest.raises(ValueError, match="at least 1, found 0"):
        Few().run(workers=0)


def test_histograms_count_every_word() -> None:
    bag, *_ = bags(SMALL.splits())
    descent = Descent(BagOfWordsAttention(len(bag.vocabulary), 4, "FC"), bag.counts, bag.labels)
    for _ in range(20):
        descent.step()
    part = histograms("FC", descent, 8)
    assert len(part.curves) == len(part.figures) == 4
    for curve in part.curves:
        n_words = 8 if "topic words" in curve.figure else len(bag.vocabulary) - 8
        assert sum(curve.y) / 2 == n_words  # every bin is drawn with two corners


def test_the_words_attended_to_most() -> None:
    """By hand: `good` is pure and occurs twice, `film` is in every sentence."""
    bag, *_ = bags([[("good film", 1), ("good old film", 1), ("bad film", 0), ("film old", 0)]])
    held = Words(bag)
    index = {word: bag.column(word) for word in ("good", "film", "old", "bad")}
    assert [held.purity[index[word]] for word in index] == [1.0, 0.0, 0.0, 1.0]
    scores = np.zeros((2, 4))
    scores[0, index["film"]] = 1.0
    scores[1, [index["good"], index["bad"]]] = 1.0, 2.0
    descent = Descent(BagOfWordsAttention(4, 2, "FC"), bag.counts, bag.labels)
    found = held.attended(Training(descent, descent, 0, 0, [0, 1], scores, scores))
    assert found.purity.tolist() == [0.0, 0.75]
    assert found.frequency.tolist() == [4.0, (2 + 2 + 1 + 4) / 4]
    assert held.sentences_with("old") == [1, 3]


class TestBadInput:
    def test_word_never_seen(self) -> None:
        bag, *_ = bags([[("good film", 1), ("bad film", 0)]])
        with pytest.raises(CaseError, match="never seen"):
            bag.column("powerful")

    def test_empty_sentence(self) -> None:
        with pytest.raises(CaseError, match=r"sentence 1 has no words: '\.\.\.'"):
            bags([[("good film", 1), ("...", 0)]])

    def test_one_class(self) -> None:
        with pytest.raises(CaseError, match="one class only"):
            bags([[("good film", 1), ("fine film", 1)]])

    def test_too_long_for_its_padding(self) -> None:
        with pytest.raises(CaseError, match="more than pad_to=2"):
            bags([[("a b c", 1), ("d", 0)]], pad_to=2)

    def test_other_encoding(self, tmp_path: Path) -> None:
        for split in ("train", "dev", "test"):
            (tmp_path / f"stsa.binary.{split}").write_bytes("1 caf\u00e9".encode("latin-1"))
        with pytest.raises(CaseError, match="not UTF-8"):
            StanfordSentiment(tmp_path).splits()

    def test_label_that_training_never_shows(self) -> None:
        with pytest.raises(CaseError, match=r"label 4 of 'a odd film' is none of .* labels \(0, 1\)"):
            bags([[("good film", 1), ("bad film", 0)], [("a odd film", 4)]])

    def test_empty_and_wordless_files(self, tmp_path: Path) -> None:
        (tmp_path / "stsa.binary.train").write_text("\n")
        with pytest.raises(CaseError, match="holds no sentences"):
            StanfordSentiment(tmp_path).splits()
        for split in ("train", "dev", "test"):
            (tmp_path / f"stsa.binary.{split}").write_text("1 good film\n0 ...\n")
        with pytest.raises(CaseError, match=r"sentence 1 has no words: '\.\.\.'"):
            bags(StanfordSentiment(tmp_path).splits())

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"1 caf\xe9 film\n0 bad film\n", "not UTF-8 (byte 5)"),
            (b"1 good film\n1 fine film\n", "one class only"),
            (b"1 good film\n0 ...\n", "has no words"),
        ],
    )
    def test_the_command_says_what_is_wrong(
        self, content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """One line and exit code 2, before any time is spent on training."""
        for split in ("train", "dev", "test"):
            (tmp_path / f"stsa.binary.{split}").write_bytes(content)
        monkeypatch.setattr("sys.argv", ["attnscope", "study", "lu2021dynamics", "--data", str(tmp_path), "--quiet"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert message in said
        assert "Traceback" not in said

    def test_missing_and_malformed_files(self, tmp_path: Path) -> None:
        with pytest.raises(CaseError, match=r"cannot read .*stsa\.binary\.train"):
            StanfordSentiment(tmp_path).splits()
        (tmp_path / "stsa.binary.train").write_text("good film\n")
        with pytest.raises(CaseError, match="train:1 is not 'label text'"):
            StanfordSentiment(tmp_path).splits()

    def test_unknown_scale(self) -> None:
        with pytest.raises(ValueError, match="smoke, small, paper"):
            catalogue.load("studies", "lu2021dynamics")().run("huge")
