"""Products of float32 matrices on this CPU: torch's own library beside the one that `model/products.py` takes.

    python benchmarks/products.py         about two minutes on 2 cores

First products alone, in GFLOP/s: forward, the gradient of the input, that of the weight. Then whole training steps of
a Llama of 16 M parameters (forward, loss, backward) and scoring, in turn, A B A B, and the ratio of the medians; and by
how much the means of the log-probs differ. On a CPU where torch's own is not held back there is nothing to compare.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.base.nouns import Tokens
from luthier.base.pages import keep_freed_pages
from luthier.model import products
from luthier.model.score import score, score_and_top
from luthier.model.verify import choose_layout
from luthier.tokens.pack import forest

SHAPES = ((2048, 320, 864), (2048, 864, 320), (700, 320, 864), (2048, 128, 352), (2048, 320, 16000), (24, 320, 50257))
ROUNDS = 5
onednn_is_quicker = products.onednn_is_quicker


def seconds(work: Callable[[], Any], times: int = ROUNDS) -> float:
    """The least of some runs, after one that does not count."""
    work()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def chosen(quicker: bool) -> None:
    """Whether products go to oneDNN."""
    products.onednn_is_quicker = onednn_is_quicker if quicker else lambda: False


def alone() -> None:
    """Products by themselves."""
    print("| rows × in × out | forward | gradient of the input | of the weight |\n|---|---|---|---|")
    for rows, inside, out in SHAPES:
        x, w, g = torch.randn(rows, inside), torch.randn(out, inside), torch.randn(rows, out)
        cells = []
        for work in (
            lambda x=x, w=w: products.linear(x, w),
            lambda g=g, w=w: products.linear(g, w.T),
            lambda g=g, x=x: products.across(g, x),
        ):
            rates = []
            for quicker in (False, True):
                chosen(quicker)
                with torch.no_grad():
                    rates.append(2e-9 * rows * inside * out / seconds(work))
            cells.append(f"{rates[0]:.0f} → {rates[1]:.0f} ({rates[1] / rates[0]:.1f}×)")
        print(f"| {rows:,} × {inside} × {out:,} | {' | '.join(cells)} |", flush=True)


def whole() -> None:
    """Training steps and scoring."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16000, hidden_size=320, intermediate_size=864, num_hidden_layers=9, num_attention_heads=5,
        num_key_value_heads=5, tie_word_embeddings=True,
    )  # fmt: skip
    lm, _ = choose_layout(LlamaForCausalLM(config))
    products.quicken(lm.module)
    drawn = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 16000, (n,), generator=drawn).tolist() for n in (200, 310, 90, 400, 150, 170, 260, 420)]
    batch = forest([Tokens(tuple(row), (0.0,) + (1.0,) * (len(row) - 1), "") for row in rows])

    def step() -> float:
        lm.module.zero_grad()
        loss = -score(lm, batch).mean()
        loss.backward()
        return float(loss.detach())

    def look() -> float:
        return float(score_and_top(lm, batch)[0].mean())

    for name, work in (("training step", step), ("scoring", look)):
        took: dict[bool, list[float]] = {False: [], True: []}
        said: dict[bool, float] = {}
        for _ in range(ROUNDS):
            for quicker in (False, True):
                chosen(quicker)
                work()
                began = time.perf_counter()
                said[quicker] = work()
                took[quicker].append(time.perf_counter() - began)
        medians = [statistics.median(took[quicker]) for quicker in (False, True)]
        print(
            f"{name}, {batch.tokens:,} tokens, 16 M parameters: {medians[0]:.3f} → {medians[1]:.3f} s, "
            f"{medians[0] / medians[1]:.2f}×; means of log-probs differ by {abs(said[True] - said[False]):.1e}"
        )


def main() -> None:
    """Both tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    keep_freed_pages()
    if not onednn_is_quicker():
        print("On this CPU torch's own products are taken: nothing to compare.")
        return
    alone()
    whole()


if __name__ == "__main__":
    main()
