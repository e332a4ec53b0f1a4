"""Sources -> datasets: the split, the refusals, the hash; and no bytes that get past the two ways out."""

import gzip
import hashlib
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.base.errors import UserError
from luthier.base.nouns import Chat, Choice, Labelled, Message, Pair, Rejected, Text
from luthier.base.source import Source
from luthier.data.dataset import Dataset, leaked, read_dataset, reasons, write_rejected
from luthier.data.formats import FORMATS, KNOWN


def qa(*pairs):
    return "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs)


def texts(*words):
    return "".join(json.dumps({"text": word}) + "\n" for word in words)


def dataset(folder, content, name="a.jsonl", **source):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_dataset("faq", Source(path=name, **source), folder)


def test_a_row_is_held_out_iff_its_hash_says_so(tmp_path):
    words = [f"document {i}" for i in range(400)]
    got = dataset(tmp_path, texts(*words), heldout=0.25)
    # The rule, written out again: SHA-256 of the text read as a fraction of 2^256.
    expected = [w for w in words if int(hashlib.sha256(w.encode()).hexdigest(), 16) < 2**256 // 4]
    assert [e.text for e in got.heldout] == expected and 70 < len(expected) < 130
    assert len(got.train) + len(got.heldout) == 400 == got.rows
    assert dataset(tmp_path, texts(*words), heldout=0).heldout == []


WORD = st.text("abc", min_size=1, max_size=3)


@settings(max_examples=50, deadline=None)
@given(words=st.lists(WORD, min_size=1, max_size=30), more=st.lists(WORD, max_size=10))
def test_rows_that_are_added_move_no_other_and_equals_stay_together(tmp_path_factory, words, more):
    folder = tmp_path_factory.mktemp("d")
    before = dataset(folder, texts(*words), heldout=0.5)
    after = dataset(folder, texts(*more, *words), heldout=0.5)
    held, kept = {e.text for e in after.heldout}, {e.text for e in after.train}
    assert not held & kept
    assert {e.text for e in before.heldout} <= held and {e.text for e in before.train} <= kept
    assert after.duplicates == len(more + words) - len(set(more + words))


def test_pairs_of_one_prompt_stay_together_and_files_can(tmp_path):
    rows = [{"prompt": f"q{i // 4}", "chosen": f"a{i}", "rejected": "b"} for i in range(200)]
    got = dataset(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), heldout=0.4)
    assert not {p.prompt for p in got.train} & {p.prompt for p in got.heldout} and got.heldout and got.train
    marks = [{"prompt": f"q{i % 40}", "completion": f"a{i}", "label": i % 3 == 0} for i in range(120)]
    got = dataset(tmp_path, "".join(json.dumps(row) + "\n" for row in marks), heldout=0.4)
    assert got.format == "labelled" and len(got.train) + len(got.heldout) == 120 and got.heldout
    assert not {e.prompt for e in got.train} & {e.prompt for e in got.heldout}
    folder = tmp_path / "kb"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i}.txt").write_text("|".join(f"{i} {j}" for j in range(5)))
    got = read_dataset("kb", Source(path="kb", split_by="origin", separator="|", heldout=0.5), tmp_path)
    sides = [{e.origin.partition(":")[0] for e in side} for side in (got.train, got.heldout)]
    assert got.files == 30 and got.rows == 150 and not sides[0] & sides[1] and all(sides)


def test_too_many_bad_rows_stop_with_each_kind_of_reason(tmp_path):
    content = qa(("q", "a"), ("q", ""), ("", "a"), ("q2", "")) + "{broken\n"
    with pytest.raises(UserError) as stop:
        dataset(tmp_path, content, max_rejected=0.5)
    assert stop.value.problems == [
        "data.faq: a.jsonl: 4 of 5 rows cannot be used: 80.0%, at most 50.0% may be.",
        "  a.jsonl:2: answer: is empty. Fill it or take the row away (and 1 like it)",
        "  a.jsonl:3: question: is empty. Fill it or take the row away",
        "  a.jsonl:5: not JSON: Expecting property name enclosed in double quotes at column 2",
        "  Mend them, or raise data.faq.max_rejected to go on without them.",
    ]
    got = dataset(tmp_path, content, max_rejected=0.8)
    assert got.rows == 5 and len(got.rejected) == 4
    assert reasons(got.rejected)["answer: is empty"] == 2
    write_rejected(tmp_path / "rejected.jsonl", got.rejected)
    lines = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [line["origin"] for line in lines] == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4", "a.jsonl:5"]
    assert lines[0]["reason"] == "answer: is empty. Fill it or take the row away"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", "", "not one usable row.\n  a.jsonl: the file is empty"),
        ("a.csv", "", "the file is empty"),
        ("a.parquet", "", "the file is empty"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "the file is empty"),
        ("a.jsonl", b"\x00\x9f\x92\xff" * 50 + b"\n\x01", "not one usable row.\n  a.jsonl:1: holds NUL bytes"),
        ("a.jsonl", b'{"messages": [{"role": "bot", "content": "x"}]}', "Map it: data.faq.roles: {bot: assistant}"),
        ("a.json", b'{"a": 1', "a.json:1: not JSON"),
    ],
)
def test_files_with_nothing_in_them(tmp_path, name, content, said):
    with pytest.raises(UserError) as stop:
        dataset(tmp_path, content, name)
    assert said in str(stop.value)


