"""What the design promises on a GPU, in one call under eight minutes: one table, or one line where there is no GPU.

    python benchmarks/gpu.py                    luthier alone, and forest attention beside flash attention
    python benchmarks/gpu.py --peer PYTHON      with TRL and Liger kernels, of another environment's Python, beside it

Llama shapes with random weights, bfloat16, packed to 4,096 tokens. The machine's own bfloat16 product is measured in
the same run; a share of it is of the operations that the mathematics needs, not of those that were done.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.base.alignment import Dpo
from luthier.base.nouns import Tokens
from luthier.base.tuning import Lora, Quantize, Training
from luthier.model.adapt import add_adapter, trainable
from luthier.model.attention import Extras, ForestPlan
from luthier.model.load import load_folder
from luthier.model.score import LanguageModel, score
from luthier.model.verify import choose_layout
from luthier.objectives import nll
from luthier.tokens.pack import forest
from luthier.train.optim import optimizers
from luthier.train.preference import preference_loss
from luthier.train.sources import Pairs

SHAPES = {
    "tiny": (128, 352, 2, 4, 2, 1000),
    "1.2B": (2048, 8192, 16, 32, 8, 128_256),
    "8B": (4096, 14336, 32, 32, 8, 128_256),
}
"""width, inner width, layers, heads, key/value heads, vocabulary."""


def config(shape: str) -> LlamaConfig:
    """A Llama's configuration of that shape; embeddings are tied, as in the 1.2 B original."""
    width, inner, layers, heads, kv_heads, vocab = SHAPES[shape]
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        max_position_embeddings=8192,
        tie_word_embeddings=shape != "8B",
    )


def random_rows(shape: str, rows: int, length: int, seed: int = 0) -> list[Tokens]:
    """Rows of random tokens, all but the first predicted."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, SHAPES[shape][-1], (rows, length), generator=draw).tolist()
    return [Tokens(tuple(row), (0.0,) + (1.0,) * (length - 1), "") for row in ids]


def needed_flops(shape: str, rows: list[Tokens], trained: float) -> float:
    """Operations of a step: `trained` is 3 where all weights get gradients, 2 where the base is frozen."""
    width, inner, layers, heads, kv_heads, vocab = SHAPES[shape]
    block = width * (width * 2 + 2 * width * kv_heads // heads) + 3 * width * inner
    tokens, seen = sum(len(r.ids) for r in rows), sum(len(r.ids) ** 2 / 2 for r in rows)
    return 2 * trained * tokens * (layers * block + width * vocab) + 12 * seen * layers * width


def timed(work: Callable[[], Any], device: str, rounds: int = 8) -> float:
    """Median seconds of a piece of work, after two rounds of warming up."""
    took = []
    for k in range(rounds + 2):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if k >= 2:
            took.append(time.perf_counter() - began)
    return statistics.median(took)


def product_rate(device: str) -> float:
    """FLOP/s of a large bfloat16 product."""
    n = 8192 if device == "cuda" else 512
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device=device) for _ in range(2))
    return 2 * n**3 / timed(lambda: a @ b, device)


def learner(shape: str, device: str, adapter: bool) -> tuple[LanguageModel, Callable[[torch.Tensor], None]]:
    """A random model, and what makes a step of a loss."""
    torch.manual_seed(0)
    with torch.device(device):
        module = LlamaForCausalLM(config(shape))
    lm, _ = choose_layout(module, torch.bfloat16)
    if adapter:
        lm = add_adapter(lm, Lora(rank=16, alpha=32), "policy", 0)
    lm.module.train()
    parameters = trainable(lm.module)
    steppers = optimizers(parameters, Training())

    def step(loss: torch.Tensor) -> None:
        loss.backward()
        for stepper in steppers.values():
            stepper.step()
        for parameter in parameters.values():
            parameter.grad = None

    return lm, step


def tune(shape: str, device: str, adapter: bool, length: int) -> dict[str, Any]:
    """Tokens a second of supervised tuning, packed; and its share of the product's rate."""
    lm, step = learner(shape, device, adapter)
    rows = random_rows(shape, 2, length)
    batch = forest(rows).to(device)
    seconds = timed(lambda: step(nll(score(lm, batch), batch.weight_M) / len(batch.from_M)), device)
    flops = needed_flops(shape, rows, 2.0 if adapter else 3.0) / seconds
    return {"tokens_per_s": batch.tokens / seconds, "flops": flops, "bytes": peak(device)}


def prefer(shape: str, device: str, shared: bool) -> float:
    """Pairs a second of DPO with a prompt of 512 and answers of 128 tokens, its prompts shared or not."""
    lm, step = learner(shape, device, adapter=True)
    prompts, answers = random_rows(shape, 4, 512), random_rows(shape, 8, 128, seed=1)
    pairs = [
        tuple(Tokens(p.ids + a.ids, (0.0,) * 512 + (1.0,) * 128, "") for a in answers[2 * i : 2 * i + 2])
        for i, p in enumerate(prompts)
    ]
    facts = {"ref_chosen_P": torch.zeros(4), "ref_rejected_P": torch.zeros(4)}
    (micro,) = Pairs(pairs, 0, 4, 1 << 20, 1.0, facts).at(0).micros  # type: ignore[arg-type]
    if not shared:
        micro = micro._replace(batch=forest([one for pair in pairs for one in pair], min_shared=1 << 30))
    micro = micro.to(torch.device(device))
    return 4 / timed(lambda: step(preference_loss(lm, Dpo(kind="dpo"), micro).total), device)


