"""The sampler: greedy = transformers' generate, log-probs = score's, rows independent of how they are batched."""

from __future__ import annotations

from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from architectures import FOREST, ROWS, tiny
from luthier.base.errors import UserError
from luthier.base.nouns import Tokens
from luthier.generate import Stops, sample
from luthier.model.drafts import Drafts
from luthier.model.draw import Sampling, choose
from luthier.model.prefill import LEAST_COMMON, forward, in_common
from luthier.model.score import score
from luthier.model.verify import choose_layout, context_of
from luthier.tokens.pack import forest

PROMPTS = [[5, 9, 33, 7, 12], [5, 9, 33, 7, 12, 80, 41], list(range(3, 28)), [100]]


def decode(ids):
    return " ".join(map(str, ids))


@pytest.mark.parametrize("shared", [0, LEAST_COMMON])
@pytest.mark.parametrize("kind", [*FOREST, *ROWS])
def test_greedy_equals_transformers_generate_and_logps_equal_score(kind, shared):
    """Whether the prompts begin alike or not."""
    model = tiny(kind)
    lm, _ = choose_layout(model)
    prompts = [[*range(20, 20 + shared), *prompt] for prompt in PROMPTS]
    ours = sample(lm, prompts, Sampling(max_new_tokens=24, temperature=0), [2], decode)
    reference = tiny(kind)
    for prompt, (one,) in zip(prompts, ours, strict=True):
        theirs = reference.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=2, pad_token_id=0
        )[0, len(prompt) :].tolist()
        assert list(one.ids) == theirs
        assert one.stopped == (theirs[-1] == 2)
    sequences = [Tokens(s.prompt_ids + s.ids, (0.0,) * len(s.prompt_ids) + (1.0,) * len(s.ids), "") for (s,) in ours]
    drawn = torch.tensor([logp for (s,) in ours for logp in s.logps])
    torch.testing.assert_close(drawn, score(lm, forest(sequences)).detach(), atol=5e-5, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gptj"])
def test_a_row_does_not_depend_on_its_neighbours(kind):
    lm, _ = choose_layout(tiny(kind))
    how = Sampling(max_new_tokens=20, temperature=1.0, seed=7)
    together = sample(lm, PROMPTS, how, [2, 3, 4, 5], decode, samples=3)
    in_waves = sample(lm, PROMPTS, how, [2, 3, 4, 5], decode, samples=3, max_rows=3)
    assert [[s.ids for s in group] for group in together] == [[s.ids for s in group] for group in in_waves]
    assert len({s.ids for s in together[0]}) > 1  # samples of one prompt differ
    other = sample(lm, PROMPTS, Sampling(max_new_tokens=20, seed=8), [2], decode, samples=3)
    assert [[s.ids for s in g] for g in other] != [[s.ids for s in g] for g in together]


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt_oss"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_rows_that_end_make_room_for_others_and_change_nothing(kind, data):
    """However many grow at once, whenever they end or meet a stop, and whatever is drafted, right or wrong: each row's
    tokens are those it has without drafts, beside all others."""
    lm, _ = CACHED.setdefault(kind, choose_layout(tiny(kind)))
    prompts = data.draw(st.lists(st.lists(st.integers(3, 90), min_size=1, max_size=30), min_size=1, max_size=9))
    begin = range(5, data.draw(st.sampled_from([5, 8, 80])))
    prompts = [[*begin, *prompt] for prompt in prompts]
    G, seed = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 9))
    penalty = data.draw(st.sampled_from([1.0, 1.2]))
    how = Sampling(max_new_tokens=data.draw(st.integers(1, 40)), seed=seed, repetition_penalty=penalty)
    ends = list(range(3, 3 + data.draw(st.integers(0, 12))))
    stops = data.draw(st.sampled_from([(), ("7",), ("40 ", "1 2")]))
    most, tokens = data.draw(st.integers(1, 12)), data.draw(st.sampled_from([None, 60, 200]))
    with patch("luthier.generate.in_common", return_value=0), patch.object(Drafts, "of", lambda *_: []):
        apart = sample(lm, prompts, how, ends, decode, G, 10**6, stops=stops)
    chance, spoilt = np.random.default_rng(seed), data.draw(st.sampled_from([None, 0.0, 0.3, 1.0]))

    def partly_right(self, row, room, rows):
        text = self.rows[row]
        written = len(text.ids) - len(text.prompt.ids)
        right = apart[row // G][row % G].ids[written : written + min(room, chance.integers(6))]
        return [int(chance.integers(90)) if chance.random() < spoilt else token for token in right]

    told, counted = [], []
    with nullcontext() if spoilt is None else patch.object(Drafts, "of", partly_right):
        found = sample(
            lm, prompts, how, ends, decode, G, most, counted.append, stops, tokens, lambda done: told.extend(done)
        )
    assert dict(told) == dict(enumerate(found)) and len(told) == len(prompts)
    assert counted[-1] == len(prompts) * G and counted == sorted(counted)
    for r, group in enumerate(apart):
        for one, other in zip(group, found[r], strict=True):
            assert (one.ids, one.text, one.stopped) == (other.ids, other.text, other.stopped)
            # Rounding: float32 in another order, up to 2.5e-5 in gpt_oss. A key too many changes the tokens.
            np.testing.assert_allclose(one.logps, other.logps, atol=6e-5 if kind == "gpt_oss" else 2e-5)


CACHED = {}


@pytest.mark.parametrize("kind", FOREST)
def test_drafts_change_no_text_and_save_steps(kind):
    """What each row, or each second one, is about to write is drafted, every fifth token of it wrong."""
    lm, _ = choose_layout(tiny(kind))
    how, steps = Sampling(max_new_tokens=40, seed=5), []
    with patch("luthier.generate.forward", lambda *given: steps.append(1) or forward(*given)):
        with patch.object(Drafts, "of", lambda *_: []):
            plain = sample(lm, PROMPTS, how, [2], decode, samples=2)
        for part in (1, 2):
            without = len(steps)

            def foreseen(self, row, room, rows, part=part):
                text = self.rows[row]
                written = len(text.ids) - len(text.prompt.ids)
                draft = plain[row // 2][row % 2].ids[written : written + min(room, 7)]
                return [token if (written + n) % 5 else 7 for n, token in enumerate(draft)] if row % part == 0 else []

            steps.clear()
            with patch.object(Drafts, "of", foreseen):
                drafted = sample(lm, PROMPTS, how, [2], decode, samples=2)
            assert part == 2 or len(steps) < without / 2
            assert [[one.ids for one in group] for group in drafted] == [[one.ids for one in group] for group in plain]
            for group, other in zip(drafted, plain, strict=True):
                for one, two in zip(group, other, strict=True):
                    np.testing.assert_allclose(one.logps, two.logps, atol=1e-4)


def test_a_text_that_repeats_itself_takes_fewer_steps():
    """A model that looks at its last token only goes in a circle soon: of 119 steps a third is left at most."""
    model = tiny("llama")
    for layer in model.model.layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.zeros_(linear.weight)
    lm, _ = choose_layout(model)
    steps = []
    with patch("luthier.generate.forward", lambda *given: steps.append(1) or forward(*given)):
        ((one,),) = sample(lm, PROMPTS[:1], Sampling(max_new_tokens=120, temperature=0), [], decode)
    assert len(one.ids) == 120 and len(set(one.ids)) < 30
    assert len(steps) < 40


def test_what_prompts_have_in_common():
    begin = list(range(LEAST_COMMON))
    assert in_common([[*begin, 1, 7], [*begin, 1, 8], (*begin, 1, 7, 9)]) == LEAST_COMMON + 1
    assert in_common([[*begin, 1], begin]) == 0  # a prompt keeps a token of its own, and one less is too few
    assert in_common([[*begin, 1]] * 2) == LEAST_COMMON
    assert in_common([[*begin, 1]]) == in_common([]) == in_common([begin, [3]]) == 0


def test_sampled_logps_are_those_of_the_temperature():
    lm, _ = choose_layout(tiny("llama"))
    groups = sample(lm, PROMPTS, Sampling(max_new_tokens=16, temperature=0.7, top_k=5, seed=1), [2], decode, samples=2)
    sequences = [
        Tokens(s.prompt_ids + s.ids, (0.0,) * len(s.prompt_ids) + (1.0,) * len(s.ids), "")
        for group in groups
        for s in group
    ]
    drawn = torch.tensor([logp for group in groups for s in group for logp in s.logps])
    torch.testing.assert_close(drawn, score(lm, forest(sequences), temperature=0.7).detach(), atol=5e-5, rtol=0)


def test_drawing_follows_the_distribution():
    logits = torch.log(torch.tensor([0.5, 0.25, 0.125, 0.125])).repeat(20000, 1)
    uniform = torch.from_numpy(np.random.default_rng(0).random(20000))
    share = torch.bincount(choose(logits, uniform, Sampling()).token_N, minlength=4) / 20000
    torch.testing.assert_close(share, torch.tensor([0.5, 0.25, 0.125, 0.125]), atol=0.01, rtol=0)
    # top-p 0.7 keeps the two likeliest (0.5 < 0.7 <= 0.75): 2/3 and 1/3; top-k 1 is greedy
    nucleus = torch.bincount(choose(logits, uniform, Sampling(top_p=0.7)).token_N, minlength=4) / 20000
    torch.testing.assert_close(nucleus, torch.tensor([2 / 3, 1 / 3, 0, 0]), atol=0.01, rtol=0)
    assert choose(logits, uniform, Sampling(top_k=1)).token_N.eq(0).all()
    # temperature 0.5 squares the odds: 16:4:1:1
    cold = torch.bincount(choose(logits, uniform, Sampling(temperature=0.5)).token_N, minlength=4) / 20000
    torch.testing.assert_close(cold, torch.tensor([16, 4, 1, 1]) / 22, atol=0.01, rtol=0)


@pytest.mark.parametrize("draw", [0.0, 0.999999999])
def test_the_edges_of_the_draw_never_give_an_impossible_token(draw):
    logits = torch.tensor([[-float("inf"), 0.0, 0.0, -float("inf")]])
    assert choose(logits, torch.tensor([draw], dtype=torch.float64), Sampling()).token_N.item() in (1, 2)


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_repetition_penalty_equals_transformers(penalty):
    model = tiny("llama")
    lm, _ = choose_layout(model)
    ours = sample(lm, PROMPTS[:2], Sampling(24, temperature=0, repetition_penalty=penalty), [2], decode)
    for prompt, (one,) in zip(PROMPTS, ours, strict=False):
        theirs = tiny("llama").generate(
            torch.tensor([prompt]),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=0,
            repetition_penalty=penalty,
        )
        assert list(one.ids) == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_no_row_grows_beyond_the_context(kind):
    """gpt2 has no position beyond it at all. Each row ends where transformers' `max_length` ends it."""
    lm, _ = choose_layout(tiny(kind))
    context = context_of(lm.core.config.to_dict())
    prompts = [[5 + i % 90 for i in range(context - left)] for left in (3, 1, 40, 7)]
    ours = sample(lm, prompts, Sampling(max_new_tokens=12, temperature=0), [], decode)
    assert [len(one.ids) for (one,) in ours] == [3, 1, 12, 7] and not any(one.stopped for (one,) in ours)
    for prompt, (one,) in zip(prompts, ours, strict=True):
        most = min(12, context - len(prompt))
        theirs = tiny(kind).generate(torch.tensor([prompt]), max_new_tokens=most, do_sample=False, pad_token_id=0)
        assert list(one.ids) == theirs[0, len(prompt) :].tolist()
    with pytest.raises(UserError, match=f"a prompt of {context} tokens leaves no room"):
        sample(lm, [list(range(3, 9)), [5] * context], Sampling(4), [], decode)


PIECES = [bytes([byte]) for byte in "é\n 🎸".encode()] + [b"a", b"b", b"ab", " é".encode(), b" ", b"\n\n", b"b a"]
"""Tokens: bytes of letters that have several, and runs of letters."""


def text_of(ids):
    """As byte-level and sentence-piece tokenizers together: what is no whole letter, and no blank at the beginning."""
    return b"".join(PIECES[id % len(PIECES)] for id in ids).decode(errors="replace").removeprefix(" ")


rows_of_pieces = st.lists(st.integers(0, len(PIECES) - 1), min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(rows_of_pieces, st.lists(st.sampled_from(["é", "🎸", " a", "ab", "aab", "\n\n", "é🎸é", "b a b"]), min_size=1))
def test_a_stop_is_met_at_the_token_that_completes_it(ids, strings):
    """Its end in the last token, its beginning anywhere, be it the row's own: the row's whole text, read after each
    token, finds it at the same one."""
    stops = Stops(tuple(strings), text_of)
    for n in range(1, len(ids) + 1):
        met = any(string in text_of(ids[:n]) for string in strings)
        assert stops.met(ids[max(0, n - stops.reach) : n]) == met
        if met:
            break


@pytest.mark.parametrize("kind", ["llama", "gptj"])
def test_rows_stop_at_strings_of_many_bytes_at_their_beginning_and_never_at_longer_ones(kind):
    lm, _ = choose_layout(tiny(kind))
    how = Sampling(max_new_tokens=20, seed=3)
    whole = sample(lm, PROMPTS[:2], how, [], text_of, samples=4)
    texts = [one.text for group in whole for one in group]
    first = [text_of(one.ids[:2]) for group in whole for one in group]  # what a row begins with
    for stops in (["é", "🎸", "ab"], [max(texts, key=len) + "x" * 99], first[:1]):
        cut = [one for group in sample(lm, PROMPTS[:2], how, [], text_of, samples=4, stops=stops) for one in group]
        for one, full in zip(cut, (one for group in whole for one in group), strict=True):
            ends = (n for n in range(1, 21) if any(stop in text_of(full.ids[:n]) for stop in stops))
            assert one.ids == full.ids[: next(ends, 20)]