def test_mappings_that_cannot_hold(tmp_path):
    content = "Frage,reply\nq,a\n"
    with pytest.raises(UserError) as stop:
        dataset(tmp_path, content, "a.csv", columns={"question": "Frage", "answer": "repyl", "accept": "zzz"})
    assert stop.value.problems == [
        'data.faq.columns.answer: a.csv:2 has no column "repyl". Did you mean reply?',
        'data.faq.columns.accept: a.csv:2 has no column "zzz". There are: Frage, reply.',
    ]
    with pytest.raises(UserError, match=r"data.faq.roles.bot: asistant is not .* Did you mean assistant\?"):
        dataset(tmp_path, content, "a.csv", roles={"bot": "asistant"})
    got = dataset(tmp_path, content, "a.csv", columns={"question": "Frage", "answer": "reply"}, heldout=0)
    assert got.train == [Chat((Message("user", "q"), Message("assistant", "a")), "a.csv:2")] and got.format == "qa"


def test_limit_notes_and_hash(tmp_path):
    content = texts("a", "", "b", "c")
    got = dataset(tmp_path, content, limit=2, heldout=0, max_rejected=0.5)
    assert [e.text for e in got.train] == ["a", "b"] and got.rows == 3
    assert got.notes == ("format text, found from the columns",)
    spare = dataset(tmp_path, "text,label\nx,1\n", "b.csv")
    assert spare.notes == ("format text, found from the columns; not used: label",)
    same = dataset(tmp_path, content, limit=2, heldout=0, max_rejected=0.5)
    assert same.hash == got.hash
    other = {dataset(tmp_path, content, limit=3, heldout=0, max_rejected=0.5).hash, got.hash}
    other.add(dataset(tmp_path, content + texts("d"), limit=2, heldout=0, max_rejected=0.5).hash)
    assert len(other) == 3
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    assert dataset(moved, content, limit=2, heldout=0, max_rejected=0.5).hash == got.hash


def test_leaks_are_found_through_case_and_space():
    def chat(origin, *turns):
        roles = ["user", "assistant"] * len(turns)
        return Chat(tuple(Message(r, t) for r, t in zip(roles, turns, strict=False)), origin)

    train = [
        Text("One  Text\nhere", "t1"),
        chat("t2", "earlier", "yes", "What is X?", "It is Y."),
        chat("t3", "When?", "At nine."),
        Choice("C", ("a", "b"), 1, "t4"),
        Pair((Message("user", "P"),), "good", "bad", "t5"),
        Labelled((Message("user", "L"),), "right", True, "t6"),
        Labelled((Message("user", "L"),), "wrong", False, "t7"),
    ]
    evaluation = [
        Text("one text here", "leak text"),
        Text("one text", "ok text"),
        chat("leak answer", "what  is x?", "it is y."),
        chat("ok answer", "what is x?", "it is z."),
        chat("leak prompt", "when?"),
        chat("ok prompt", "What is X?"),  # there it was asked after other turns
        Choice("c", ("a", "B"), 1, "leak choice"),
        Choice("c", ("a", "b"), 0, "ok choice"),
        Pair((Message("user", "p"),), "Good", "other", "leak pair"),
        Pair((Message("user", "p"),), "fine", "bad", "ok pair"),
        chat("leak of a good answer", "l", "Right"),
        chat("ok, it was marked bad", "l", "wrong"),
    ]
    assert leaked(train, evaluation) == [e.origin for e in evaluation if e.origin.startswith("leak")]


def outcome(folder, name, content, **source) -> Dataset | None:
    """The dataset, or None where the user is told what is wrong; anything else is a bug."""
    try:
        return dataset(folder, content, name, max_rejected=1.0, **source)
    except UserError as error:
        assert error.problems and all(problem.strip() for problem in error.problems)
        return None


SCRAPS = [b'{"text": "a"}', b'{"messages": [{"role": "user", "content": "q"}]}', b'"a,b"', b"a,b", b"---", b"{%", b'"']
LINES = st.lists(st.binary(max_size=20) | st.sampled_from([*SCRAPS, b"PAR1", b"\xef\xbb\xbf", b"\xff\xfe"]), max_size=8)
KINDS = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.txt", "a.md", "a.jsonl.gz", "a.csv.gz"]


