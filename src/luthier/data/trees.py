"""OpenAssistant's conversation trees -> pairs (from ranked replies) or conversations (the best path of each tree).

Two forms are read: a tree a row ({prompt: {message_id, text, role, replies: [...]}}), and the flat table, a message a
row with message_id and parent_id. Köpf et al. 2023, OpenAssistant Conversations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from luthier.base.nouns import Rejected, Row
from luthier.data.messages import Unusable, shown
from luthier.data.text import Read

Fields = Mapping[str, Any]

ROLES = {"prompter": "user", "user": "user", "human": "user", "assistant": "assistant"}
BAD_STATES = ("aborted_low_grade", "halted_by_moderator")
"""Trees that OpenAssistant itself gave up."""
CIRCLE_SHOWN = 4


@dataclass
class Node:
    """A message of a tree."""

    id: str
    parent: str | None
    fields: Fields
    origin: str
    replies: list[Node] = field(default_factory=list)

    @property
    def role(self) -> str:
        return ROLES[self.fields["role"]]

    @property
    def text(self) -> str:
        return self.fields["text"]

    @property
    def rank(self) -> int | float | None:
        rank = self.fields.get("rank")
        return rank if isinstance(rank, int | float) and not isinstance(rank, bool) else None


def is_tree(fields: Fields) -> bool:
    """Whether a row is one whole tree."""
    root = fields.get("prompt")
    return isinstance(root, dict) and "text" in root and "role" in root and "replies" in root


def is_message(fields: Fields) -> bool:
    """Whether a row is one message of the flat table."""
    return "message_id" in fields and "parent_id" in fields and "text" in fields and fields.get("role") in ROLES


def tree_pairs(rows: Iterable[Read]) -> Iterator[Read]:
    """Every two replies to one message that people put into an order, as a row of `pairs`."""
    for item in roots_of(rows):
        yield from pairs_below(item) if isinstance(item, Node) else [item]


def tree_chats(rows: Iterable[Read]) -> Iterator[Read]:
    """The best path of every tree, as a row of `messages`."""
    for item in roots_of(rows):
        yield best_path(item) if isinstance(item, Node) else item


def roots_of(rows: Iterable[Read]) -> Iterator[Node | Rejected]:
    """The trees of either form, in order, and what is no part of one. A flat table is read to its end first."""
    flat: list[Node] = []
    for row in rows:
        if isinstance(row, Rejected):
            yield row
        elif is_tree(row.fields):
            yield from nested(row)
        elif "message_id" in row.fields:
            try:
                flat.append(node_of(row.fields, row.fields.get("parent_id"), row.origin, {}))
            except Unusable as reason:
                yield Rejected(row.origin, str(reason))
        else:
            yield Rejected(row.origin, "no tree (prompt with replies) and no message of one (message_id, parent_id)")
    yield from linked(flat)


def nested(row: Row) -> Iterator[Node | Rejected]:
    """The tree of a row whose messages hold their replies, and the messages that are no use."""
    state = row.fields.get("tree_state")
    if state in BAD_STATES:
        yield Rejected(row.origin, f"tree_state: {state}. OpenAssistant gave this tree up")
        return
    tree = row.fields.get("message_tree_id")
    more = {key: row.fields[key] for key in ("group", "licence", "license", "terms") if row.fields.get(key) is not None}
    if tree is not None:
        more.setdefault("message_tree_id", tree)
    root: Node | None = None
    seen: set[str] = set()
    left: list[tuple[Any, Node | None]] = [(row.fields["prompt"], None)]
    while left:
        given, parent = left.pop()
        try:
            node = node_of(given, None if parent is None else parent.id, row.origin, more)
            if node.id in seen:
                raise Unusable(f'message_id: "{node.id}" stands in its tree twice')
        except Unusable as reason:
            yield Rejected(row.origin, f"{reason}{below(given)}")
            continue
        seen.add(node.id)
        root = root or node
        if parent is not None:
            parent.replies.append(node)
        replies = given.get("replies")
        left += [(reply, node) for reply in reversed(replies if isinstance(replies, list) else [])]
    if root is not None:
        yield root


def below(given: Any) -> str:
    """ " (and 3 replies with it)": what goes with a message that is no use."""
    count, left = 0, [given]
    while left:
        message = left.pop()
        replies = message.get("replies") if isinstance(message, dict) else None
        left += replies if isinstance(replies, list) else []
        count += 1
    return f" (and {count - 1} repl{'y' if count == 2 else 'ies'} with it)" if count > 1 else ""


def node_of(given: Any, parent: Any, origin: str, more: Fields) -> Node:
    """A message, if it can be used. Raises Unusable."""
    if not isinstance(given, dict | Mapping):
        raise Unusable(f"{shown(given)} is not a message with text and role")
    name = given.get("message_id")
    where = f"message {name}: " if isinstance(name, str) else ""
    if not isinstance(name, str) or not name:
        raise Unusable(f"message_id: {shown(name)} is not an id")
    if given.get("deleted") is True:
        raise Unusable(f"{where}deleted")
    if given.get("review_result") is False:
        raise Unusable(f"{where}review_result: false. The reviewers turned it down")
    if given.get("role") not in ROLES:
        raise Unusable(f"{where}role: {shown(given.get('role'))} is not prompter or assistant")
    text = given.get("text")
    if not isinstance(text, str) or not text.strip():
        raise Unusable(f"{where}text: is empty")
    if parent is not None and not isinstance(parent, str):
        raise Unusable(f"{where}parent_id: {shown(parent)} is not an id")
    kept = {key: value for key, value in given.items() if key != "replies"}
    return Node(name, parent or None, {**more, **kept}, f"{origin}#{name}")


def linked(flat: Sequence[Node]) -> Iterator[Node | Rejected]:
    """The trees of a flat table, in the order of their first messages. Rejected are messages that stand twice, whose
    parent is not there, and whose parents go in a circle, with all that hangs on them."""
    by_id: dict[str, Node] = {}
    for node in flat:
        if node.id in by_id:
            yield Rejected(node.origin, f'message_id: "{node.id}" stands in the table twice')
        else:
            by_id[node.id] = node
    fate: dict[str, str | None] = {}
    for node in by_id.values():
        yield from settled(node, by_id, fate)
    for node in by_id.values():
        if fate[node.id] is None and node.parent is not None:
            by_id[node.parent].replies.append(node)
    yield from (node for node in by_id.values() if node.parent is None)


def settled(node: Node, by_id: Mapping[str, Node], fate: dict[str, str | None]) -> Iterator[Rejected]:
    """Walks from a message to its root and writes down what becomes of each on the way: None, or why it is no use."""
    path: list[Node] = []
    on_path: dict[str, int] = {}
    at: Node | None = node
    why: str | None = None
    while at is not None and at.id not in fate:
        if at.id in on_path:
            circle = [each.id for each in path[on_path[at.id] :]]
            names = " → ".join([*circle[:CIRCLE_SHOWN], *(["…"] if len(circle) > CIRCLE_SHOWN else []), at.id])
            why = f"parent_id: its parents go in a circle: {names}"
            break
        on_path[at.id] = len(path)
        path.append(at)
        if at.parent is not None and at.parent not in by_id:
            why = f'parent_id: "{at.parent}" is not in the table, or was no use'
            break
        at = None if at.parent is None else by_id[at.parent]
    else:
        if at is not None and fate[at.id] is not None:
            why = f'parent_id: it hangs on "{at.id}", which is no use'
    for each in path:
        fate[each.id] = why
        if why is not None:
            yield Rejected(each.origin, why)


def walk(root: Node) -> Iterator[tuple[Node, tuple[Node, ...]]]:
    """Every message with those before it, in the order of the file."""
    left: list[tuple[Node, tuple[Node, ...]]] = [(root, ())]
    while left:
        node, before = left.pop()
        yield node, before
        left += [(reply, (*before, node)) for reply in reversed(node.replies)]


def pairs_below(root: Node) -> Iterator[Read]:
    """A row of `pairs` for every two ranked replies; each has the whole order in its column `ranked`."""
    made = False
    for node, before in walk(root):
        ranked = [reply for reply in node.replies if reply.role == "assistant" and reply.rank is not None]
        if node.role != "user" or len(ranked) < 2:
            continue
        ranked.sort(key=lambda reply: reply.rank or 0)  # stable: ties stay in the order of the file
        groups = defaultdict(list)
        for reply in ranked:
            groups[reply.rank].append(reply)
        order = [reply.text for reply in ranked]
        prompt = [turn_of(each) for each in (*before, node)]
        for better, worse in combinations(ranked, 2):
            made = True
            origin = f"{better.origin}>{worse.id}"
            if better.rank == worse.rank:
                yield Rejected(origin, f"rank: both are {better.rank}; of two that are equal none is the better")
                continue
            yield Row(
                {
                    "prompt": prompt,
                    "chosen": better.text,
                    "rejected": worse.text,
                    "ranked": order,
                    "ranks": [reply.rank for reply in ranked],
                    **about(root, [*before, node, better, worse], (better, worse)),
                },
                origin,
            )
    if not made:
        yield Rejected(root.origin, "no message of this tree has two ranked replies. Read it as oasst_chats")


def best_path(root: Node) -> Read:
    """The conversation that follows the best reply at every step: the first by rank, then the one with the longest
    talk after it, then the first of the file. It ends with an answer."""
    depth: dict[int, int] = {}
    for node, _ in reversed(list(walk(root))):
        depth[id(node)] = 1 + max((depth[id(reply)] for reply in node.replies), default=0)
    path, node = [root], root
    while node.replies:
        node = min(
            node.replies,
            key=lambda reply: (reply.rank if reply.rank is not None else float("inf"), -depth[id(reply)]),
        )
        path.append(node)
    while path and path[-1].role != "assistant":
        path.pop()
    if not path:
        return Rejected(root.origin, "nobody answered in this tree")
    answers = [each for each in path if each.role == "assistant"]
    return Row({"messages": [turn_of(each) for each in path], **about(root, path, answers)}, path[-1].origin)


def turn_of(node: Node) -> dict[str, str]:
    return {"role": node.role, "content": node.text}


def about(root: Node, shown_nodes: Sequence[Node], answers: Sequence[Node]) -> dict[str, Any]:
    """Columns that say where messages come from: the tree as group, language, who wrote the answers, and when."""
    fields = root.fields
    machines = [each for each in answers if each.fields.get("synthetic") is True]
    generators = dict.fromkeys(each.fields.get("model_name") for each in machines)
    dates = [each.fields.get("created_date") for each in answers]
    tree = fields.get("message_tree_id")
    own: dict[str, Any] = {
        "group": fields.get("group") or (tree if isinstance(tree, str) else root.id),
        "lang": fields.get("lang"),
        "made": "machine" if machines else "human",
        "generator": next((name for name in generators if isinstance(name, str)), None),
        "date": max((date for date in dates if isinstance(date, str)), default=None),
        "synthetic": True if any(each.fields.get("synthetic") is True for each in shown_nodes) else None,
        **{key: fields[key] for key in ("licence", "license", "terms") if fields.get(key) is not None},
    }
    return {key: value for key, value in own.items() if value is not None}
