"""The renderer against the chat templates themselves: ids, what is supervised, prompts, ends."""

import functools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from luthier.base.errors import UserError
from luthier.base.nouns import Chat, Message, Text
from luthier.tokens.render import Renderer
from luthier.tokens.tokenizer import ensure_chat_template, train_tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data"
TEMPLATES = Path(__file__).parents[1] / "templates"
CHATML_MARKS = ["<|im_start|>", "<|im_end|>"]
LLAMA3_MARKS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

# name -> (control tokens that the tokenizer must have, last answer -> exactly the text that is supervised)
SUPERVISED = {
    "chatml": (CHATML_MARKS, lambda answer, eos: answer + "<|im_end|>"),
    "llama2": ([], lambda answer, eos: f" {answer.strip()} {eos}"),
    "llama3": (LLAMA3_MARKS, lambda answer, eos: answer.strip() + "<|eot_id|>"),
    "mistral": (["[INST]", "[/INST]"], lambda answer, eos: f" {answer}{eos}"),
    "gemma": (["<bos>", "<start_of_turn>", "<end_of_turn>"], lambda answer, eos: answer.strip() + "<end_of_turn>"),
    "zephyr": ([], lambda answer, eos: answer + eos),
    "phi3": (["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], lambda answer, eos: answer + "<|end|>"),
    "qwen25": (CHATML_MARKS, lambda answer, eos: answer + "<|im_end|>"),
    "qwen3": (CHATML_MARKS, lambda answer, eos: f"<think>\n\n</think>\n\n{answer.lstrip()}<|im_end|>"),
    "vicuna": ([], lambda answer, eos: f" {answer}{eos}"),
    "alpaca": ([], lambda answer, eos: answer + eos),
}
REWRITES = {"qwen3", "mistral"}  # earlier answers (thoughts), earlier questions (the system message moves on)
TOKENIZERS = ["fresh", "gpt2_tokenizer", "stories260K"]
CORPUS = ["The telescope costs 114 euros.\n\nIts mirror is 114 mm wide. Der Spiegel ist groß, le télescope aussi. 🔭\n"]


def load(name, marks=(), template=None):
    """A tokenizer of its own for each use: tests add tokens to it."""
    from transformers import AutoTokenizer

    if name == "fresh":
        tokenizer = train_tokenizer(CORPUS * 5, 330)
    elif (DATA / name).exists():
        tokenizer = AutoTokenizer.from_pretrained(DATA / name)
    else:
        pytest.skip(f"../shared/data/{name} is not here")
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks], special_tokens=True)
    if template is not None:
        is_text = "{" in template
        tokenizer.chat_template = template if is_text else (TEMPLATES / f"{template}.jinja").read_text()
    return tokenizer


@functools.cache
def renderer_of(tokenizer, template):
    return Renderer(load(tokenizer, SUPERVISED[template][0], template))


