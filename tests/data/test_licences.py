"""Licences and generators' terms: spellings, expressions against a truth table, verdicts in words, policies."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.licences import LicencePolicy
from luthier.base.nouns import Provenance
from luthier.data.curate.generators import OUTPUTS, family_of
from luthier.data.curate.licence_table import TABLE
from luthier.data.curate.licences import allowed, licence_of, refusals, verdict


def test_every_id_of_the_table_is_spdx():
    """Checked by the list that packaging carries, in its exact spelling."""
    packaging = pytest.importorskip("packaging.licenses")
    for name in TABLE:
        assert packaging.canonicalize_license_expression(name) == name


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Apache 2.0", "Apache-2.0"),
        ("apache-2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("The MIT License (MIT)", "MIT"),
        ("BSD 3-Clause", "BSD-3-Clause"),
        ("cc-by-nc-4.0", "CC-BY-NC-4.0"),
        ("CC BY 4.0", "CC-BY-4.0"),
        ("cc_by_sa_3.0", "CC-BY-SA-3.0"),
        ("Attribution 4.0 International (CC BY 4.0)", "CC-BY-4.0"),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International", "CC-BY-NC-SA-4.0"),
        ("https://creativecommons.org/licenses/by-nc-sa/4.0/", "CC-BY-NC-SA-4.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("CC0", "CC0-1.0"),
        ("GPLv3", "GPL-3.0-only"),
        ("gpl-3.0 or later", "GPL-3.0-or-later"),
        ("GNU General Public License v3.0", "GPL-3.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("Open Government Licence v3.0", "OGL-UK-3.0"),
        ("odc-by", "ODC-By-1.0"),
        ("public domain", "LicenseRef-public-domain"),
        ("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT", "LicenseRef-llama3.1"),
        ("mit or apache-2.0", "MIT OR Apache-2.0"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("MIT AND (CC BY-NC 4.0 OR CC BY 4.0)", "MIT AND (CC-BY-NC-4.0 OR CC-BY-4.0)"),
        ("LicenseRef-acme", "LicenseRef-acme"),
    ],
)
def test_common_spellings(written, meant):
    assert licence_of(written).id == meant


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("MITT", '"MITT" is no licence that is known here. Did you mean MIT?'),
        ("CC-BY-SA", '"CC-BY-SA" is no licence that is known here. Did you mean CC-BY-SA-4.0?'),
        ("other", "no licence is given"),
        (" ", "no licence is given"),
        ("MIT OR", '"MIT OR" is no licence expression: a licence is missing at the end'),
        ("AND MIT", '"AND MIT" is no licence expression: a licence is missing before AND'),
        ("(MIT OR ISC", '"(MIT OR ISC" is no licence expression: a bracket is not closed'),
        ("MIT OR ISC)", '"MIT OR ISC)" is no licence expression: ")" is one too many'),
        ("GPL-3.0-only WITH", '"GPL-3.0-only WITH" is no licence expression: an exception is missing after WITH'),
        ("LicenseRef-acme", "LicenseRef-acme is a licence of somebody's own, not read here"),
    ],
)
def test_what_is_not_known_says_why_and_allows_nothing(written, problem):
    found = licence_of(written)
    assert (found.problem, found.terms.commercial, found.terms.share) == (problem, None, None)


@pytest.mark.parametrize("trap", ["MIT (non-commercial)", "MIT for research", "Apache 2.0 (modified)", "not MIT"])
def test_a_licence_with_a_catch_is_not_the_licence(trap):
    assert licence_of(trap).terms.commercial is not True


@given(st.text(alphabet="MITBSDCOR AND()WITH-0123456789byNC+", max_size=60))
def test_no_text_is_a_traceback(text):
    licence_of(text)


LEAVES = {"MIT": True, "CC-BY-NC-4.0": False, "LicenseRef-acme": None}
TREES = st.recursive(
    st.sampled_from(sorted(LEAVES)).map(lambda name: (name,)),
    lambda inner: st.tuples(inner, st.sampled_from(["AND", "OR"]), inner),
    max_leaves=6,
)


@given(TREES)
def test_expressions_follow_kleenes_tables(tree):
    """AND is the least, OR the greatest of no < unknown < yes (Kleene's strong three-valued logic)."""
    rank = {False: 0, None: 1, True: 2}

    def text(node):
        return node[0] if len(node) == 1 else f"({text(node[0])} {node[1]} {text(node[2])})"

    def value(node):
        if len(node) == 1:
            return LEAVES[node[0]]
        return (min if node[1] == "AND" else max)((value(node[0]), value(node[2])), key=rank.__getitem__)

    assert licence_of(text(tree)).terms.commercial is value(tree)


def test_and_binds_tighter_than_or():
    assert licence_of("MIT OR CC-BY-NC-4.0 AND CC-BY-NC-4.0").terms.commercial is True
    assert licence_of("(MIT OR CC-BY-NC-4.0) AND CC-BY-NC-4.0").terms.commercial is False


@pytest.mark.parametrize(
    ("licence", "commercial", "share", "alike", "attribution"),
    [
        ("CC0-1.0", True, True, False, False),
        ("CC-BY-4.0", True, True, False, True),
        ("CC-BY-SA-4.0", True, True, True, True),
        ("CC-BY-NC-4.0", False, True, False, True),
        ("CC-BY-ND-4.0", True, False, False, True),  # a set of excerpts is a change
        ("CC-BY-NC-ND-4.0", False, False, False, True),
        ("ODbL-1.0", True, True, True, True),
        ("CDLA-Sharing-1.0", True, True, True, True),
        ("CDLA-Permissive-2.0", True, True, False, False),
        ("LicenseRef-internal", True, False, False, False),
        ("LicenseRef-proprietary", False, False, False, False),
    ],
)
def test_what_licences_allow(licence, commercial, share, alike, attribution):
    terms = licence_of(licence).terms
    assert (terms.commercial, terms.share, terms.share_alike, terms.attribution) == (
        commercial,
        share,
        alike,
        attribution,
    )


@pytest.mark.parametrize(
    ("generator", "commercial"),
    [
        ("gpt-4o-2024-08-06", None),
        ("openai/o3-mini", None),
        ("text-davinci-003", None),
        ("claude-sonnet-4", None),
        ("gemini-2.5-pro", None),
        ("gpt-oss-120b", True),
        ("google/gemma-2-9b-it", True),
        ("meta-llama/Llama-2-7b-chat-hf", False),
        ("Meta-Llama-3-8B-Instruct", False),
        ("meta-llama/Llama-3.1-405B-Instruct", True),
        ("mistralai/Mistral-7B-Instruct-v0.3", True),
        ("Mistral-Large-Instruct-2407", False),
        ("Qwen/Qwen3-4B", True),
        ("Qwen/Qwen2.5-7B-Instruct", True),
        ("Qwen/Qwen2.5-72B-Instruct", None),
        ("Qwen/Qwen-7B-Chat", False),
        ("deepseek-r1", True),
        ("deepseek-v2", None),
        ("microsoft/Phi-3-mini", True),
        ("CohereForAI/c4ai-command-r-v01", False),
    ],
)
def test_generators_are_known_by_their_names(generator, commercial):
    family = family_of(generator)
    assert family is not None and family.commercial is commercial


def test_every_familys_terms_are_named():
    assert all(re.search(r"[A-Z]", output.text) and len(output.says) > 10 for output in OUTPUTS)
    assert family_of("our-own-model-v2") is None


def rows(*kinds):
    return [row for count, row in kinds for _ in range(count)]


MIXED = rows(
    (900, Provenance("docs", "CC0-1.0", "human")),
    (214, Provenance("chat", "cc-by-nc-4.0", "human")),
    (100, Provenance("synth", "CC0-1.0", "machine", "gpt-4o")),
    (50, Provenance("wiki", "CC-BY-SA-4.0")),
)


def test_a_verdict_in_words():
    found = verdict(MIXED)
    assert (found.rows, found.commercial, found.share, found.human, found.machine) == (1264, False, True, 1114, 100)
    assert found.sentences == (
        "Not for commercial use, because of 214 rows from chat (CC-BY-NC-4.0 is for non-commercial purposes only). "
        "Of 100 more it is not known.",
        "Free to pass on: every row's licence and terms allow it.",
        "Of 1,264 rows, 1,114 by people, 100 by machines and 50 by nobody knows whom (7.9% by machines).",
    )
    assert found.duties == (
        "Share alike: rows from wiki are passed on under CC-BY-SA-4.0, changed or not.",
        "Attribution: name the authors of chat, and the licence (CC-BY-NC-4.0).",
        "Attribution: name the authors of wiki, and the licence (CC-BY-SA-4.0).",
    )


def test_two_share_alike_licences_are_no_one_set():
    found = verdict([Provenance("a", "CC-BY-SA-4.0"), Provenance("b", "ODbL-1.0"), Provenance("c", "MIT")])
    assert "CC-BY-SA-4.0 and ODbL-1.0 each ask for themselves" in found.duties[2]


def test_nobody_said_is_unknown_and_names_the_source():
    found = verdict([Provenance("faq"), Provenance("docs", "MIT")])
    assert found.commercial is None and found.share is None
    assert found.sentences[0] == (
        "Not known to be fit for commercial use, because of 1 row from faq (nobody said under which licence)."
    )
    assert verdict([]).sentences == ("There are no rows.",)


@pytest.mark.parametrize(
    ("row", "commercial"),
    [
        (Provenance("s", "MIT", "machine"), None),  # by which machine?
        (Provenance("s", "MIT", "machine", "luthier rules"), True),  # a script has no terms
        (Provenance("s", "MIT", "machine", "nobody-knows-7b"), None),
        (Provenance("s", "MIT", "machine", "nobody-knows-7b", "Apache-2.0"), True),
        (Provenance("s", "MIT", "machine", "nobody-knows-7b", "no competing models"), None),
        (Provenance("s", "MIT", "machine", "gpt-4o", "non-commercial use only"), False),
        (Provenance("s", "MIT", "machine", "gpt-4o", "as agreed with legal"), None),
        (Provenance("s", "CC-BY-NC-4.0", "machine", "qwen3-4b"), False),  # the terms are free, the text is not
        (Provenance("s", "MIT", None, "meta-llama/Llama-2-7b"), False),
    ],
)
def test_licence_and_terms_must_both_allow(row, commercial):
    assert verdict([row]).commercial is commercial


def test_a_policy_names_every_source_it_refuses_the_largest_first():
    policy = LicencePolicy(allow="commercial", share_alike=False, refuse=["CC-BY-NC-*"])
    told = refusals(verdict(MIXED), policy)
    assert [line.split(":")[0] for line in told] == ["data.chat", "data.chat", "data.synth", "data.wiki"]
    assert told[0] == (
        "data.chat: 214 rows may not be used commercially: CC-BY-NC-4.0 is for non-commercial purposes only."
    )
    assert told[1] == "data.chat: 214 rows under CC-BY-NC-4.0, which the recipe refuses (CC-BY-NC-*)."
    assert told[2].startswith("data.synth: whether 100 rows may be used commercially is not known: written by gpt-4o")
    assert told[3] == ("data.wiki: 50 rows under CC-BY-SA-4.0, which must be passed on with them (share_alike: false).")


def test_policies():
    found = verdict(MIXED)
    assert allowed(found, LicencePolicy())
    assert not allowed(found, LicencePolicy(allow="commercial", unclear="accept"))
    assert refusals(found, LicencePolicy(machine_frac=0.05)) == [
        "7.9% of the rows are written by machines, and at most 5.0% may be."
    ]
    mild = LicencePolicy(allow="commercial", unclear="accept")
    assert allowed(verdict([row for row in MIXED if row.source != "chat"]), mild)


def test_what_someone_cleared_counts():
    policy = LicencePolicy(allow="share", cleared={"CC-BY-NC-4.0": "share", "gpt-4o": "share", "wiki": "none"})
    found = verdict(MIXED, policy.cleared)
    told = refusals(found, policy)
    assert len(told) == 1 and told[0].startswith("data.wiki: 50 rows may not be used commercially: the recipe says")
    own = Provenance("ours", "LicenseRef-acme")
    assert verdict([own]).commercial is None
    assert verdict([own], {"LicenseRef-acme": "commercial"}).commercial is True
    assert verdict([own], {"LicenseRef-acme": "commercial"}).share is None
