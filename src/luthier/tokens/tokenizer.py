"""Makes a tokenizer for a model that starts from nothing, and gives a chat template to one that has none.

Special tokens and what each means, here and in every folder that is saved:
`<|endoftext|>` begins and ends a document (bos and eos), `<|pad|>` fills and is never supervised (it is its own
token, so that masking it can never mask an end), `<|im_start|>` and `<|im_end|>` begin and end a turn. An encoder's are
BERT's: `[CLS]` and `[SEP]` around every text, `[MASK]` where a token is hidden, `[PAD]`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from luthier.base.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DOCUMENT = "<|endoftext|>"
PAD = "<|pad|>"
TURN, TURN_END = "<|im_start|>", "<|im_end|>"
SPECIAL = (DOCUMENT, PAD, TURN, TURN_END)
OF_ENCODERS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
BYTES = 256

# The answer is trimmed and nothing else is: a leading newline would merge with the one before it into a token that
# no served prompt ends in, so that the model would be asked from another place than it was taught.
CHATML = """\
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}
        {{- raise_exception('no such role: ' + message['role']) }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {{- message['content'] | trim }}
    {%- else %}
        {{- message['content'] }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def train_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `vocab` tokens, special ones included (fewer when the texts hold no more merges:
    ask `len`). The same texts give the same tokenizer; any text comes back from its ids exactly.

    Digits stand alone, as in Llama 2 and SmolLM2: "114" is always 1·1·4, where plain BPE would cut the number one
    way in one place and another way elsewhere, and a small corpus meets each of ten digits often but most numbers
    once. Line ends stand alone too, so that nothing merges across the line end that closes a turn's header: a
    prompt's tokens are then a prefix of the training tokens whatever the answer begins with.

    It has no chat template: a base model has none. Raises UserError when `vocab` cannot hold the 256 bytes.
    """
    from transformers import PreTrainedTokenizerFast

    bpe = train_bpe(texts, vocab, list(SPECIAL))
    # The tokenizer itself puts the document token first, so that other programs begin a text as training did.
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{DOCUMENT} $A",
        pair=f"{DOCUMENT} $A {DOCUMENT} $B",
        special_tokens=[(DOCUMENT, bpe.token_to_id(DOCUMENT))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=DOCUMENT,
        eos_token=DOCUMENT,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def train_encoder_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """The same for an encoder: `[CLS] text [SEP]`, or `[CLS] text [SEP] other [SEP]`. The mask token takes the space
    before it, as RoBERTa's does, for the hidden token brings its own. Raises UserError as `train_tokenizer`."""
    from transformers import PreTrainedTokenizerFast

    pad, first, behind, mask = OF_ENCODERS
    special = [AddedToken(token, special=True, lstrip=token == mask) for token in OF_ENCODERS]
    bpe = train_bpe(texts, vocab, special)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {behind}",
        pair=f"{first} $A {behind} $B:1 {behind}:1",
        special_tokens=[(token, bpe.token_to_id(token)) for token in (first, behind)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=pad,
        cls_token=first,
        sep_token=behind,
        mask_token=special[OF_ENCODERS.index(mask)],
        clean_up_tokenization_spaces=False,
    )


def train_bpe(texts: Iterable[str], vocab: int, special: list[Any]) -> Tokenizer:
    """Byte-level BPE with these special tokens first."""
    if vocab < BYTES + len(special):
        raise UserError(
            f"base.fresh.vocab: {vocab} is too small for {BYTES} bytes and {len(special)} special tokens. "
            f"Use {BYTES + len(special)} or more."
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # every byte, seen or not: nothing is unknown
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe


def ensure_chat_template(tokenizer: Any) -> bool:
    """Writes ChatML into a tokenizer that has no chat template; one that has its own is left alone. True when the
    vocabulary grew: where `len(tokenizer)` now exceeds the rows of the embedding, the caller resizes it.

    The template begins with the bos token where the tokenizer puts one before every text: the model has never seen
    a sequence without. `eos_token` stays the end of a *document*, as pretraining and replay write it; an answer
    ends in `<|im_end|>`. Generation stops at both: save `Renderer.end_ids` in the generation config.
    """
    if tokenizer.chat_template is not None:
        return False
    before = len(tokenizer)
    tokens = [AddedToken(token, special=True, normalized=False) for token in (TURN, TURN_END)]
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.chat_template = ("{{- bos_token }}\n" if adds_bos(tokenizer) else "") + CHATML
    return len(tokenizer) > before


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its bos token before a plain text by itself."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
