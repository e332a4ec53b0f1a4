"""One row -> many: files whose rows hold several examples (trees, ratings, passages with questions), each as rows of a
shape that `formats.FORMATS` knows. What a row has besides, and who made it, goes with every row made of it.

The origin of a made row is its row's with a part after #: "train.jsonl:3#fa783ef0".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from luthier.base.nouns import Rejected, Row
from luthier.data.messages import Reading, Unusable, from_json, shown
from luthier.data.text import Read
from luthier.data.trees import is_message, is_tree, tree_chats, tree_pairs
from luthier.data.verdicts import number_in

Fields = Mapping[str, Any]

ANSWERS = ("completions", "responses", "answers", "generations")
"""Columns with several answers to one prompt."""
RATINGS = ("fine-grained_score", "score", "rating", "overall_score", "reward")
"""Ratings of one answer. UltraFeedback's overall_score is a 10 where a 1 was meant in some rows: it comes last."""
PROMPT = ("prompt", "instruction", "question", "query", "input")


class Shape(NamedTuple):
    """Rows that hold several examples."""

    needs: str
    """The columns, in words."""
    detects: Callable[[Fields], bool]
    """Whether these columns are of this shape."""
    format: str
    """What the rows are that come of it."""
    unfold: Callable[[Row, Reading], Iterator[Read]] | None
    """One row's rows. Raises Unusable."""
    gather: Callable[[Iterable[Read]], Iterator[Read]] | None = None
    """All rows' rows, where one thing may stand in several."""


def unfolded(rows: Iterable[Read], name: str, reading: Reading) -> Iterator[Read]:
    """The rows that the rows of shape `name` hold. Any other name: the rows as they are."""
    shape = UNFOLD.get(name)
    if shape is None:
        yield from rows
    elif shape.gather is not None:
        yield from shape.gather(rows)
    else:
        assert shape.unfold is not None
        for row in rows:
            if isinstance(row, Rejected):
                yield row
                continue
            try:
                yield from shape.unfold(row, reading)
            except Unusable as reason:
                yield Rejected(row.origin, str(reason))


def rest_of(fields: Fields, used: Sequence[str]) -> dict[str, Any]:
    """The columns that are not used up."""
    return {key: value for key, value in fields.items() if key not in used and value is not None}


def first_in(fields: Fields, names: Sequence[str]) -> str | None:
    """The first of the names that is a column with something in it."""
    return next((name for name in names if fields.get(name) not in (None, "")), None)


def text_in(value: Any, at: str) -> str:
    """A text with something in it. Raises Unusable."""
    if not isinstance(value, str) or not value.strip():
        raise Unusable(f"{at}: {'is empty' if value in (None, '') else f'{shown(value)} is not text'}")
    return value


# ── Several rated answers ────────────────────────────────────────────────────────────────────────────────────────────


def is_rated(fields: Fields) -> bool:
    """UltraFeedback's completions with ratings, or answers beside a list of as many scores."""
    if "chosen" in fields or first_in(fields, PROMPT) is None:
        return False
    column = first_in(fields, ANSWERS)
    answers = from_json(fields[column]) if column else None
    if not isinstance(answers, list) or not answers:
        return False
    if all(isinstance(answer, dict) for answer in answers):
        return any(first_in(answer, ("response", "text", "content", "completion")) for answer in answers)
    return all(isinstance(answer, str) for answer in answers) and scores_beside(fields, len(answers)) is not None


def scores_beside(fields: Fields, count: int) -> Sequence[Any] | None:
    """The list of as many numbers as there are answers that stands in a column of its own."""
    for name in ("scores", "ratings", "rewards", "score"):
        scores = from_json(fields.get(name))
        if isinstance(scores, list) and len(scores) == count:
            return scores
    return None


def rated_pairs(row: Row, reading: Reading) -> Iterator[Read]:
    """Every two answers of different rating as a pair; the margin is the difference. Of two that are rated the same
    none is the better: there is no pair of them."""
    fields = row.fields
    column, prompt = first_in(fields, ANSWERS), first_in(fields, PROMPT)
    if column is None or prompt is None:
        raise Unusable(f"no column with a prompt ({', '.join(PROMPT)}), or none with answers ({', '.join(ANSWERS)})")
    answers = from_json(fields[column])
    if not isinstance(answers, list):
        raise Unusable(f"{column}: {shown(answers)} is not a list of answers")
    beside = scores_beside(fields, len(answers)) or [None] * len(answers)
    rated: list[tuple[float, str, str | None]] = []
    for index, (answer, score) in enumerate(zip(answers, beside, strict=True)):
        at = f"{column}[{index}]"
        try:
            rated.append(rated_answer(answer, score, at))
        except Unusable as reason:
            yield Rejected(f"{row.origin}#{index}", str(reason))
    made = rest_of(fields, (column, prompt, "models", "scores", "ratings", "rewards"))
    made.setdefault("group", str(fields.get("id") or fields.get("prompt_id") or row.origin))
    rated.sort(key=lambda each: -each[0])
    made |= {"ranked": [text for _, text, _ in rated], "ratings": [score for score, _, _ in rated]}
    found = False
    for (i, (high, better, model)), (k, (low, worse, other)) in combinations(enumerate(rated), 2):
        if high > low and better.strip() != worse.strip():
            found = True
            models = {"generator": model, "generator_rejected": other, "made": "machine"} if model else {}
            columns = {"prompt": fields[prompt], "chosen": better, "rejected": worse, "margin": high - low}
            yield Row({**made, **models, **columns}, f"{row.origin}#{i}>{k}")
    if not found:
        yield Rejected(row.origin, f"{column}: no two answers with text and different ratings")


