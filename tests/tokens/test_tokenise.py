"""Tokenising a streamed source gives what preparing it in memory gives: with one process or several, killed or not."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap

import pytest

from luthier.base import workers as w
from luthier.base.errors import RunError, UserError
from luthier.base.source import Source
from luthier.base.store import open_store
from luthier.data import chunks as c
from luthier.data.dataset import read_dataset
from luthier.data.survey import survey
from luthier.tokens.facts import Facts, facts_of, from_json, marks_of, total
from luthier.tokens.masking import prepare_documents
from luthier.tokens.prepare import prepare
from luthier.tokens.render import Renderer
from luthier.tokens.tokenise import Rules, tokenise, tokenizer_hash
from luthier.tokens.tokenizer import ensure_chat_template, train_encoder_tokenizer, train_tokenizer
from tokens.work import double

WORDS = ["the", "lamp", "é", "名前", "is", "red,", "🙂", "and", "\n"]
SMALL = 1500
"""Bytes of a chunk."""


def quiet(progress):
    return None


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of documents and conversations, of 8 to 10 chunks each, and a renderer."""
    folder = tmp_path_factory.mktemp("tokenise")
    texts = [" ".join(WORDS[n * k % len(WORDS)] for k in range(1, 3 + n % 40)) for n in range(120)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    chats = [{"question": text[:60] or "?", "answer": f"It is {n}."} for n, text in enumerate(texts)]
    rows = [json.dumps(row) + "\n" for row in chats]
    (folder / "chats.jsonl").write_text("".join([*rows[:7], "{bad\n", *rows[7:]]))
    tokenizer = train_tokenizer(texts, 400)
    ensure_chat_template(tokenizer)
    return folder, Renderer(tokenizer)


def source(name: str, stream: bool = True) -> Source:
    return Source(path=f"{name}.jsonl", heldout=0.1, stream=stream)


def tokenised(world, name, rules, store="shards", workers=1, tell=quiet):
    folder, renderer = world
    place = open_store(store, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(c, "SMALLEST_BYTES", SMALL)
        found = survey(name, source(name), folder, place, 1, quiet).survey
        return tokenise(found, renderer, rules, place, workers, tell)


@pytest.mark.parametrize("train_on", ["answers", "all"])
@pytest.mark.parametrize("rule", ["drop", "truncate"])
def test_conversations_are_as_in_memory(world, rule, train_on):
    folder, renderer = world
    whole = prepare(read_dataset("chats", source("chats", False), folder).train, renderer, 40, rule, train_on)
    made = tokenised(world, "chats", Rules(40, "split", rule, train_on))
    assert list(made.sequences) == whole.sequences and len(made.sequences.entries) > 4
    assert made.facts == facts_of(whole, marks_of(renderer))
    assert whole.dropped or whole.truncated


@pytest.mark.parametrize("rule", ["drop", "truncate", "split"])
def test_documents_are_as_in_memory(world, rule):
    folder, renderer = world
    whole = prepare(read_dataset("texts", source("texts", False), folder).train, renderer, 30, rule)
    made = tokenised(world, "texts", Rules(30, rule, "error"))
    assert list(made.sequences) == whole.sequences
    assert made.facts == facts_of(whole, marks_of(renderer))
    assert made.sequences.lengths.tolist() == [len(row.ids) for row in whole.sequences]


def test_documents_of_an_encoder_are_as_in_memory(world):
    folder, _ = world
    rows = read_dataset("texts", source("texts", False), folder).train
    renderer = Renderer(train_encoder_tokenizer([row.text for row in rows], 400))
    whole = prepare_documents(rows, renderer.tokenizer, 30, "split")
    made = tokenised((folder, renderer), "texts", Rules(30, "split", "split", masked=True), "encoder")
    assert list(made.sequences) == whole.sequences and whole.split
    assert made.facts == facts_of(whole, marks_of(renderer))


def test_facts_of_parts_are_those_of_the_whole(world):
    folder, renderer = world
    marks = marks_of(renderer)
    rows = read_dataset("texts", source("texts", False), folder).train
    parts = [facts_of(prepare(rows[k : k + 10], renderer, 30, "drop"), marks) for k in range(0, len(rows), 10)]
    assert total(parts) == facts_of(prepare(rows, renderer, 30, "drop"), marks)
    assert total([]) == Facts() and [from_json(json.loads(json.dumps(vars(part)))) for part in parts] == parts


def test_a_row_that_is_too_long_is_refused_by_name(world):
    with pytest.raises(UserError, match=r"texts.jsonl:\d+: \d+ tokens, longer than max_length 30"):
        tokenised(world, "texts", Rules(30, "error", "error"), "refused")


def content(folder) -> dict[str, bytes]:
    """Every file of the only folder of tokens."""
    (made,) = folder.glob("*-tokens-*")
    return {path.name: path.read_bytes() for path in made.iterdir()}


def test_several_processes_make_the_same_bytes(world):
    folder, _ = world
    rules = Rules(64, "split", "drop")
    one, three = (tokenised(world, "texts", rules, f"by{n}", n) for n in (1, 3))
    assert content(folder / "by1") == content(folder / "by3")
    assert list(one.sequences) == list(three.sequences) and one.facts == three.facts


def test_several_processes_refuse_what_one_refuses(world):
    said = []
    for workers in (1, 2):
        with pytest.raises(UserError) as error:
            tokenised(world, "texts", Rules(30, "error", "error"), f"no{workers}", workers)
        said.append(error.value.problems)
    assert said[0] == said[1]


KILLED = textwrap.dedent("""\
    import json, os, pickle, signal, sys
    from pathlib import Path
    from luthier.base.source import Source
    from luthier.base.store import open_store
    from luthier.data import chunks
    from luthier.data.survey import survey
    from luthier.tokens.tokenise import Rules, tokenise

    folder, store, kill_at, workers, size = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    chunks.SMALLEST_BYTES = size
    renamed, replace = 0, os.replace

    def counted(old, new):  # the system's own call: the process ends between two of them, or within one
        global renamed
        renamed += 1
        if renamed == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(old, new)

    os.replace = counted
    renderer = pickle.loads((folder / "renderer.pickle").read_bytes())
    place, quiet = open_store(store, folder), lambda progress: None
    found = survey("texts", Source(path="texts.jsonl", heldout=0.1, stream=True), folder, place, 1, quiet)
    tokenise(found.survey, renderer, Rules(64, "split", "drop"), place, workers, quiet)
""")


@pytest.mark.parametrize(("kill_at", "workers"), [(9, 1), (35, 2)])
def test_killed_while_tokenising_and_run_again_is_uninterrupted(world, tmp_path, kill_at, workers):
    """Killed while the survey is written, and with workers at work, who end too: they hold the pipe of stderr."""
    folder, renderer = world
    (folder / "renderer.pickle").write_bytes(pickle.dumps(renderer))
    store, whole = str(tmp_path / "killed"), tokenised(world, "texts", Rules(64, "split", "drop"), "whole")
    numbers = [str(n) for n in (kill_at, workers, SMALL)]
    command = [sys.executable, "-c", KILLED, str(folder), store, *numbers]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = list((tmp_path / "killed").rglob(".*.tmp"))
    assert left, "it was killed while it wrote"
    again = tokenised(world, "texts", Rules(64, "split", "drop"), store)
    assert content(tmp_path / "killed") == content(folder / "whole")
    assert list(again.sequences) == list(whole.sequences) and again.facts == whole.facts


@pytest.mark.parametrize(
    ("bad", "error", "said"),
    [
        (13, RunError, r"a worker process ended \(-9\). It was probably out of memory. Set `threads` lower"),
        (14, UserError, "rows:14: not lucky"),
        (15, RunError, "(?s)a worker failed. This is a defect .*ZeroDivisionError"),
    ],
)
def test_workers_that_fail(bad, error, said):
    with pytest.raises(error, match=said):
        list(w.each(double, 2, [1, 2, bad, 3, 4], 2))


def test_workers_give_every_result_once_and_end():
    made = dict(w.each(double, 2, iter(range(10)), 3))
    assert made == {n: 2 * n for n in range(10)}
    some = w.each(double, 2, iter(range(100)), 2)
    next(some)
    some.close()  # what was begun is left, and so are the workers
    assert list(w.each(lambda shared, piece: shared + piece, 1, [1, 2], 3)) == [(1, 2), (2, 3)], "not to be sent: here"


def test_tokenizers_that_read_otherwise_have_other_hashes(world):
    _, renderer = world
    other = train_tokenizer(["a b c d"] * 3, 300)
    hashes = [tokenizer_hash(Renderer(other))]
    ensure_chat_template(other)
    hashes += [tokenizer_hash(one) for one in (Renderer(other), Renderer(other, frozenset({7})), renderer)]
    assert len(set(hashes)) == 4 and tokenizer_hash(Renderer(other)) == hashes[1]
