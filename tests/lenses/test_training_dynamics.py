"""How attention learns its words, through the lenses: on a bag of words, an encoder, a HAN and DistilBERT."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnscope import Case, train
from attnscope.anatomy.trace import trace
from attnscope.case import Expectations
from attnscope.lenses._label_association import association, purity_of
from attnscope.lenses._token_types import single_batches
from attnscope.lenses.attended_purity import AttendedPurity
from attnscope.lenses.discriminative_attention import DiscriminativeAttention
from attnscope.lenses.over_runs.score_norm_correlation import ScoreNormCorrelation
from attnscope.lenses.score_norm_agreement import ScoreNormAgreement
from attnscope.lenses.score_norm_identity import ScoreNormIdentity
from attnscope.lenses.score_sum import ScoreSum
from attnscope.lenses.token_score import TokenScore
from attnscope.lenses.token_value_norm import TokenValueNorm
from attnscope.models.bag_of_words_attention import BagOfWordsAttention
from attnscope.models.encoder import Encoder
from attnscope.models.han import Han
from attnscope.probe import Probe
from attnscope.readings import NOT_APPLICABLE, Reading
from attnscope.record import Run

N_TOPICS, N_TOKENS = 4, 60  # tokens 2 to 5 are the topics' words, 0 pads
ALL = (
    TokenScore(), TokenValueNorm(), ScoreNormAgreement(), ScoreNormIdentity(), ScoreSum(), DiscriminativeAttention(),
    AttendedPurity(),
)


def sentences(n: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """One topic word at a random place among noise; the label is its topic."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, N_TOPICS, (n,), generator=random)
    tokens = torch.randint(2 + N_TOPICS, N_TOKENS, (n, length), generator=random)
    tokens[torch.arange(n), torch.randint(0, length, (n,), generator=random)] = 2 + labels
    return tokens, labels


def bag(optimizer: str = "SGD", **how: Any) -> Case:
    tokens, labels = sentences(300, 11)
    model = BagOfWordsAttention(N_TOKENS, N_TOPICS, "FC", **how).double()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    made = torch.optim.SGD(trainable, lr=0.2) if optimizer == "SGD" else torch.optim.Adam(trainable, lr=0.02)
    return Case(model, [(tokens, labels)], optimizer=made)


def taught(case: Case, steps: int = 300, every: int = 100, batches: Any = None) -> Run:
    return train(case, steps, lenses=ALL, every=every, batches=batches)


@pytest.fixture(scope="module")
def toy() -> Run:
    return taught(bag())


def last(run: Run, name: str) -> Reading:
    return list(run.readings(name).values())[-1]


class TestBagOfWords:
    def test_obeys_the_identity(self, toy: Run) -> None:
        reading = last(toy, "score_norm_identity")
        assert reading.facts["n_words"] == [N_TOPICS]
        # The topic words are 4 of 60 and the step is 0.2: the assumption's error, not the lens's (laws/study: < 2 %).
        assert reading.facts["worst"][0] < 0.12
        risen = [token for token in reading.labels("token") if np.isfinite(reading.at(layer=0, token=token))]
        assert risen == [2, 3, 4, 5]

    def test_conserves_the_sum_of_scores(self, toy: Run) -> None:
        assert toy.series("score_sum").values.max() < 1e-12
        under_adam = last(taught(bag("Adam"), 60), "score_sum")
        assert under_adam.values[0] > 1e-3

    def test_learns_to_attend(self, toy: Run) -> None:
        shares = toy.series("discriminative_attention")
        assert (np.diff(shares.values[:, 0, 0]) > 0).all()
        assert shares.facts["uniform"][0] == pytest.approx(1 / 11, abs=0.01)
        assert [word[0] for word in sorted(shares.facts["tokens"])] == [2, 3, 4, 5]
        purity = toy.series("attended_purity")
        assert purity.values[-1, 0, 0] > 0.9
        assert purity.values[0, 0, 0] == pytest.approx(purity.facts["uniform"][0], abs=1e-9)  # all weights tie

    def test_scores_and_norms_grow_together(self, toy: Run) -> None:
        assert last(toy, "score_norm_agreement").values[0] > 0.9
        assert last(toy, "score_norm_agreement").facts["departures"] == []
        top = [row[0] for row in last(toy, "score_norm_agreement").facts["top"][0][:N_TOPICS]]
        assert sorted(top) == [2, 3, 4, 5]
        correlation = ScoreNormCorrelation().measure(toy)
        assert min(correlation.at(layer=0, token=token) for token in (2, 3, 4, 5)) > 0.97
        assert correlation.facts["median_of_top"][0] > 0.97
        assert correlation.facts["median"][0] < 0  # most words are noise: their scores sink a little

    def test_other_rates_need_their_ratio(self) -> None:
        case = bag()
        model = case.model
        case.optimizer = torch.optim.SGD(
            [{"params": [model.key.weight], "lr": 0.8}, {"params": [model.embedding.weight], "lr": 0.2}]
        )
        run = train(case, 300, lenses=[ScoreNormIdentity(rate_ratio=4.0)], every=300)
        told = last(run, "score_norm_identity").facts["worst"][0]
        untold = ScoreNormIdentity().measure(probe_of(case)).facts["worst"][0]
        assert told < 0.12 < 0.4 < untold

    def test_the_start_matters(self) -> None:
        case = bag()
        with torch.no_grad():
            case.model.embedding.weight.normal_(0, 0.3)
            case.model.key.weight.normal_(0, 0.3)
        run = taught(case)
        assert last(run, "score_norm_identity").facts["worst"][0] < 0.25
        assert last(run, "score_sum").values[0] < 1e-12
        case.start = None
        unknown = ScoreNormIdentity().measure(probe_of(case)).facts["worst"][0]
        assert unknown > 2 * last(run, "score_norm_identity").facts["worst"][0]


