"""luthier's evaluation beside lm-eval's own `hf` backend: the same tasks, model, dtype and threads, in one run.

    python benchmarks/evals.py                    # about 40 minutes on 2 cores; needs ../shared/data and luthier[eval]
    python benchmarks/evals.py --only hellaswag   # one row

Each measurement is a process of its own: seconds of lm-eval's `evaluate` (tokenising included, loading not), and the
peak memory. The peer runs at the best of several batch sizes, found first on a few items. Then luthier and the peer in
turn, A B A B, and the ratio of the medians. Every log-likelihood and every prediction of the two is compared.

The model: 26 M parameters, Llama-shaped, GPT-2's vocabulary, float32, trained for a quarter of an hour until it knows
some of GSM8K's train problems by heart: so its answers have the lengths that answers have, and end (most of them: one
that finds nothing to say repeats itself to the limit, as models do).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
WORK = ROOT / "benchmarks" / ".evals"
TASKS = {  # task: (items, items of the search for a batch size, at least)
    "hellaswag": (300, 40, 2.5),
    "arc_easy": (600, 80, 2.0),
    "mmlu_anatomy": (135, 40, 6.0),  # one whole subject: its questions share their examples, as all of MMLU's do
    "truthfulqa_mc2": (80, 20, 12.0),
    "gsm8k": (32, 32, 3.0),  # on half of them the peer was quickest one by one, which is slowest on all
}
BATCHES = (1, 8, 16)
KNOWN = 100
"""Train problems that the model learns by heart: a model of its size that has read all of them once or twice repeats
itself instead of answering."""
PASSES = 24
REPEATS = 2


def train_model(folder: Path) -> None:
    """Random weights of the shape, then some minutes of pretraining by luthier itself."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from luthier.base.config import load_recipe
    from luthier.run.stages import run_recipe

    start = WORK / "start"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50257, hidden_size=320, intermediate_size=864, num_hidden_layers=8, num_attention_heads=5,
        num_key_value_heads=5, max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=50256,
        eos_token_id=50256,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(start)
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_file=str(DATA / "gpt2_tokenizer" / "tokenizer.json"), bos_token=end, eos_token=end, pad_token=end
    ).save_pretrained(start)
    from luthier.evals.tasks.readers import rows_of

    rows = [fields for fields, _ in rows_of(str(DATA / "gsm8k"), "gsm8k", "train", "train problems")][:KNOWN]
    texts = [f"Question: {row['question']}\nAnswer: {row['answer']}" for row in rows]
    order = random.Random(0)
    with (WORK / "problems.jsonl").open("w") as file:
        for _ in range(PASSES):
            order.shuffle(texts)
            for n in range(0, KNOWN, 5):  # several in a document: after an answer comes the next question
                file.write(json.dumps({"text": "\n\n".join(texts[n : n + 5])}) + "\n")
    (WORK / "recipe.yaml").write_text(
        f"name: model\nout: {WORK / 'runs'}\nbase: {start}\ndata:\n"
        "  problems: {path: problems.jsonl, format: text, heldout: 0}\n"
        "stages:\n  - {kind: pretrain, data: problems, epochs: 1, batch_tokens: 2048, optimizer: muon,\n"
        "     learning_rate: 5.0e-3, max_length: 1024}\n"
    )
    made = run_recipe(load_recipe(WORK / "recipe.yaml", []), WORK / "recipe.yaml")
    (next(made.glob("1-pretrain-*")) / "model").rename(folder)