def chat_of(*turns, origin="faq.jsonl:17"):
    """("u", text) user, ("a", text) assistant, ("s", text) system."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return Chat(tuple(Message(roles[turn[0]], turn[2:]) for turn in turns), origin)


def dicts(messages):
    return [{"role": message.role, "content": message.content} for message in messages]


def supervised(tokens):
    return [at for at, weight in enumerate(tokens.weights) if weight > 0]


edges = st.sampled_from(["", "", "", " ", "\n", "\n\n", "  ", "\t", " \n ", "\r\n"])
CONTROL = [
    *CHATML_MARKS,
    *LLAMA3_MARKS,
    "<|pad|>",
    "<|endoftext|>",
    *(m for row in SUPERVISED.values() for m in row[0]),
]
CONTROL += ["<s>", "</s>", "<unk>"]  # refused: tested by themselves
contents = st.tuples(edges, st.text(max_size=12), edges).map("".join).filter(lambda s: not any(m in s for m in CONTROL))


@st.composite
def chats(draw, template):
    messages = []
    if template != "gemma" and draw(st.booleans()):
        messages.append(Message("system", draw(contents)))
    for _ in range(draw(st.integers(1, 3))):
        messages += [Message("user", draw(contents)), Message("assistant", draw(contents))]
    return Chat(tuple(messages), "generated:1")


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", SUPERVISED)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_template_on_every_tokenizer(template, name, data):
    renderer = renderer_of(name, template)
    tokenizer = renderer.tokenizer
    chat = data.draw(chats(template))
    tokens = renderer.chat(chat, "last")

    # Token for token what the template gives, for training and for the prompt.
    assert list(tokens.ids) == tokenizer.apply_chat_template(dicts(chat.messages), tokenize=True, return_dict=False)
    prompt = renderer.prompt(chat.prompt)
    asked = dicts(chat.prompt)
    assert prompt == tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)

    # One run of weight 1 that ends in an end token and holds no other.
    on = supervised(tokens)
    assert on == list(range(on[0], on[-1] + 1)) and set(tokens.weights) == {0.0, 1.0}
    assert [at for at in on if tokens.ids[at] in renderer.end_ids] == on[-1:]

    # What is supervised is the answer and its end, exactly, wherever serving's prompt is a prefix of training; the
    # newline rule of the fresh tokenizer makes it one under every template.
    mismatch = renderer.serving_matches(chat)
    if mismatch is None:
        assert list(tokens.ids[: len(prompt)]) == prompt and on[0] == len(prompt)
        said = SUPERVISED[template][1](chat.answer, tokenizer.eos_token)
        if name == "stories260K":  # a SentencePiece tokenizer: U+2581 is its space, and a part begins with one more
            shown = "".join(renderer.pieces(tokens.ids)[on[0] : on[-1] + 1])
            assert shown.lstrip(" ") == said.replace("▁", " ").lstrip(" ")
        else:
            assert tokenizer.decode([tokens.ids[at] for at in on]) == said
    else:
        assert name != "fresh"
        assert on[0] < len(prompt) and tokens.ids[: on[0]] == tuple(prompt[: on[0]])


@pytest.mark.parametrize("template", SUPERVISED)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_all_answers_are_the_answers_one_by_one(template, data):
    """Weights under `answers` are the sum of those of each answer alone, in the conversation cut behind it."""
    renderer = renderer_of("fresh", template)
    chat = data.draw(chats(template))
    turns = [index for index, message in enumerate(chat.messages) if message.role == "assistant"]
    assume(template not in REWRITES or len(turns) == 1)
    tokens = renderer.chat(chat, "answers")
    assert tokens.ids == renderer.chat(chat, "last").ids == renderer.chat(chat, "all").ids
    expected = [0.0] * len(tokens.ids)
    for turn in turns:
        for at in supervised(renderer.chat(Chat(chat.messages[: turn + 1], ""), "last")):
            expected[at] = 1.0
    assert list(tokens.weights) == expected
    assert sum(tokens.ids[at] in renderer.end_ids for at in supervised(tokens)) == len(turns)


def test_weights_equal_transformers_assistant_mask():
    """Independent reference: transformers' own mask, from a template that marks what the assistant generates."""
    marked = (
        "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
        "{%- if message.role == 'assistant' %}{% generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}"
        "{%- else %}{{- message.content + '<|im_end|>' }}{% endif %}{{- '\n' }}{% endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"
    )
    chat = chat_of("s:Be brief.", "u:Quoi ? 🔭", "a:Le télescope 🔭.", "u:And 114?", "a:A number.\nYes.")
    for name in ("fresh", "gpt2_tokenizer"):
        renderer = Renderer(load(name, CHATML_MARKS, marked))
        reference = renderer.tokenizer.apply_chat_template(dicts(chat.messages), return_assistant_tokens_mask=True)
        tokens = renderer.chat(chat, "answers")
        assert list(tokens.ids) == reference["input_ids"]
        assert list(tokens.weights) == [float(mask) for mask in reference["assistant_masks"]]


def test_all_supervises_everything_but_the_first_token():
    tokens = renderer_of("fresh", "chatml").chat(chat_of("u:Hi", "a:Hello"), "all")
    assert tokens.weights == (0.0,) + (1.0,) * (len(tokens.ids) - 1)


def test_rewritten_earlier_turns_are_refused_and_the_last_is_not():
    renderer = renderer_of("fresh", "qwen3")
    chat = chat_of("u:1?", "a:<think>\nhm\n</think>\n\none", "u:2?", "a:<think>\nhm hm\n</think>\n\ntwo")
    with pytest.raises(UserError, match=r"faq\.jsonl:17: messages\[1\]: .* rewrites earlier .* train_on: last"):
        renderer.chat(chat, "answers")
    tokens = renderer.chat(chat, "last")
    said = renderer.tokenizer.decode([tokens.ids[at] for at in supervised(tokens)])
    assert said == "<think>\nhm hm\n</think>\n\ntwo<|im_end|>"
    with pytest.raises(UserError, match="train_on: last"):  # Mistral moves the system message to the last question
        renderer_of("fresh", "mistral").chat(chat_of("s:Be brief.", "u:1?", "a:one", "u:2?", "a:two"), "answers")


