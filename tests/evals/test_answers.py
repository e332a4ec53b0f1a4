"""Generated answers: what counts as right, and which of two is better."""

from __future__ import annotations

import torch

from luthier.base.nouns import Chat, Message
from luthier.base.recipe import Fresh
from luthier.base.values import contains
from luthier.evals.answers import Answer, answer_all, wins
from luthier.model.draw import Sampling
from luthier.model.load import fresh_model
from luthier.model.verify import choose_layout, library_attention
from luthier.tokens.render import Renderer
from luthier.tokens.tokenizer import ensure_chat_template, train_tokenizer


def test_wins_count_ties_half():
    def rate(prompt, text):
        assert prompt == (Message("user", "q"),)
        return float(len(text))

    new, old = (
        [Answer("x", (Message("user", "q"),), text, None, True) for text in texts]
        for texts in (["long", "a", "bb"], ["b", "long", "cc"])
    )
    assert wins(rate, new, old) == [1.0, 0.0, 0.5]


def chat(*texts, accept=()):
    roles = ("user", "assistant", "user", "assistant")
    messages = tuple(Message(role, text) for role, text in zip(roles, texts, strict=False))
    return Chat(messages, f"{len(texts)} turns", accept)


def test_every_chat_gets_the_answer_it_would_get_alone():
    tokenizer = train_tokenizer(["what is it? a telescope."] * 3, 300)
    ensure_chat_template(tokenizer)
    renderer = Renderer(tokenizer)
    module = fresh_model(Fresh(layers=2, width=32, heads=4, context=256, tie_embeddings=False), tokenizer, 0)
    with torch.no_grad():
        module.lm_head.weight.mul_(8)
    lm, _ = choose_layout(module.eval())
    chats = [chat("what is it?", "a telescope."), chat("is it?"), chat("what", "it", "is it a telescope?")]
    how = Sampling(max_new_tokens=12, temperature=0)
    found = answer_all(lm, renderer, chats, how)
    assert [a.origin for a in found] == [c.origin for c in chats]
    assert [a.prompt for a in found] == [c.prompt for c in chats]  # the reference answer is not shown
    assert all(a.right is None for a in found)
    for one, its_chat in zip(found, chats, strict=True):
        ids = renderer.prompt(its_chat.prompt)
        ends = sorted(renderer.end_ids)
        with library_attention(lm):
            theirs = lm.module.generate(
                torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=ends, pad_token_id=1
            )[0, len(ids) :].tolist()
        assert one.text == renderer.decode(theirs).strip()
        assert one.ended == (theirs[-1] in renderer.end_ids)
    assert len({a.text for a in found}) == 3 and found[0].text
    said = found[0].text.split()[0]
    judged = answer_all(
        lm, renderer, [chat("what is it?", accept=(said,)), chat("is it?", accept=("never said",))], how
    )
    assert [a.right for a in judged] == [contains(found[0].text, [said]), False]


def test_a_prompt_that_fills_the_context_gets_no_answer_and_the_others_theirs():
    tokenizer = train_tokenizer(["Which colour has the door?"] * 3, 300)
    module = fresh_model(Fresh(layers=1, width=16, heads=2, context=48), tokenizer, 0).eval()
    lm, renderer = choose_layout(module)[0], Renderer(tokenizer)
    asked = [Chat((Message("user", text),), f"a:{n}", ("red",)) for n, text in enumerate(("Which?", "Why? " * 60))]
    one, none = answer_all(lm, renderer, asked, Sampling(4, temperature=0))
    assert one == answer_all(lm, renderer, asked[:1], Sampling(4, temperature=0))[0]
    assert (none.origin, none.text, none.right, none.ended) == ("a:1", "", False, False)