@settings(max_examples=400, deadline=None)
@given(lines=LINES, name=st.sampled_from(KINDS), packed=st.booleans(), separator=st.none() | st.text(max_size=2))
@example(lines=[b"[" * 5000], name="a.json", packed=False, separator=None)
@example(lines=[b'{"a":' * 5000], name="a.jsonl", packed=False, separator=None)
def test_no_bytes_do_more_harm_than_a_user_error(tmp_path_factory, lines, name, packed, separator):
    content = b"\n".join(lines)
    content = gzip.compress(content) if packed and name.endswith(".gz") else content
    got = outcome(tmp_path_factory.mktemp("f"), name, content, separator=separator)
    assert got is None or got.rows == len(got.train) + len(got.heldout) + len(got.rejected)


WORDS = ["user", "human", "A", "\n\nHuman: q\n\nAssistant: a", "[1]", "{}", "\ud800"]
KEYS = ["role", "content", "from", "value", "text", "label", "type"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=5) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=8,
)
COLUMNS = [*sorted(KNOWN), "Other", ""]


@settings(max_examples=400, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(COLUMNS), JSON, max_size=5), min_size=1, max_size=4),
    format=st.sampled_from(["auto", *FORMATS]),
)
def test_no_rows_do_more_harm_than_a_user_error(tmp_path_factory, rows, format):
    content = "".join(json.dumps(row) + "\n" for row in rows)
    filled = {"prompt": "{text} {Other}", "answer": "{answer}"} if format == "template" else {}
    got = outcome(tmp_path_factory.mktemp("r"), "a.jsonl", content, format=format, **filled)
    if got is not None:
        assert got.rows == len(rows) == len(got.train) + len(got.heldout) + len(got.rejected)
        assert all(isinstance(row, Rejected) and row.reason for row in got.rejected)
        for made in got.train + got.heldout:
            json.dumps(made.origin).encode()
            if isinstance(made, Chat):
                assert any(m.role == "user" for m in made.messages) and all(m.content.strip() for m in made.messages)


def test_a_template_makes_one_tasks_conversations_of_any_row(tmp_path):
    rows = [{"Body": "Rain.", "n": 3, "short": "wet", "accept": "wet"}, {"Body": "Sun.", "n": 4, "short": "dry"}]
    told = {"prompt": "In {{braces}} of {n} words: {Body}", "answer": "{short}!", "system": "Be brief.", "heldout": 0}
    got = dataset(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), **told)
    assert got.format == "template"
    # A column that the formats know by name (body) is found however it is spelt.
    asked = [Message("system", "Be brief."), Message("user", "In {braces} of 3 words: Rain.")]
    assert got.train[0] == Chat((*asked, Message("assistant", "wet!")), "a.jsonl:1", ("wet",), None)
    assert [m.content for m in got.train[1].messages[1:]] == ["In {braces} of 4 words: Sun.", "dry!"]
    alone = dataset(tmp_path, json.dumps(rows[0]) + "\n", prompt="{Body}", heldout=0).train[0]
    assert alone.messages == (Message("user", "Rain."),) and alone.answer is None
    assert alone.meta == {"n": 3, "short": "wet"}


def test_another_template_is_other_data(tmp_path):
    row = json.dumps({"a": "x", "b": "y"}) + "\n"
    hashes = {dataset(tmp_path, row, prompt="{a}", answer=answer).hash for answer in ("{b}", "{b}.", None)}
    assert len(hashes) == 3


def test_a_template_whose_columns_are_not_there(tmp_path):
    rows = [{"text": f"t{i}", "summary": f"s{i}"} for i in range(30)]
    lines = [json.dumps(row) + "\n" for row in rows]
    with pytest.raises(UserError) as refused:
        dataset(tmp_path, "".join(lines), prompt="Sum up: {txt}", answer="{of}{summary}")
    assert refused.value.problems == [
        'data.faq.prompt: a.jsonl:1 has no column "txt". Did you mean text?',
        'data.faq.answer: a.jsonl:1 has no column "of". There are: text, summary.',
    ]
    lines[7], lines[9] = json.dumps({"text": "t"}) + "\n", json.dumps({"text": " ", "summary": "s"}) + "\n"
    got = dataset(tmp_path, "".join(lines), prompt="Sum up: {text}", answer="{summary}")
    assert [(bad.origin, bad.reason.split(" (")[0]) for bad in got.rejected] == [
        ("a.jsonl:8", 'no column "summary"'),
        ("a.jsonl:10", "text: is empty. Fill it or take the row away"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "settings", "said"),
    [
        ("a.jsonl", texts("x"), {"system": "Be brief."}, "data.faq.system: its rows are text, and no conversations."),
        ("a.jsonl", texts("x"), {"separator": "--"}, "data.faq.separator: is for .txt files, and there are none."),
        ("a.jsonl", qa(("q", "a")), {"roles": {"bot": "assistant"}}, "data.faq.roles: its rows are qa, which name no"),
    ],
)
def test_settings_that_such_rows_have_no_use_for_are_refused(name, content, settings, said, tmp_path):
    with pytest.raises(UserError) as refused:
        dataset(tmp_path, content, name, **settings)
    (told,) = refused.value.problems
    assert told.startswith(said) and told.endswith("Remove it.")
