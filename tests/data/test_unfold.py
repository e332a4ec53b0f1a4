"""Rows that hold several examples: trees, ratings, passages, instances; every reason why a part of one is none."""

from __future__ import annotations

import gzip
import json
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.errors import UserError
from luthier.base.nouns import Chat, Message, Pair, Rejected, Row
from luthier.base.source import Source
from luthier.data.dataset import read_dataset
from luthier.data.messages import Reading
from luthier.data.unfold import UNFOLD, unfolded

READING = Reading("x", {}, None, unanswerable="Nobody says.")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(tmp_path, rows, **source):
    write(tmp_path / "d.jsonl", rows)
    return read_dataset("x", Source(path="d.jsonl", heldout=0, max_rejected=1, **source), tmp_path)


def message(name, role, text, *replies, **more):
    return {"message_id": name, "role": role, "text": text, "replies": list(replies), **more}


def tree(root, **more):
    return {"message_tree_id": root["message_id"], "tree_state": "ready_for_export", "prompt": root, **more}


TREE = tree(
    message(
        "q",
        "prompter",
        "Why?",
        message("b", "assistant", "Second.", rank=1, lang="en"),
        message("a", "assistant", "First.", message("q2", "prompter", "And?"), rank=0, created_date="2023-02-01"),
        message("c", "assistant", "Third.", rank=2, synthetic=True, model_name="chip20b"),
        message("d", "assistant", "Nobody ranked me."),
        lang="en",
    )
)


def test_ranked_replies_become_every_pair_of_them(tmp_path):
    got = read(tmp_path, [TREE])
    assert got.format == "oasst"
    prompt = (Message("user", "Why?"),)
    assert [(p.prompt, p.chosen, p.rejected, p.origin) for p in got.train] == [
        (prompt, "First.", "Second.", "d.jsonl:1#a>b"),
        (prompt, "First.", "Third.", "d.jsonl:1#a>c"),
        (prompt, "Second.", "Third.", "d.jsonl:1#b>c"),
    ]
    assert got.train[0].meta == {
        "ranked": ["First.", "Second.", "Third."],
        "ranks": [0, 1, 2],
        "group": "q",
        "lang": "en",
        "made": "human",
        "date": "2023-02-01",
    }
    third = got.train[1].meta
    assert (third["made"], third["generator"], third["synthetic"]) == ("machine", "chip20b", True)


def test_the_best_path_is_the_conversation(tmp_path):
    deep = message("q3", "prompter", "So?", message("e", "assistant", "So."))
    best = message("a", "assistant", "First.", message("q2", "prompter", "And?"), deep, rank=0)
    got = read(tmp_path, [tree(message("q", "prompter", "Why?", best))], format="oasst_chats")
    assert got.train == [
        Chat(
            (
                Message("user", "Why?"),
                Message("assistant", "First."),
                Message("user", "So?"),
                Message("assistant", "So."),
            ),
            "d.jsonl:1#e",
            meta={"group": "q", "made": "human"},
        )
    ]


BAD_TREES = [
    (tree(message("q", "prompter", "Why?")), "no message of this tree has two ranked replies. Read it as oasst_chats"),
    (tree(message("q", "prompter", "x"), tree_state="halted_by_moderator"), "tree_state: halted_by_moderator. "
     "OpenAssistant gave this tree up"),
    (tree(message("q", "prompter", "x", message("a", "assistant", "y"), deleted=True)),
     "message q: deleted (and 1 reply with it)"),
    (tree(message("q", "prompter", "x", review_result=False)),
     "message q: review_result: false. The reviewers turned it down"),
    (tree(message("q", "prompter", " ")), "message q: text: is empty"),
    (tree(message("q", "narrator", "x")), 'message q: role: "narrator" is not prompter or assistant'),
    (tree({**message("q", "prompter", "x"), "message_id": None}), "message_id: null is not an id"),
    (tree(message("q", "prompter", "x", message("q", "assistant", "y"))), 'message_id: "q" stands in its tree twice'),
]  # fmt: skip


@pytest.mark.parametrize(("row", "reason"), BAD_TREES)
def test_what_is_wrong_with_a_tree(row, reason):
    found = list(unfolded([Row(row, "o:1")], "oasst", READING))
    assert reason in [item.reason for item in found if isinstance(item, Rejected)]


def test_two_of_one_rank_are_no_pair():
    row = tree(
        message("q", "prompter", "x", message("a", "assistant", "A", rank=0), message("b", "assistant", "B", rank=0))
    )
    (item,) = unfolded([Row(row, "o:1")], "oasst", READING)
    assert item == Rejected("o:1#a>b", "rank: both are 0; of two that are equal none is the better")


def flat(name, parent, role="assistant", text="t", **more):
    return {"message_id": name, "parent_id": parent, "role": role, "text": text, **more}


