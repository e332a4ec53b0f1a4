"""Where data comes from: what a user may say of a source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from luthier.base.errors import UserError, did_you_mean
from luthier.base.strict import Strict


class Source(Strict):
    """A place data comes from. A plain string in the recipe means `path`."""

    path: str
    """A file or a folder, relative to the recipe: .jsonl .json .csv .tsv .parquet .xlsx .txt .md .html .pdf .docx .mbox
    .eml, also .gz; an archive of such files (.zip .tar .tar.gz .tgz); a URL that fsspec knows (https://, s3://, ...);
    or path/file.py:function, whose rows (dicts) it yields."""
    format: Literal[
        "auto",
        "text",
        "messages",
        "sharegpt",
        "alpaca",
        "prompt_completion",
        "qa",
        "pairs",
        "hh",
        "labelled",
        "choices",
        "template",
        "oasst",
        "oasst_chats",
        "ultrafeedback",
        "comparisons",
        "squad",
        "self_instruct",
        "faq",
        "slack",
        "tickets",
        "zendesk",
        "intercom",
        "mail",
        "abcd",
    ] = "auto"
    """Shape of the rows; auto looks at the first ones and says what it found. faq: headings of documents that ask, with
    what stands below them (documents in which none asks are put aside); slack, mail, tickets, zendesk, intercom, abcd:
    talk between people, read as a whole, its rows conversations."""
    columns: dict[str, str] = {}
    """Renames columns before the format is read: {question: body, answer: reply}."""
    roles: dict[str, str] = {}
    """Maps the file's role names to system|user|assistant|tool: {bot: assistant}."""
    prompt: str | None = None
    """Makes a conversation of any row, for one task: "Summarise: {text}" with the row's columns in braces (format:
    template). {{ and }} are braces themselves."""
    answer: str | None = None
    """The answer to `prompt`: "{summary}"; default: none, the prompt is there to be answered."""
    system: str | None = None
    """A system message put before every conversation that has none."""
    heldout: float = Field(default=0.05, ge=0, lt=1)
    """Share of rows kept out of training, chosen by a hash of their content."""
    split_by: Literal["row", "origin", "group"] = "row"
    """row: each row is held out or not by itself; origin: all rows of one file stay together; group: all rows of one
    `group` do."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first rows in the file's order (after the format was read)."""
    unanswerable: str | None = "The passage does not say."
    """The answer to questions that their passage does not answer (format: squad); null: they are left out."""
    separator: str | None = None
    """For .txt files: the string between documents; default: one document a file."""
    parts: Literal["document", "section", "page"] = "document"
    """What of a document (.md .html .docx .pdf) is a row: all of it, what stands below each heading (with the headings
    on top; column heading), or a page of a .pdf. Rows of one document are one group."""
    encoding: str | None = None
    """How text files are written that do not say it themselves (.txt .md .html .csv .tsv): cp1252; default UTF-8."""
    stream: bool = False
    """For data larger than memory: rows are tokenised once into shards on disk (`shards`) and read from there."""
    max_rejected: float = Field(default=0.1, ge=0, le=1)
    """Stop when a larger share of the rows than this cannot be used."""
    licence: str | None = None
    """Licence of its rows: an SPDX id (CC-BY-4.0, Apache-2.0, "MIT OR Apache-2.0"), or LicenseRef-... for terms of your
    own. A row's own column `licence` (or license) counts before it."""
    made: Literal["human", "machine"] | None = None
    """Who wrote its answers or texts; a row's own column `made` counts before it."""
    generator: str | None = None
    """The model that wrote them, if one did; a row's own column `generator` counts before it."""
    terms: str | None = None
    """Terms of the generator's output, in a few words: "no competing models"."""
    date: str | None = None
    """When it was written or fetched (2026-11-21); a row's own column `date` counts before it."""
    group: str | None = None
    """The column whose value says which rows belong together (a customer, a thread, a document): they stay on one side
    of every split. Default: what the reader knows (a thread, a document), else each row by itself."""
    private: Literal["replace", "invent", "keep", "refuse"] | None = None
    """What happens to e-mail addresses, phone numbers, cards, keys and the like: replace ([email 1], the same one
    everywhere in the source), invent (made-up ones where a kind allows it), keep (they are counted), refuse (rows that
    hold any are left out). Default: replace in conversations between people (Slack, tickets, mail), else keep. People's
    names are replaced in those, unless it is keep."""


def source_from(given: Mapping[str, Any]) -> Source:
    """A source as the command line puts it. Raises UserError with every setting that cannot be."""
    formats = get_args(Source.model_fields["format"].annotation)
    if (format := given.get("format", "auto")) not in formats:
        hint = did_you_mean(str(format), formats)
        raise UserError(f"--format: {format} is no format.{hint} There are: {', '.join(formats)}.")
    try:
        return Source.model_validate(dict(given))
    except ValidationError as error:
        raise UserError([f"--{problem['loc'][0]}: {problem['msg']}." for problem in error.errors()]) from None
