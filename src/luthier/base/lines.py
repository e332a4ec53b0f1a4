"""What was computed or asked once, under its key, in a file of JSON lines that grows as the work does. A killed command
goes on behind its last whole line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.base.files import disk_errors, only_reads


def read_lines(file: Path) -> dict[str, dict[str, Any]]:
    """What a file remembers, by key; nothing where there is no file. A line that a kill cut short is no line."""
    found: dict[str, dict[str, Any]] = {}
    for line in file.read_bytes().split(b"\n") if file.exists() else []:
        try:
            row = json.loads(line)
            found[row.pop("key")] = row
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def add_lines(file: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Appends rows, each whole; they are on disk when this returns. Raises RunError where the disk is full."""
    if only_reads():
        return
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "ab+") as out:
            if out.tell():  # a line that a kill cut short is ended first
                out.seek(-1, os.SEEK_END)
                if out.read(1) != b"\n":
                    out.write(b"\n")
            for key, row in rows.items():
                out.write(json.dumps({"key": key, **row}, ensure_ascii=False).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())