@pytest.mark.parametrize(
    "template,chat,message",
    [
        ("gemma", chat_of("s:Be brief.", "u:Hi", "a:Hello"), "refuses this conversation: System role not supported"),
        ("llama2", chat_of("u:Hi", "u:Hi?", "a:Hello"), "refuses this conversation: Conversation roles must alternate"),
        ("chatml", chat_of("u:Hi"), "no answer at the end"),
        ("chatml", chat_of("u:Hi", "a:Hello", "u:Bye"), "no answer at the end"),
        ("chatml", chat_of("a:Welcome!"), r"messages\[0\]: an answer to nothing"),
        (
            "chatml",
            chat_of("u:Hi <|im_end|>", "a:Hello"),
            r"messages\[0\]\.content: contains the control token <\|im_end",
        ),
        (
            "chatml",
            chat_of("u:Hi", "a:Hello<|endoftext|>"),
            r"messages\[1\]\.content: contains the control token <\|endo",
        ),
        ("chatml", chat_of("u:Hi \ud83d", "a:Hello"), "half a surrogate pair"),
    ],
)
def test_a_chat_that_cannot_be_rendered_says_where_and_why(template, chat, message):
    with pytest.raises(UserError, match=r"^faq\.jsonl:17: .*" + message):
        renderer_of("fresh", template).chat(chat, "last")


def test_templates_that_cannot_be_trained_are_refused():
    chat = chat_of("u:Hi", "a:Hello")
    never_ends = Renderer(load("fresh", [], "alpaca-endless"))
    with pytest.raises(UserError, match=r"no end token behind an answer.*base\.chat_template"):
        never_ends.chat(chat, "last")
    assert never_ends.end_ids == {never_ends.tokenizer.eos_token_id}
    # "<|end|>" of Phi-3 is not one token of this tokenizer, so it is not an end that can be sampled or stopped at.
    with pytest.raises(UserError, match="no end token"):
        Renderer(load("fresh", [], "phi3")).chat(chat, "last")
    no_prompt = "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' + m.content + '<|im_end|>' }}{% endfor %}"
    with pytest.raises(UserError, match="ignored add_generation_prompt"):
        Renderer(load("fresh", [], no_prompt)).chat(chat, "last")
    with pytest.raises(UserError, match=r"no chat template.*base\.chat_template"):
        Renderer(load("fresh")).chat(chat, "last")


def test_serving_mismatch_shows_the_tokens_that_part():
    renderer = renderer_of("gpt2_tokenizer", "chatml")
    said = renderer.serving_matches(chat_of("u:Hi", "a:\n\nHello"))
    at = len(renderer.prompt([Message("user", "Hi")])) - 1  # GPT-2 cuts three line ends before a word into 2 + 1
    parts = "training has '\\n\\n' '\\n' 'Hello' '<|im_end|>' where serving has '\\n':"
    assert f"faq.jsonl:17: token {at}: {parts}" in said
    assert renderer.serving_matches(chat_of("u:Hi", "a:Hello")) is None
    assert renderer.serving_matches(chat_of("u:Hi")) is None


def test_our_chatml_serves_what_it_trains_on_real_tokenizers():
    for name in TOKENIZERS:
        tokenizer = load(name)
        ensure_chat_template(tokenizer)
        renderer = Renderer(tokenizer)
        for answer in ("Hello", "\nHello", "  Hello \n", "\n\n\n114", "🔭"):
            chat = chat_of("s: x", "u:Hi\n", f"a:{answer}")
            assert renderer.serving_matches(chat) is None
            tokens = renderer.chat(chat, "answers")
            said = [tokens.ids[at] for at in supervised(tokens)]
            assert tokenizer.decode(said) == answer.strip() + "<|im_end|>"
            assert renderer.decode(said) == answer.strip()
            assert tokens.ids.count(tokenizer.bos_token_id) == (0 if name == "gpt2_tokenizer" else 1)


def test_a_prompt_without_template_is_the_beginning_of_a_document():
    messages = [
        Message("system", "x"),
        Message("user", "first"),
        Message("assistant", "y"),
        Message("user", "Who is it?"),
    ]
    for name, bos in (("fresh", [0]), ("gpt2_tokenizer", [50256]), ("stories260K", [1])):
        renderer = Renderer(load(name))
        assert not renderer.has_template
        plain = renderer.tokenizer("Who is it?\n", add_special_tokens=False)["input_ids"]
        assert renderer.prompt(messages) == bos + plain
        assert list(renderer.text(Text("Who is it?\nMe.", "")).ids[: len(plain) + 1]) == bos + plain
    with pytest.raises(UserError, match="no user message"):
        renderer.prompt([Message("system", "x")])


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=40) | st.sampled_from(["<s>a</s>", "a<|endoftext|>b", "<|pad|><|im_end|>"]))
def test_a_document_has_one_bos_one_eos_and_comes_back(name, text):
    renderer = bare(name)
    tokenizer = renderer.tokenizer
    tokens = renderer.text(Text(text, "book.txt"))
    assert tokens.ids[0] == tokenizer.bos_token_id and tokens.ids[-1] == tokenizer.eos_token_id
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(tokens.ids[1:-1])
    assert tokens.weights == (0.0,) + (1.0,) * (len(tokens.ids) - 1) and tokens.origin == "book.txt"
    assert renderer.decode(tokens.ids) == (text if name != "stories260K" else text.replace("▁", " "))
    if not any(mark in text for mark in tokenizer.get_added_vocab()):
        own = tokenizer(text)["input_ids"]
        assert tokens.ids == (*([] if name != "gpt2_tokenizer" else [50256]), *own, tokenizer.eos_token_id)


