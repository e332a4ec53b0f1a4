"""The peer's side of `peers.py`: TRL's trainers and transformers' `generate`, each as its documentation has it used on
a CPU, with the settings that were fastest here (`variant` tries the others)."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import peer_workload as work


def common(job: dict[str, Any], rows: int) -> dict[str, Any]:
    """Training arguments of every trainer: nothing but the steps."""
    split = job.get("accumulate", 1)
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": rows // split,
        "gradient_accumulation_steps": split,
        "max_steps": job["steps"] + 1,
        "learning_rate": 1e-6,  # so that a model made to end its answers goes on to
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "bf16": job["dtype"] == "bf16",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "max_grad_norm": 1.0,
        "dataloader_num_workers": 0,
    }


def peft_config(job: dict[str, Any], task: str = "CAUSAL_LM") -> Any:
    """LoRA of rank 16 on all linear layers, or None."""
    if job["adapter"] != "lora":
        return None
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type=task)


def clock() -> Any:
    """A callback that times all steps but the first, which warms up."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        began = ended = 0.0

        def on_step_end(self, args, state, control, **_):
            self.ended = time.perf_counter()
            if state.global_step == 1:
                self.began = self.ended
                work.reset_peak()

    return Clock()


def timed(trainer: Any, watch: Any, count: Any) -> dict[str, Any]:
    """One measured run."""
    trainer.add_callback(watch)
    trainer.train()
    peak, state = work.resident_bytes(peak=True), work.state_bytes(trainer.model)
    return {"seconds": watch.ended - watch.began, "peak": peak, "state": state, **count}


def sft(job: dict[str, Any]) -> Any:
    """SFTTrainer on token ids with labels, so that nothing but training is measured."""
    import peft  # noqa: F401  # before memory is counted
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows, steps = job["rows"], job["steps"]
    data = work.conversations(job["shape"], rows * (steps + 1))
    encoded = Dataset.from_list([{"input_ids": p + a, "labels": [-100] * len(p) + a} for p, a in data])
    variant = job.get("variant", "padded")
    extra: dict[str, Any] = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}
    if variant == "sorted":
        extra |= {"train_sampling_strategy": "group_by_length"}
    if variant == "padding_free":
        extra |= {"padding_free": True}
    tokens = sum(len(p) + len(a) for p, a in data[rows:])

    def go() -> dict[str, Any]:
        model = work.model(job["shape"])
        arguments = SFTConfig(**common(job, rows), **extra)
        trainer = SFTTrainer(
            model=model, args=arguments, train_dataset=encoded, processing_class=work.tokenizer(job["shape"]),
            peft_config=peft_config(job),
        )  # fmt: skip
        # The same rows in the same order on both sides; "sorted" must choose its own.
        if variant != "sorted":
            trainer._get_train_sampler = lambda *_: range(len(encoded))
        return timed(trainer, clock(), {"tokens": tokens})

    return go


def dpo(job: dict[str, Any]) -> Any:
    """DPOTrainer with the reference's log-probs precomputed (once, outside the clock), as ours are."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows, steps = job["rows"], job["steps"]
    data = work.pairs(job["shape"], rows * (steps + 1))
    encoded = Dataset.from_list(
        [{"prompt": work.text(p) + " ", "chosen": work.text(c), "rejected": work.text(r)} for p, c, r in data]
    )
    extra: dict[str, Any] = {"max_length": None, "precompute_ref_log_probs": True}
    if job.get("variant") == "padding_free":
        extra |= {"padding_free": True}

    def go() -> dict[str, Any]:
        arguments = DPOConfig(**common(job, rows), **extra)
        trainer = DPOTrainer(
            model=work.model(job["shape"]), args=arguments, train_dataset=encoded,
            processing_class=work.tokenizer(job["shape"]), peft_config=peft_config(job),
        )  # fmt: skip
        trainer._get_train_sampler = lambda *_: range(len(encoded))
        return timed(trainer, clock(), {"pairs": rows * steps})

    return go


def reward(job: dict[str, Any]) -> Any:
    """RewardTrainer."""
    import torch
    from datasets import Dataset
    from transformers import LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    rows, steps = job["rows"], job["steps"]
    data = work.pairs(job["shape"], rows * (steps + 1))
    encoded = Dataset.from_list([{"chosen_ids": p + c, "rejected_ids": p + r} for p, c, r in data])

    def go() -> dict[str, Any]:
        config = work.config(job["shape"])
        config.num_labels = 1
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(config)
        trainer = RewardTrainer(
            model=model, args=RewardConfig(**common(job, rows), max_length=None), train_dataset=encoded,
            processing_class=work.tokenizer(job["shape"]), peft_config=peft_config(job, "SEQ_CLS"),
        )  # fmt: skip
        trainer._get_train_sampler = lambda *_: range(len(encoded))
        return timed(trainer, clock(), {"pairs": rows * steps})

    return go


def rollouts(job: dict[str, Any]) -> Any:
    """transformers' generate, 8 samples a prompt, `batch` prompts at a time, prompts sorted by length."""
    import torch

    model = work.model(job["shape"], answer_tokens=48).eval()
    prompts = [p for p, _ in work.conversations(job["shape"], job["prompts"])]
    prompts.sort(key=len)

    def go() -> dict[str, Any]:
        tokens = 0
        torch.manual_seed(0)
        began = time.perf_counter()
        for start in range(0, len(prompts), job["batch"]):
            chosen = prompts[start : start + job["batch"]]
            longest = max(map(len, chosen))
            ids = torch.tensor([[work.PAD] * (longest - len(p)) + p for p in chosen])
            with torch.autocast("cpu", torch.bfloat16, enabled=job["dtype"] == "bf16"):
                out = model.generate(
                    ids, attention_mask=(ids != work.PAD).long(), do_sample=True, top_k=0, num_return_sequences=8,
                    max_new_tokens=job["longest"], eos_token_id=work.END, pad_token_id=work.PAD,
                )  # fmt: skip
            tokens += int((out[:, longest:] != work.PAD).sum())
        return {"seconds": time.perf_counter() - began, "tokens": tokens}

    return go


def grpo(job: dict[str, Any]) -> Any:
    """GRPOTrainer: rollouts by generate, a program as the reward, one update a rollout."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    rows, steps = job["rows"], job["steps"]
    data = work.conversations(job["shape"], rows * (steps + 1))
    encoded = Dataset.from_list([{"prompt": work.text(p)} for p, _ in data])

    def even(completions: list[str], **_: Any) -> list[float]:
        """The share of even words: something that differs between samples."""
        return [sum(int(w[1:]) % 2 == 0 for w in c.split() if w[0] == "w") / 64 for c in completions]

    def go() -> dict[str, Any]:
        settings = common(job, rows * 8) | {"num_generations": 8, "max_completion_length": job["longest"]}
        arguments = GRPOConfig(**settings, temperature=1.0, loss_type="grpo", beta=0.0)
        trainer = GRPOTrainer(
            model=work.model(job["shape"], answer_tokens=48), reward_funcs=even, args=arguments, train_dataset=encoded,
            processing_class=work.tokenizer(job["shape"]), peft_config=peft_config(job),
        )  # fmt: skip
        return timed(trainer, clock(), {"steps": steps})

    return go


TASKS = {"sft": sft, "dpo": dpo, "reward": reward, "rollouts": rollouts, "grpo": grpo}

if __name__ == "__main__":
    work.serve(lambda job: TASKS[job["task"]](job))
