"""Who wrote a row, said once and meant everywhere: in the verdict on licences, in a policy, in limits, on the page."""

import pytest

from luthier.base.licences import LicencePolicy
from luthier.base.made import RULES, wrote
from luthier.base.nouns import Chat, Message, Provenance, Record
from luthier.data.curate.curation import by_model
from luthier.data.curate.licences import refusals, verdict
from luthier.run.curated import QUOTING, writer_of

ROWS = [
    (Provenance("a", "MIT", "human"), "human", "human"),
    (Provenance("a", "MIT", "machine"), "machine", "machine"),
    (Provenance("a", "MIT", "machine", "qwen3-4b"), "machine", "machine"),
    (Provenance("a", "MIT", None, "qwen3-4b"), "machine", "machine"),
    (Provenance("a", "MIT", "machine", RULES), "quoted", QUOTING),
    (Provenance("a", "MIT"), "unknown", ""),
]


@pytest.mark.parametrize(("row", "who", "shown"), ROWS)
def test_one_answer_for_all_who_ask(row, who, shown):
    record = Record(Chat((Message("user", "Q"), Message("assistant", "A")), "a:1"), row, "a/1")
    assert wrote(row) == who and writer_of(record) == shown and by_model(record) == (who == "machine")
    found = verdict([row])
    counts = {"human": found.human, "machine": found.machine, "quoted": found.quoted}
    counts["unknown"] = found.rows - sum(counts.values())
    assert counts == {name: int(name == who) for name in counts}


def test_a_share_of_machines_counts_no_quotations():
    """Of 10 rows 2 by a model, 6 quoted by rules, 2 by people: 20 % by machines, not 80 %."""
    by = [ROWS[2][0]] * 2 + [ROWS[4][0]] * 6 + [ROWS[0][0]] * 2
    found = verdict(by)
    said = "Of 10 rows, 2 by people, 2 by machines and 6 quoted from documents by rules (20.0% by machines)."
    assert found.sentences[2] == said
    assert refusals(found, LicencePolicy(machine_frac=0.2)) == []
    (refused,) = refusals(found, LicencePolicy(machine_frac=0.19))
    assert refused == "20.0% of the rows are written by machines, and at most 19.0% may be."
