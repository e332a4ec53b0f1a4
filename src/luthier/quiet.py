"""Silences what libraries print about themselves: the one place for it."""

from __future__ import annotations

import logging
import os
import warnings


def quiet(downloads: bool, offline: bool = False) -> None:
    """To be called before the libraries are imported.

    `downloads`: keep the hub's progress bars, because something may have to be fetched.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    os.environ |= {} if downloads and not offline else {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "BITSANDBYTES_NOWELCOME": "1",
    }.items():
        os.environ.setdefault(name, value)
    for library in ("transformers", "huggingface_hub", "bitsandbytes", "torch", "peft"):
        logging.getLogger(library).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")
