"""Questions that rules make: from headings, sentences, tables and terms, and none where no good one can be made."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.base.nouns import Text
from luthier.data.synthesis.made import Dropped, Made
from luthier.data.synthesis.passages import Nearest, found_in, passages
from luthier.data.synthesis.rules import questions_by_rules
from luthier.data.synthesis.sections import sections
from luthier.data.synthesis.wording import as_asked, base_form, corpus_of

ANSWER = "Open the form in the portal, fill in your dates and send it to your lead before Friday."


def made(text: str, title: str = "Leave") -> dict[str, str]:
    """Question -> answer of one page."""
    found = questions_by_rules([Text(text, "page.md", {"title": title})])
    chats = [one.example for one in found if isinstance(one, Made)]
    return {chat.messages[0].content: chat.messages[1].content for chat in chats}


@pytest.mark.parametrize(
    ("heading", "question"),
    [
        ("Requesting annual leave", "How do I request annual leave?"),
        ("Taking your unused leave", "How do I take my unused leave?"),
        ("Planning leave with your team", "How do I plan leave with my team?"),
        ("How to cancel leave", "How do I cancel leave?"),
        ("To cancel your leave", "How do I cancel my leave?"),
        ("Request annual leave", None),  # "request" may be a noun here, as in "Request forms"
        ("Request a leave form", "How do I request a leave form?"),
        ("Step 3: Cancel the leave", "How do I cancel the leave?"),
        ("When to ask for leave", "When should I ask for leave?"),
        ("Who to ask about leave", "Whom should I ask about leave?"),
        ("How we grant leave", "How do we grant leave?"),
        ("What is annual leave?", "What is annual leave?"),
        ("Can you move your leave to next year?", "Can I move my leave to next year?"),
        ("Eligibility", "Who is eligible for leave?"),
        ("Leave approval process", "How does the leave approval process work?"),
        ("Types of leave", "What types of leave are there?"),
        ("Billing process", "How does the billing process work?"),
        ("Overview", None),
        ("Related links", None),
        ("Using it", None),
        ("2024", None),
        ("Still have questions?", None),
    ],
)
def test_what_a_heading_asks(heading, question):
    asked = {q.removeprefix("Regarding leave: ").casefold() for q in made(f"## {heading}\n\n{ANSWER}\n")}
    assert asked == ({question.casefold()} if question else set())


def test_an_answer_is_what_the_page_says_with_its_steps():
    text = (
        "## Booking travel\n\nBook on the [portal](http://x.example/a_(b)), in **this order**:\n\n1. Choose a train.\n"
        "2. Enter `cost centre`.\n   - Ask your lead for it.\n3. Send it.\n\n## Links\n\n- [One](a.md)\n- [Two](b.md)\n"
    )
    steps = "1. Choose a train.\n2. Enter cost centre.\n   - Ask your lead for it.\n3. Send it."
    answer = f"Book on the portal, in this order:\n\n{steps}"
    assert made(text, "Travel") == {"How do I book travel?": answer}


def test_sentences_that_say_how_and_what_if():
    text = (
        "To request donated leave, send the form to your lead. It takes two days.\n\n"
        "If you lose your badge, call the front desk at once. They block it.\n\n"
        "If you are late twice in a month, your lead talks to you.\n\n"
        "If you have any questions, ask in the channel.\n\n"
        "If you need pens, paper and ink, you can get them downstairs.\n"
    )
    assert made(text) == {
        "How do I request donated leave?": "To request donated leave, send the form to your lead. It takes two days.",
        "Regarding leave: what should I do if I lose my badge?": "If you lose your badge, call the front desk at once. "
        "They block it.",
        "What happens if I am late twice in a month?": "If you are late twice in a month, your lead talks to you.",
    }


def test_definitions_and_terms():
    text = "# Glossary\n\n- **PTO**: Paid time off.\n- **Cost centre**: The account that expenses are booked to.\n"
    assert made(text, "Glossary") == {
        "What does PTO stand for?": "PTO stands for Paid time off.",
        'What does "cost centre" mean?': "Cost centre: The account that expenses are booked to.",
    }
    text = (
        "Concur is a tool for booking trips, by train and by air. It knows your budget.\n\nThis is a note about trips."
    )
    assert list(made(text, "Trips")) == ["What is Concur?"]


def test_tables_are_asked_for_facts_alone():
    text = (
        "# Meals\n\n| Country | Daily rate | Notes |\n|---|:--:|---|\n| Austria | 38 euros | new |\n"
        "| Total | 90 | |\n| Malta | n/a | old |\n"
    )
    assert made(text, "Meals") == {
        "Regarding Meals: what is the daily rate for Austria?": "The daily rate for Austria is 38 euros."
    }


def test_faq_lines():
    text = (
        "**Can I bring my dog?**\n\nYes, on Fridays, if nobody minds.\n\n"
        "Q: Who feeds the fish?\n\nA: The front desk feeds it twice a week.\n"
    )
    assert made(text, "Pets") == {
        "Regarding Pets: can I bring my dog?": "Yes, on Fridays, if nobody minds.",
        "Regarding Pets: who feeds the fish?": "The front desk feeds it twice a week.",
    }


def test_what_points_elsewhere_is_dropped_with_its_reason():
    text = (
        "## Requesting leave\n\nSee the portal for details.\n\n"
        "## Changing leave\n\nUse the form described below, and sign it.\n\n"
        f"## Ending leave\n\n{ANSWER}\n"
    )
    found = questions_by_rules([Text(text, "page.md", {"title": "Leave"}), Text(text, "copy.md", {"title": "Leave"})])
    reasons = [one.reason for one in found if isinstance(one, Dropped)]
    assert sum("its answer only says where to look" in reason for reason in reasons) == 2
    assert sum("points to something outside of it" in reason for reason in reasons) == 2
    assert sum("the same question is made of page.md" in reason for reason in reasons) == 1


@pytest.mark.parametrize(
    ("gerund", "verb"),
    [("taking", "take"), ("planning", "plan"), ("using", "use"), ("requesting", "request"),
     ("un-enrolling", "un-enroll"), ("training", None), ("billing", None), ("string", None), ("zorbing", None)],
)  # fmt: skip
def test_the_verb_of_a_gerund(gerund, verb):
    assert base_form(gerund, corpus_of([])) == verb


def test_a_verb_that_the_documents_use_is_known():
    assert base_form("descoping", corpus_of(["You must descope the feature first."])) == "descope"


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("you are late", "I am late"),
        ("you lose your card", "I lose my card"),
        ("your lead asks you", "my lead asks me"),
        ("someone sends you a file", "someone sends me a file"),
        ("the form that you signed", "the form that I signed"),
        ("you or your lead", "I or my lead"),
    ],
)
def test_what_you_is_to_the_one_who_asks(said, asked):
    assert as_asked(said) == asked


MARKS = st.sampled_from(["# ", "## Using your ", "- ", "1. ", "| a | b |\n|--|--|\n", "```\n", "> ", "**",
                         "If you ", "To use ", ", ", ": ", "?", "\n", "\n\n", "[x](y)", "<div", ">",
                         "Q: ", " is a ", "---\n", "===\n", "  ", "word ", "Word "])  # fmt: skip


@given(st.lists(st.one_of(MARKS, st.text(max_size=8)), max_size=60).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_and_answers_are_its_words(text):
    for section in sections(text):
        assert section.blocks
    for one in questions_by_rules([Text(text, "x.md", {"title": "Some page"})]):
        if isinstance(one, Made):
            assert one.example.messages[0].content.endswith("?")
    for passage in passages([Text(text, "x.md")], 40):
        assert found_in(passage.text, passage.text) or not any(letter.isalnum() for letter in passage.text)


def test_passages_stay_within_sections_and_leave_lists_of_links():
    words = " ".join(f"word{i}" for i in range(30))
    text = f"# One\n\n{words}\n\n{words}\n\n- [a](b)\n- [c](d)\n\n# Two\n\n{words}\n\nshort\n\n# Three\n\ntoo short\n"
    found = list(passages([Text(text, "x.md", {"title": "T"})], 40))
    assert [(p.title, len(p.text.split())) for p in found] == [("T › One", 30), ("T › One", 30), ("T › Two", 31)]
    near = Nearest(found)
    assert near("what is short", 1) == [2]


@pytest.mark.parametrize(
    ("quote", "there"),
    [("ring twice", True), ("Ring  TWICE, before", True), ("ring … upstairs", True), ("ring thrice", False),
     ("wice", False),
     ("…", False)],
)  # fmt: skip
def test_quotes_are_found_word_for_word(quote, there):
    assert found_in(quote, "Visitors **ring twice**, before they go upstairs.") == there
