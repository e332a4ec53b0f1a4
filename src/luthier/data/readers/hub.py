"""Data sets of a hub, or a local folder in a hub's layout, row by row as they arrive: `hub:org/name`.

`hub:org/name/config@split`: config and split may be left away where there is one, or a split called train.
`hub:./folder/config@split` is a folder here (relative to the recipe) with what `datasets` reads: Parquet, JSON lines,
CSV and a README.md that says which file is which split. No script of a data set is ever run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from luthier.base.errors import UserError, did_you_mean
from luthier.base.nouns import Row
from luthier.data.text import Read, plain

SCHEME = "hub:"
NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?")
LOCAL = re.compile(r"(?P<name>[./~].*?)(?:@(?P<split>[\w.-]+))?")


class Address(NamedTuple):
    """What `hub:...` names."""

    name: str
    """org/name, or a folder."""
    config: str | None
    split: str | None
    local: bool


class HubRows(NamedTuple):
    """A data set that was found."""

    split: str
    version: str
    """What changes when the data set does, as far as the hub says so; "" where it does not."""
    licence: str | None
    """What the card of a folder says; every row gets it that has none of its own."""
    rows: Callable[[], Iterator[Read]]
    """All rows from the beginning, fetched as they are asked for."""


def is_hub(path: str) -> bool:
    """Whether a source's path names a data set of a hub."""
    return path.startswith(SCHEME)


def address_of(where: str, path: str) -> Address:
    """The parts of `hub:org/name/config@split`. Raises UserError, beginning with `where`."""
    rest = path.removeprefix(SCHEME).removeprefix("//")
    if found := LOCAL.fullmatch(rest):
        return Address(found["name"], None, found["split"], True)
    if found := NAME.fullmatch(rest):
        return Address(found["name"], found["config"], found["split"], False)
    raise UserError(f"{where}: {path} is no address. Write hub:org/name, hub:org/name/config@split or hub:./folder.")


def open_hub(where: str, path: str, root: Path) -> HubRows:
    """Finds a data set, and reads nothing of it yet. `where` begins every error: "data.faq.path".
    Raises UserError: no address, no such data set, config or split, no network, the library missing."""
    address = address_of(where, path)
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise UserError(f'{where}: {path} needs the library datasets: pip install "luthier[data]".') from error
    name = address.name
    if address.local:
        folder = root / Path(name).expanduser()
        if not folder.exists() and (folder.parent / "README.md").is_file():  # its card names the configs
            address = address._replace(name=name.rpartition("/")[0], config=folder.name)
            folder = folder.parent
        if not folder.is_dir():
            raise UserError(f"{where}: {path}: there is no folder {folder}. Check the path.")
        name = str(folder)
    with told(where, path, address):
        builder = datasets.load_dataset_builder(name, address.config)
        parts = builder.as_streaming_dataset()
    split = chosen_split(where, path, address, list(parts))
    files = builder.config.data_files or {}
    version = str(files[split].origin_metadata) if split in files else ""
    licence = card_licence(Path(name) / "README.md") if address.local else None
    shown = f"{address.name}{'' if address.config is None else f'/{address.config}'}@{split}"

    def rows() -> Iterator[Read]:
        with told(where, path, address):
            for index, fields in enumerate(parts[split]):
                row = plain(fields, kind_of_bytes)
                yield Row({"licence": licence, **row} if licence else row, f"{shown}[{index}]")

    return HubRows(split, version, licence, rows)


def card_licence(card: Path) -> str | None:
    """The licence that a data set's card (README.md) names in its front matter, if it names one."""
    if not card.is_file():
        return None
    top = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^licen[cs]e:[ \t]*[\"']?([^\s\"'\[#]+)", top[1], re.MULTILINE) if top else None
    return found[1] if found else None


def chosen_split(where: str, path: str, address: Address, there: list[str]) -> str:
    """The split that was asked for, or the only one, or train. Raises UserError, with those there are."""
    if address.split is not None:
        if address.split in there:
            return address.split
        hint = did_you_mean(address.split, there) or f" There are: {', '.join(there)}."
        raise UserError(f'{where}: {path} has no split "{address.split}".{hint}')
    if len(there) == 1:
        return there[0]
    if "train" in there:
        return "train"
    raise UserError(f"{where}: {path} has several splits: {', '.join(there)}. Say which: {path}@{there[0]}.")


@contextmanager
def told(where: str, path: str, address: Address) -> Iterator[None]:
    """What the library raises becomes one line that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of the library, of the network's, of a file's own reader
        raise UserError(f"{where}: {path}: {why(address, error)}") from error


def why(address: Address, error: Exception) -> str:
    """An error of the library or of the network in words, with what to do."""
    said = str(error).strip().split("\n")[0][:300] or type(error).__name__
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    kind = type(error).__name__
    if kind in ("ConnectionError", "OfflineModeIsEnabled", "ConnectTimeout", "ConnectError", "LocalEntryNotFoundError"):
        why = "the hub may not be asked (--offline)" if offline else f"the hub cannot be reached ({said})"
        return (
            f"{why}. Where there is a network: hf download {address.name} --repo-type dataset --local-dir "
            f"{address.name.rpartition('/')[2]}; then give that folder as hub:./{address.name.rpartition('/')[2]}."
        )
    if found := re.search(r"(?:Available|available|among)[^\[]*\[(.*?)\]", str(error), re.DOTALL):
        there = [name.strip(" '\"\n") for name in found[1].split(",")]
        first = f"hub:{address.name}/{there[0]}"
        return (
            f"which config? There are: {', '.join(there)}. Write {first}{f'@{address.split}' if address.split else ''}."
        )
    if kind == "EmptyDatasetError":
        return "no data file there that `datasets` can read (.parquet .jsonl .json .csv .txt)."
    if kind == "DatasetNotFoundError" or "gated" in said.casefold():
        gated = "for a gated one accept its terms on its page, and log in: hf auth login"
        return f"{said.rstrip('.')}. Check the name; {gated}."
    return f"{said.rstrip('.')}. Download it (hf download --repo-type dataset) and give the folder, if this stays."


def kind_of_bytes(value: bytes) -> str:
    """Pictures and sounds as their kind in words: no model here reads them."""
    return f"<{len(value)} bytes>"
