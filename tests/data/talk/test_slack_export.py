"""The one real export: four people, two channels, 158 messages. Read and labelled by hand: two conversations answer
something, with three questions and their answers; all else is bots, files, monologue and one unanswered question."""

from __future__ import annotations

import zipfile

import pytest

from luthier.base.source import Source
from luthier.data.dataset import read_dataset, reasons


@pytest.fixture
def export(shared_data, tmp_path):
    with zipfile.ZipFile(shared_data / "slack_export" / "slack_export.zip") as packed:
        packed.extractall(tmp_path / "export")
    return tmp_path


LABELLED = {
    ("1452845865.000008", "1452846025.000011"),  # what should setup.py do? ... so can it be the executor? -> an example
    ("1458228721.000002", "1458251546.000002"),  # what now then? -> We do GA
}


def test_the_real_export_gives_the_conversations_a_reader_finds(export):
    data = read_dataset("slack", Source(path="export", heldout=0), export)
    found = {(chat.origin.rpartition(":")[2], chat.meta["answer_ts"]) for chat in data.train}
    assert found == LABELLED
    assert [[m.content.split("\n")[0] for m in chat.messages][-1] for chat in data.train] == [
        "Here's an example: https://github.com/hfaran/progressive/blob/master/setup.py",
        "We do GA",
    ]
    assert data.train[1].answer == "We do GA"  # the next message speaks to someone else


def test_every_message_of_the_real_export_is_used_or_has_its_reason(export):
    data = read_dataset("slack", Source(path="export", heldout=0), export)
    told = reasons(data.rejected)
    assert told["a bot's message"] == 94 and told["someone joined or left"] == 8
    used = 4 + 2 + 2  # messages in the two conversations: 2 questions, 4 answers; 1 question, 1 answer
    assert sum(told.values()) + used == 158
