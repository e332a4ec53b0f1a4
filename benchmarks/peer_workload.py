"""What both sides of `peers.py` work on: the same models, the same tokens, the same protocol. numpy and torch only.

A side is a program that reads one job (JSON) from its first argument, says it is ready, and then, for every line it
reads, runs the job once more and prints {"seconds", "tokens", ...} as JSON. Only one side works at a time.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def llama(width: int, inner: int, layers: int, heads: int, vocab: int) -> dict[str, int]:
    """A Llama's sizes, as transformers names them."""
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": vocab,
    }


SHAPES = {
    "tiny": llama(64, 176, 2, 2, 1000),
    "16M": llama(320, 864, 9, 5, 16384),
    "100M": llama(768, 2048, 10, 12, 32000),
}
END, PAD, FIRST = 2, 0, 3
"""Token ids: the end of an answer, padding, the first ordinary token."""


def config(shape: str) -> Any:
    """A Llama of that shape, embeddings tied."""
    from transformers import LlamaConfig

    sizes: Any = SHAPES[shape]
    return LlamaConfig(
        **sizes,
        num_key_value_heads=sizes["num_attention_heads"],
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=PAD,
    )


def model(shape: str, answer_tokens: float | None = None) -> Any:
    """Random weights from a fixed seed, float32. With `answer_tokens` its samples end after about that many: every
    embedding gets the same large first component, END's a little more, so that END's logit leads by a constant."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    made = LlamaForCausalLM(config(shape))
    if answer_tokens is not None:
        with torch.no_grad():
            embedding = made.get_input_embeddings().weight
            embedding[:, 0] = 1.0
            ids = torch.randint(FIRST, embedding.shape[0], (4, 64))
            hidden = made.model(input_ids=ids).last_hidden_state
            logits = made.lm_head(hidden).float()
            lead = float(hidden[..., 0].mean())
            wanted = float(logits.logsumexp(-1).mean()) - np.log(answer_tokens)
            embedding[END, 0] += (wanted - float(logits[..., END].mean())) / lead
    return made


def tokenizer(shape: str) -> Any:
    """One word a token: `w17` is id 17, so that texts and ids are the same thing on both sides."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    vocab = {"<pad>": PAD, "<s>": 1, "</s>": END}
    vocab |= {f"w{i}": i for i in range(FIRST, SHAPES[shape]["vocab_size"])}
    words = Tokenizer(WordLevel(vocab, unk_token="<pad>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def text(ids: list[int]) -> str:
    """Ids as the tokenizer reads them; END is left out, since trainers add it."""
    return " ".join("<s>" if i == 1 else f"w{i}" for i in ids if i != END)


def lengths(rng: np.random.Generator, mean: float, count: int, longest: int) -> np.ndarray:
    """Log-normal lengths with that mean and a long tail (σ = 0.7), as people's questions and answers have."""
    drawn = rng.lognormal(np.log(mean) - 0.7**2 / 2, 0.7, count)
    return np.clip(drawn.round(), 4, longest).astype(int)


def conversations(shape: str, count: int, prompt: float = 50, answer: float = 60) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids), answers ending in END. Tokens follow Zipf's law, as a language's do."""
    rng = np.random.default_rng(1)
    vocab = SHAPES[shape]["vocab_size"]
    weights = 1 / np.arange(1, vocab - FIRST + 1)
    draw = lambda n: (FIRST + rng.choice(vocab - FIRST, n, p=weights / weights.sum())).tolist()  # noqa: E731
    sizes = zip(lengths(rng, prompt, count, 512), lengths(rng, answer, count, 512), strict=True)
    return [([1, *draw(p - 1)], [*draw(a - 1), END]) for p, a in sizes]


def pairs(shape: str, count: int) -> list[tuple[list[int], list[int], list[int]]]:
    """(prompt, chosen, rejected); prompts four times as long as answers."""
    answers = conversations(shape, count, 160, 40)
    others = conversations(shape, count, 50, 40)
    rng = np.random.default_rng(2)
    return [(p, c, r[1]) for (p, c), r in zip(answers, [others[i] for i in rng.permutation(count)], strict=True)]


def resident_bytes(peak: bool) -> int:
    """Resident memory now, or the most since the last reset (Linux)."""
    key = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak() -> None:
    """The high-water mark starts anew."""
    Path("/proc/self/clear_refs").write_text("5")


def serve(prepare: Callable[[dict[str, Any]], Callable[[], dict[str, Any]]]) -> None:
    """The protocol, from a side's point of view. What libraries print goes to stderr."""
    job = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(job["threads"])
    go = prepare(job)
    before = resident_bytes(peak=False)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for _ in sys.stdin:
        found = go()
        # Memory counts in a fresh process only: afterwards the allocator holds what it once had.
        found["above"] = found["peak"] - before - found["state"] if before and "peak" in found else None
        before = 0
        print(json.dumps(found), file=answers, flush=True)


def state_bytes(module: Any) -> int:
    """Weights, gradients and AdamW's two moments, float32."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return 4 * (sum(p.numel() for p in module.parameters()) + 3 * trained)


def training_flops(shape: str, rows: list[tuple[list[int], list[int]]]) -> float:
    """Floating-point operations that a full training step on these rows needs: three products a weight and token
    (forward, and two backward), the head at the answers' tokens only, attention over what each token sees."""
    s = SHAPES[shape]
    width, layers = s["hidden_size"], s["num_hidden_layers"]
    block = 4 * width**2 + 3 * width * s["intermediate_size"]
    tokens, predicted = sum(len(p) + len(a) for p, a in rows), sum(len(a) for _, a in rows)
    seen = sum((len(p) + len(a)) * (len(p) + len(a) + 1) / 2 for p, a in rows)
    return 6.0 * (tokens * layers * block + predicted * width * s["vocab_size"] + 2 * seen * layers * width)
