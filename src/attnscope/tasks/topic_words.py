"""Sentences in which one topic word decides the label and the rest is noise (Lu, Mao, Nayak 2021, section 5)."""

from __future__ import annotations

import random
from dataclasses import dataclass

from attnscope.errors import CaseError


@dataclass(frozen=True)
class TopicWords:
    """The synthetic task of Lu et al. (ICLR 2021, arXiv:2011.10036).

    A sentence holds one topic word and `n_noise` words drawn uniformly with replacement from `n_other`
    words; its label is the topic of its topic word.

    Attributes:
        n_topics, n_topic_words: topics, and topic words of each.
        n_other, n_noise: words that mean nothing, and how many of them a sentence holds.
        n_train, n_valid, n_test: sentences of each split. The published figures match 800 training
            sentences, not the 3999 of the released configuration.
        seed: of the sentences.
    """

    n_topics: int = 4
    n_topic_words: int = 2
    n_other: int = 5000
    n_noise: int = 20
    n_train: int = 800
    n_valid: int = 50
    n_test: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_topics, self.n_topic_words, self.n_other, self.n_noise, self.n_train) < 1:
            raise CaseError("every size of TopicWords must be at least 1")

    def topic_word(self, topic: int, index: int) -> str:
        """The name of a topic word."""
        return f"topic{topic}x{index}"

    def topic_words(self) -> list[str]:
        """All topic words, topic by topic."""
        return [self.topic_word(topic, index) for topic in range(self.n_topics) for index in range(self.n_topic_words)]

    def splits(self) -> tuple[list[tuple[str, int]], list[tuple[str, int]], list[tuple[str, int]]]:
        """Training, validation and test (text, label) pairs."""
        draw = random.Random(self.seed)
        sentences = [self._sentence(draw) for _ in range(self.n_train + self.n_valid + self.n_test)]
        end = self.n_train + self.n_valid
        return sentences[: self.n_train], sentences[self.n_train : end], sentences[end:]

    def all_words(self) -> str:
        """Every word once, so that the vocabulary does not depend on the draw."""
        return " ".join([*self.topic_words(), *(f"w{index}" for index in range(self.n_other))])

    def _sentence(self, draw: random.Random) -> tuple[str, int]:
        topic = draw.randrange(self.n_topics)
        noise = [f"w{draw.randrange(self.n_other)}" for _ in range(self.n_noise)]
        return " ".join([self.topic_word(topic, draw.randrange(self.n_topic_words)), *noise]), topic
