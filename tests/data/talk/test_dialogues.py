"""Dialogues of ABCD: turns, the agents' guidelines as system message, and every subflow with its own guideline."""

from __future__ import annotations

import json

import pytest

from luthier.base.nouns import Rejected
from luthier.base.source import Source
from luthier.data.dataset import read_dataset
from luthier.data.talk.dialogues import instructions, nearest, row_of
from luthier.data.talk.people import People


@pytest.mark.parametrize("path", ["abcd", "abcd/abcd_sample.json"])
def test_the_sample_is_three_conversations_with_their_guidelines(shared_data, path):
    data = read_dataset("abcd", Source(path=path, heldout=0), shared_data)
    assert [chat.meta["subflow"] for chat in data.train] == ["return_size", "refund_status", "timing_4"]
    topics = [chat.messages[0].content.split("\n")[0] for chat in data.train]
    assert topics == [
        f"You are a customer service agent. Topic: {name}."
        for name in ("Return Due to Size", "Refund Status", "Timing FAQ")
    ]
    first = data.train[0].messages
    assert [turn.content for turn in first[1:4]] == [
        "Hi! I need to return an item, can you help me with that?", "sure, may I have your name please?", "Person 1",
    ]  # fmt: skip
    assert first[-1].content.endswith("Have a great night!")
    said = "\n".join(turn.content for chat in data.train for turn in chat.messages)
    assert not any(word in said.lower() for word in ("crystal", "alessandro", "@email.com", "625-2661"))
    assert data.train[0].meta["actions"][0] == {"after": 4, "text": "Account has been pulled up for Person 1."}


def test_every_subflow_has_a_guideline_of_its_own(shared_data):
    guidelines = json.loads((shared_data / "abcd" / "guidelines.json").read_text())
    flows = json.loads((shared_data / "abcd" / "ontology.json").read_text())["intents"]["subflows"]
    by_name = {
        name.lower().replace(" ", "_").replace("-", "_"): value["subflows"] for name, value in guidelines.items()
    }
    for flow, subflows in flows.items():
        found = [nearest(subflow, list(by_name[flow])) for subflow in subflows]
        assert sorted(found) == sorted(by_name[flow]), flow
        assert all(len(instructions(guidelines, flow, subflow)) > 100 for subflow in subflows)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("x", "original: is no list of [speaker, text]"),
        ({"original": [["agent"]]}, "original: a turn is not [speaker, text]"),
        ({"original": [["agent", "hi"], ["customer", "hello"]]}, "no agent answers"),
    ],
)
def test_a_dialogue_that_is_none_says_why(value, reason):
    assert row_of(value, "x[0]", {}, People()) == Rejected("x[0]", reason)


def test_without_guidelines_there_is_no_system_message():
    row = row_of({"original": [["customer", "hello"], ["agent", "hi"]], "scenario": {"flow": 7}}, "x[0]", {}, People())
    assert [turn["role"] for turn in row.fields["messages"]] == ["user", "assistant"]
