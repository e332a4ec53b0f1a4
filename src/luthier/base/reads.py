"""What a stage reads."""

from __future__ import annotations

from luthier.base.recipe import Stage


def names_read(stage: Stage) -> list[str]:
    """Names of the sources, and of the data that stages make, that a stage reads; each once, in order."""
    settings = stage.model_dump()
    values = [settings.get("data"), settings.get("prompts"), settings.get("pairs")]
    values += [settings["replay"]["data"]] if settings.get("replay") else []
    names = [name for value in values if value for name in ([value] if isinstance(value, str) else value)]
    return list(dict.fromkeys(names))
