"""Log-likelihoods by the trie: those of each request alone, however they are batched, asked once and never again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from architectures import tiny
from luthier.base.lines import read_lines
from luthier.evals.completions import Completion, before_stop, complete
from luthier.evals.engine import Answers, Request, Watch, batches, loglikelihoods
from luthier.generate import sample
from luthier.model.draw import Sampling
from luthier.model.verify import choose_layout, library_attention
from luthier.tokens.pack import scored_forest


def requests(seed=0, vocab=128):
    """A question with options of one token, two that share a beginning, one that shares nothing, and one that is the
    beginning of another."""
    draw = np.random.default_rng(seed).integers(3, vocab, size=200).astype(np.int32)
    shots, first, second, alone = draw[:40], draw[40:55], draw[55:72], draw[72:90]
    made = [Request(np.append(np.append(shots, first), np.int32(token)), 1) for token in (5, 9, 17, 33)]
    made += [Request(np.concatenate([shots, second, draw[100 : 100 + n]]), n) for n in (3, 7)]
    made += [Request(alone, 6), Request(alone[:2], 1), Request(alone, 17)]
    return made


def alone(lm, request):
    """(Σ log p, greedy) through the library's own forward: the reference."""
    ids = torch.tensor([request.ids.tolist()])
    with library_attention(lm), torch.no_grad():
        logits_LV = lm.module(input_ids=ids).logits[0, :-1].float()
    at = slice(len(logits_LV) - request.scored, None)
    chosen = torch.log_softmax(logits_LV, -1).gather(1, ids[0, 1:, None]).squeeze(1)[at]
    return float(chosen.sum()), bool((logits_LV[at].argmax(-1) == ids[0, 1:][at]).all())


@pytest.mark.parametrize("tokens", [8192, 30])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere", "gpt2", "gptj", "mamba"])
def test_every_request_scores_as_it_does_alone(kind, tokens):
    lm, _ = choose_layout(tiny(kind))
    asked = requests()
    found = loglikelihoods(lm, asked, tokens=tokens)
    for request, one in zip(asked, found, strict=True):
        logp, greedy = alone(lm, request)
        assert one.logp == pytest.approx(logp, abs=2e-4)
        assert one.greedy == greedy


@pytest.mark.parametrize("kind", ["llama", "gptj"])
def test_greedy_is_what_greedy_decoding_writes(kind):
    """(Σ log p, True) exactly for the sampler's own continuation."""
    lm, _ = choose_layout(tiny(kind))
    prompts = [[5, 9, 33, 7], [80, 41, 6, 12, 99]]
    drawn = sample(lm, prompts, Sampling(max_new_tokens=6, temperature=0), [], str)
    for prompt, (one,) in zip(prompts, drawn, strict=True):
        whole = np.array([*prompt, *one.ids], dtype=np.int32)
        other = whole.copy()
        other[-2] = (other[-2] + 1) % 128
        mine, changed = loglikelihoods(lm, [Request(whole, 6), Request(other, 6)])
        assert mine.greedy and not changed.greedy
        assert mine.logp == pytest.approx(sum(one.logps), abs=1e-4)


def test_options_of_one_token_cost_nothing_beyond_the_question():
    """Four letters after one question: its 19 tokens are stored, the letters are not; one state, four targets."""
    question = np.arange(3, 22, dtype=np.int32)
    batch = scored_forest([np.append(question, np.int32(t)) for t in (30, 31, 32, 33)], [1] * 4)
    assert batch.tokens == 19
    assert batch.from_M.tolist() == [18] * 4
    assert batch.target_M.tolist() == [30, 31, 32, 33]