def flattened(row):
    """A tree as the flat table has it, children before their parents (any order must do)."""
    rows, left = [], [(row["prompt"], None)]
    while left:
        given, parent = left.pop()
        rows.append({**{k: v for k, v in given.items() if k != "replies"}, "parent_id": parent,
                     "message_tree_id": row["message_tree_id"]})  # fmt: skip
        left += [(reply, given["message_id"]) for reply in given["replies"]]
    return rows[::-1]


def test_the_flat_table_is_the_same_trees(tmp_path):
    nested, table = read(tmp_path, [TREE]), read(tmp_path, flattened(TREE))
    key = lambda pair: (pair.prompt, pair.chosen, pair.rejected)  # noqa: E731
    assert table.format == "oasst"
    assert sorted(map(key, table.train)) == sorted(map(key, nested.train))
    assert {pair.meta["group"] for pair in table.train} == {"q"}


def test_circles_and_orphans_of_the_table_are_told(tmp_path):
    rows = [
        flat("q", None, "prompter", "Why?"),
        flat("a", "q", text="A", rank=0),
        flat("b", "q", text="B", rank=1),
        flat("x", "y"),
        flat("y", "z", "prompter"),
        flat("z", "x"),
        flat("below", "x", "prompter"),
        flat("orphan", "gone"),
        flat("self", "self"),
        flat("a", "q", text="again"),
    ]
    got = read(tmp_path, rows)
    assert [(pair.chosen, pair.rejected) for pair in got.train] == [("A", "B")]
    reasons = {item.origin.partition("#")[2]: item.reason for item in got.rejected}
    circle = "parent_id: its parents go in a circle: x → y → z → x"
    assert reasons == {
        "a": 'message_id: "a" stands in the table twice',
        "x": circle,
        "y": circle,
        "z": circle,
        "below": 'parent_id: it hangs on "x", which is no use',
        "orphan": 'parent_id: "gone" is not in the table, or was no use',
        "self": "parent_id: its parents go in a circle: self → self",
    }


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 8), st.sampled_from(["prompter", "assistant"])), max_size=12)
)
def test_any_table_of_parents_ends_and_loses_nothing(edges):
    """Every message is in a tree or rejected with a reason, once; a cycle never hangs."""
    rows = [
        Row(flat(f"m{i}", None if parent == 8 else f"m{parent}", role, f"text {n}", rank=n), f"o:{n}")
        for n, (i, parent, role) in enumerate(edges)
    ]
    for shape in ("oasst", "oasst_chats"):
        items = list(unfolded(rows, shape, READING))
        rejected = {item.origin.partition("#")[0] for item in items if isinstance(item, Rejected)}
        parents = {f"m{i}": None if parent == 8 else f"m{parent}" for i, parent, _ in reversed(edges)}

        def rooted(name, parents=parents):
            seen = set()
            while name is not None and name in parents and name not in seen:
                seen.add(name)
                name = parents[name]
            return name is None

        first = set()
        for n, (i, _, _) in enumerate(edges):
            if f"m{i}" in first or not rooted(f"m{i}"):
                assert f"o:{n}" in rejected
            first.add(f"m{i}")


def test_real_trees(shared_data):
    """99 trees with 632 ranked replies: a slow count by hand says 745 pairs."""
    got = read_dataset("x", Source(path="oasst", heldout=0), shared_data)
    want = []
    with gzip.open(shared_data / "oasst" / "en_100_tree.jsonl.gz", "rt") as lines:
        for line in lines:
            left = [json.loads(line)["prompt"]]
            while left:
                node = left.pop()
                left += node["replies"]
                ranked = sorted((r for r in node["replies"] if "rank" in r), key=lambda r: r["rank"])
                want += [(a["text"], b["text"]) for a, b in combinations(ranked, 2)]
    assert (got.format, len(got.train), len(want)) == ("oasst", 745, 745)
    assert sorted((pair.chosen, pair.rejected) for pair in got.train) == sorted(want)
    assert len({text for pair in got.train for text in pair.meta["ranked"]}) == 632  # two replies are the same words
    assert all(pair.prompt[-1].role == "user" for pair in got.train)
    chats = read_dataset("x", Source(path="oasst", format="oasst_chats", heldout=0), shared_data)
    assert len(chats.train) == 99 and all(chat.answer for chat in chats.train)


FEEDBACK = {
    "source": "evol_instruct",
    "instruction": "Name a star.",
    "completions": [
        {"model": "gpt-4", "response": "Vega.", "overall_score": 8.0, "fine-grained_score": 4.75},
        {"model": "llama-2-7b-chat", "response": "The Moon.", "overall_score": 10, "fine-grained_score": 1.5},
        {"model": "alpaca-7b", "response": "Deneb.", "overall_score": 7, "fine-grained_score": 4.75},
        {"model": "x", "response": "", "overall_score": 7, "fine-grained_score": 4},
    ],
}


