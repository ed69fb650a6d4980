"""Asks the package defaultplusplus (DEFault++) about cases of the benchmark; writes docs/bench_peers.md.

    python benchmarks/bench_peers.py --install           puts the package into a folder of its own, without torch
    python benchmarks/bench_peers.py                     12 healthy runs, every fault at its usual strength, twice
    python benchmarks/bench_peers.py --faults zeroed_query swapped_query_key --seeds 1
    python benchmarks/bench_peers.py --results results.parquet --page    beside our diagnosis of the same cases
    python benchmarks/bench_peers.py --page              the page and the JSON from the journal, nothing is run

Each case is planted and trained as the benchmark does it, with the package's extractor around the training. Rows
are kept in a journal as they come: a command that is stopped goes on where it was, and nothing is run twice.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy
import torch

sys.path.insert(0, str(Path(__file__).parent))

from peers_defaultplusplus import EPOCHS, INSTALL, VERSION, Package, default_folder, intended, watched

from attnscope import catalogue
from attnscope.bench import peers
from attnscope.bench.peers import INTENDED, PeerRow
from attnscope.bench.peers_page import page
from attnscope.bench.plan import SIZES, BenchCase, plan
from attnscope.bench.row import FAULT
from attnscope.bench.store import read_columns
from attnscope.whole_file import write_whole

ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "benchmarks" / "bench_peers.json", ROOT / "docs" / "bench_peers.md"
SUBJECT = "distilbert_reviews"
HEALTHY_SEEDS, BANK_SEEDS = tuple(range(6)), tuple(range(6, 12))
FAULT_SEEDS = (1, 5)  # to these the small size gives the usual strength, in the middle and late
Outcome = tuple[PeerRow, dict[str, float]]


def main() -> int:
    """Runs what is not in the journal yet, then writes the JSON and the page."""
    chosen = parsed()
    if chosen.install:
        command = INSTALL.format(folder=chosen.package, version=VERSION).split()
        return subprocess.call([sys.executable, "-m", *command])
    torch.set_num_threads(1)
    journal = Path(chosen.journal)
    if not chosen.page:
        Package(chosen.package)  # before anything is trained: is it there?
        done = kept(journal)
        run([case for case in selected(chosen) if case.key not in done], chosen, journal)
    found = kept(journal)
    if not found:
        raise SystemExit(f"there is nothing in {journal}")
    written(with_aligned(found, chosen.package), chosen)
    return 0


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", default=default_folder(), help="the folder that the package is installed in")
    parser.add_argument("--install", action="store_true", help="install the package into that folder and stop")
    parser.add_argument("--journal", default=str(ROOT / "runs" / "bench_peers.jsonl"), help="rows as they come")
    parser.add_argument("--subject", default=SUBJECT, help="a subject of the benchmark that is an encoder")
    parser.add_argument("--healthy", type=int, nargs="*", default=(*HEALTHY_SEEDS, *BANK_SEEDS), help="seeds")
    parser.add_argument("--seeds", type=int, nargs="*", default=FAULT_SEEDS, help="of the faults")
    parser.add_argument("--faults", nargs="*", default=(), help="only these")
    parser.add_argument("--intended", type=int, default=3, help="healthy fine-tunings of a pre-trained model")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--results", default="", help="our rows: a results.parquet of `attnscope bench run`")
    parser.add_argument("--page", action="store_true", help="only write the JSON and the page")
    return parser.parse_args()


def selected(chosen: argparse.Namespace) -> list[BenchCase]:
    """Healthy runs, then the runs of the peer's own kind, then faults, one seed after the other.

    The faults are those of the small size, with its places and strengths, so that our rows are of the same cases.
    """
    size = SIZES["small"]
    made = plan(replace(size, subjects=(chosen.subject,), bank_seeds=(), early_moments=(), faults=tuple(chosen.faults)))
    if made.left_out.get(chosen.subject):
        raise SystemExit(made.left_out[chosen.subject])
    return [
        *(BenchCase(chosen.subject, seed=seed) for seed in chosen.healthy),
        *(BenchCase(chosen.subject, INTENDED, seed=seed) for seed in range(chosen.intended)),
        *(case for case in made.cases if case.arm == FAULT and case.seed in chosen.seeds),
    ]


def run(cases: list[BenchCase], chosen: argparse.Namespace, journal: Path) -> None:
    """Runs cases and keeps each outcome as it comes; says how far it is."""
    began = time.perf_counter()
    for number, (row, features) in enumerate(outcomes(cases, chosen), 1):
        keep(journal, row, features)
        left = (time.perf_counter() - began) / number * (len(cases) - number)
        print(f"{number:4}/{len(cases)} {row.key:70} {told(row)}  {left / 60:.0f} min left", flush=True)


def told(row: PeerRow) -> str:
    """One answer in a few words."""
    if row.shipped is None:
        return row.why
    said = f"faulty ({row.shipped.category}/{row.shipped.root_cause})" if row.shipped.is_faulty else "healthy"
    return f"{said} p={row.shipped.detection_prob:.3f} {row.seconds:.0f}s"


def outcomes(cases: list[BenchCase], chosen: argparse.Namespace) -> Iterator[Outcome]:
    """Here, or in processes."""
    if chosen.workers <= 1:
        yield from (asked(case, chosen.package) for case in cases)
        return
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(chosen.workers, mp_context=context, max_tasks_per_child=50) as pool:
        for done in as_completed([pool.submit(asked, case, chosen.package) for case in cases]):
            yield done.result()


@cache
def package_in(folder: str) -> Package:
    """Loaded once per process."""
    return Package(folder)


def asked(case: BenchCase, folder: str) -> Outcome:
    """Trains one case and asks the package; a failure is part of the row."""
    torch.set_num_threads(1)
    package = package_in(folder)
    ids = tuple(catalogue.load("faults", case.change).ids) if case.arm == FAULT else ()
    row = PeerRow(
        case.key, case.arm, case.change, ids, case.seed,
        bank=case.arm not in (FAULT, INTENDED) and case.seed in BANK_SEEDS,
    )  # fmt: skip
    try:
        features, training = intended(package, case.seed) if case.arm == INTENDED else watched(package, case)
        said = package.said(package.normalizer.encode(features, mode="raw"))
        known = package.measured(features)
    except Exception as error:  # what a peer cannot do is a result
        return replace(row, why=f"{type(error).__name__}: {error}".splitlines()[0][:200]), {}
    return replace(
        row, quality=round(training["quality"], 5), seconds=round(training["seconds"], 2), known=len(known),
        shipped=peers.Answer.from_dict(said), refusal=package.refusal(features),
    ), known  # fmt: skip


def keep(journal: Path, row: PeerRow, features: dict[str, float]) -> None:
    """Adds a line that is on disk when this returns; half a line of a run that was killed is cut off before."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"row": row.to_dict(), "features": {name: float(f"{v:.7g}") for name, v in features.items()}})
    with journal.open("ab+") as file:
        file.seek(0)
        whole = file.read()
        if whole and not whole.endswith(b"\n"):
            file.truncate(whole.rfind(b"\n") + 1)
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def kept(journal: Path) -> dict[str, Outcome]:
    """Key -> what was kept of it; half a line is passed over."""
    found: dict[str, Outcome] = {}
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    for line in lines:
        try:
            data = json.loads(line)
        except ValueError:
            continue
        row = PeerRow.from_dict(data["row"])
        found[row.key] = row, data["features"]
    return found


