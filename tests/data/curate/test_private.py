"""Private things: found by their checksums and contexts, replaced the same way everywhere, and nothing else touched."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.nouns import Chat, Message, Pair, Rejected, Text
from luthier.base.source import Source
from luthier.data.curate.patterns import iban_holds, luhn
from luthier.data.curate.private import KINDS, Private
from luthier.data.dataset import read_dataset

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n7bq0\n-----END RSA PRIVATE KEY-----"
FOUND = [
    ("email", "write to Jane.Doe+x@mail.acme.io."),
    ("email", "_ops_team@acme.com_ and <mailto:ops_team@acme.com>"),
    ("email", "müller@größe.de"),
    ("phone", "call (415) 844-9759 now"),
    ("phone", "ring +44 20 7946 0958"),
    ("phone", "+49 (0)30 901820"),
    ("phone", "1-800-222-0364"),
    ("phone", "*877-472-6716*"),
    ("phone", "my mobile is 07700 900 123"),
    ("phone", "Tel.: 030/901820-11"),
    ("card", "4111 1111 1111 1111"),
    ("card", "card 5500-0000-0000-0004, please"),
    ("card", "amex 378282246310005"),
    ("card", "4012888888881881"),
    ("iban", "GB82 WEST 1234 5698 7654 32"),
    ("iban", "DE89370400440532013000"),
    ("iban", "IBAN FR14 2004 1010 0505 0001 3M02 606 AND MORE"),
    ("ssn", "SSN 219-09-9999"),
    ("ip", "from 93.184.216.34 at night"),
    ("ip", "http://93.184.216.34/login"),
    ("ip", "2a00:1450:4001:82a::200e"),
    ("key", "password: Corr#ct!Horse"),
    ("key", "AKIAIOSFODNN7EXAMPLQ"),
    ("key", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
    ("key", "sk-proj-abcDEF0123456789abcDEF0123"),
    ("key", "xoxb-17653672481-19874698323-pdFZKVeTuE8sk7oOcHrzzqgy"),
    ("key", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"),
    ("key", PEM),
    ("key", 'password = "tR4!xkQ92z"'),
    ("key", "api_key: 9f8e7d6c5b4a39281706f5e4d3c2b1a0"),
    ("key", "postgres://admin:s3cr3t-Pass@db.acme.com/app"),
    ("key", "https://api.acme.com/v1?token=9f8e7d6c5b4a39281706"),
]
LEFT = [
    "0.123456789 and 28919.8689279 and 1e-10 and 3.14159265358979",
    "2019-01-02 10:11:12, 02/03/2019, 1999-2003, 12.04.2019",
    "v1.2.3.4, version 10.4.22.11, torch==2.13.0.1, release 104.22.11.3, 127.0.0.1, 192.168.1.17",
    "255.255.255.0, 8.8.8.8",
    "commit 3fa85f64-5717-4562-b3fc-2c963f66afa6, sha 1105d370f8341105d370f8341105d370f8341105",
    "git@github.com:acme/repo.git, icon@2x.png, someone@example.com, @decorator, x@y",
    "https://acme.com/orders/4111111111111111?id=4158449759#2125551234",
    "https://docs.google.com/document/d/1aB2cD3eF4gH5iJ6kL7mN8oP9qR0/edit?sstoken=UUYtMlFDQlRoTG10fGRl",
    "timestamps 1527811200 1527811200000 1452845865.000008, ISBN 978-3-16-148410-0, 1,234,567,890",
    "4111 1111 1111 1112 fails Luhn; GB82 WEST 1234 5698 7654 33 fails modulo 97; 000-12-3456 is no SSN",
    "password = os.environ['PASSWORD'], token: str, secret = get_secret(name), password=***, password: {{ pw }}",
    "the token limit is 4096, tokens=128, api key = YOUR_API_KEY, authorization: OAuth2, secret: my-secret-name",
    "call me Ishmael, call 12 times, phone 3 of 10, ring 0, 10:20:30, std::vector<int>, a::b::c, face:b00c",
    "(555) 555-0123 is for films, 555-555-5555 for forms",
    "[40.72, 74.00], [34.05, 118.25], -31.7036111, 150 000 000 000",
]


@pytest.mark.parametrize(("kind", "text"), FOUND)
def test_private_things_are_found_by_kind_and_gone_afterwards(kind, text):
    private = Private()
    cleaned = private.clean(text)
    assert list(private.counts) == [kind], (text, cleaned)
    assert f"[{kind} 1]" in cleaned
    assert private.find(cleaned) == []


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_it_is_left_alone(text):
    assert Private().clean(text) == text


def test_the_same_thing_is_the_same_placeholder_however_it_is_written():
    private = Private()
    assert private.clean("A@acme.com, b@acme.com, a@ACME.com") == "[email 1], [email 2], [email 1]"
    assert private.clean("4111-1111-1111-1111 4111111111111111") == "[card 1] [card 1]"
    assert private.clean("(415) 844-9759 or 1-415-844-9759") == "[phone 1] or [phone 1]"
    assert private.clean("again b@acme.com") == "again [email 2]"
    assert private.counts == {"email": 4, "card": 2, "phone": 2}


def test_a_link_keeps_all_but_its_login():
    assert Private().clean("postgres://admin:s3cr3t-Pass@db.acme.com/app") == "postgres://[key 1]@db.acme.com/app"


def test_iban_ends_where_its_country_says():
    assert Private().clean("FR14 2004 1010 0505 0001 3M02 606 AND MORE") == "[iban 1] AND MORE"


def test_luhn_and_modulo_97_by_hand():
    # 7992739871x: doubled from the right 2+7*2->5+..., the check digit is 3 (Wikipedia's example of Luhn's algorithm)
    assert [luhn(f"7992739871{x}") for x in range(10)].index(True) == 3
    # Of the 97 remainders one is right: GB82... holds, and no other check digits do.
    assert [n for n in range(2, 99) if iban_holds(f"GB{n:02d}WEST12345698765432")] == [82]


def test_invented_things_are_nobodys_and_are_not_found_again():
    private = Private(style="invent")
    text = private.clean("a@acme.com b@acme.com (415) 844-9759 93.184.216.34 4111 1111 1111 1111")
    assert text == "person1@example.com person2@example.com (212) 555-0100 192.0.2.1 [card 1]"
    assert private.find(text) == []


def test_names_of_the_sources_own_people_but_not_the_words_they_are_spelled_like():
    private = Private(names={"Jane Doe": "u1", "jdoe": "u1", "Will Frank": "u2"})
    text = "Jane asked Will Frank; will jane.doe or @jdoe be frank? See https://x.org/jane Doe's note, Janet."
    assert private.clean(text) == (
        "Person 1 asked Person 2; will jane.doe or @Person 1 be frank? See https://x.org/jane Person 1's note, Janet."
    )
    assert private.counts["name"] == 4


FRAGMENTS = st.sampled_from(
    [text for _, text in FOUND]
    + LEFT
    + [" ", "\n", "-", "/", "@", ".", ":", "=", "(", "+", "1", "2019", "://", "a", "é"]
)
MIXED = st.lists(FRAGMENTS | st.text(max_size=12), max_size=12).map("".join)


@given(MIXED, st.sampled_from(["replace", "invent"]))
def test_nothing_found_survives_and_cleaning_twice_is_cleaning_once(text, style):
    private = Private(style=style, names=["Jane Doe"])
    cleaned = private.clean(text)
    assert private.find(cleaned) == []
    assert private.clean(cleaned) == cleaned


@given(MIXED)
def test_findings_are_in_order_and_apart_and_of_known_kinds(text):
    found = Private().find(text)
    assert all(0 <= one.start < one.end <= len(text) and one.kind in KINDS for one in found)
    assert all(a.end <= b.start for a, b in pairwise(found))


def test_an_example_is_clean_in_all_its_texts():
    private, mail = Private(), "mail a@acme.com"
    chat = Chat((Message("user", mail), Message("assistant", mail)), "x:1", (mail,), {"note": [mail], "date": "1"})
    clean = private.clean_example(chat)
    assert clean.messages[0].content == clean.messages[1].content == clean.accept[0] == "mail [email 1]"
    assert clean.meta == {"note": ["mail [email 1]"], "date": "1"} and clean.origin == "x:1"
    pair = private.clean_example(Pair(chat.messages[:1], mail, "b@acme.com", "x:2"))
    assert (pair.prompt[0].content, pair.chosen, pair.rejected) == ("mail [email 1]", "mail [email 1]", "[email 2]")
    assert private.rows == {"email": 2}


@pytest.mark.parametrize(
    ("setting", "texts", "said"),
    [
        ("keep", ["a@acme.com wrote", "nothing"], "1 e-mail addresses, left as they are"),
        ("replace", ["[email 1] wrote", "nothing"], "1 e-mail addresses, replaced"),
        ("invent", ["person1@example.com wrote", "nothing"], "1 e-mail addresses, replaced by made-up ones"),
        ("refuse", ["nothing"], "1 e-mail addresses, in rows that were left out"),
    ],
)
def test_the_setting_decides_for_a_source(tmp_path, setting, texts, said):
    (tmp_path / "rows.jsonl").write_text('{"text": "a@acme.com wrote"}\n{"text": "nothing"}\n')
    data = read_dataset("rows", Source(path="rows.jsonl", heldout=0, private=setting), tmp_path)
    assert [row.text for row in data.train] == texts
    assert any(note.startswith(f"private things: {said}") for note in data.notes)
    if setting == "refuse":
        assert data.rejected == [Rejected("rows.jsonl:1", "holds private things: e-mail addresses", aside=True)]


def test_by_row_every_example_begins_anew():
    private = Private(by_row=True)
    texts = [private.clean_example(Text(f"{name}@acme.com", name)) for name in "ab"]
    assert [row.text for row in texts] == ["[email 1]", "[email 1]"]


def test_the_handbook_has_only_real_addresses_and_numbers(shared_data):
    """Every one of the findings was looked at: 316 addresses and 29 numbers, all of them real, nothing else."""
    private = Private()
    for file in sorted((shared_data / "docs_18f_handbook").rglob("*.md")):
        private.clean(file.read_text())
    assert private.counts == {"email": 316, "phone": 29}
