"""The stage that makes rows: by rules alone, or by asking a model, here or elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from luthier.base.abilities import is_endpoint
from luthier.base.errors import did_you_mean
from luthier.base.made import Named, made_by, no_such_source
from luthier.base.strict import Strict


class About(NamedTuple):
    """A way to make rows, in the recipe's terms."""

    reads: Literal["documents", "conversations"]
    makes: Literal["conversations", "pairs"]
    asks: bool
    """Whether it needs a model."""
    what: str
    paper: str = ""


METHODS: dict[str, About] = {
    "rules": About("documents", "conversations", False, "questions from headings, definitions and tables"),
    "questions": About(
        "documents", "conversations", True, "questions whose answers quote their passage", "Menick et al. 2022"
    ),
    "unanswerable": About(
        "documents", "conversations", True, "questions that the documents do not answer", "Rajpurkar et al. 2018"
    ),
    "back_translation": About(
        "documents", "conversations", True, "the instruction that a text would answer", "Li et al. 2023"
    ),
    "paraphrase": About(
        "conversations", "conversations", True, "the same question in other words", "Honovich et al. 2022"
    ),
    "self_instruct": About(
        "conversations", "conversations", True, "new instructions like some that there are", "Wang et al. 2022"
    ),
    "evolve": About("conversations", "conversations", True, "instructions made harder, or rarer", "Xu et al. 2023"),
    "preference": About("conversations", "pairs", True, "the best and the worst of several answers", "Cui et al. 2023"),
}
"""The ways there are, by the name a recipe calls them."""

ASPECTS = {
    "instruction following": "does the answer do what was asked, in the form that was asked for?",
    "truthfulness": "is all that it says true, and nothing made up?",
    "honesty": "does it say what it does not know, and is it sure only where it can be?",
    "helpfulness": "is it useful, complete and to the point, without padding?",
}
"""What UltraFeedback rates (Cui et al. 2023, section 2.3)."""


class Price(Strict):
    """What a provider takes, in USD for a million tokens."""

    input: float = Field(ge=0)
    """For what it reads."""
    output: float = Field(ge=0)
    """For what it writes."""


class Synthesise(Strict):
    """Makes rows from a source, by rules alone or by asking a model; later stages read them by this stage's name. Each
    row says that it was made, by whom, from what, and under which terms."""

    kind: Literal["synthesise"]
    name: str | None = None
    """The stage's name in folders and reports, and as `data` of later stages; default: its kind."""
    data: str
    """Name of the source that rows are made from, or of an earlier stage that makes data."""
    methods: list[str] = Field(default=["rules"], min_length=1)
    """How: of documents rules (without any model), questions, unanswerable, back_translation; of conversations
    paraphrase, self_instruct, evolve, preference."""
    model: str | None = None
    """Who writes: https://host/v1#model, a run (runs/demo, demo:sft), a model's folder, a stage before this one, or
    base. Needed by all methods but rules. Nothing leaves this machine unless an address stands here or in `judge`."""
    judge: str | None = None
    """Who rates the answers of `preference` and the instructions of `back_translation`; default: the model."""
    key_env: str | None = None
    """Environment variable that holds the endpoint's key; default: OPENAI_API_KEY at api.openai.com, else
    LUTHIER_API_KEY."""
    per_row: int = Field(default=3, ge=1)
    """Questions asked for of each passage, wordings of each question, evolutions of each instruction; for `preference`
    answers to each prompt (at least 2)."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first rows of the source."""
    rows: int = Field(default=100, ge=1)
    """New instructions that `self_instruct` is to find."""
    passage_words: int = Field(default=200, ge=20)
    """About how long a passage is that a document is cut into, for methods that ask a model."""
    answer_words: int = Field(default=150, ge=5)
    """Longest answer that `rules` quotes."""
    novelty: float = Field(default=0.7, gt=0, le=1)
    """An instruction whose ROUGE-L with another is at least this is left out (Wang et al. 2022)."""
    min_grade: float = Field(default=4, ge=1, le=5)
    """Least grade, of 1 to 5, with which a back-translated instruction is kept (Li et al. 2023, section 2.3)."""
    min_gap: float = Field(default=0.5, ge=0)
    """Least difference between the grades (1 to 5) of the best and the worst answer of a pair."""
    rubric: dict[str, str] = ASPECTS
    """What `preference` rates, each from 1 to 5: {name: what it means}; default: UltraFeedback's four."""
    refusal: str = "I do not know: the documents that I have do not say."
    """The answer to an unanswerable question."""
    temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature of what is written; grades are given at 0."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Longest reply."""
    terms: str | None = None
    """Terms of the model's output, in a few words ("no competing models"); kept with every row."""
    price: Price | None = None
    """USD for a million tokens, for the estimate and the cap: {input: 0.15, output: 0.6}."""
    spend_cap_usd: float | None = Field(default=None, gt=0)
    """No question is sent that could pass this; what was made until then is kept."""
    requests_per_min: int | None = Field(default=None, ge=1)
    """The endpoint's limit; default: as fast as it answers."""
    tokens_per_min: int | None = Field(default=None, ge=1)
    """The endpoint's limit, of tokens read and written together."""
    concurrency: int = Field(default=8, ge=1)
    """Questions under way at a time."""
    timeout_s: float = Field(default=60.0, gt=0)
    """For one try."""
    retries: int = Field(default=5, ge=0)
    """Further tries after the first."""
    max_failed: float = Field(default=0.1, ge=0, le=1)
    """Stop when a larger share of the questions than this got no answer; the same command then asks only these."""


