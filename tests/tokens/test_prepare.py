"""What becomes of rows that do not fit: every token is accounted for, and every long row is named."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.errors import UserError
from luthier.base.nouns import Chat, Choice, Labelled, Message, Pair, Text, Tokens
from luthier.tokens.prepare import Prepared, answer_tokens, prepare, prepare_labelled, prepare_pairs, split_document
from luthier.tokens.render import Renderer
from luthier.tokens.tokenizer import ensure_chat_template, train_tokenizer


@pytest.fixture(scope="module")
def renderer():
    """260 tokens: a letter is a token, so lengths can be counted by hand."""
    tokenizer = train_tokenizer(["a"], 260)
    ensure_chat_template(tokenizer)
    return Renderer(tokenizer)


def chat(question, answer, origin="faq.jsonl:1"):
    return Chat((Message("user", question), Message("assistant", answer)), origin)


ROUND = len("^<user\n>\n<assistant\n>\n")  # bos and what ChatML puts around question and answer, a mark being a token


def test_rows_that_fit_go_in_whole(renderer):
    rows = [Text("abc", "a.txt"), chat("hi", "yes")]
    made = prepare(rows, renderer, 64, "error")
    assert [s.origin for s in made.sequences] == ["a.txt", "faq.jsonl:1"]
    assert [len(s.ids) for s in made.sequences] == [5, ROUND + 5]  # bos a b c eos
    assert [sum(s.weights) for s in made.sequences] == [4, 4]  # all but bos; y e s end
    assert (made.dropped, made.truncated, made.split, made.lost_tokens, made.words()) == ([], [], 0, 0, "")


@given(st.integers(1, 200), st.integers(2, 50))
def test_a_split_document_predicts_every_token_exactly_once(length, max_length):
    whole = Tokens(tuple(range(length)), (0.0,) + (1.0,) * (length - 1), "book.txt")
    pieces = split_document(whole, max_length)
    assert all(len(piece.ids) <= max_length and len(piece.ids) == len(piece.weights) for piece in pieces)
    # ids are positions here: (token before, token) of each prediction
    predicted = Counter(
        (piece.ids[t - 1], piece.ids[t]) for piece in pieces for t in range(1, len(piece.ids)) if piece.weights[t]
    )
    assert predicted == Counter((t - 1, t) for t in range(1, length))
    assert all(piece.origin == "book.txt" for piece in pieces)


def test_documents_are_split_and_conversations_are_not(renderer):
    text = Text("abcdefghijklmnopqr", "long.txt")  # 20 tokens with bos and eos
    made = prepare([text, Text("ab", "short.txt")], renderer, 8, "split")
    # 8 + 7 + 7: a piece begins with the last token of the one before, and 19 = 7 + 7 + 5 tokens are predicted
    assert [len(s.ids) for s in made.sequences] == [8, 8, 6, 4]
    assert sum(sum(s.weights[1:]) for s in made.sequences[:3]) == 19
    assert (made.split, made.words()) == (1, "1 documents split")
    with pytest.raises(UserError, match=r"faq.jsonl:9: overlong: split is for documents"):
        prepare([chat("hi", "yes", "faq.jsonl:9")], renderer, 8, "split")


def test_truncation_counts_the_supervised_tokens_it_loses(renderer):
    fits, cut, gone = (
        chat("hi", "yes", "1"),
        chat("hi", "yes, it is so", "2"),
        chat("a question of this length", "x", "3"),
    )
    made = prepare([fits, cut, gone], renderer, ROUND + 5, "truncate")
    assert [len(s.ids) for s in made.sequences] == [ROUND + 5] * 3
    assert made.truncated == ["2", "3"]
    # "yes, it is so" and its end are 14 tokens, of which the line end behind the first row's answer leaves room for
    # 3 + 1 + 1; "x" and its end are both gone
    assert made.lost_tokens == 9 + 2
    assert made.words() == "2 rows cut (11 supervised tokens lost)"


def test_dropped_rows_are_named(renderer):
    made = prepare([Text("abcdefgh", "a.txt"), Text("ab", "b.txt"), chat("hi", "yes")], renderer, 8, "drop")
    assert made.dropped == ["a.txt", "faq.jsonl:1"]
    assert [s.origin for s in made.sequences] == ["b.txt"]
    assert made.words() == "2 rows too long, dropped"
    assert Prepared(dropped=["x"], split=2).words() == "1 rows too long, dropped, 2 documents split"


def test_every_row_that_is_too_long_is_named_at_once(renderer):
    with pytest.raises(UserError) as caught:
        prepare([Text("abcdefgh", f"{n}.txt") for n in range(3)], renderer, 8, "error")
    assert len(caught.value.problems) == 3
    assert caught.value.problems[2] == (
        "2.txt: 10 tokens, longer than max_length 8. Shorten it, raise max_length, or say overlong: drop, truncate or "
        "split."
    )
    with pytest.raises(UserError) as caught:
        prepare([Text("abcdefgh", f"{n}.txt") for n in range(50)], renderer, 8, "error")
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "... and 30 rows more."


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (Pair((Message("user", "q"),), "a", "b", "pairs.jsonl:4"), "pairs.jsonl:4: a pair cannot be trained on here"),
        (Choice("c", ("a", "b"), 0, "quiz.csv:2"), "quiz.csv:2: a choice cannot be trained on here"),
        (
            Labelled((Message("user", "q"),), "a", True, "marks.csv:3"),
            r"marks.csv:3: a labelled answer \(format: labelled\) cannot be trained on here",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused(renderer, row, said):
    with pytest.raises(UserError, match=said):
        prepare([row], renderer, 64, "error")


def test_an_answer_is_scored_up_to_its_end_where_sampling_stops(renderer):
    prompt = (Message("user", "hi"),)
    tokens = answer_tokens(renderer, prompt, "yes", "x")
    asked = renderer.prompt(prompt)
    assert list(tokens.ids[: len(asked)]) == asked
    assert renderer.decode(tokens.ids[len(asked) :]) == "yes"
    assert tokens.ids[-1] in renderer.end_ids  # not the line end that ChatML puts behind it
    assert tokens.weights == (0.0,) * len(asked) + (1.0,) * 4


def test_labelled_answers_keep_their_labels(renderer):
    ask = (Message("user", "hi"),)
    answers = [("yes", True), ("no, not at all", False), ("ah", False)]
    rows = [Labelled(ask, answer, good, str(n)) for n, (answer, good) in enumerate(answers, 1)]
    fitting, made = prepare_labelled(rows, renderer, ROUND + 5, "drop")
    assert [(row.answer, row.good) for row in fitting] == [answers[0], answers[2]] and made.dropped == ["2"]
    assert [s.ids for s in made.sequences] == [answer_tokens(renderer, ask, row.answer, "x").ids for row in fitting]
    with pytest.raises(UserError) as caught:
        prepare_labelled([rows[1]] * 22, renderer, ROUND + 5, "error")
    assert len(caught.value.problems) == 21 and caught.value.problems[-1] == "... and 2 answers more."
    assert caught.value.problems[0].startswith(f"2: {ROUND + 15} tokens, longer than max_length {ROUND + 5}.")


def test_pairs_stay_pairs(renderer):
    ask = (Message("user", "hi"),)
    pairs = [Pair(ask, "yes", "no", "1"), Pair(ask, "yes", "no, not at all", "2"), Pair(ask, "oh", "ah", "3")]
    kept, fitting, made = prepare_pairs(pairs, renderer, ROUND + 5, "drop")
    assert [pair.origin for pair in fitting] == ["1", "3"] and made.dropped == ["2"]
    texts = [
        tuple(renderer.decode([i for i, w in zip(s.ids, s.weights, strict=True) if w]) for s in both) for both in kept
    ]
    assert texts == [("yes", "no"), ("oh", "ah")]
    assert made.sequences == [s for both in kept for s in both]
    with pytest.raises(UserError) as caught:
        prepare_pairs([pairs[1]] * 22, renderer, ROUND + 5, "error")
    assert len(caught.value.problems) == 21 and caught.value.problems[-1] == "... and 2 pairs more."
    assert caught.value.problems[0].startswith(f"2: {ROUND + 15} tokens, longer than max_length {ROUND + 5}.")
