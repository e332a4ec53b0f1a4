"""A source's prompt template, such as `"Summarise: {text}"`: which columns it names, and what a recipe gets wrong."""

from __future__ import annotations

from collections.abc import Iterator
from string import Formatter

from luthier.base import recipe as r
from luthier.base.settings import Loc

Piece = tuple[str, str | None]
"""Words as they stand, and the column that follows them (None: none does)."""


def pieces_of(template: str) -> list[Piece]:
    """A template in pieces; {{ and }} are braces. Raises ValueError with what is wrong with it."""
    found = []
    for words, column, shape, conversion in Formatter().parse(template):
        if column is not None and (not column.strip() or shape or conversion):
            raise ValueError("braces hold the name of a column and nothing else")
        found.append((words, column))
    return found


def columns_of(template: str) -> list[str]:
    """The columns that a template names, each once."""
    return list(dict.fromkeys(column for _, column in pieces_of(template) if column is not None))


def check_templates(recipe: r.Recipe) -> Iterator[tuple[Loc, str]]:
    """A template can be read, and is what makes its source's conversations."""
    for name, source in recipe.data.items():
        at: Loc = ("data", name)
        for field, template in (("prompt", source.prompt), ("answer", source.answer)):
            if template is None:
                continue
            if not template.strip():
                yield (*at, field), "is empty. Write the text, with the row's columns in braces, or remove it."
            try:
                pieces_of(template)
            except ValueError as error:
                yield (*at, field), f'"{template}": {error}. Write {{{{ and }}}} for braces that are meant.'
        if source.prompt is None and source.format == "template":
            yield (*at, "format"), 'is template, and there is none. Give prompt: "Summarise: {text}", for example.'
        if source.prompt is None and source.answer is not None:
            yield (*at, "answer"), "is the answer to a prompt, which is not given. Give prompt, or remove it."
        if source.prompt is not None and source.format not in ("auto", "template"):
            said = f"is {source.format}, but prompt makes a conversation of any row"
            yield (*at, "format"), f"{said}. Remove one of them."