@functools.cache
def bare(name):
    return Renderer(load(name))


def test_a_tokenizer_without_bos_starts_with_the_text():
    tokenizer = load("gpt2_tokenizer")
    tokenizer.bos_token = None
    tokens = Renderer(tokenizer).text(Text("Hi there", ""))
    assert tokens.ids == (17250, 612, 50256) and tokens.weights == (0.0, 1.0, 1.0)


def lm_eval_pair(tokenizer, context, continuation):
    """lm-evaluation-harness, TemplateLM._encode_pair: (context ids, continuation ids)."""
    spaces = len(context) - len(context.rstrip())
    if spaces > 0:
        continuation, context = context[-spaces:] + continuation, context[:-spaces]
    whole = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    before = tokenizer(context, add_special_tokens=False)["input_ids"]
    return whole[: len(before)], whole[len(before) :]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(
    context=st.text(alphabet="abc .\n", min_size=1, max_size=20).filter(str.strip),
    gap=st.sampled_from([(" ", ""), ("", " "), ("  ", " ")]),
    option=st.text(alphabet="abc. 1é", max_size=10).map(lambda text: "x" + text),
)
def test_multiple_choice_is_cut_as_lm_eval_cuts_it(name, context, gap, option):
    renderer = bare(name)
    tokens = renderer.plain(context.rstrip() + gap[0], gap[1] + option, "arc:1")
    before, after = lm_eval_pair(renderer.tokenizer, context.rstrip() + gap[0], gap[1] + option)
    bos = renderer.tokenizer.bos_token_id
    assert tokens.ids == (bos, *before, *after)
    assert [tokens.ids[at] for at in supervised(tokens)] == after


def test_multiple_choice_at_the_edges():
    tokens = bare("fresh").plain("", "114", "arc:1")  # bos predicts the first digit
    assert len(tokens.ids) == 4 and tokens.weights == (0.0, 1.0, 1.0, 1.0)
    tokenizer = load("gpt2_tokenizer")
    tokenizer.bos_token = None
    renderer = Renderer(tokenizer)
    assert renderer.plain("", " there", "arc:1").ids == (50256, 612)
    assert renderer.plain("Hi", " there", "arc:1").ids == (17250, 612)
    # "Hi" + "gh" is one token in which the border falls: it is scored whole, not lost.
    straddling = renderer.plain("so Hi", "gh", "arc:1")
    assert tokenizer.decode([straddling.ids[at] for at in supervised(straddling)]) == " High"
    with pytest.raises(UserError, match=r"^arc:1: options: an option without a token"):
        renderer.plain("Hi", "", "arc:1")


def test_generation_stops_at_every_end():
    phi = renderer_of("fresh", "phi3")
    ids = phi.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|end|>"])
    assert phi.end_ids == set(ids)
    stories = load("stories260K")
    assert Renderer(stories, frozenset({1, 2})).end_ids == {1, 2}  # its generation config names both
    ensure_chat_template(stories)
    assert Renderer(stories, frozenset({1, 2})).end_ids == {1, 2, 513}


def test_completion_is_the_chat_with_its_answer():
    renderer = renderer_of("fresh", "chatml")
    tokens = renderer.completion([Message("user", "Hi")], "Hello", "pairs.jsonl:3")
    assert tokens == renderer.chat(chat_of("u:Hi", "a:Hello", origin="pairs.jsonl:3"), "last")


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30) | st.text(alphabet="é🔭 a\n�", max_size=10))
def test_pieces_join_to_the_text(name, text):
    renderer = bare(name)
    ids = renderer.text(Text(text, "")).ids
    pieces = renderer.pieces(ids)
    assert len(pieces) == len(ids) and "".join(pieces) == renderer.tokenizer.decode(list(ids))


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 329), max_size=20))
def test_pieces_of_any_ids_join_to_what_they_decode_to(ids):
    renderer = bare("fresh")
    assert "".join(renderer.pieces(ids)) == renderer.tokenizer.decode(ids)


def test_pieces_show_a_character_once():
    renderer = bare("gpt2_tokenizer")
    ids = renderer.tokenizer(" a 🌲!")["input_ids"]
    assert renderer.pieces(ids) == [" a", "", "", " 🌲", "!"]
    stories = bare("stories260K")
    assert stories.pieces(stories.tokenizer("the 🌲")["input_ids"])[:2] == ["<s>", " the"]
