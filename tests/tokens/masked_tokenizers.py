"""Three tokenizers of encoders, one of each family, trained on a few sentences."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from luthier.tokens.tokenizer import train_encoder_tokenizer

TEXTS = [
    "The lamp 114 is red. It hangs in the shed, doesn't it?",
    "Unbelievable lampshades were rehung; naïve façades, café tables.",
    "We keep the blue boats (all 27 of them) in the boathouse by the harbour.",
    'He said: "No — not tomorrow!" and left in \'84.',
]


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's: "##" goes on with a word."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    how = trainers.WordPieceTrainer(vocab_size=110, special_tokens=special, show_progress=False)
    made.train_from_iterator(TEXTS * 4, how)
    made.decoder = decoders.WordPiece()
    ids = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, mask_token="[MASK]", **names)


def sentence_piece() -> PreTrainedTokenizerFast:
    """XLM-RoBERTa's and ALBERT's: "▁" begins a word."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    how = trainers.UnigramTrainer(vocab_size=160, special_tokens=special, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(TEXTS * 4, how)
    made.decoder = decoders.Metaspace()
    ids = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, mask_token="<mask>", **names)


TOKENIZERS = {
    "WordPiece": word_piece,
    "byte-level BPE": lambda: train_encoder_tokenizer(TEXTS * 4, 300),
    "SentencePiece": sentence_piece,
}
