"""How long a command takes from the shell to its last line, as whole processes.

`--help`, `rules` and `explain` must answer in under half a second, and no command here may load torch. The
report is drawn from a saved diagnosis of two attentions. Run:

    python benchmarks/startup.py [--json] [--repeats 5] [--process-time]

`--process-time` counts the processor seconds of the process instead of seconds on the wall: the honest clock on
a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from attnscope.anatomy.blocks import Anatomy, Attention, Form, Kind
from attnscope.findings import Diagnosis

LIMIT = 0.5
LIMITED = ("--help", "rules", "explain")
ENTRY = "import sys; from attnscope.cli import main; sys.argv[0] = 'attnscope'; main()"


@dataclass(frozen=True)
class Start:
    """One command: median seconds, spread, exit code, and whether it loaded torch."""

    command: str
    seconds: float
    spread: float
    exit_code: int
    loads_torch: bool

    @property
    def kept(self) -> bool:
        in_time = self.seconds < LIMIT or self.command.split()[1] not in LIMITED
        return in_time and self.exit_code == 0 and not self.loads_torch


def child_seconds() -> float:
    """Processor seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def once(arguments: tuple[str, ...], clock: Callable[[], float]) -> tuple[float, int]:
    start = clock()
    done = subprocess.run([sys.executable, "-c", ENTRY, *arguments], capture_output=True, check=False)
    return clock() - start, done.returncode


def loads_torch(arguments: tuple[str, ...]) -> bool:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", ENTRY, *arguments],
        capture_output=True, text=True, check=False,
    )
    return any(line.rsplit("|", 1)[-1].strip() == "torch" for line in done.stderr.splitlines())


def measure(arguments: tuple[str, ...], repeats: int, clock: Callable[[], float]) -> Start:
    once(arguments, clock)
    runs = [once(arguments, clock) for _ in range(repeats)]
    seconds = [run[0] for run in runs]
    shown = ("attnscope", *(Path(one).name if "/" in one else one for one in arguments))
    return Start(
        " ".join(shown), statistics.median(seconds), max(seconds) - min(seconds),
        max(run[1] for run in runs), loads_torch(arguments),
    )


def table(starts: list[Start]) -> Table:
    drawn = Table(title=f"start of a command, whole process (limit {LIMIT} s)")
    for column in ("command", "median", "spread", "exit code", "torch", "promise"):
        drawn.add_column(column, justify="left" if column == "command" else "right")
    for start in starts:
        drawn.add_row(
            start.command, f"{start.seconds:.3f} s", f"{start.spread:.3f} s", str(start.exit_code),
            "loaded" if start.loads_torch else "not loaded", "kept" if start.kept else "[red]broken[/red]",
        )
    return drawn


def commands(folder: Path) -> list[tuple[str, ...]]:
    """What is timed: help, the list of rules, the first rule explained, and a report drawn."""
    listed = subprocess.run([sys.executable, "-c", ENTRY, "rules"], capture_output=True, text=True, check=True)
    code = next(word for word in listed.stdout.split() if word.isalnum() and word[:3].isupper() and word[3:].isdigit())
    attentions = tuple(
        Attention(number, f"layer.{number}", "Attention", Form.DOT_PRODUCT, Kind.SELF, 4, 4) for number in range(2)
    )
    saved = folder / "diagnosis.json"
    saved.write_text(json.dumps(Diagnosis((), Anatomy("Example", attentions)).to_dict()), encoding="utf-8")
    return [("--help",), ("rules",), ("explain", code), ("report", str(saved), "-o", str(folder / "report.html"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--process-time", action="store_true", help="count processor seconds, not wall seconds")
    asked = parser.parse_args()
    clock = child_seconds if asked.process_time else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        starts = [measure(arguments, asked.repeats, clock) for arguments in commands(Path(folder))]
    if asked.json:
        print(json.dumps([{**asdict(start), "kept": start.kept} for start in starts], indent=2))
    else:
        Console(width=100).print(table(starts))
    raise SystemExit(0 if all(start.kept for start in starts) else 1)


if __name__ == "__main__":
    main()