def probe_of(case: Case) -> Probe:
    batches = tuple(case.batches)
    return Probe(
        case.model, batches, trace(case.model, batches[0]), optimizer=case.optimizer,
        expects=Expectations.of(case.expects), start=case.start,
    )


class TestDepartures:
    """Each mistake is named, and only it."""

    def what(self, case: Case, steps: int = 100) -> list[str]:
        run = train(case, steps, lenses=[ScoreNormAgreement()], every=steps)
        reading = last(run, "score_norm_agreement")
        assert bool(reading.note) == bool(reading.facts["departures"])
        return [item["what"] for item in reading.facts["departures"]]

    def test_frozen_keys(self) -> None:
        assert self.what(bag(train_keys=False)) == ["keys frozen"]

    def test_frozen_embeddings(self) -> None:
        assert self.what(bag(train_embeddings=False, embedding_sd=0.5)) == ["embeddings frozen"]

    def test_dead_query(self) -> None:
        case = bag()
        torch.nn.init.zeros_(case.model.query)
        assert "query dead" in self.what(case)

    def test_padding_attended(self) -> None:
        case = bag()
        tokens, labels = case.batches[0]  # type: ignore[index]
        padded = torch.cat([tokens, torch.zeros_like(tokens[:, :3])], 1)
        padded[0, 11:] = 6
        padding = Case(case.model, [(padded, labels)], optimizer=case.optimizer, expects={"padding_token": 0})
        assert self.what(padding) == ["padding attended"]

    def test_shortcut_word(self, toy: Run) -> None:
        shortcuts = last(toy, "attended_purity").facts["shortcuts"]
        assert {(item["token"], item["label"]) for item in shortcuts} == {(2, 0), (3, 1), (4, 2), (5, 3)}
        assert "a shortcut, unless it is the topic" in last(toy, "attended_purity").note

    @pytest.mark.parametrize("block", ["key", "value"])
    def test_frozen_projection_of_an_encoder(self, block: str) -> None:
        case = encoder()
        for layer in case.model.blocks:
            getattr(layer.attention, block).requires_grad_(False)
        found = self.what(case, 5)
        assert found == (["keys frozen"] * 2 if block == "key" else [])  # values still move with what enters them

    def test_healthy_models_are_silent(self) -> None:
        assert self.what(bag()) == []
        assert self.what(encoder(), 5) == []
        assert self.what(han(), 5) == []


