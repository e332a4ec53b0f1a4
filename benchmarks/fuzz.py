"""Ten thousand spoilt files over all readers: no traceback, no hang, no crash, no memory above the limit.

    python benchmarks/fuzz.py                       10,000 files, two processes, some minutes
    python benchmarks/fuzz.py --files 500 --reader pdf
    python benchmarks/fuzz.py --case "pdf 17"       one of them, with its traceback; the file is kept and named

Seeds and what is done to them: tests/fuzzing.py. The files are read in processes of their own, as a recipe would read
them, so a library that crashes or never ends costs one file and is told. Exit code 1 if anything went wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from fuzzing import SEEDS, mutated, read_case  # noqa: E402

LONGEST_S = 5.0
MOST_BYTES = 1 << 30


@dataclass
class Reader:
    """A process that reads files for us, started anew when it is gone."""

    folder: Path
    process: subprocess.Popen[str] | None = None

    def ask(self, case: str, patience_s: float) -> dict[str, Any]:
        """What became of a case, with the seconds it took."""
        if self.process is None:
            command = [sys.executable, str(ROOT / "tests" / "fuzzing.py"), str(self.folder)]
            paths = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests")))
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        start = time.monotonic()
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], patience_s)
        line = self.process.stdout.readline() if ready else ""
        took = time.monotonic() - start
        if line:
            return {**json.loads(line), "seconds": took}
        self.close()
        return {
            "said": "crashed" if ready else f"hung: longer than {patience_s:.0f} s",
            "seconds": took,
            "peak_bytes": 0,
        }

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class Found:
    """What was found over many cases."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(reader, read | partly | refused | rejected | wrong) -> files."""
    wrong: list[tuple[str, str]] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    peak_bytes: int = 0

    def add(self, case: str, told: dict[str, Any]) -> None:
        reader, said = case.rpartition(" ")[0], told["said"]
        if said.startswith(("broke", "crashed", "hung")):
            self.wrong.append((case, said))
            kind = "wrong"
        elif said.startswith("refused"):
            kind = "rejected" if "not one usable row" in said else "refused"
        else:
            kind = "read" if said.endswith("rejected 0") else "partly"
        self.outcomes[reader, kind] += 1
        self.slowest = max(self.slowest, (told["seconds"], case))
        self.peak_bytes = max(self.peak_bytes, told["peak_bytes"])


def fuzz(cases: Sequence[str], processes: int, longest_s: float = LONGEST_S) -> Found:
    """Reads all cases. The first file of a process may take longer: it imports the libraries."""
    found = Found()

    def some(which: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            reader = Reader(Path(folder))
            try:
                for case in cases[which::processes]:
                    told = reader.ask(case, 60.0)
                    if told["seconds"] > longest_s and not told["said"].startswith(("hung", "crashed")):
                        told = reader.ask(case, 60.0)
                        if told["seconds"] > longest_s:
                            told["said"] = f"hung: {told['seconds']:.1f} s"
                    found.add(case, told)
            finally:
                reader.close()

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(some, range(processes)))
    if found.peak_bytes > MOST_BYTES:
        found.wrong.append(("memory", f"{found.peak_bytes / 2**20:.0f} MiB"))
    return found


def cases_of(readers: Sequence[str], files: int) -> list[str]:
    """As many cases, dealt to the readers in turn."""
    return [f"{readers[i % len(readers)]} {i // len(readers)}" for i in range(files)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--reader", choices=sorted(SEEDS))
    parser.add_argument("--case")
    given = parser.parse_args()
    if given.case:
        sys.path.insert(0, str(ROOT / "src"))
        reader, _, number = given.case.rpartition(" ")
        folder = Path(tempfile.mkdtemp())
        print(read_case(folder, reader, int(number)))
        name, content, settings = mutated(reader, int(number))
        (folder / name).write_bytes(content)
        print(folder / name, settings)
        return
    start = time.monotonic()
    readers = [given.reader] if given.reader else list(SEEDS)
    found = fuzz(cases_of(readers, given.files), given.processes)
    kinds = ("read", "partly", "rejected", "refused", "wrong")
    print(f"{'reader':12}" + "".join(f"{kind:>10}" for kind in kinds))
    for reader in readers:
        print(f"{reader:12}" + "".join(f"{found.outcomes[reader, kind]:10}" for kind in kinds))
    took, (slowest, which) = time.monotonic() - start, found.slowest
    print(f"{given.files} files in {took:.0f} s; slowest {slowest:.2f} s ({which});")
    print(f"peak {found.peak_bytes / 2**20:.0f} MiB; {len(found.wrong)} wrong")
    for case, said in found.wrong[:20]:
        print(f"--- {case}\n{said}")
    sys.exit(1 if found.wrong else 0)


if __name__ == "__main__":
    main()
