"""Curation as data grows: python benchmarks/data.py [--sizes 10000,30000] [--peer] [--draw docs/data-scale.svg]

Rows of 12 to 40 words (170 characters in the mean), every tenth the copy of another with up to 12 letters changed: near
duplicates whose Jaccard similarity is known. At each size, in a process of its own: seconds and peak memory of
`near_clusters`, which share of the planted pairs at a similarity of 0.8 or more it joined (recall), which share of
what it joined is that similar (precision); the seconds of hashed TF-IDF; milliseconds a row for measures and flaws, of
5,000 rows in one process; and up to 100,000 rows the seconds of choosing 1,000. `--peer` asks the usual script over
datasketch (the same shingles, the same 18 bands of 7, xxhash, a query before each insertion) at sizes up to 30,000, in
turns with ours, three rounds, of which the quickest counts.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from panels import BLUE, GREEN, GREY, RED, Line, Panel, picture

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
PEER_MOST, CHOSEN_MOST, MEASURED = 30_000, 100_000, 5_000
JACCARD, KEEP = 0.8, 1_000
PLANTED = 10
"""Every so many-th row is a changed copy."""
ROUNDS = 3


def rows(count: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Texts, and the pairs that were planted."""
    rng = random.Random(count)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(20_000)]
    total, common = 0.0, []
    for rank in range(len(words)):  # Zipf's law
        total += 1 / (rank + 1)
        common.append(total)
    texts: list[str] = []
    pairs: list[tuple[int, int]] = []
    while len(texts) < count:
        if len(texts) % PLANTED == PLANTED - 1:
            other = (
                rng.randrange(len(texts) // PLANTED + 1) * PLANTED
            )  # never a copy's copy: chains join what is unlike
            letters = list(texts[other])
            for _ in range(rng.randint(0, 12)):
                letters[rng.randrange(len(letters))] = rng.choice("etaoinshrdlu ")
            pairs.append((other, len(texts)))
            texts.append("".join(letters))
        else:
            texts.append(" ".join(rng.choices(words, cum_weights=common, k=rng.randint(12, 40))))
    return texts, pairs


def ours(texts: Sequence[str]) -> list[int]:
    """Clusters by luthier."""
    from luthier.data.curate.near import near_clusters

    return near_clusters(texts, JACCARD)


def theirs(texts: Sequence[str]) -> list[int]:
    """Clusters by the script that people write over datasketch: sign, ask the index, insert, join."""
    import xxhash
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=126, params=(18, 7))
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for number, text in enumerate(texts):
        plain = " ".join(text.lower().split())
        found = {plain[k : k + 5].encode() for k in range(max(1, len(plain) - 4))}
        signed = MinHash(num_perm=126, hashfunc=lambda data: xxhash.xxh32_intdigest(data))
        signed.update_batch(found)
        for other in index.query(signed):
            a, b = root(number), root(other)
            parent[max(a, b)] = min(a, b)
        index.insert(number, signed, check_duplication=False)
    return [root(i) for i in range(len(texts))]


def judged(texts: Sequence[str], pairs: Sequence[tuple[int, int]], cluster: Sequence[int]) -> dict[str, float]:
    """Recall over the planted pairs that are near, precision over what was joined with its cluster's first row."""
    import numpy as np

    from luthier.data.curate.near import jaccards

    left, right = (np.array([pair[k] for pair in pairs]) for k in (0, 1))
    cluster_N = np.asarray(cluster)
    near = jaccards(texts, left, right) >= JACCARD
    together = cluster_N[left] == cluster_N[right]
    other = np.flatnonzero(cluster_N != np.arange(len(texts)))[:20_000]
    right_of = jaccards(texts, cluster_N[other], other) >= JACCARD
    return {
        "planted": int(near.sum()),
        "recall": float(together[near].mean()),
        "precision": float(right_of.mean()),
        "joined": len(np.flatnonzero(cluster_N != np.arange(len(texts)))),
    }


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """(seconds by the clock, by processor time, result)."""
    clock, cpu = time.monotonic(), time.process_time()
    made = work()
    return time.monotonic() - clock, time.process_time() - cpu, made


def near_work(pipe: Connection, size: int, by: str) -> None:
    """One process: rows, clusters, what they cost and how good they are."""
    texts, pairs = rows(size)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds, cpu_s, cluster = timed(lambda: (ours if by == "ours" else theirs)(texts))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe.send(
        {"seconds": seconds, "cpu_s": cpu_s, "peak_bytes": peak, "rows_bytes": held} | judged(texts, pairs, cluster)
    )


