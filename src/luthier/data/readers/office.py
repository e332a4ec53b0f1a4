"""What Word and Excel files have in common: a ZIP of XML, or, behind a password or from before 2007, something else."""

from __future__ import annotations

import zipfile
from typing import IO

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
LARGEST_XML = 1 << 26
"""Bytes of all XML inside, unpacked: as a tree it takes ten times as much."""
LARGEST_PART = 1 << 30
"""Bytes of all else (pictures)."""


def check_office(handle: IO[bytes], kind: str) -> None:
    """Raises ValueError with a reason for people where an office file had better not be opened."""
    start = handle.read(8)
    handle.seek(0)
    if start == OLE:
        raise ValueError(
            f"protected by a password, or in the format before 2007. Open it and save it as {kind} without one"
        )
    try:
        with zipfile.ZipFile(handle) as parts:
            members = parts.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise ValueError(f"not a {kind} file, or a damaged one ({error}). Save it again") from error
    finally:
        handle.seek(0)
    if any(member.flag_bits & 1 for member in members):
        raise ValueError("protected by a password. Save it without one")
    # Python's zipfile never unpacks more of a member than its entry says.
    texts = sum(member.file_size for member in members if member.filename.endswith((".xml", ".rels")))
    if texts > LARGEST_XML or sum(member.file_size for member in members) > LARGEST_PART:
        raise ValueError(
            f"its text unpacks to {texts >> 20} MiB, more than {LARGEST_XML >> 20}. Part it into several files"
        )
