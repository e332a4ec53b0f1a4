"""Cost as data grows: python benchmarks/scale.py [--quick] [--json] [--draw docs/scale.svg]

1,000 to 100,000 conversations from a template (prompts of about 50 tokens, answers of about 60, long tails), streamed:
looked at, tokenised into shards, prepared as batches in shuffled order, and trained on by a tiny Llama. Each size has a
process of its own; they are asked in turns, five rounds, and medians are shown: tokens/s by the clock and by processor
time, which other work on the machine disturbs less. Peak memory is the most that the process held, tokenising included;
beside it, that of a process which holds the same rows in memory. `--quick` stops at 10,000. About 4 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from panels import BLUE, GREY, RED, Line, Panel, picture

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
ROUNDS = 5
STEP_TOKENS, PREPARED_STEPS, TRAINED_STEPS = 4096, 40, 4
FLAT_FRAC = 0.1
"""The bar: no more than this from the median over the sizes."""


def write_rows(path: Path, count: int) -> None:
    """Conversations of random words: lengths are log-normal, the longest a dozen times the median."""
    rng = random.Random(count)
    words = [f"{a}{b}" for a in ("lam", "do", "cu", "bo", "ki", "dru") for b in ("p", "or", "ten", "ly", "s", "ing")]

    def text(median: float, spread: float) -> str:
        return " ".join(rng.choices(words, k=max(1, min(400, round(rng.lognormvariate(0, spread) * median)))))

    with open(path, "w") as file:
        for n in range(count):
            row = {"question": f"{n}: {text(35, 0.6)}?", "answer": f"{text(38, 0.8)}."}
            file.write(json.dumps(row) + "\n")


class Streamed:
    """A source in shards, a tiny model, and the steps that train it."""

    def __init__(self, folder: Path) -> None:
        import torch

        from luthier.base.recipe import Fresh
        from luthier.base.source import Source
        from luthier.base.store import open_store
        from luthier.base.workers import cores
        from luthier.data.survey import survey
        from luthier.model.load import fresh_model, load_tokenizer, wrap
        from luthier.run.memo import reset_peak
        from luthier.run.shards import workers_for
        from luthier.tokens.render import Renderer
        from luthier.tokens.tokenise import Rules, tokenise
        from luthier.train.sources import Packed, Pool

        torch.set_num_threads(1)
        tokenizer = load_tokenizer(folder.parent / "tokenizer")
        model = fresh_model(Fresh(layers=2, width=64, heads=4, vocab=len(tokenizer), context=512), tokenizer, 0)
        self.lm = wrap(model, tokenizer, "cpu", torch.float32).lm
        self.optimizer = torch.optim.AdamW(self.lm.module.parameters(), lr=1e-3)
        reset_peak("cpu")
        source, store = Source(path="rows.jsonl", stream=True), open_store("shards", folder)
        workers = workers_for([folder / "rows.jsonl"], cores())
        began = time.monotonic()
        found = survey("rows", source, folder, store, workers, lambda progress: None).survey
        self.read_s = time.monotonic() - began
        assert found is not None
        rules = Rules(512, "split", "truncate")
        made = tokenise(found, Renderer(tokenizer), rules, store, workers, lambda progress: None)
        self.tokenised_s = time.monotonic() - began - self.read_s
        self.facts = made.facts
        pool = Pool(made.sequences, STEP_TOKENS, "rows", made.sequences.lengths)
        self.source = Packed([pool], 0, 2048, None, 10_000)
        self.step = 0

    def made(self) -> dict[str, float]:
        """What making the shards took."""
        rows = self.facts.sequences
        return {
            "rows": rows,
            "tokens_a_row": self.facts.tokens / rows,
            "read_rows_per_s": rows / self.read_s,
            "tokenised_rows_per_s": rows / self.tokenised_s,
        }

    def prepare(self) -> dict[str, float]:
        """Tokens/s of making batches, in another part of the order every time."""
        return rates(PREPARED_STEPS, self._next)

    def train(self) -> dict[str, float]:
        """Tokens/s of whole optimizer steps."""
        return rates(TRAINED_STEPS, self._train)

    def peak(self) -> dict[str, float]:
        """The most memory this process held, in bytes."""
        from luthier.run.memo import peak_bytes

        return {"bytes": peak_bytes("cpu")}

    def _next(self) -> Any:
        self.step += 1
        return self.source.at(self.step)

    def _train(self) -> Any:
        from luthier.model.score import score
        from luthier.objectives import nll

        item = self._next()
        for micro in item.micros:
            (nll(score(self.lm, micro.batch), micro.batch.weight_M) / item.total).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return item


def rates(steps: int, take: Callable[[], Any]) -> dict[str, float]:
    """Tokens a second, by the clock and by processor time."""
    clock, cpu = time.monotonic(), time.process_time()
    tokens = sum(take().tokens for _ in range(steps))
    return {"clock": tokens / (time.monotonic() - clock), "cpu": tokens / (time.process_time() - cpu)}


def streamed(folder: Path, pipe: Connection) -> None:
    """A process for one size: does what it is asked."""
    this = Streamed(folder)
    asked = {"made": this.made, "prepare": this.prepare, "train": this.train, "peak": this.peak}
    while (what := pipe.recv()) is not None:
        pipe.send(asked[what]())


def held(folder: Path, pipe: Connection) -> None:
    """A process that holds the rows of one size and their tokens: how much memory that takes."""
    from luthier.base.source import Source
    from luthier.base.store import open_store
    from luthier.data.dataset import read_dataset
    from luthier.run.memo import peak_bytes, reset_peak
    from luthier.tokens.shards import open_shards
    from luthier.train.sources import Packed, Pool

    reset_peak("cpu")
    data = read_dataset("rows", Source(path="rows.jsonl"), folder)
    (made,) = (folder / "shards").glob("rows-tokens-*")
    rows = list(open_shards(open_store(str(made), folder)))
    assert data.train
    Packed([Pool(rows, STEP_TOKENS, "rows")], 0, 2048, None, 100).at(99)
    pipe.send({"bytes": peak_bytes("cpu")})


def started(target: Callable[[Path, Connection], None], folder: Path) -> Connection:
    """The pipe to a new process."""
    ours, theirs = get_context("spawn").Pipe()
    get_context("spawn").Process(target=target, args=(folder, theirs), daemon=True).start()
    theirs.close()
    return ours


def asked(pipe: Connection, what: str) -> dict[str, float]:
    """What a process answers."""
    pipe.send(what)
    return pipe.recv()


def measure(root: Path, sizes: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """All figures, by the number of examples."""
    from luthier.tokens.tokenizer import ensure_chat_template, train_tokenizer

    write_rows(root / "taught.jsonl", 1000)
    lines = (root / "taught.jsonl").read_text().splitlines()
    tokenizer = train_tokenizer([" ".join(json.loads(line).values()) for line in lines], 512)
    ensure_chat_template(tokenizer)
    tokenizer.save_pretrained(root / "tokenizer")
    pipes, found = {}, {}
    for size in sizes:
        folder = root / str(size)
        folder.mkdir()
        write_rows(folder / "rows.jsonl", size)
        pipes[size] = started(streamed, folder)
        found[str(size)] = asked(pipes[size], "made")
        print(f"{size:>8,} examples tokenised, {found[str(size)]['tokenised_rows_per_s']:,.0f} rows/s", file=sys.stderr)
    told: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for pipe in pipes.values():  # the first steps pay for what later ones find made
        asked(pipe, "prepare"), asked(pipe, "train")
    for _ in range(ROUNDS):
        for size, pipe in pipes.items():
            parts = {what: asked(pipe, what) for what in ("prepare", "train")}
            told[size].append({f"{what}_{by}": rate for what, part in parts.items() for by, rate in part.items()})
    for size, pipe in pipes.items():
        row = found[str(size)]
        row |= {name: statistics.median(one[name] for one in told[size]) for name in told[size][0]}
        row["peak_bytes"] = asked(pipe, "peak")["bytes"]
        pipe.send(None)
    for size in sizes:
        found[str(size)]["held_bytes"] = started(held, root / str(size)).recv()["bytes"]
    return found


def spread(found: dict[str, dict[str, float]], name: str) -> float:
    """The largest distance from the median, as a share of it."""
    values = [row[name] for row in found.values()]
    middle = statistics.median(values)
    return max(abs(value / middle - 1) for value in values)


def drawing(found: dict[str, dict[str, float]]) -> str:
    """Two panels over the number of examples: tokens/s as a share of that at the smallest, and peak memory."""
    sizes = [int(size) for size in found]

    def line(label: str, colour: str, name: str, unit: float) -> Line:
        values = [row[name] / unit for row in found.values()]
        return Line(label, colour, list(zip(sizes, values, strict=True)))

    first, most = found[str(sizes[0])], max(row["held_bytes"] for row in found.values())
    speed = [
        line("preparing batches", BLUE, "prepare_cpu", first["prepare_cpu"]),
        line("training a tiny Llama", RED, "train_cpu", first["train_cpu"]),
    ]
    memory = [line("streamed", BLUE, "peak_bytes", 1e9), line("rows held in memory", GREY, "held_bytes", 1e9)]
    title = "tokens a processor second, of that at 1 k"
    return picture(sizes, [Panel(title, speed, most=1.5), Panel("peak memory, GB", memory, most=most / 1e9 * 1.1)])


def main() -> None:
    """Measures, prints a table, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--draw", type=Path)
    options = parser.parse_args()
    root, began = Path(tempfile.mkdtemp()), time.monotonic()
    try:
        found = measure(root, SIZES[:3] if options.quick else SIZES)
    finally:
        shutil.rmtree(root)
    names = {
        "tokenised_rows_per_s": ("tokenised, rows/s", 1),
        "prepare_clock": ("batches, k tokens/s", 1e3),
        "prepare_cpu": ("batches, k tokens/cpu-s", 1e3),
        "train_clock": ("training, k tokens/s", 1e3),
        "train_cpu": ("training, k tokens/cpu-s", 1e3),
        "peak_bytes": ("peak memory, MB", 1e6),
        "held_bytes": ("rows held in memory, MB", 1e6),
    }
    print("| examples |", " | ".join(f"{int(size):,}" for size in found), "| spread |")
    print("|---|" + "---|" * (len(found) + 1))
    for name, (label, unit) in names.items():
        cells = " | ".join(f"{row[name] / unit:,.0f}" for row in found.values())
        print(f"| {label} | {cells} | ±{spread(found, name):.0%} |")
    if options.draw:
        options.draw.write_text(drawing(found))
    flat = {name: spread(found, name) for name in ("prepare_cpu", "train_cpu", "peak_bytes")}
    print(f"{time.monotonic() - began:.0f} s; tokens a row {found['1000']['tokens_a_row']:.0f}", file=sys.stderr)
    if options.json:
        bars = {name: FLAT_FRAC for name in flat}
        holds = all(value <= FLAT_FRAC for value in flat.values())
        print(json.dumps({"name": "scale", "figures": found, "spread": flat, "bars": bars, "holds": holds}))


if __name__ == "__main__":
    main()