def rated_answer(answer: Any, score: Any, at: str) -> tuple[float, str, str | None]:
    """(rating, text, model) of one answer. Raises Unusable."""
    if isinstance(answer, str):
        number = number_in({"rating": score}, "rating")
        model, text = None, text_in(answer, at)
    elif isinstance(answer, dict):
        column = first_in(answer, ("response", "text", "content", "completion")) or "response"
        text, model = text_in(answer.get(column), f"{at}.{column}"), answer.get("model")
        name = first_in(answer, RATINGS)
        number = number_in(answer, name) if name else mean_rating(answer.get("annotations"))
        number = number_in({"rating": score}, "rating") if number is None else number
    else:
        raise Unusable(f"{at}: {shown(answer)} is no answer")
    if number is None:
        raise Unusable(f"{at}: has no rating ({', '.join(RATINGS)})")
    return number, text, model if isinstance(model, str) else None


def mean_rating(annotations: Any) -> float | None:
    """UltraFeedback's four aspects, each with a Rating (or N/A), as one number; None where there is none."""
    if not isinstance(annotations, dict):
        return None
    found = []
    for aspect in annotations.values():
        for each in aspect if isinstance(aspect, list) else [aspect]:
            given = each.get("Rating") if isinstance(each, dict) else None
            if isinstance(given, int | float | str) and str(given).replace(".", "", 1).isdigit():
                found.append(float(given))
    return sum(found) / len(found) if found else None


# ── Two answers and which was liked ──────────────────────────────────────────────────────────────────────────────────


class Sides(NamedTuple):
    """A way in which files put two answers and a preference."""

    prompt: tuple[str, ...]
    first: str
    second: str
    winner: str
    """The column that says which."""
    says_first: tuple[Any, ...]
    says_second: tuple[Any, ...]


SIDES = (
    # Stanford Human Preferences: labels is 1 where A was liked (Ethayarajh et al. 2022)
    Sides(("history",), "human_ref_A", "human_ref_B", "labels", (1,), (0,)),
    # AlpacaFarm (Dubois et al. 2023)
    Sides(("instruction",), "output_1", "output_2", "preference", (1,), (2,)),
    # Chatbot Arena (Zheng et al. 2023)
    Sides(("prompt",), "conversation_a", "conversation_b", "winner", ("model_a", "a"), ("model_b", "b")),
    Sides(PROMPT, "response_a", "response_b", "winner", ("model_a", "a", "A", 0), ("model_b", "b", "B", 1)),
    Sides(PROMPT, "response_0", "response_1", "better_response_id", (0,), (1,)),
    Sides(PROMPT, "answer_a", "answer_b", "preference", ("a", "A"), ("b", "B")),
)


def sides_of(fields: Fields) -> Sides | None:
    """Which of the ways these columns are."""
    return next((s for s in SIDES if s.first in fields and s.second in fields and s.winner in fields), None)


def compared_pair(row: Row, reading: Reading) -> Iterator[Read]:
    """The pair of two answers, the liked one chosen. Ties are Unusable."""
    fields, sides = row.fields, sides_of(row.fields)
    if sides is None:
        ways = "; ".join(f"{s.first}, {s.second}, {s.winner}" for s in SIDES)
        raise Unusable(f"no two answers with a preference. One of: {ways}")
    said = fields[sides.winner]
    said = int(said) if isinstance(said, float) and said.is_integer() else said
    said = int(said) if isinstance(said, str) and said.strip().isdigit() else said
    if said not in sides.says_first and said not in sides.says_second:
        raise Unusable(f"{sides.winner}: {shown(said)} likes neither of the two")
    better, worse = (sides.first, sides.second) if said in sides.says_first else (sides.second, sides.first)
    prompt = first_in(fields, sides.prompt)
    used = [sides.first, sides.second, sides.winner, *((prompt,) if prompt else ())]
    made = {"chosen": from_json(fields[better]), "rejected": from_json(fields[worse])}
    if prompt == "instruction" and isinstance(fields.get("input"), str) and fields["input"].strip():
        made["prompt"] = f"{fields['instruction']}\n\n{fields['input']}"
        used.append("input")
    elif prompt is not None:
        made["prompt"] = fields[prompt]
    yield Row({**rest_of(fields, used), **made}, row.origin)


# ── Passages with questions ──────────────────────────────────────────────────────────────────────────────────────────


