"""Rows -> examples: every shape, and every reason why a row is none."""

import pytest

from luthier.base.errors import UserError
from luthier.base.nouns import Chat, Choice, Labelled, Message, Pair, Rejected, Row, Text
from luthier.data.formats import FORMATS, convert, detect, renamed
from luthier.data.messages import Reading, part
from luthier.data.unfold import UNFOLD

READING = Reading("faq", {}, None)
ROLE = "Map it: data.faq.roles:"


def user(text):
    return Message("user", text)


def assistant(text):
    return Message("assistant", text)


def made(fields, reading=READING):
    row = renamed(Row(fields, "o:1"), {})
    return convert(row, detect([row], "faq"), reading)


TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
CHAT = (user("Q"), assistant("A"))
EXAMPLES = [
    ("text", {"text": "a"}, Text("a", "o:1")),
    ("text", {"Document": "a", "id": 3}, Text("a", "o:1")),
    ("messages", {"messages": TURNS}, Chat(CHAT, "o:1")),
    ("messages", {"messages": '[{"role": "user", "content": "Q"}]'}, Chat((user("Q"),), "o:1")),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "text", "text": "!"}]}]},
        Chat((user("Q!"),), "o:1"),
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "developer", "content": "S"},
                TURNS[0],
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            ]
        },
        Chat((Message("system", "S"), user("Q"), assistant("No.")), "o:1"),
    ),
    ("messages", {"prompt": "Q", "messages": TURNS}, Chat(CHAT, "o:1", meta={"prompt": "Q"})),
    (
        "sharegpt",
        {
            "id": "7",
            "conversations": [
                {"from": "system", "value": "S"},
                {"from": "human", "value": "Q"},
                {"from": "gpt", "value": "A"},
            ],
        },
        Chat((Message("system", "S"), *CHAT), "o:1", meta={"id": "7"}),
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "user", "value": "Q"}, {"from": "bing", "value": "A"}]},
        Chat(CHAT, "o:1"),
    ),
    ("alpaca", {"instruction": "Q", "input": "", "output": "A"}, Chat(CHAT, "o:1")),
    ("alpaca", {"instruction": "Q", "input": "x", "output": "A"}, Chat((user("Q\n\nx"), assistant("A")), "o:1")),
    (
        "alpaca",
        {"instruction": "Q", "context": "x", "response": "A", "category": "c"},
        Chat((user("Q\n\nx"), assistant("A")), "o:1", meta={"category": "c"}),
    ),
    ("prompt_completion", {"prompt": "Q", "completion": "A"}, Chat(CHAT, "o:1")),
    ("prompt_completion", {"prompt": "Q", "response": "A"}, Chat(CHAT, "o:1")),
    ("prompt_completion", {"prompt": TURNS[:1], "completion": TURNS[1:]}, Chat(CHAT, "o:1")),
    ("prompt_completion", {"prompt": "Q", "accept": ["a", 5]}, Chat((user("Q"),), "o:1", accept=("a", "5"))),
    ("qa", {"Question ": "Q", "ANSWER": "A", "accept": "a"}, Chat(CHAT, "o:1", accept=("a",))),
    (
        "qa",
        {"question": "Q", "answer": 42, "system": "S"},
        Chat((Message("system", "S"), user("Q"), assistant("42")), "o:1"),
    ),
    ("pairs", {"prompt": "Q", "chosen": "A", "rejected": "B", "k": 1}, Pair((user("Q"),), "A", "B", "o:1", {"k": 1})),
    (
        "pairs",
        {"instruction": "Q", "input": "x", "output": "A", "chosen": "A", "rejected": "B"},
        Pair((user("Q\n\nx"),), "A", "B", "o:1", {"output": "A"}),
    ),
    (
        "pairs",
        {"question": "Q", "system": "S", "chosen": "A", "rejected": "B"},
        Pair((Message("system", "S"), user("Q")), "A", "B", "o:1"),
    ),
    (
        "pairs",
        {"chosen": TURNS, "rejected": [TURNS[0], {"role": "assistant", "content": "B"}]},
        Pair((user("Q"),), "A", "B", "o:1"),
    ),
    (
        "pairs",
        {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": {"role": "assistant", "content": "B"}},
        Pair((user("Q"),), "A", "B", "o:1"),
    ),
    (
        "hh",
        {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"},
        Pair((user("Q"),), "A", "B", "o:1"),
    ),
    (
        "pairs",
        {"prompt": "Q", "chosen": "A", "rejected": "B", "margin": "1.5", "Agreement": 0.8},
        Pair((user("Q"),), "A", "B", "o:1", None, 1.5, 0.8),
    ),
    (
        "pairs",
        {"prompt": "Q", "chosen": "A", "rejected": "B", "score_chosen": 8.5, "score_rejected": 6},
        Pair((user("Q"),), "A", "B", "o:1", {"score_chosen": 8.5, "score_rejected": 6}, 2.5),
    ),
    ("pairs", {"prompt": "Q", "chosen": "A", "rejected": "B", "margin": ""}, Pair((user("Q"),), "A", "B", "o:1")),
    ("labelled", {"prompt": "Q", "completion": "A", "label": True}, Labelled((user("Q"),), "A", True, "o:1")),
    ("labelled", {"prompt": "Q", "response": "A", "Label": "bad"}, Labelled((user("Q"),), "A", False, "o:1")),
    (
        "labelled",
        {"prompt": TURNS[:1], "completion": TURNS[1:], "label": 0, "system": "S"},
        Labelled((Message("system", "S"), user("Q")), "A", False, "o:1"),
    ),
    # A label that judges nothing is a column like any other.
    (
        "prompt_completion",
        {"prompt": "Q", "completion": "A", "label": "billing"},
        Chat(CHAT, "o:1", meta={"label": "billing"}),
    ),
    ("choices", {"query": "C", "choices": ["a", "b"], "gold": 1}, Choice("C", ("a", "b"), 1, "o:1")),
    ("choices", {"ctx": "C", "endings": ["a", "b"], "label": "0"}, Choice("C", ("a", "b"), 0, "o:1")),
    ("choices", {"question": "C", "options": ["x", "y"], "answer": "b"}, Choice("C", ("x", "y"), 1, "o:1")),
    ("choices", {"question": "C", "options": '["x", "y"]', "answer": "y"}, Choice("C", ("x", "y"), 1, "o:1")),
    (
        "choices",
        {"question": "C", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "1"},
        Choice("C", ("x", "y"), 0, "o:1"),
    ),
]


@pytest.mark.parametrize(("format", "fields", "example"), EXAMPLES)
def test_each_shape_is_found_and_read(format, fields, example):
    row = renamed(Row(fields, "o:1"), {})
    assert detect([row], "faq") == format
    assert convert(row, format, READING) == example


def test_every_format_has_an_example():
    assert {format for format, _, _ in EXAMPLES} == set(FORMATS) - {"template"}  # whose columns the recipe names


def chat_of(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


REASONS = [
    (
        chat_of(("user", "q"), ("assistant", "a"), ("bot", "x")),
        'messages[2].role: "bot" is not system|user|assistant|tool. ' + ROLE + " {bot: assistant}",
    ),
    (
        chat_of(("user", "q"), ("user", "q")),
        "messages[1].role: a second user turn in a row. Join the two or take one away",
    ),
    (
        chat_of(("user", "q"), ("assistant", "a"), ("assistant", "b")),
        "messages[2].role: a second assistant turn in a row. Join the two or take one away",
    ),
    (chat_of(("system", "s"), ("assistant", "a")), "messages: no user turn. Add the question that was answered"),
    (chat_of(("user", " \n")), "messages[0].content: is empty. Fill it or take the row away"),
    (chat_of(("user", None)), "messages[0].content: is empty. Fill it or take the row away"),
    (chat_of(("user", 3)), "messages[0].content: 3 is not text"),
    (
        chat_of(("user", [{"type": "image_url", "image_url": "x"}])),
        'messages[0].content[0]: "image_url" is not a text part. Only text can be used',
    ),
    (chat_of((None, "q")), "messages[0].role: null is not system|user|assistant|tool"),
    ({"messages": []}, "messages: [] is not a list of messages"),
    ({"messages": "hello"}, 'messages: "hello" is not a list of messages'),
    ({"messages": ["hello"]}, 'messages[0]: "hello" is not an object with role and content'),
    ({"messages": [{"who": "me"}]}, "messages[0]: has who, needs role and content (or from and value)"),
    (
        {"conversations": [{"from": "wizard", "value": "x"}]},
        'conversations[0].from: "wizard" is not system|user|assistant|tool. ' + ROLE + " {wizard: user}",
    ),
    ({"question": "q", "answer": ""}, "answer: is empty. Fill it or take the row away"),
    ({"question": ["q"], "answer": "a"}, 'question: ["q"] is not text'),
    ({"question": "q", "answer": True}, "answer: true is not text"),
    ({"question": "q", "answer": "a", "accept": [None]}, "accept: [null] is not a string or a list of strings"),
    ({"text": "  "}, "text: is empty. Fill it or take the row away"),
    ({"prompt": "q", "completion": None}, "completion: is empty. Fill it or take the row away"),
    (
        {"chosen": "a", "rejected": "b"},
        'no column "prompt" (there are: chosen, rejected). Map one: data.faq.columns: {prompt: ...}',
    ),
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
    (
        {"prompt": "q", "chosen": "a", "rejected": "b", "agreement": 3},
        "agreement: 3 is not a share of the raters, from 0 to 1. Divide it by their number",
    ),
    (
        {"prompt": "q", "chosen": "a", "rejected": "b", "margin": -2},
        "margin: -2 is below 0, as if the rejected answer were the better. Swap the two",
    ),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": "much"}, 'margin: "much" is not a number'),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "agreement": True}, "agreement: true is not a number"),
    (
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: other\n\nAssistant: b"},
        "chosen and rejected answer different prompts",
    ),
    (
        {"chosen": "\n\nHuman: q\n\nAssistant: ", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        "chosen: turn 2 (assistant) is empty. Fill it or take the row away",
    ),
    ({"question": "q", "choices": ["a", "b"], "answer": 2}, "answer: 2 is not 0 to 1, A to B or an option's words"),
    ({"question": "q", "choices": ["a", "b"], "answer": -1}, "answer: -1 is not 0 to 1, A to B or an option's words"),
    (
        {"question": "q", "choices": ["1", "0"], "answer": "1"},
        'answer: "1" can mean several options. Give the index, a number from 0',
    ),
    ({"question": "q", "choices": ["a"], "answer": 0}, 'choices: ["a"] is not two or more options with text'),
    ({"question": "q", "choices": "a b", "answer": 0}, 'choices: "a b" is not a list of strings'),
]


@pytest.mark.parametrize(("fields", "reason"), REASONS)
def test_each_unusable_row_says_why(fields, reason):
    assert made(fields) == Rejected("o:1", reason)


def test_a_labelled_answer_needs_a_label_and_an_answer():
    def read(fields):
        return convert(Row(fields, "o:1"), "labelled", READING)

    missing = 'no column "label" (there are: prompt, completion). Map one: data.faq.columns: {label: ...}'
    assert read({"prompt": "q", "completion": "a"}) == Rejected("o:1", missing)
    vague = "label: 0.5 is not true or false (or good or bad, yes or no, 1 or 0)"
    assert read({"prompt": "q", "completion": "a", "label": 0.5}) == Rejected("o:1", vague)
    assert read({"prompt": "q", "completion": "a", "label": None}).reason.startswith("label: null is not")
    asked = [{"role": "user", "content": "and?"}]
    last = "completion: ends with a user turn. The answer that is labelled must come last"
    assert read({"prompt": TURNS, "completion": asked, "label": 1}) == Rejected("o:1", last)


def test_roles_and_system_of_the_recipe():
    reading = Reading("faq", {"bot": "assistant", "guest": "user"}, "Be kind.")
    fields = chat_of(("guest", "q"), ("bot", "a"))
    system = Message("system", "Be kind.")
    assert made(fields, reading) == Chat((system, user("q"), assistant("a")), "o:1")
    own = chat_of(("system", "mine"), ("user", "q"))
    assert made(own, reading) == Chat((Message("system", "mine"), user("q")), "o:1")
    assert made({"prompt": "q", "chosen": "a", "rejected": "b"}, reading) == Pair((system, user("q")), "a", "b", "o:1")


def hh(*turns):
    return "".join(f"\n\n{'Human' if i % 2 == 0 else 'Assistant'}: {turn}" for i, turn in enumerate(turns))


def test_hh_parts_at_the_last_answer_only():
    pair = made({"chosen": hh("q", "a", "q2", "good"), "rejected": hh("q", "a", "q2", "bad\n\nwith two parts")})
    assert pair == Pair((user("q"), assistant("a"), user("q2")), "good", "bad\n\nwith two parts", "o:1")
    early = made({"chosen": hh("q", "a", "q2", "good"), "rejected": hh("q", "other", "q2", "bad")})
    assert early.reason.startswith("chosen: 3 turns follow where chosen and rejected part (after turn 1)")
    # Turns of one speaker in a row are one turn.
    split = made({"chosen": hh("q", "good") + "\n\nAssistant:  more", "rejected": hh("q", "bad")})
    assert split == Pair((user("q"),), "good\n\nmore", "bad", "o:1")
    longer = made({"chosen": hh("q", "a", "q2", "good"), "rejected": hh("q", "a")})
    assert longer.reason.startswith("chosen: 3 turns follow")


def test_part_backs_up_to_the_turn_that_is_answered():
    start = (Message("system", "s"), user("q"))
    assert part((*start, assistant("a")), (*start, assistant("b"))) == (start, "a", "b")
    tool = (user("q"), assistant("call"), Message("tool", "r"))
    assert part((*tool, assistant("a")), (*tool, assistant("b"))) == (tool, "a", "b")


def rows(*fields):
    return [Row(f, f"faq.csv:{i}") for i, f in enumerate(fields, 2)]


def test_detection_says_what_it_found_and_what_it_needs():
    with pytest.raises(UserError) as none:
        detect(rows({"frage": "x", "antwort": "y"}), "faq")
    assert none.value.problems[0] == (
        "data.faq.format: faq.csv:2: no format fits its columns: frage, antwort. "
        "Rename them with data.faq.columns: {ours: theirs} to fit one of these:"
    )
    assert "  qa: question, answer" in none.value.problems and len(none.value.problems) == 1 + len(FORMATS) + len(
        UNFOLD
    )
    both = {"question": "q", "answer": "a", "prompt": "p", "completion": "c"}
    with pytest.raises(UserError, match=r"faq\.csv:2 can be read as prompt_completion or as qa\. Say which"):
        detect(rows(both), "faq")


def test_detection_follows_most_rows_when_one_is_odd():
    qa = {"question": "q", "answer": "a"}
    assert detect(rows({"text": "a README beside the data"}, qa, qa), "faq") == "qa"


def test_columns_win_over_the_names_in_the_file():
    row = Row({"question": "old", "body": "Q", "reply": "A", "Extra": 1}, "o:1")
    assert renamed(row, {"question": "body", "answer": "reply"}).fields == {"question": "Q", "answer": "A", "Extra": 1}


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CALLED = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def test_tool_calls_are_text_and_the_tools_stand_in_the_system_message():
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "yes"},
        {"role": "tool", "tool_call_id": "c1", "content": "no"},
        {"role": "assistant", "content": "I look.", "function_call": {"name": "weather", "arguments": ""}},
    ]
    chat = made({"messages": turns, "tools": tools})
    assert [message.role for message in chat.messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert chat.messages[0].content.startswith("Be brief.\n\n# Tools\n")
    assert '<tools>\n{"type": "function", "function": {"name": "weather", "parameters": {}}}\n</tools>' in (
        chat.messages[0].content
    )
    assert chat.messages[2].content == f"{CALLED}\n{CALLED}"
    assert chat.answer == 'I look.\n<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'
    assert made({"messages": turns[1:3]}).messages[1].content == f"{CALLED}\n{CALLED}"


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"function": {"arguments": "{}"}}, "messages[1].tool_calls[0]: has no function with a name"),
        ("x", "messages[1].tool_calls[0]: has no function with a name"),
        (
            {"function": {"name": "f", "arguments": "{no"}},
            "messages[1].tool_calls[0].function.arguments: not JSON. Mend it or take the row away",
        ),
        (
            {"function": {"name": "f", "arguments": [1]}},
            "messages[1].tool_calls[0].function.arguments: not a JSON object",
        ),
    ],
)
def test_calls_that_cannot_be_used(call, reason):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]
    assert made({"messages": turns}) == Rejected("o:1", reason)
