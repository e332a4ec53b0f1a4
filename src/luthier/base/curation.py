"""What a stage of kind curate may say, and what it demands of the rest of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Field

from luthier.base.errors import did_you_mean
from luthier.base.licences import LicencePolicy
from luthier.base.made import no_such_source
from luthier.base.strict import Strict

Share = Annotated[float, Ge(0), Le(1)]


class Curate(Strict):
    """Picks the rows worth training on out of sources: duplicates and flaws found, rows of evaluation
    sets left out, licences read, groups kept together, then `keep` of them chosen for quality and diversity. A later
    stage trains on them: `data: <this stage's name>`. Needs no model."""

    kind: Literal["curate"]
    name: str | None = None
    """The stage's name in folders and reports, and as `data` of later stages; default: its kind."""
    data: str | list[str]
    """Names of the sources, or of earlier stages that make data."""
    keep: int | None = Field(default=None, ge=1)
    """How many rows to choose; default: all that nothing speaks against."""
    how: Literal["facility", "k-centre"] = "facility"
    """How they are chosen: facility covers what there is much of first, and well (facility location); k-centre spreads
    to the rare and the far too."""
    better: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of each topic's rows that may be chosen, the best by quality: 0.5 for data that is half junk. By default
    rare rows are chosen too, for all that they are of less quality. Where `keep` or a share needs more, more may be."""
    near: Annotated[float, Gt(0), Le(1)] | None = 0.8
    """Jaccard similarity from which two rows are near duplicates, of which the best is kept; null: exact ones only."""
    embeddings: str | None = None
    """Folder of an embedding model on this machine, relative to the recipe: its vectors stand for the rows in the
    choice, the map and the coverage; default: TF-IDF of their words, without a model."""
    near_meaning: Annotated[float, Gt(0), Le(1)] | None = 0.95
    """With embeddings: cosine from which two rows are near duplicates in other words; null: only words count."""
    heldout: float = Field(default=0.05, ge=0, lt=1)
    """Share of the groups kept out of training, whole, with their near duplicates."""
    against: list[str] | None = None
    """Sources, or data of earlier stages, that no kept row may share anything with: the whole row, or `ngram` words in
    a row. Default: all that the recipe evaluates on, and its benchmarks."""
    ngram: int = Field(default=13, ge=4)
    """So many words in a row are too many to share with an evaluation set."""
    private: Literal["replace", "invent", "keep", "refuse"] | None = None
    """What happens to e-mail addresses, phone numbers, cards, keys and the like in all its rows, whatever their sources
    say: replace ([email 1], the same one in every source), invent (made-up ones where a kind allows it), keep (they are
    counted), refuse (rows that hold any are left out). Default: as each source says, and what stands there is
    counted. People's names are their source's matter."""
    licences: LicencePolicy = LicencePolicy()
    """What must be allowed with the rows; what is allowed is told in any case."""
    unlicensed: Literal["refuse", "leave_out"] = "refuse"
    """Rows that `licences` does not allow: the run refuses and names them, or goes on without them."""
    max_generated: Share | None = None
    """Largest share of the chosen rows whose answer a model wrote; default: any. What the rules of a synthesise stage
    made does not count: its answers quote documents."""
    at_most: dict[str, Share] = {}
    """Name under `data` -> the largest share of the chosen rows that may be its own: {slack: 0.3}. It holds of what is
    chosen, however few that are: where the others have too few rows, fewer than `keep` are chosen; without `keep`, as
    many as the shares allow."""
    at_least: dict[str, Share] = {}
    """Name under `data` -> the least share of the chosen rows that is its own: {faq: 0.2}. Of one that has fewer rows
    that are fit, all are chosen, and the run says so."""
    flaws: bool = True
    """Leave out rows that something is plainly wrong with: cut off, looping, garbled. False: only say so."""
    min_quality: Share | None = None
    """Leave out rows of less quality than this, 0 to 1, in comparison with the others."""
    languages: list[str] | None = None
    """Leave out rows whose answers (of documents: texts) are surely in another language than these, two letters each:
    [en]. Needs the extra `eval`. Default: none is left out, and an answer in another language than its question, where
    that names none, counts as of less quality."""
    style: Literal["consistent", "any"] = "consistent"
    """consistent: rows whose answers look unlike the others (far longer, full of lists, shouting, greeting) count as of
    less quality; any: they do not."""
    conflicts: bool = True
    """Leave out answers that disagree with most answers to the same question in other words."""
    support: str | None = None
    """Name of a source of documents, or of a stage that makes some: answers with a value that they have of something
    else, or nowhere, are left out."""
    scores: dict[str, float] = {}
    """Scores of your own with their weights in the quality: `path/file.py:name`, a function of an example that returns
    a number, higher is better; perplexity and difficulty are measured with the recipe's base model."""
    judge: str | None = None
    """An endpoint that grades each answer from 1 to 10: https://host/v1#model. What would be sent is told by
    `luthier check`."""
    key_env: str | None = None
    """Environment variable that holds the endpoint's key."""
    engine: Literal["process", "ray"] = "process"
    """Where the work on single rows is done: here, or on Ray Data. The result is the same."""

    @property
    def sources(self) -> list[str]:
        """Names of what it reads."""
        return [self.data] if isinstance(self.data, str) else self.data


