"""Libraries that read documents: not every one is installed, and on a hostile file each raises what it likes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from luthier.base.errors import UserError


@contextmanager
def library(what: str, fix: str = "Save it again, or take it away") -> Iterator[None]:
    """Around a library's import and its work on one file, `what` ("a PDF file"): whatever it raises becomes a
    ValueError with a reason for people. Raises UserError where the library is not installed."""
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f'reading {what} needs {error.name}: pip install "luthier[data]".') from error
    except Exception as error:
        said = str(error).strip().split("\n")[0][:200]
        why = f"{type(error).__name__}{f': {said}' if said else ''}".rstrip(".")
        raise ValueError(f"not {what} that can be read ({why}). {fix}") from error