def test_what_is_known_is_not_asked_again(tmp_path):
    lm, _ = choose_layout(tiny("llama"))
    asked = requests()
    planned = []
    watch = Watch(plan=planned.append)
    first = loglikelihoods(lm, [*asked, *asked], Answers(tmp_path / "answers.jsonl"), watch)
    assert planned[-1].requests == len(asked)  # each distinct one once
    assert first[: len(asked)] == first[len(asked) :]
    # Killed in the middle of a line: that one is asked again, the others are not.
    text = (tmp_path / "answers.jsonl").read_text()
    (tmp_path / "answers.jsonl").write_text(text[:-9])
    again = loglikelihoods(lm, asked, Answers(tmp_path / "answers.jsonl"), watch)
    assert planned[-1].requests == 1
    assert [one.greedy for one in again] == [one.greedy for one in first[: len(asked)]]
    assert [one.logp for one in again] == pytest.approx([one.logp for one in first[: len(asked)]], abs=1e-5)
    assert len(read_lines(tmp_path / "answers.jsonl")) == len(asked)
    loglikelihoods(lm, asked, Answers(tmp_path / "answers.jsonl"), watch)
    assert planned[-1].requests == 0


def test_a_request_that_scores_nothing_is_refused():
    lm, _ = choose_layout(tiny("llama"))
    for scored in (0, 3):
        with pytest.raises(ValueError, match="at least one token"):
            loglikelihoods(lm, [Request(np.array([5, 6, 7], dtype=np.int32), scored)])


LISTS = st.lists(st.lists(st.integers(3, 6), min_size=2, max_size=12), min_size=1, max_size=30)


@settings(max_examples=60)
@given(LISTS, st.booleans(), st.integers(4, 40))
def test_batches_hold_every_request_once_and_keep_the_limit(lists, shares, tokens):
    asked = [Request(np.array(ids, dtype=np.int32), 1) for ids in lists]
    runs = list(batches(asked, shares, tokens))
    assert sorted(n for run in runs for n in run.indices) == list(range(len(asked)))
    for run in runs:
        assert run.work.tokens <= tokens or len(run.indices) == 1
        if shares:
            stored = scored_forest([asked[n].ids for n in run.indices], [1] * len(run.indices), 4).tokens
            assert stored <= run.work.tokens
        else:
            assert run.work.tokens == len(run.indices) * max(len(asked[n].ids) for n in run.indices)


class Letters:
    """A tokenizer of one character a token, as far as completions ask."""

    def decode(self, ids, skip_special_tokens=True):
        return "".join(chr(97 + id % 26) for id in ids)

    def get_vocab(self):
        return {"<end>": 2}

    def convert_tokens_to_ids(self, token):
        return 2


@pytest.mark.parametrize("kind", ["llama", "gptj"])
def test_text_ends_before_its_stop_string_and_equals_text_that_was_cut_afterwards(kind):
    lm, _ = choose_layout(tiny(kind))
    prompts, how = [(5, 9, 33, 7), (80, 41, 6), (3, 4, 5, 6, 7)], Sampling(max_new_tokens=24, temperature=0)
    whole = [g[0].text for g in sample(lm, prompts, how, [2], Letters().decode)]
    until = (whole[0][6:8], whole[1][3])
    asked = [Completion(prompt, how, until) for prompt in prompts]
    assert complete(lm, asked, [2], Letters()) == [before_stop(text, until) for text in whole]
    halted = sample(lm, prompts, how, [2], Letters().decode, stops=until)
    for (one,), text in zip(halted, whole, strict=True):
        ends = [text.find(stop) + len(stop) for stop in until if stop in text]
        assert len(one.ids) == min(ends, default=len(text))  # no token after the stop


def test_completions_are_kept_and_equal_ones_are_asked_once(tmp_path):
    lm, _ = choose_layout(tiny("llama"))
    how = Sampling(max_new_tokens=5, temperature=0)
    asked = [Completion((5, 9), how, ("zz",)), Completion((5, 9), how, ("zz",)), Completion((7, 9), how, ())]
    planned = []
    first = complete(lm, asked, [2], Letters(), Answers(tmp_path / "a.jsonl"), Watch(plan=planned.append))
    assert planned[-1].requests == 2
    again = complete(lm, asked, [2], Letters(), Answers(tmp_path / "a.jsonl"), Watch(plan=planned.append))
    assert again == first and planned[-1].requests == 0