def attention_ratio(device: str, length: int) -> float:
    """Forest attention beside torch's causal attention, forward and backward, on one row without branches."""
    q, k, v = (torch.randn(1, h, length, 64, dtype=torch.bfloat16, device=device) for h in (32, 8, 8))
    for x in (q, k, v):
        x.requires_grad_()
    plan = ForestPlan(forest(random_rows("tiny", 1, length)).to(device))

    def flash() -> None:
        attend = torch.nn.functional.scaled_dot_product_attention
        attend(q, k, v, is_causal=True, enable_gqa=True).sum().backward()

    ours = timed(lambda: plan.attend(0, q, k, v, None, Extras(0.125)).sum().backward(), device)
    return ours / timed(flash, device)


def few_bits(shape: str, device: str, folder: Path) -> int:
    """Peak bytes of one QLoRA step on 2,048 tokens, the base read from disk straight into nf4."""
    if not (folder / "config.json").exists():
        with torch.device("meta"):
            empty = LlamaForCausalLM(config(shape))
        module = empty.to_empty(device="cpu").to(torch.bfloat16)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(0, 0.02)
        module.save_pretrained(folder)
    lm = load_folder(folder, device, torch.bfloat16, Quantize()).lm
    lm.core.gradient_checkpointing_enable({"use_reentrant": False})
    lm = add_adapter(lm, Lora(), "policy", 0)
    torch.cuda.reset_peak_memory_stats()
    batch = forest(random_rows(shape, 1, 2048)).to(device)
    nll(score(lm, batch), batch.weight_M).backward()
    return peak(device)


def peak(device: str) -> int:
    """Most bytes allocated on the GPU."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


PEER = """
import json, sys, tempfile, time, torch
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer
made = json.loads(sys.argv[1])
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(**made["config"]))
from liger_kernel.transformers import apply_liger_kernel_to_llama
apply_liger_kernel_to_llama(model=model)
ids = torch.randint(3, made["config"]["vocab_size"], (24, made["length"])).tolist()
class Clock(TrainerCallback):
    times = []
    def on_step_end(self, *a, **k):
        torch.cuda.synchronize(); self.times.append(time.perf_counter())
clock = Clock()
trainer = SFTTrainer(model=model, args=SFTConfig(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=2,
    max_steps=12, bf16=True, gradient_checkpointing=False, report_to="none", save_strategy="no", max_length=None,
    dataset_kwargs={"skip_prepare_dataset": True}, optim="adamw_torch_fused"), callbacks=[clock],
    train_dataset=Dataset.from_list([{"input_ids": x, "labels": x} for x in ids]),
    peft_config=LoraConfig(r=16, target_modules="all-linear") if made["adapter"] else None)
trainer.train()
gaps = sorted(b - a for a, b in zip(clock.times[2:], clock.times[3:]))
print(json.dumps({"tokens_per_s": 2 * made["length"] / gaps[len(gaps) // 2]}))
"""


def peer(python: str, shape: str, adapter: bool, length: int) -> float:
    """TRL's tokens a second on the same work."""
    sizes = {k: v for k, v in config(shape).to_dict().items() if isinstance(v, int | bool) and k != "return_dict"}
    job = json.dumps({"config": sizes, "length": length, "adapter": adapter})
    out = subprocess.run([python, "-c", PEER, job], capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])["tokens_per_s"]


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON", help="a Python with TRL, PEFT and liger-kernel")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/luthier-8b"), help="where the 8 B shape is kept")
    parser.add_argument("--try-on-cpu", action="store_true", help="the same work on a tiny shape: that it runs")
    asked = parser.parse_args()
    if not torch.cuda.is_available() and not asked.try_on_cpu:
        print("no GPU here: nothing was measured")
        return
    device = "cpu" if asked.try_on_cpu else "cuda"
    shape, length = ("tiny", 128) if asked.try_on_cpu else ("1.2B", 4096)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}; Llama {shape}, bfloat16, rows of {length}\n")
    print("| work | measured | asked |\n|---|---|---|")
    machine = product_rate(device)
    print(f"| bfloat16 product | {machine / 1e12:.1f} TFLOP/s | |", flush=True)
    for adapter, least in ((True, 0.45), (False, 0.50)):
        made = tune(shape, device, adapter, length)
        kind = "LoRA" if adapter else "full"
        share = f"{made['flops'] / machine:.0%} of the product"
        print(f"| {kind} SFT | {made['tokens_per_s']:.0f} tokens/s, {share} | {least:.0%} |", flush=True)
        if asked.peer:
            ratio = made["tokens_per_s"] / peer(asked.peer, shape, adapter, length)
            print(f"| {kind} SFT beside TRL + Liger | {ratio:.2f}× | {'1.3×' if adapter else ''} |", flush=True)
    gain = prefer(shape, device, shared=True) / prefer(shape, device, shared=False)
    print(f"| DPO, prompts shared beside not | {gain:.2f}× | 2× |", flush=True)
    print(f"| forest attention beside flash attention | {attention_ratio(device, length):.2f}× the time | 1.10× |")
    if device == "cuda":
        print(f"| QLoRA, 8 B shape | {few_bits('8B', device, asked.folder) / 2**30:.1f} GiB | 24 GiB |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