def asking(stage: Synthesise) -> list[str]:
    """The methods that ask a model."""
    return [name for name in stage.methods if name in METHODS and METHODS[name].asks]


def synthesise_problems(
    stage: Synthesise, sources: Mapping[str, object], earlier: Sequence[Named]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(setting, what is wrong with it), () for the stage as a whole."""
    yield from wrong_names(stage, sources, earlier)
    needs = asking(stage)
    if needs and stage.model is None:
        yield (
            (),
            f"{needs[0]} asks a model, and none is named. Give model: https://host/v1#model, a folder, or a stage.",
        )
    if not needs:
        for setting in ("model", "judge", "price", "spend_cap_usd", "requests_per_min", "tokens_per_min"):
            if setting in stage.model_fields_set:
                yield (setting,), "is for a model that is asked, and rules ask none. Remove it, or add a method."
    for setting in ("model", "judge"):
        name = {"model": stage.model, "judge": stage.judge}[setting]
        if name is not None and is_endpoint(name) and not re.fullmatch(r"https?://[^#\s]+#.+", name):
            yield (setting,), f"{name}: which of its models? Write it behind a #: https://host/v1#model."
    if stage.judge is not None and needs and not {"preference", "back_translation"} & set(needs):
        yield ("judge",), "rates for preference and back_translation, and neither is among the methods. Remove it."
    if "preference" in stage.methods and stage.per_row < 2:
        yield ("per_row",), "is 1, and of one answer none is the worst. Give 2 or more."
    if stage.spend_cap_usd is not None and stage.price is None:
        yield ("spend_cap_usd",), "cannot be kept without a price. Give price: {input: …, output: …}."
    if stage.key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", stage.key_env):  # it may be the key itself
        yield ("key_env",), "is no name of an environment variable. Write the variable's name, never the key itself."
    elif stage.key_env is not None and not any(is_endpoint(name or "") for name in (stage.model, stage.judge)):
        yield ("key_env",), "is for an endpoint, and none is named. Remove it."


def wrong_names(
    stage: Synthesise, sources: Mapping[str, object], earlier: Sequence[Named]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Names that mean nothing here, and methods that do not go together."""
    made = made_by(earlier)
    if stage.data not in sources and stage.data not in made:
        yield ("data",), no_such_source(stage.data, sources, made)
    if (stage.name or stage.kind) in sources:
        name = stage.name or stage.kind
        yield ("name",), f"{name} is also a source under data. Rename the stage: later stages read `data: {name}`."
    for index, method in enumerate(stage.methods):
        if method not in METHODS:
            hint = did_you_mean(method, METHODS)
            yield ("methods", index), f'there is no method "{method}".{hint} There are: {", ".join(METHODS)}.'
        elif method in stage.methods[:index]:
            yield ("methods", index), f"{method} is named twice. Name it once."
    known = [METHODS[name] for name in stage.methods if name in METHODS]
    if len({about.reads for about in known}) > 1:
        by = [f"{name} reads {METHODS[name].reads}" for name in stage.methods if name in METHODS]
        yield ("methods",), f"do not go together: {', '.join(by)}. Make two stages of them."
    elif len({about.makes for about in known}) > 1:
        yield ("methods",), "do not go together: preference makes pairs, the others conversations. Make two stages."