def encoder() -> Case:
    torch.manual_seed(0)
    model = Encoder(n_tokens=N_TOKENS, n_classes=N_TOPICS)
    tokens, labels = sentences(256, 12)
    tokens[:, 9:] = torch.where((tokens[:, 9:] > 5) & (torch.arange(256) % 3 == 0)[:, None], 0, tokens[:, 9:])
    tokens = torch.cat([torch.ones_like(tokens[:, :1]), tokens], 1)
    batches = [
        ({"input_ids": part, "attention_mask": (part != 0).long()}, label)
        for part, label in zip(tokens.split(64), labels.split(64), strict=True)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Case(model, batches, forward=lambda m, b: m(**b[0]), optimizer=optimizer, expects={"padding_token": 0})


def han() -> Case:
    torch.manual_seed(0)
    tokens, labels = sentences(256, 12)
    documents = tokens.reshape(256, 3, 4)
    batches = list(zip(documents.split(64), labels.split(64), strict=True))
    model = Han(n_tokens=N_TOKENS, n_classes=N_TOPICS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Case(model, batches, optimizer=optimizer, expects={"padding_token": 0})


def distilbert() -> Case:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=N_TOKENS, dim=32, hidden_dim=64, n_layers=2, n_heads=4, max_position_embeddings=16,
        num_labels=N_TOPICS, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, attn_implementation="sdpa",
    )
    model = transformers.DistilBertForSequenceClassification(config)
    tokens, labels = sentences(256, 12)
    tokens = torch.cat([torch.ones_like(tokens[:, :1]), tokens], 1)
    batches = [
        {"input_ids": part, "attention_mask": torch.ones_like(part), "labels": label}
        for part, label in zip(tokens.split(64), labels.split(64), strict=True)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Case(model, batches, optimizer=optimizer)


@pytest.mark.parametrize("make", [encoder, han, distilbert], ids=lambda make: make.__name__)
def test_deep_models_learn_to_attend_to_topic_words(make: Any) -> None:
    """The share on topic words and the purity of what is attended most rise above what they were at the start."""
    run = taught(make(), 150, every=50)
    assert last(run, "training_loss").values < 0.1
    share, purity = run.series("discriminative_attention"), run.series("attended_purity")
    uniform = share.facts["uniform"][0]
    assert np.nanmax(share.values[0]) < 2 * uniform
    assert np.nanmax(share.values[-1]) > 2 * uniform
    assert np.nanmax(share.values[-1]) > 1.5 * np.nanmax(share.values[0])
    assert [word[0] for word in sorted(share.facts["tokens"])] == [2, 3, 4, 5]
    assert np.nanmax(purity.values[-1]) > np.nanmax(purity.values[0]) + 0.2
    chance = [value for row in purity.facts["chance"] if row for value in row]
    assert np.nanmax(purity.values[-1]) > max(chance) + 0.2  # one sentence of three of a HAN holds the topic
    scores = last(run, "token_score")
    grown = scores.values[0][[scores.labels("token").index(token) for token in (2, 3, 4, 5)]]
    assert scores.facts["since_start"]
    assert grown.mean() > np.nanmean(scores.values[0])
    assert last(run, "score_norm_identity").status == NOT_APPLICABLE
    assert last(run, "score_sum").status == NOT_APPLICABLE
    assert np.isfinite(ScoreNormCorrelation().measure(run).values).any()


def test_a_constant_that_all_scores_share_does_not_count() -> None:
    """A learned query moved along a direction that all keys share: nothing is attended to differently."""
    case = bag()
    with torch.no_grad():
        case.model.key.weight.normal_(0, 0.3)
    before = TokenScore().measure(probe_of(case)).values
    with torch.no_grad():
        case.model.key.weight += 0.7 * torch.ones(10, dtype=torch.float64)
    assert TokenScore().measure(probe_of(case)).values == pytest.approx(before, abs=1e-9)


def test_sentence_level_keys_are_no_tokens() -> None:
    reading = TokenScore().measure(probe_of(han()))
    assert np.isfinite(reading.values[0]).all()
    assert np.isnan(reading.values[1]).all()


class TestAssociation:
    def test_purity_is_the_papers_for_two_even_labels(self) -> None:
        counts = np.array([[9.0, 1.0], [5.0, 5.0], [0.0, 3.0]])
        assert purity_of(counts, np.array([0.5, 0.5]), smoothing=0.0) == pytest.approx([0.8, 0.0, 1.0])
        assert purity_of(counts, np.array([0.5, 0.5]))[2] == pytest.approx(0.6)  # three examples are few

    def test_shuffled_labels_show_nothing(self) -> None:
        found = []
        for seed in range(20):
            tokens, labels = sentences(120, 8, seed)
            order = torch.randperm(120, generator=torch.Generator().manual_seed(seed))
            known = association(probe := probe_of(of(tokens, labels[order])), single_batches(probe))
            assert not isinstance(known, str)
            found.append(bool(known.discriminative.any()))
        assert sum(found) <= 4  # one in twenty is expected

    def test_several_batches_count_together(self) -> None:
        tokens, labels = sentences(120, 8)
        whole = probe_of(of(tokens, labels))
        parts = copy.copy(whole)
        parts.batches, parts.shared = tuple(zip(tokens.split(20), labels.split(20), strict=True)), {}
        for lens in (DiscriminativeAttention(), AttendedPurity(), TokenScore()):
            assert lens.measure(parts).values == pytest.approx(lens.measure(whole).values, nan_ok=True)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (torch.zeros(40, dtype=torch.long), "labels of 1 batches are all the same"),
            (torch.arange(40), "too few for 40 labels"),
            (torch.zeros(40, 8, dtype=torch.long), "one label per example"),
        ],
    )
    def test_labels_that_are_of_no_use(self, labels: Tensor, message: str) -> None:
        tokens, _ = sentences(40, 8)
        for lens in (DiscriminativeAttention(), AttendedPurity()):
            reading = lens.measure(probe_of(of(tokens, labels)))
            assert (reading.status, message in reading.note) == (NOT_APPLICABLE, True), reading.note

    def test_noise_is_refused_in_words(self) -> None:
        tokens, _ = sentences(40, 8)
        labels = torch.randint(0, 2, (40,), generator=torch.Generator().manual_seed(1))
        noise = tokens.clamp(min=6)
        reading = DiscriminativeAttention().measure(probe_of(of(noise, labels)))
        assert "no token goes with a label beyond chance in 40 examples" in reading.note


def of(tokens: Tensor, labels: Tensor) -> Case:
    return Case(BagOfWordsAttention(N_TOKENS, N_TOPICS, "FC", seed=0), [(tokens, labels)], nn.functional.cross_entropy)
