"""Dialogues of a service desk written down turn by turn (ABCD) -> multi-turn chats, the guidelines of their flow as the
system message.

Chen et al. 2021, Action-Based Conversations Dataset: `original` holds [speaker, text], speakers are customer, agent and
action; guidelines.json beside it says what agents were told for each flow and subflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luthier.base.nouns import Rejected, Row
from luthier.data.entries import Entry
from luthier.data.talk.people import People, Style
from luthier.data.talk.support import object_in, text_in
from luthier.data.text import Read, as_text, json_reason, parse_json

BESIDE = ("guidelines.json", "kb.json", "ontology.json", "utterances.json")
JSON = re.compile(r"\.json(?:\.gz)?$", re.I)
LARGEST_BYTES = 256 * 2**20
SYNONYMS = {
    "2fa": "two factor auth", "credit_card": "invalid credit card", "shopping_cart": "cart not updating",
    "search_results": "search not working", "slow_speed": "website too slow", "refund_initiate": "initiate refund",
    "refund_update": "update refund", "refund_status": "refund status",
}  # fmt: skip
"""Subflows that guidelines call otherwise."""


def is_dialogues(entries: Sequence[Entry]) -> bool:
    """Whether one of the files holds dialogues of this shape."""
    for entry in [entry for entry in entries if JSON.search(entry.name) and entry.name not in BESIDE][:8]:
        if entry.size_bytes > LARGEST_BYTES or not re.search(rb'"(?:convo_id|scenario|original)"', entry.head()):
            continue
        try:
            values = dialogues_in(entry)
        except ValueError:
            continue
        if any(isinstance(v, dict) and "original" in v and ("scenario" in v or "delexed" in v) for v in values[:3]):
            return True
    return False


def dialogues_in(entry: Entry) -> list[Any]:
    """A file's dialogues: a list, or {"train": [...], "dev": [...]}. Raises ValueError with a reason for people."""
    value = parse_json(as_text(entry.read()))
    if isinstance(value, dict):
        return [item for part in value.values() if isinstance(part, list) for item in part]
    return value if isinstance(value, list) else []


def dialogue_rows(entries: Sequence[Entry], beside: Sequence[Entry], style: Style) -> Iterator[Read]:
    """Every dialogue as a row with `messages`. `beside`: the files next to the source, for its guidelines."""
    guidelines: Mapping[str, Any] = {}
    for entry in [entry for entry in (*entries, *beside) if entry.name == "guidelines.json"][:1]:
        try:
            value = parse_json(as_text(entry.read()))
            guidelines = value if isinstance(value, dict) else {}
        except ValueError as error:
            yield Rejected(entry.origin, json_reason(error))
    people = People(style)
    for entry in entries:
        if entry.name in BESIDE or not JSON.search(entry.name):
            continue
        try:
            values = dialogues_in(entry)
        except ValueError as error:
            yield Rejected(entry.origin, json_reason(error))
            continue
        for index, value in enumerate(values):
            yield row_of(value, f"{entry.origin}[{index}]", guidelines, people)


def row_of(value: Any, origin: str, guidelines: Mapping[str, Any], people: People) -> Read:
    """One dialogue, from the customer's first words to the agent's last."""
    said = value.get("original") if isinstance(value, dict) else None
    if not isinstance(said, list):
        return Rejected(origin, "original: is no list of [speaker, text]")
    scenario = object_in(value, "scenario")
    personal = object_in(scenario, "personal")
    names = [text_in(personal, key) for key in ("customer_name", "username") if text_in(personal, key)]
    if names:
        people.known(names[0], names)
    turns: list[tuple[str, str]] = []
    actions: list[dict[str, Any]] = []
    for turn in said:
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(part, str) for part in turn)):
            return Rejected(origin, "original: a turn is not [speaker, text]")
        speaker, text = turn[0].lower(), people.clean(turn[1].strip())
        if speaker == "action":
            actions.append({"after": max(0, len(turns)), "text": text})
        elif text and (turns or speaker == "customer"):  # an agent's greeting answers nothing
            role = "user" if speaker == "customer" else "assistant"
            if turns and turns[-1][0] == role:
                turns[-1] = (role, f"{turns[-1][1]}\n{text}")
            else:
                turns.append((role, text))
    while turns and turns[-1][0] == "user":
        turns.pop()
    if not turns:
        return Rejected(origin, "no agent answers")
    flow, subflow = text_in(scenario, "flow"), text_in(scenario, "subflow")
    system = instructions(guidelines, flow, subflow)
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": role, "content": text} for role, text in turns]
    fields = {
        "messages": messages,
        "flow": flow or None,
        "subflow": subflow or None,
        "actions": actions or None,
        "made": "human",
        "group": str(value.get("convo_id", origin)),
    }
    return Row({name: item for name, item in fields.items() if item is not None}, origin)


def instructions(guidelines: Mapping[str, Any], flow: str, subflow: str) -> str:
    """The guidelines of a subflow as text; the empty string where there are none."""
    inside = next((value for name, value in guidelines.items() if spelled(name) == spelled(flow)), None)
    subflows = inside.get("subflows") if isinstance(inside, dict) else None
    name = nearest(subflow, list(subflows)) if isinstance(subflows, dict) else None
    if name is None or not isinstance(subflows, dict):
        return ""
    told = object_in(subflows, name)
    lines = [f"You are a customer service agent. Topic: {name}."]
    lines += [text for text in told.get("instructions", [])[:-1] if isinstance(text, str)]
    steps = [action for action in told.get("actions", []) if isinstance(action, dict)]
    for number, action in enumerate(steps, 1):
        lines.append(f"{number}. {action.get('text', '')}")
        lines += [f"   - {text}" for text in action.get("subtext", []) if isinstance(text, str)]
    lines += [text for text in told.get("instructions", [])[-1:] if isinstance(text, str)]
    return "\n".join(line for line in lines if line.strip())


def spelled(name: str) -> str:
    """Letters and digits, in lower case, words apart."""
    return " ".join(re.findall(r"[a-z0-9]+", name.lower()))


def nearest(subflow: str, names: Sequence[str]) -> str | None:
    """The name that shares most words with a subflow: return_size is "Return Due to Size", timing_4 "Timing FAQ"."""
    plain = re.sub(r"(?:_(?:how|other))?_\d+$", "", subflow)
    wanted = set(spelled(SYNONYMS.get(plain, plain).replace("2fa", SYNONYMS["2fa"])).split())
    rated = [
        (len(words & wanted) / len(words | wanted), name) for name in names if (words := set(spelled(name).split()))
    ]
    best = max(rated, key=lambda pair: pair[0], default=(0.0, ""))
    return best[1] if best[0] > 0 else None
