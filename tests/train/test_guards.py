"""Guards: each holds on good rows, and refuses the rows it is there for, naming them and the fix."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from architectures import tiny
from luthier.base.errors import RunError, UserError
from luthier.base.events import EventLog, read_events
from luthier.base.nouns import Chat, Message, Text, Tokens
from luthier.data.dataset import leaked
from luthier.model.attention import ForestPlan
from luthier.model.verify import choose_layout
from luthier.tokens.prepare import prepare
from luthier.tokens.render import Renderer
from luthier.tokens.tokenizer import ensure_chat_template, train_tokenizer
from luthier.train import guards as g
from run.disks import mounted, read_only
from train.rows import END, draw

TEMPLATES = Path(__file__).parents[1] / "templates"
ENDS = frozenset({END})


def row(ids, weights, line=1) -> Tokens:
    return Tokens(tuple(ids), tuple(float(w) for w in weights), f"faq.jsonl:{line}")


GOOD = [row([1, 5, 6, 7, END], [0, 0, 1, 1, 1], 1), row([1, 8, 9, END], [0, 0, 1, 1], 2)]
MANY = [row([1, 5, 6], [0, 0, 0], line) for line in range(3, 10)]


def refused(guard: g.Guard, *said: str) -> None:
    """It does not hold, and says all of this in one line."""
    assert not guard.ok
    assert "\n" not in guard.detail
    for part in said:
        assert part in guard.detail, guard.detail


def test_supervised_tokens():
    held = g.supervised(GOOD)
    assert held == g.Guard("supervised tokens", True, "5 of 9 tokens (56%) in 2 rows")
    refused(g.supervised([*GOOD, *MANY]), "7 rows", "faq.jsonl:3, faq.jsonl:4, faq.jsonl:5 and 4 more", "luthier check")
    refused(g.supervised([]), "no rows to train on", "rejected.jsonl")


def test_a_weight_on_the_first_token_supervises_nothing():
    """Nothing precedes it, so nothing predicts it."""
    refused(g.supervised([row([5, 6, 7], [1, 0, 0])]), "faq.jsonl:1")


def test_answers_end():
    assert g.answers_end(GOOD, ENDS).ok
    # A newline that the template writes after the end carries no weight, and does not count.
    assert g.answers_end([row([1, 5, END, 9], [0, 1, 1, 0])], ENDS).ok
    endless = row([1, 5, 6, 7], [0, 0, 1, 1], 7)
    refused(g.answers_end([*GOOD, endless], ENDS), "1 rows", "faq.jsonl:7", "base.chat_template", "do not truncate")
    masked = row([1, 5, 6, END], [0, 0, 1, 0], 8)  # the end is there and is not learned
    refused(g.answers_end([masked], ENDS), "faq.jsonl:8")


def test_nothing_lost():
    assert g.nothing_lost(0, [], allowed=False).ok
    assert "12 supervised tokens cut in 1 rows" in g.nothing_lost(12, ["faq.jsonl:3"], allowed=True).detail
    refused(
        g.nothing_lost(12, ["faq.jsonl:3"], allowed=False),
        "12 supervised tokens", "faq.jsonl:3", "Raise max_length", "overlong: truncate",
    )  # fmt: skip


def test_single_bos():
    assert g.single_bos(GOOD, 1).ok
    assert g.single_bos([row([5, 5, 6], [0, 1, 1])], None).ok, "a tokenizer without BOS doubles none"
    assert g.single_bos([row([5, 1, 1], [0, 1, 1])], 1).ok, "only the beginning counts"
    doubled = row([1, 1, 5, END], [0, 0, 1, 1], 4)
    refused(g.single_bos([*GOOD, doubled], 1), "1 rows", "faq.jsonl:4", "remove it from the template")


def test_pad_unsupervised():
    assert g.pad_unsupervised(GOOD, 0, ENDS).ok
    assert g.pad_unsupervised([row([1, 0, 5], [0, 0, 1])], 0, ENDS).ok, "a pad without weight is harmless"
    assert g.pad_unsupervised(GOOD, END, ENDS).ok, "a pad that is the end too is there as the end"
    assert g.pad_unsupervised(GOOD, None, ENDS).ok
    refused(g.pad_unsupervised([*GOOD, row([1, 5, 0], [0, 1, 1], 9)], 0, ENDS), "faq.jsonl:9", "pad token")


@pytest.fixture(scope="module")
def tokenizer():
    """A small tokenizer without a template."""
    return train_tokenizer(["The tent is red. What colour is the tent?"] * 3, 300)


CHATS = [
    Chat((Message("user", "What colour?"), Message("assistant", "Red.")), "faq.jsonl:1"),
    Chat((Message("system", "Be brief."), Message("user", "Where?"), Message("assistant", "Here.")), "faq.jsonl:2"),
]


def with_template(tokenizer, template: str | None):
    """A copy of the tokenizer with a chat template; None: ChatML as luthier writes it."""
    import copy

    made = copy.deepcopy(tokenizer)
    made.chat_template = template
    if template is None:
        ensure_chat_template(made)
    return Renderer(made, frozenset())


def test_template_round_trip(tokenizer):
    assert g.round_trip(CHATS, with_template(tokenizer, None)) == g.Guard(
        "template round trip", True, "training ids = serving ids on 2 rows"
    )


def test_template_that_serves_another_prompt_than_it_trains(tokenizer):
    """The generation prompt says "bot" where the training row says "assistant": the model would be asked in words it
    was never taught."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>bot\n{% endif %}"
    )
    guard = g.round_trip(CHATS, with_template(tokenizer, template))
    refused(guard, "training has 'a'", "serving has 'b' 'o' 't'", "base.chat_template")
    assert guard.detail.count("faq.jsonl:1") == 1


