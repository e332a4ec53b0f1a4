"""Does an answer have the form that was asked for: a regular expression that it matches as a whole, or JSON that fits a
schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from luthier.base.errors import UserError

Check = Callable[[str], str | None]
"""An answer -> what is wrong with its form, or None."""


def regex_check(pattern: str) -> Check:
    """Answers that match as a whole, blanks around them aside. Raises UserError for what is no expression."""
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise UserError(f"--format-regex {pattern}: is no regular expression: {error}.") from None
    return lambda text: None if compiled.fullmatch(text.strip()) else "does not match"


def schema_check(file: Path) -> Check:
    """`schema_of` what a file holds. Raises UserError too where there is no such file, or no JSON in it."""
    try:
        schema = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file}: no such file.") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{file}: is no JSON: {error}.") from None
    return schema_of(schema, str(file))


def schema_of(schema: Any, named: str) -> Check:
    """Answers that are JSON, as a whole, and fit the schema, which errors call `named`. Raises UserError: no schema,
    one that refers to other files, jsonschema not installed."""
    try:
        from jsonschema.exceptions import SchemaError, best_match
        from jsonschema.validators import validator_for
    except ImportError as error:
        raise UserError('a schema needs jsonschema, which is not installed: pip install "luthier[eval]"') from error
    for reference in references(schema):
        if not reference.startswith("#"):
            raise UserError(f"{named}: refers to {reference}, and nothing is fetched. Write that part into the file.")
    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise UserError(f"{named}: is no JSON schema: {error.message}.") from None
    validator = kind(schema)

    def check(text: str) -> str | None:
        try:
            value = json.loads(text)
        except ValueError:
            fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text.strip(), re.DOTALL)
            return "JSON in a code fence" if fenced else "no JSON"
        except RecursionError:
            return "nested too deeply"
        wrong = best_match(validator.iter_errors(value))
        return None if wrong is None else f"{wrong.json_path}: {wrong.message}"

    return check


def references(schema: Any) -> Iterator[str]:
    """Every $ref in a schema."""
    if isinstance(schema, dict):
        found = schema.get("$ref", schema.get("$dynamicRef"))
        if isinstance(found, str):
            yield found
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)
