"""Files of talk with bytes changed, cut or doubled: every one gives rows and reasons, or one clear error."""

from __future__ import annotations

import random

import pytest

from data.talk.seeds import seeds
from luthier.base.errors import UserError
from luthier.base.source import Source
from luthier.data.dataset import read_dataset

SEEDS = seeds()


def spoilt(data, at):
    """The same spoilt bytes for the same number."""
    random_ = random.Random(at)
    made = bytearray(data)
    for _ in range(random_.randint(1, 6)):
        place, length = random_.randrange(len(made) + 1), random_.randint(1, 30)
        how = random_.randrange(4)
        if how == 0:
            made[place : place + length] = random_.randbytes(length)
        elif how == 1:
            del made[place : place + length]
        elif how == 2:
            made[place:place] = made[place : place + length] * random_.randint(1, 50)
        else:
            made[place:place] = random_.choice(
                [b'"', b"[", b"{", b"\0", b"\xff", b"null", b"1e999", b"\n", b"<", b"\\ud800"]
            )
    return bytes(made)


@pytest.mark.parametrize("name", SEEDS)
def test_a_whole_file_is_read(name, tmp_path):
    (tmp_path / name).write_bytes(SEEDS[name])
    assert read_dataset("x", Source(path=name, heldout=0), tmp_path).train


@pytest.mark.parametrize("name", SEEDS)
def test_a_spoilt_file_gives_rows_and_reasons_or_one_error(name, tmp_path):
    for at in range(60):
        (tmp_path / name).write_bytes(spoilt(SEEDS[name], at))
        try:
            data = read_dataset("x", Source(path=name, heldout=0, max_rejected=1), tmp_path)
        except UserError as error:
            assert name in str(error)
        else:
            assert all(row.reason and row.origin.startswith(name.partition("/")[0]) for row in data.rejected)
