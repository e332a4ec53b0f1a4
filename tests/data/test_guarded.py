"""A library in a process of its own: whatever becomes of it, the next file is read."""

import io
import os
import signal

import pytest

from hostile import work
from luthier.base.errors import RunError, UserError
from luthier.base.nouns import Rejected, Row
from luthier.data.readers import pdf
from luthier.data.readers.guarded import Guarded
from luthier.data.text import PLAIN
from papers import page_of, pdf_of


@pytest.fixture
def guarded():
    made = Guarded(work, "a file")
    yield made
    made.stop()


def test_one_process_reads_them_all(guarded):
    first, size = guarded(b"x" * (3 << 20))
    assert first != os.getpid() and size == 3 << 20
    assert guarded(b"") == (first, 0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"l", r"not a file that can be read \(a part of it takes more than 20 s\)"),
        (b"c", r"not a file that can be read \(the library ended with SIGSEGV\)"),
    ],
)
def test_what_hangs_or_crashes_costs_its_file(guarded, data, said):
    before, _ = guarded(b"a")
    with pytest.raises(ValueError, match=said):
        guarded(data)
    after, _ = guarded(b"a")
    assert after != before
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)  # it is gone


def test_what_waits_for_ever_is_ended_by_the_clock():
    guarded = Guarded(work, "a file", wait_s=0.5)
    with pytest.raises(ValueError, match=r"not a file that can be read \(the library waits for ever\)"):
        guarded(b"w")
    guarded.stop()


def test_memory_has_an_end(guarded):
    with pytest.raises(RunError, match="MemoryError"):  # in Python's own words; a library's own abort is a signal
        guarded(b"m")
    assert guarded(b"a")


def test_errors_of_ours_stay_what_they_are(guarded):
    with pytest.raises(UserError, match="the library is missing"):
        guarded(b"u")
    with pytest.raises(RunError, match="a defect"):
        guarded(b"d")
    assert guarded(b"a")


def test_one_that_was_killed_in_between_is_started_again(guarded):
    first, _ = guarded(b"a")
    os.kill(first, signal.SIGKILL)
    guarded.worker.process.wait()
    assert guarded(b"a")[0] != first


def test_a_fork_leaves_its_parents_process_alone(guarded):
    """A child made by fork reads with a process of its own; the parent's goes on."""
    first, _ = guarded(b"a")
    child = os.fork()
    if not child:
        own, _ = guarded(b"a")
        guarded.stop()
        os._exit(0 if own != first else 1)
    assert os.waitpid(child, 0)[1] == 0 and guarded(b"a") == (first, 1)


def test_a_pdf_whose_process_dies_is_one_rejected_row(monkeypatch):
    """The guard of a PDF is this guard: its process, made to crash, costs one row."""
    rows = lambda data: list(pdf.pdf_rows(io.BytesIO(data), "a.pdf", PLAIN))  # noqa: E731
    good = pdf_of([page_of("Travel guide", "You get 59 a day.", "1")])
    assert isinstance(rows(good)[0], Row)
    crashing = Guarded(work, "a PDF file")
    monkeypatch.setattr(pdf, "READER", crashing)
    (bad,) = rows(b"crash")
    assert isinstance(bad, Rejected) and "ended with SIGSEGV" in bad.reason and bad.reason.endswith(pdf.FIX)
    crashing.stop()
    monkeypatch.undo()
    assert isinstance(rows(good)[0], Row)
