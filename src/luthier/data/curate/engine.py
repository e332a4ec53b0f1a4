"""One function on many rows: in this process, or on Ray Data, with the same results in the same order.

    measured = on_rows(measures, examples)                     # here
    measured = on_rows(measures, examples, engine="ray")       # on the Ray cluster that this machine is part of

The function sees one row and nothing else, so where it runs cannot matter. What sees all rows at once (duplicates,
ranks, the choice) stays here: it is linear, and quick.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

from luthier.base.errors import RunError, UserError
from luthier.base.workers import cores

Engine = Literal["process", "ray"]
R = TypeVar("R")
T = TypeVar("T")
ROWS_AT_ONCE = 256
"""Rows that are sent, worked on and sent back together: at some 0.3 ms a row a tenth of a second."""
STORE_BYTES = 256 * 2**20
"""Memory for what is on its way between the workers of a Ray that is started here. Rows are text: they are small."""


def on_rows(
    work: Callable[[R], T], rows: Sequence[R], engine: Engine = "process", workers: int | None = None
) -> list[T]:
    """`work` of each row, in their order. `work` is a function at the top of a module, or anything else that can be
    pickled, as rows and results are; `workers`: how many processes a Ray that is started here has (default: as many as
    there are cores).

    With `ray`, the cluster that RAY_ADDRESS names is used; else one is started on this machine and ended again, without
    dashboard or usage statistics. What `work` raises for a row, the first such row's, is raised here. Raises UserError
    where Ray is not installed or not reached, RunError where it fails.
    """
    if engine == "process":
        return [work(row) for row in rows]
    _there()
    with _ray(workers or cores()) as ray:
        try:
            return _through(ray, pickle.dumps(work), rows)
        except ray.exceptions.RayError as error:
            raise RunError(f"engine: ray: {error} Try `engine: process`: the result is the same.") from error


@contextmanager
def started(engine: Engine, workers: int | None = None) -> Iterator[None]:
    """Ray stays up for all calls of `on_rows` in the block; nothing for `process`."""
    if engine == "process":
        yield
        return
    _there()
    with _ray(workers or cores()):
        yield


def _there() -> None:
    """Raises UserError where Ray is not installed."""
    if find_spec("ray") is None:
        raise UserError('engine: ray needs Ray: pip install "luthier[ray]", or say engine: process (the same result).')


def _through(ray: Any, work: bytes, rows: Sequence[Any]) -> list[Any]:
    """The rows in blocks of bytes with their places, through Ray Data, and back in order."""
    starts = range(0, len(rows), ROWS_AT_ONCE)
    blocks = [{"at": start, "rows": pickle.dumps(list(rows[start : start + ROWS_AT_ONCE]))} for start in starts]
    if not blocks:
        return []
    data = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map(_worked, fn_args=(work,), num_cpus=1)
    made: dict[int, list[Any]] = {}
    failed: dict[int, bytes] = {}
    for block in data.iter_rows():
        if block["failed"]:
            failed[block["at"]] = block["made"]
        else:
            made[block["at"]] = pickle.loads(block["made"])
    if failed:
        raise pickle.loads(failed[min(failed)])
    return [value for at in sorted(made) for value in made[at]]


def _worked(block: dict[str, Any], work: bytes) -> dict[str, Any]:
    """A worker's part: the results of a block's rows as bytes, or what the first row that failed raised."""
    function = pickle.loads(work)
    try:
        made = [function(row) for row in pickle.loads(block["rows"])]
        return {"at": block["at"], "failed": False, "made": pickle.dumps(made)}
    except Exception as error:
        try:
            said = pickle.dumps(error)
            pickle.loads(said)  # some exceptions can be packed and not unpacked
        except Exception:
            said = pickle.dumps(RunError(f"a worker failed: {traceback.format_exc()}"))
        return {"at": block["at"], "failed": True, "made": said}


@contextmanager
def _ray(workers: int) -> Iterator[Any]:
    """Ray, connected: to where this process is connected already, to RAY_ADDRESS, or to one of its own, which is ended
    and whose files are deleted, whatever happens."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.data

    logging.getLogger("ray").setLevel(logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    if ray.is_initialized():
        yield ray
        return
    own = None if os.environ.get("RAY_ADDRESS") else tempfile.mkdtemp(prefix="luthier-ray-")
    try:
        if own is None:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=own,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)
        where = f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}" if own is None else "a Ray of this machine"
        raise UserError(f"engine: ray: {where} cannot be used: {error}. Or say engine: process.") from error
    try:
        yield ray
    finally:
        ray.shutdown()
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)