def other_work(pipe: Connection, size: int, by: str) -> None:
    """One process: vectors, measures, choice."""
    import numpy as np

    from luthier.base.nouns import Chat, Message
    from luthier.data.curate.choose import choose
    from luthier.data.curate.quality import flaws, scores_of
    from luthier.data.curate.vectors import tfidf

    texts, _ = rows(size)
    found: dict[str, float] = {}
    found["vectors_s"], _, vectors_ND = timed(lambda: tfidf(texts))
    some = [Chat((Message("user", text[:60]), Message("assistant", text[60:])), "") for text in texts[:MEASURED]]
    seconds, _, _ = timed(lambda: [(scores_of(chat), flaws(chat)) for chat in some])
    found["measures_ms_a_row"] = seconds / len(some) * 1e3
    if size <= CHOSEN_MOST:
        good_N = np.random.default_rng(0).random(size)
        found["choose_s"], _, kept = timed(lambda: choose(vectors_ND, good_N, KEEP))
        assert len(set(kept)) == KEEP
    found["choose_peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe.send(found)


def alone(work: Callable[[Connection, int, str], None], size: int, by: str = "ours") -> dict[str, float]:
    """What a new process says."""
    context = get_context("spawn")
    mine, other = context.Pipe()
    process = context.Process(target=work, args=(other, size, by))
    process.start()
    other.close()
    try:
        return mine.recv()
    finally:
        process.join()


def measure(sizes: Sequence[int], peer: bool) -> dict[str, dict[str, float]]:
    """All figures by the number of rows; ours and the peer's in turns, the quickest round of each."""
    found: dict[str, dict[str, float]] = {}
    for size in sizes:
        turns = ROUNDS if size <= PEER_MOST else 1
        told = [alone(near_work, size) for _ in range(turns)]
        found[str(size)] = min(told, key=lambda one: one["seconds"])
        if peer and size <= PEER_MOST:
            other = min((alone(near_work, size, "peer") for _ in range(turns)), key=lambda one: one["seconds"])
            found[str(size)] |= {f"peer_{name}": value for name, value in other.items()}
        found[str(size)] |= alone(other_work, size)
        print(f"{size:>9,} rows: {found[str(size)]['seconds']:.1f} s", file=sys.stderr)
    return found


def drawing(found: dict[str, dict[str, float]]) -> str:
    """Two panels over the number of rows, both axes logarithmic: seconds, and peak memory."""

    def line(label: str, colour: str, name: str, unit: float = 1.0) -> Line:
        return Line(label, colour, [(int(size), row[name] / unit) for size, row in found.items() if name in row])

    seconds = [
        line("near duplicates", BLUE, "seconds"),
        line("the same by datasketch", GREY, "peer_seconds"),
        line("vectors", GREEN, "vectors_s"),
        line("choosing 1,000", RED, "choose_s"),
    ]
    memory = [line("all of it", BLUE, "peak_bytes", 1e9), line("the rows", GREY, "rows_bytes", 1e9)]
    return picture([int(size) for size in found], [Panel("seconds", seconds), Panel("peak memory, GB", memory)])


def main() -> None:
    """Measures, prints a table, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--draw", type=Path)
    options = parser.parse_args()
    found = measure([int(size) for size in options.sizes.split(",")], options.peer)
    names = {
        "seconds": ("near duplicates, s", 1, ",.1f"),
        "cpu_s": ("of processor time, s", 1, ",.1f"),
        "peak_bytes": ("peak memory, GB", 1e9, ".2f"),
        "rows_bytes": ("of it the rows and Python, GB", 1e9, ".2f"),
        "recall": ("recall at Jaccard 0.8", 1, ".4f"),
        "precision": ("precision", 1, ".4f"),
        "peer_seconds": ("datasketch, s", 1, ",.1f"),
        "peer_recall": ("its recall", 1, ".4f"),
        "peer_precision": ("its precision", 1, ".4f"),
        "vectors_s": ("hashed TF-IDF, s", 1, ",.1f"),
        "measures_ms_a_row": ("measures and flaws, ms a row", 1, ".2f"),
        "choose_s": ("choosing 1,000, s", 1, ",.1f"),
    }
    print("| rows |", " | ".join(f"{int(size):,}" for size in found), "|")
    print("|---|" + "---|" * len(found))
    for name, (label, unit, form) in names.items():
        if any(name in row for row in found.values()):
            cells = (f"{row[name] / unit:{form}}" if name in row else "" for row in found.values())
            print(f"| {label} | {' | '.join(cells)} |")
    for size, row in found.items():
        if "peer_seconds" in row:
            print(f"{int(size):,} rows: {row['peer_seconds'] / row['seconds']:.1f} times as fast as datasketch")
    if options.draw:
        options.draw.write_text(drawing(found))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