def is_squad(fields: Fields) -> bool:
    """An article with paragraphs, or the hub's flat rows: context, question, answers {text, answer_start}."""
    if isinstance(fields.get("paragraphs"), list):
        return True
    answers = from_json(fields.get("answers"))
    return "context" in fields and "question" in fields and isinstance(answers, dict) and "text" in answers


def squad_rows(row: Row, reading: Reading) -> Iterator[Read]:
    """A question under its passage, with all accepted answers; passages of one article are one group. Where the passage
    does not answer, the answer is the recipe's `unanswerable`. Rajpurkar et al. 2016, 2018."""
    fields = row.fields
    title = fields.get("title")
    more = rest_of(fields, ("paragraphs", "context", "question", "answers", "is_impossible"))
    if isinstance(title, str) and title:
        more.setdefault("group", title)
    if "paragraphs" not in fields:
        answers = from_json(fields.get("answers"))
        texts = answers.get("text") if isinstance(answers, dict) else None
        question = {"question": fields.get("question"), "answers": [{"text": text} for text in texts or ()]}
        yield asked(fields.get("context"), question, more, row.origin, reading)
        return
    if not isinstance(fields["paragraphs"], list):
        raise Unusable(f"paragraphs: {shown(fields['paragraphs'])} is not a list")
    for i, paragraph in enumerate(fields["paragraphs"]):
        questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(questions, list):
            yield Rejected(f"{row.origin}#{i}", f"paragraphs[{i}]: no list of questions (qas)")
            continue
        for k, question in enumerate(questions):
            place = f"{row.origin}#{i}/{k}"
            try:
                yield asked(paragraph.get("context"), question, more, place, reading)
            except Unusable as reason:
                yield Rejected(place, str(reason))


def asked(context: Any, question: Any, more: Fields, origin: str, reading: Reading) -> Row:
    """One question as a row of `prompt_completion`. Raises Unusable."""
    if not isinstance(question, dict):
        raise Unusable(f"{shown(question)} is no question")
    passage, words = text_in(context, "context"), text_in(question.get("question"), "question")
    given = question.get("answers")
    texts = [each.get("text") for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    right = [text for text in texts if isinstance(text, str) and text.strip()]
    impossible = question.get("is_impossible") is True or not right
    if impossible and reading.unanswerable is None:
        raise Unusable("the passage does not answer the question. Give data.NAME.unanswerable to keep it")
    answer = reading.unanswerable if impossible else Counter(right).most_common(1)[0][0]  # the first of the commonest
    columns = {"prompt": f"{passage}\n\n{words}", "completion": answer, "answerable": not impossible}
    accept = {} if impossible else {"accept": list(dict.fromkeys(right))}
    named = {"id": question["id"]} if isinstance(question.get("id"), str) else {}
    return Row({**more, **named, **columns, **accept}, origin)


# ── Instructions with instances ──────────────────────────────────────────────────────────────────────────────────────


def is_seed(fields: Fields) -> bool:
    """Self-Instruct's tasks: an instruction and a list of inputs with outputs."""
    instances = from_json(fields.get("instances"))
    return "instruction" in fields and isinstance(instances, list) and "output" not in fields


def seed_rows(row: Row, reading: Reading) -> Iterator[Read]:
    """Every instance of a task as a row of `alpaca`; a task is a group. Wang et al. 2022, Self-Instruct."""
    fields = row.fields
    instances = from_json(fields.get("instances"))
    if not isinstance(instances, list) or not instances:
        raise Unusable(f"instances: {shown(instances)} is not a list with instances")
    more = rest_of(fields, ("instances",))
    more.setdefault("group", str(fields.get("id") or row.origin))
    for index, instance in enumerate(instances):
        origin = f"{row.origin}#{index}"
        if isinstance(instance, dict) and "output" in instance:
            yield Row({**more, "input": instance.get("input"), "output": instance["output"]}, origin)
        else:
            yield Rejected(origin, f"instances[{index}]: {shown(instance)} has no output")


UNFOLD: dict[str, Shape] = {
    "oasst": Shape(
        "OpenAssistant trees (prompt with replies and their rank), or their messages (message_id, parent_id): pairs",
        lambda f: is_tree(f) or is_message(f),
        "pairs",
        None,
        tree_pairs,
    ),
    "oasst_chats": Shape("the same trees: the best path of each as a conversation", lambda f: False, "messages", None,
                         tree_chats),
    "ultrafeedback": Shape(
        "a prompt and completions (or responses, answers) with ratings: a pair of every two", is_rated, "pairs",
        rated_pairs,
    ),
    "comparisons": Shape(
        "two answers and which was liked: human_ref_A/B with labels, output_1/2 with preference, conversation_a/b or "
        "response_a/b with winner",
        lambda f: sides_of(f) is not None,
        "pairs",
        compared_pair,
    ),
    "squad": Shape(
        "passages with questions: paragraphs with qas, or context, question, answers {text, answer_start}", is_squad,
        "prompt_completion", squad_rows,
    ),
    "self_instruct": Shape("instruction and instances (a list of {input, output})", is_seed, "alpaca", seed_rows),
}  # fmt: skip