def with_aligned(found: dict[str, Outcome], folder: str) -> list[PeerRow]:
    """The rows with the answers that need all healthy runs of the bank."""
    bank = [features for row, features in found.values() if row.bank and features]
    if len(bank) < 3:
        return [row for row, _ in found.values()]
    package = package_in(folder)
    rows = []
    for row, features in found.values():
        if features and row.arm != INTENDED:
            try:
                row = replace(row, aligned=peers.Answer.from_dict(package.aligned(features, bank)))
            except ValueError as error:
                row = replace(row, why=f"with our healthy runs: {error}")
        rows.append(row)
    return rows


def written(rows: Iterable[PeerRow], chosen: argparse.Namespace) -> None:
    """The JSON and the page; our verdicts of an earlier file are kept when no results are given."""
    rows = list(rows)
    said: dict[str, peers.Verdict] = {}
    if chosen.results:
        said = peers.ours(read_columns(chosen.results)[0], [row.key for row in rows])
    elif RESULT.exists():
        said = {key: verdict for key, verdict in peers.read(RESULT)[1].items() if key in {row.key for row in rows}}
    environment = {
        "package": f"defaultplusplus {VERSION}", "subject": chosen.subject, "epochs": EPOCHS,
        "features": len(package_in(chosen.package).normalizer.reference.schema),
        "python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__,
        "transformers": version("transformers"), "scikit-learn": version("scikit-learn"), "pandas": version("pandas"),
    }  # fmt: skip
    write_whole(RESULT, peers.text(rows, said, environment))
    write_whole(PAGE, page(*peers.read(RESULT)))
    print(f"{RESULT.relative_to(ROOT)} and {PAGE.relative_to(ROOT)}: {len(rows)} runs")


if __name__ == "__main__":
    raise SystemExit(main())