LANGUAGES = frozenset(
    re.findall(
        r"\w+",
        """
        af am an ar as av az ba be bg bh bn bo br bs ca ce co cs cv cy da de dv el en eo es et eu fa fi fr fy ga gd gl
        gn gu gv he hi hr ht hu hy ia id ie io is it ja jv ka kk km kn ko ku kv kw ky la lb li lo lt lv mg mk ml mn mr
        ms mt my ne nl nn no oc or os pa pl ps pt qu rm ro ru sa sc sd sh si sk sl so sq sr su sv sw ta te tg th tk tl
        tr tt ug uk ur uz vi vo wa yi yo zh""",
    )
)
"""Languages that the detector (fastText's lid.176) tells and that have two letters in ISO 639-1."""
MODEL_SCORES = ("perplexity", "difficulty")
"""Scores that the recipe's base model gives."""


def check_curate(
    at: tuple[str | int, ...], stage: Curate, data: Mapping[str, Any], earlier: list[str], based: bool
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(place, problem) of a stage, beside the recipe's sources, the data that earlier stages make, and whether there is
    a base model."""

    def missing(where: tuple[str | int, ...], name: str) -> Iterator[tuple[Any, str]]:
        if name not in data and name not in earlier:
            yield (*at, *where), no_such_source(name, data, earlier)

    if not stage.sources:
        yield (*at, "data"), "is empty. Name a source, or several."
    for index, name in enumerate(stage.sources):
        yield from missing(("data",) if isinstance(stage.data, str) else ("data", index), name)
        if name in data and data[name].stream:
            yield (*at, "data"), f"{name} is streamed, and curate looks at all rows at once. Remove its stream: true."
    for index, name in enumerate(stage.against or ()):
        yield from missing(("against", index), name)
        if name in stage.sources:
            yield (*at, "against", index), f"{name} is also what is curated: nothing would be left. Remove one of them."
    if stage.support is not None:
        yield from missing(("support",), stage.support)
    yield from check_shares(at, stage)
    if stage.languages is not None and not stage.languages:
        yield (*at, "languages"), "is empty, and nothing would be left. Name a language, such as en, or remove it."
    for index, code in enumerate(stage.languages or ()):
        if code not in LANGUAGES:
            said = f'"{code}" is no language that can be told, in two small letters: en, de, el (Greek).'
            yield (*at, "languages", index), said
    if (stage.name or stage.kind) in data:
        name = stage.name or stage.kind
        yield (*at, "name"), f"{name} is also a source under data. Rename the stage: later stages read `data: {name}`."
    for spec in stage.scores:
        if spec in MODEL_SCORES and not based:
            yield (*at, "scores", spec), "is measured with the base model, and base names none. Give base.model."
        if ":" not in spec and spec not in MODEL_SCORES:
            said = f"is no function and none of {', '.join(MODEL_SCORES)}.{did_you_mean(spec, MODEL_SCORES)}"
            yield (*at, "scores", spec), f"{said} Write path/file.py:name."
    if stage.embeddings is None and "near_meaning" in stage.model_fields_set:
        yield (
            (*at, "near_meaning"),
            "compares vectors of an embedding model, and none is named. Give embeddings: FOLDER.",
        )
    if stage.key_env is not None and stage.judge is None:
        yield (*at, "key_env"), "is for a judge, and there is none. Remove it, or give judge."


def check_shares(at: tuple[str | int, ...], stage: Curate) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Shares by source that can be kept, of sources that the stage reads."""
    names = stage.sources
    for setting, shares in (("at_most", stage.at_most), ("at_least", stage.at_least)):
        for name in shares:
            if name not in names:
                said = f"the stage does not read {name}.{did_you_mean(name, names)} It reads: {', '.join(names)}."
                yield (*at, setting, name), said
    for name, least in stage.at_least.items():
        if least > stage.at_most.get(name, 1.0):
            yield (
                (*at, "at_least", name),
                f"{least:g} is more than at_most allows, {stage.at_most[name]:g}. Change one.",
            )
    if (total := sum(stage.at_least.values())) > 1 + 1e-9:
        yield (*at, "at_least"), f"the shares are {total:g} together. Give 1 at most."
    capped = sum(stage.at_most.values())
    if names and set(names) <= set(stage.at_most) and capped < 1 - 1e-9:
        said = f"allows {capped:g} of what is chosen, in all, and nothing else is read: nothing could be chosen"
        yield (*at, "at_most"), f"{said}. Leave one out, or give shares of 1 together."
    if stage.at_least and stage.keep is None and not stage.at_most and stage.max_generated is None:
        yield (*at, "at_least"), "does nothing where all rows are kept. Give keep, or remove it."