def test_answers_end_on_a_template_without_ends(tokenizer):
    """A real template of this kind (Alpaca's without an end token) teaches a model never to stop."""
    renderer = with_template(tokenizer, (TEMPLATES / "alpaca-endless.jinja").read_text())
    with pytest.raises(UserError, match=r"faq.jsonl:1: .*no end token behind an answer.*base.chat_template"):
        prepare(CHATS[:1], renderer, 512, "error")
    whole = with_template(tokenizer, None)
    assert g.answers_end(prepare(CHATS, whole, 512, "error").sequences, whole.end_ids).ok


@given(st.integers(1, 200), st.integers(1, 64))
def test_round_trip_looks_at_an_even_sample(count, sample):
    """At most `sample` rows, spread over all; the last third is looked at too."""
    looked = []
    renderer = SimpleNamespace(serving_matches=lambda chat: looked.append(int(chat.origin)))
    guard = g.round_trip([Chat((), str(i)) for i in range(count)], renderer, sample)
    assert len(looked) <= sample and str(len(looked)) in guard.detail
    assert looked == sorted(set(looked))
    gaps = {b - a for a, b in pairwise([*looked, count])}
    assert len(gaps) <= 2 and max(gaps) <= -(-count // sample), "the rows looked at are evenly spread, to the last"


def test_packed_is_unpacked():
    lm, _ = choose_layout(tiny("llama"))
    assert g.packed_is_unpacked(lm, draw(40)).ok
    assert lm.module.training is False


def test_sequences_that_see_each_other_are_refused(monkeypatch):
    """A plan whose rule forgets where a sequence ends: every row also sees those before it in the batch."""
    lm, _ = choose_layout(tiny("llama"))
    whole = ForestPlan.__init__

    def blind(plan, batch, keep=None, prefix=()) -> None:
        whole(plan, replace(batch, end_T=torch.full_like(batch.end_T, len(batch.ids_T))), keep, prefix)

    monkeypatch.setattr(ForestPlan, "__init__", blind)
    refused(g.packed_is_unpacked(lm, draw(40)), "see each other", "please report it")


def test_a_model_that_gives_no_numbers_is_refused():
    """NaN is no small difference."""
    module = tiny("llama")
    with torch.no_grad():
        module.lm_head.weight[3, 3] = torch.nan
    lm, _ = choose_layout(tiny("llama"))
    lm.core.load_state_dict(module.state_dict())
    refused(g.packed_is_unpacked(lm, draw(40)), "nan nats")


def test_disk_guard(tmp_path):
    # Three checkpoints (the last, the best, the one being written) of 2 Mi weights and two moments each of the half
    # that trains: 3 · 4 bytes · (2 Mi + 2 · 1 Mi) = 48 MiB.
    held = g.disk(tmp_path, parameters=2**21, trained=2**20)
    assert held.ok and held.detail.startswith("48 MiB needed")
    refused(g.disk(tmp_path, parameters=10**15, trained=10**15), "GiB are free", str(tmp_path), "another `out`")


def test_disk_guard_on_a_read_only_disk(tmp_path):
    with mounted(tmp_path / "disk", "size=64k") as folder, read_only(folder):
        assert not os.access(folder, os.W_OK)
        refused(g.disk(folder, 1, 1), "cannot be written to", "another `out`")


def test_no_leak():
    train = [
        Chat((Message("user", "Which colour has the tent?"), Message("assistant", "It is red.")), "train.jsonl:1"),
        Text("The tent is red.", "docs.jsonl:1"),
    ]
    apart = [
        Chat((Message("user", "Which colour has the boat?"), Message("assistant", "It is red.")), "eval.jsonl:1"),
        Text("The boat is red.", "eval.jsonl:2"),
    ]
    assert g.no_leak(leaked(train, apart)).ok
    # Case and white space do not hide a row.
    same = [
        Chat((Message("user", "which  colour has the TENT?"), Message("assistant", "It is red. ")), "eval.jsonl:3"),
        Text("the tent\nis red.", "eval.jsonl:4"),
    ]
    refused(
        g.no_leak(leaked(train, apart + same + same)), "2 evaluation rows", "eval.jsonl:3, eval.jsonl:4", "Remove them"
    )


def test_enforce_tells_all_and_raises_for_every_one_that_fails(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    good = [g.single_bos(GOOD, 1), g.answers_end(GOOD, ENDS)]
    assert [x["ok"] for x in g.enforce(good, log)] == [True, True]
    with pytest.raises(RunError) as stop:
        g.enforce([*good, g.supervised([]), g.nothing_lost(3, ["faq.jsonl:3"], False)], log)
    lines = str(stop.value).splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["supervised tokens", "nothing cut"]
    told = [e for e in read_events(tmp_path / "events.jsonl") if e["kind"] == "guard"]
    assert [e["ok"] for e in told] == [True, True, True, True, False, False]
    assert all(e["detail"] for e in told)