def side(arguments: argparse.Namespace) -> None:
    """One measurement, in this process; prints one line of JSON."""
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import logging

    logging.disable(logging.WARNING)
    import torch

    torch.set_num_threads(2)
    from luthier.base.pages import keep_freed_pages
    from luthier.base.recipe import Base
    from luthier.evals.benchmarks import ask, chosen, load_benchmark, only
    from luthier.evals.harness import Harness
    from luthier.model.load import load_model

    keep_freed_pages()  # for both: what the peer allocates is kept for it too
    folder = WORK / "model"
    if arguments.side == "ours":
        model = Harness(load_model(Base(model=str(folder)), Path(), "cpu"))
    else:
        from lm_eval.models.huggingface import HFLM
        from transformers import AutoModelForCausalLM, AutoTokenizer

        module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = HFLM(pretrained=module, tokenizer=tokenizer, batch_size=arguments.batch, device="cpu")
    benchmark = load_benchmark(arguments.task, DATA, None)
    items = only([benchmark], chosen(benchmark, arguments.limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.perf_counter(), time.process_time()
    found = ask(model, [benchmark], items, chat=False)
    took = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers = [[r[0] if isinstance(r[0], str) else float(r[0][0]) for r in item.sample["resps"]] for item in found]
    values = [item.values for item in found]
    print("RESULT " + json.dumps(took | {"peak_kib": peak, "load_kib": before, "answers": answers, "values": values}))


def measure(which: str, task: str, limit: int, batch: int = 1) -> dict:
    """One process of `side`."""
    command = [sys.executable, __file__, "--side", which, "--task", task, "--limit", str(limit), "--batch", str(batch)]
    done = subprocess.run(command, capture_output=True, text=True)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise SystemExit(f"{which} on {task} failed:\n{done.stderr[-3000:]}")
    return json.loads(line.removeprefix("RESULT "))


def prediction(task: str, answers: list, values: dict) -> object:
    """What an item's answer comes to: the option picked, or the text."""
    if isinstance(answers[0], str):
        return answers[0]
    return max(range(len(answers)), key=answers.__getitem__)


def row(task: str, limit: int, search: int, least: float) -> str:
    """One line of the table."""
    tried = {batch: measure("hf", task, search, batch)["seconds"] for batch in BATCHES}
    best = min(tried, key=tried.__getitem__)
    print(f"{task}: hf by batch size: " + ", ".join(f"{b}: {s:.1f} s" for b, s in tried.items()), flush=True)
    ours, hf = [], []
    for _ in range(REPEATS):
        ours.append(measure("ours", task, limit))
        hf.append(measure("hf", task, limit, best))
        print(f"  ours {ours[-1]['seconds']:.1f} s, hf {hf[-1]['seconds']:.1f} s", flush=True)
    mine, his = ours[0], hf[0]
    numbers = [
        abs(a - b)
        for x, y in zip(mine["answers"], his["answers"], strict=True)
        for a, b in zip(x, y, strict=True)
        if not isinstance(a, str)
    ]
    same = sum(
        prediction(task, x, v) == prediction(task, y, w)
        for x, y, v, w in zip(mine["answers"], his["answers"], mine["values"], his["values"], strict=True)
    )
    scores = sum(v == w for v, w in zip(mine["values"], his["values"], strict=True))
    medians = [statistics.median(one["seconds"] for one in each) for each in (ours, hf)]
    ratio = medians[1] / medians[0]
    spread = [max(o["seconds"] for o in each) / min(o["seconds"] for o in each) for each in (ours, hf)]
    peaks = [max(one["peak_kib"] for one in each) / 1024 for each in (ours, hf)]
    difference = f"{max(numbers):.1e}" if numbers else "texts"
    return (
        f"| {task} | {limit} | {medians[0]:.1f} | {medians[1]:.1f} (batch {best}) | **{ratio:.1f}×** | {least:g}× | "
        f"{peaks[0]:.0f} / {peaks[1]:.0f} MiB | {difference} | {same} of {limit}, scores {scores} | "
        f"{max(spread):.2f} |"
    )


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=list(TASKS), help="one row")
    parser.add_argument("--side", choices=("ours", "hf"), help=argparse.SUPPRESS)
    for name, kind in (("--task", str), ("--limit", int), ("--batch", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return side(arguments)
    if not DATA.is_dir():
        raise SystemExit("no real data: ../shared/data is absent")
    WORK.mkdir(exist_ok=True)
    if not (WORK / "model").is_dir():
        print("training the model …", flush=True)
        subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); "
                        "import evals; evals.train_model(evals.WORK / 'model')"], check=True)  # fmt: skip
    lines = []
    for task, (limit, search, least) in TASKS.items():
        if arguments.only in (None, task):
            lines.append(row(task, limit, search, least))
            print(lines[-1], flush=True)
    print("\n| task | items | luthier s | hf s | ratio | at least | peak memory | largest difference, nats | "
          "same predictions | spread |\n|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    print("\n".join(lines))


if __name__ == "__main__":
    main()
