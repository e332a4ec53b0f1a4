"""What every test stands on: one thread a worker, no network, real data where it lies beside the checkout."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported anywhere. Two workers with all cores each are slower than one worker.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# A slow machine is no bug, and CI looks for the same examples every time.
settings.register_profile("luthier", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("luthier")

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _all_threads(request, monkeypatch):
    """Gives a test marked `threads` every core, in this process and in those that it starts."""
    if request.node.get_closest_marker("threads") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; skips where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data: ../shared/data is absent")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a chromium for tests in a browser. Without one: skips, and fails in CI, which installs it."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    if os.environ.get("CI") == "true":
        pytest.fail("CI without chromium: .ci/run installs it")
    pytest.skip("no chromium found: apt-get install chromium")


@pytest.fixture(scope="session")
def tiny_llama():
    """A random LlamaForCausalLM in eval mode: 2 layers, width 32, 4 heads on 2 key/value heads, vocabulary 128.
    Large weights, so that a mistake moves log-probs by whole nats. The session shares it: train a copy."""
    from architectures import tiny

    return tiny("llama")