def test_ratings_become_pairs_with_their_difference(tmp_path):
    """4.75 = 4.75 is no pair; the two others have margin 3.25. overall_score (10 for the worst) is not looked at."""
    got = read(tmp_path, [FEEDBACK])
    assert got.format == "ultrafeedback"
    assert [(p.prompt[0].content, p.chosen, p.rejected, p.margin) for p in got.train] == [
        ("Name a star.", "Vega.", "The Moon.", 3.25),
        ("Name a star.", "Deneb.", "The Moon.", 3.25),
    ]
    assert [(p.meta["generator"], p.meta["made"]) for p in got.train] == [
        ("gpt-4", "machine"),
        ("alpaca-7b", "machine"),
    ]
    assert [(r.origin, r.reason) for r in got.rejected] == [("d.jsonl:1#3", "completions[3].response: is empty")]


def test_ratings_beside_the_answers_and_of_four_aspects(tmp_path):
    beside = {"prompt": "Q", "responses": ["a", "b"], "scores": [1, 3]}
    aspects = {
        "instruction": "Q",
        "completions": [
            {"response": "a", "annotations": {"honesty": {"Rating": "2"}, "truth": {"Rating": "N/A"}}},
            {"response": "b", "annotations": {"honesty": [{"Rating": "4"}], "truth": {"Rating": "5"}}},
        ],
    }
    got = read(tmp_path, [beside, aspects])
    assert [(p.chosen, p.rejected, p.margin) for p in got.train] == [("b", "a", 2.0), ("b", "a", 2.5)]


COMPARISONS = [
    ({"history": "Q", "human_ref_A": "a", "human_ref_B": "b", "labels": 0, "score_A": 1}, ("b", "a")),
    ({"history": "Q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}, ("a", "b")),
    ({"instruction": "Q", "input": "", "output_1": "a", "output_2": "b", "preference": 2}, ("b", "a")),
    ({"instruction": "Q", "output_1": "a", "output_2": "b", "preference": "1"}, ("a", "b")),
    ({"prompt": "Q", "response_a": "a", "response_b": "b", "winner": "model_b"}, ("b", "a")),
    ({"prompt": "Q", "response_0": "a", "response_1": "b", "better_response_id": 0}, ("a", "b")),
    (
        {
            "conversation_a": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "a"}],
            "conversation_b": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "b"}],
            "winner": "model_a",
        },
        ("a", "b"),
    ),
]


@pytest.mark.parametrize(("row", "sides"), COMPARISONS)
def test_two_answers_and_which_was_liked(row, sides, tmp_path):
    got = read(tmp_path, [row])
    assert got.format == "comparisons"
    assert [(p.prompt, p.chosen, p.rejected) for p in got.train] == [((Message("user", "Q"),), *sides)]


def test_a_tie_is_no_pair():
    row = {"prompt": "Q", "response_a": "a", "response_b": "b", "winner": "tie (bothbad)"}
    (item,) = unfolded([Row(row, "o:1")], "comparisons", READING)
    assert item == Rejected("o:1", 'winner: "tie (bothbad)" likes neither of the two')


ARTICLE = {
    "title": "Vega",
    "paragraphs": [
        {
            "context": "Vega is 25 light years away.",
            "qas": [
                {"id": "1", "question": "How far is it?", "answers": [{"text": "25"}, {"text": "25 light years"}] * 2},
                {"id": "2", "question": "Who owns it?", "answers": [], "is_impossible": True},
                {"id": "3", "question": ""},
            ],
        },
        {"context": "No questions."},
    ],
}
FLAT = [
    {"id": "1", "title": "Vega", "context": "Vega is 25 light years away.", "question": "How far is it?",
     "answers": {"text": ["25", "25 light years"], "answer_start": [8, 8]}},
    {"id": "2", "title": "Vega", "context": "Vega is 25 light years away.", "question": "Who owns it?",
     "answers": {"text": [], "answer_start": []}},
]  # fmt: skip


def test_passages_with_questions(tmp_path):
    (tmp_path / "squad.json").write_text(json.dumps({"version": "v2.0", "data": [ARTICLE]}))
    source = Source(path="squad.json", heldout=0, max_rejected=1, unanswerable="Nobody says.")
    got = read_dataset("x", source, tmp_path)
    assert got.format == "squad"
    assert [(c.prompt[0].content, c.answer, c.accept, c.meta) for c in got.train] == [
        (
            "Vega is 25 light years away.\n\nHow far is it?",
            "25",
            ("25", "25 light years"),
            {"group": "Vega", "title": "Vega", "id": "1", "answerable": True},
        ),
        (
            "Vega is 25 light years away.\n\nWho owns it?",
            "Nobody says.",
            (),
            {"group": "Vega", "title": "Vega", "id": "2", "answerable": False},
        ),
    ]
    assert [(r.origin, r.reason) for r in got.rejected] == [
        ("squad.json[0]#0/2", "question: is empty"),
        ("squad.json[0]#1", "paragraphs[1]: no list of questions (qas)"),
    ]


