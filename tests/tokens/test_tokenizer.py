"""The fresh tokenizer and the ChatML that is written into tokenizers without a template."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.errors import UserError
from luthier.tokens.tokenizer import adds_bos, ensure_chat_template, train_tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data"
CORPUS = [
    "The telescope costs 114 euros and weighs 2.5 kg.\n\nIts mirror is 114 mm wide; the tube is 500 mm long.",
    "Wie groß ist der Spiegel? 114 mm. Le télescope coûte 1149 €.\nOpen from 9 to 17, closed on Sundays.",
    "def area(d):\n    return 3.14159 * (d / 2) ** 2\n",
] * 5


@pytest.fixture(scope="module")
def fresh():
    return train_tokenizer(CORPUS, 400)


def load(name):
    from transformers import AutoTokenizer

    if not (DATA / name).exists():
        pytest.skip(f"../shared/data/{name} is not here")
    return AutoTokenizer.from_pretrained(DATA / name)


@given(text=st.text())
def test_any_text_comes_back_exactly(fresh, text):
    ids = fresh(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert fresh.decode(ids) == text


@given(
    number=st.integers(0, 10**9), before=st.sampled_from(["", " ", "x", "\n", "€", "costs "]), after=st.text(max_size=3)
)
def test_a_number_is_its_digits_wherever_it_stands(fresh, number, before, after):
    after = after if not after[:1].isnumeric() else ""
    ids = fresh(before + str(number) + after, add_special_tokens=False)["input_ids"]
    digits = fresh.convert_tokens_to_ids(list(str(number)))
    start = len(fresh(before, add_special_tokens=False)["input_ids"])
    assert ids[start : start + len(digits)] == digits


@given(text=st.text(alphabet="ab \n", max_size=12))
def test_nothing_merges_across_a_line_end(fresh, text):
    head, whole = (fresh(t, add_special_tokens=False)["input_ids"] for t in ("assistant\n", "assistant\n" + text))
    assert whole[: len(head)] == head


def test_merges_what_is_frequent_first():
    # " ab" 30 times, " cd" 20 times; 256 bytes + 4 special tokens leave three merges. Pairs (Ġ,a) and (a,b) both
    # count 30; the pair of lower ids goes first, and "a" sorts before "Ġ". Then (Ġ,ab) 30, then (c,d) 20.
    tokenizer = train_tokenizer([" ab" * 30 + " cd" * 20], 263)
    assert tokenizer.convert_ids_to_tokens([260, 261, 262]) == ["ab", "Ġab", "cd"]
    assert len(tokenizer(" ab", add_special_tokens=False)["input_ids"]) == 1


def test_pad_is_not_an_end_and_the_document_token_is_both_ends(fresh):
    assert fresh.convert_ids_to_tokens([0, 1, 2, 3]) == ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
    assert (fresh.bos_token_id, fresh.eos_token_id, fresh.pad_token_id) == (0, 0, 1)
    assert fresh("a")["input_ids"][0] == 0 and adds_bos(fresh)
    assert fresh.chat_template is None


def test_vocabulary_is_as_asked_or_smaller():
    assert len(train_tokenizer(CORPUS, 300)) == 300
    assert len(train_tokenizer(["ab"], 5000)) == 261  # the one merge that "ab" holds
    with pytest.raises(UserError, match=r"fresh\.vocab: 259 is too small"):
        train_tokenizer(CORPUS, 259)


def test_the_same_texts_give_the_same_tokenizer_in_another_process(fresh):
    program = (
        "import sys; from luthier.tokens.tokenizer import train_tokenizer; import ast;"
        "print(ascii(train_tokenizer(ast.literal_eval(sys.argv[1]), 400).backend_tokenizer.to_str()))"
    )
    for hash_seed, parallel in (("1", "true"), ("2", "false")):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "TOKENIZERS_PARALLELISM": parallel}
        out = subprocess.run(
            [sys.executable, "-c", program, repr(CORPUS)], env=environment, capture_output=True, text=True, check=True
        )
        assert out.stdout.strip() == ascii(fresh.backend_tokenizer.to_str())


def test_chatml_has_every_role_and_a_generation_prompt():
    tokenizer = train_tokenizer(CORPUS, 300)
    assert ensure_chat_template(tokenizer) is False and len(tokenizer) == 300  # its turn tokens are there already
    messages = [{"role": role, "content": f" {role}? \n"} for role in ("system", "user", "tool", "assistant")]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|endoftext|><|im_start|>system\n system? \n<|im_end|>\n<|im_start|>user\n user? \n<|im_end|>\n"
        "<|im_start|>tool\n tool? \n<|im_end|>\n<|im_start|>assistant\nassistant?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.eos_token == "<|endoftext|>"  # a document's end; the turn's is not the tokenizer's eos


@pytest.mark.parametrize("name,bos", [("gpt2_tokenizer", ""), ("stories260K", "<s>")])
def test_chatml_on_real_tokenizers_grows_them_once_and_survives_saving(name, bos, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = load(name)
    size, eos = len(tokenizer), tokenizer.eos_token
    assert ensure_chat_template(tokenizer) is True and len(tokenizer) == size + 2
    assert ensure_chat_template(tokenizer) is False and len(tokenizer) == size + 2
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == f"{bos}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
    assert tokenizer.eos_token == eos
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    assert again.apply_chat_template(messages, return_dict=False) == ids
    assert ids.count(size) == 2 and ids.count(size + 1) == 2


def test_a_template_of_its_own_is_left_alone():
    tokenizer = train_tokenizer(CORPUS, 300)
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert ensure_chat_template(tokenizer) is False
    assert tokenizer.chat_template == "{{ messages[0].content }}"