def test_the_hubs_flat_squad_is_the_same(tmp_path):
    got = read(tmp_path, FLAT)
    assert got.format == "squad"
    assert [(c.answer, c.accept) for c in got.train] == [
        ("25", ("25", "25 light years")),
        ("The passage does not say.", ()),
    ]
    without = read(tmp_path, FLAT, unanswerable=None)
    assert len(without.train) == 1
    assert without.rejected[0].reason.startswith("the passage does not answer the question. Give ")


def test_seeds_with_instances(tmp_path):
    instances = [{"input": "1+1", "output": "2"}, {"input": "", "output": "0"}, {"input": "x"}]
    row = {"id": "t", "instruction": "Add.", "instances": instances}
    got = read(tmp_path, [row])
    assert got.format == "self_instruct"
    assert [(c.prompt[0].content, c.answer, c.meta["group"]) for c in got.train] == [
        ("Add.\n\n1+1", "2", "t"),
        ("Add.", "0", "t"),
    ]
    assert [r.reason for r in got.rejected] == ['instances[2]: {"input": "x"} has no output']


def test_rows_of_a_group_stay_on_one_side(tmp_path):
    """Every article on one side, both sides there, and rows that are added move none."""
    rows = [
        {**FLAT[0], "title": f"article {i % 20}", "question": f"How far is it, for the {i}th time?"} for i in range(100)
    ]
    write(tmp_path / "d.jsonl", rows)
    source = Source(path="d.jsonl", heldout=0.3, split_by="group")
    got = read_dataset("x", source, tmp_path)
    train, held = ({c.meta["group"] for c in side} for side in (got.train, got.heldout))
    assert train and held and not train & held and len(train | held) == 20
    write(tmp_path / "d.jsonl", [{**FLAT[0], "title": "new"}, *rows])
    more = read_dataset("x", source, tmp_path)
    assert held <= {c.meta["group"] for c in more.heldout} <= held | {"new"}


def test_a_column_of_ones_own_is_the_group_even_of_texts(tmp_path):
    write(tmp_path / "d.jsonl", [{"text": f"text {i}", "customer": f"c{i % 10}"} for i in range(40)])
    got = read_dataset("x", Source(path="d.jsonl", heldout=0.4, split_by="group", group="customer"), tmp_path)
    train, held = ({t.meta["group"] for t in side} for side in (got.train, got.heldout))
    assert train and held and not train & held


WORDS = st.sampled_from(["", " ", "a", "b", "assistant", "prompter", "[", "{}"])
KEYS = ("text", "role", "message_id", "replies", "rank", "response", "score", "context", "qas", "question", "answers",
        "output", "input", "annotations", "Rating")  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
COLUMNS = ("prompt", "message_id", "parent_id", "text", "role", "instruction", "completions", "responses", "scores",
           "paragraphs", "context", "question", "answers", "instances", "title", "winner", "response_a", "response_b",
           "labels", "human_ref_A", "human_ref_B", "tree_state")  # fmt: skip


@given(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=6), st.sampled_from(sorted(UNFOLD)))
def test_no_row_is_a_traceback(fields, shape):
    UNFOLD[shape].detects(fields)
    for item in unfolded([Row(fields, "o:1")], shape, READING):
        assert isinstance(item, Row) or item.reason


def test_streamed_pairs_are_refused_and_streamed_passages_are_not(tmp_path):
    from luthier.base.store import Store
    from luthier.data.survey import survey

    write(tmp_path / "d.jsonl", FLAT * 30)
    whole = read_dataset("x", Source(path="d.jsonl"), tmp_path)
    store = Store("s", tmp_path / "s")
    data = survey("x", Source(path="d.jsonl", stream=True), tmp_path, store, 1, lambda *_: None)
    assert (data.rows, data.survey.count("train")) == (whole.rows, len(whole.train)) and data.format == "squad"
    write(tmp_path / "t.jsonl", [TREE])
    with pytest.raises(UserError, match="its rows are oasst; only documents and conversations"):
        survey("x", Source(path="t.jsonl", stream=True), tmp_path, store, 1, lambda *_: None)


def test_pairs_are_what_reward_models_read(tmp_path):
    assert all(isinstance(pair, Pair) for row in (TREE, FEEDBACK) for pair in read(tmp_path, [row]).train)
