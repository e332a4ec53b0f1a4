"""Style: how answers look, whatever they say. LIMA holds one style throughout to matter as much as what is taught."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from luthier.base.nouns import Example
from luthier.data.curate.parts import parts_of

FREE = 1.5
"""Deviations from the middle of the data that cost nothing: about seven of eight rows, were they normal."""
ITEM = re.compile(r"^\s*(?:[-*•+]|\d{1,3}[.)])\s", re.MULTILINE)
MARKS = re.compile(r"\*\*[^*\n]+\*\*|^#{1,6} |`[^`\n]+`|^\s*\|.*\|\s*$|^> ", re.MULTILINE)
FACES = re.compile(r"[\U0001F300-\U0001FAFF☀-➿]|[:;]-?[)(DP]\B")
GREETING = re.compile(
    r"\s*(?:sure|certainly|of course|absolutely|great question|thank you|thanks|hello|hi|dear|i['’]?m sorry|sorry)\b",
    re.I,
)
FEATURES = ("words", "sentence_words", "paragraphs", "items", "marks", "code", "shouts", "faces", "greets", "own_voice")
LEAST_SPREAD = (0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.2, 0.2, 0.3, 0.3)
"""Of each feature, the deviation that counts as one where the data itself has less: rows that differ by one word do not
differ in style."""


def style_of(examples: Sequence[Example]) -> np.ndarray:
    """[N, features] of each row's answer (or text): logarithms of counts, and 0 or 1."""
    return np.array([_features(parts_of(example).answer) for example in examples]).reshape(-1, len(FEATURES))


def _features(text: str) -> list[float]:
    words = text.split()
    ends = len(re.findall(r"[.!?。！？]+(?:\s|\Z)", text)) or 1
    return [
        math.log1p(len(words)),
        math.log1p(len(words) / ends),
        math.log1p(len(re.findall(r"\n\s*\n", text))),
        math.log1p(len(ITEM.findall(text))),
        math.log1p(len(MARKS.findall(text))),
        math.log1p(text.count("```") // 2),
        math.log1p(text.count("!")),
        math.log1p(len(FACES.findall(text))),
        float(GREETING.match(text) is not None),
        float(re.search(r"\b(?:I|I['’]m|me|my)\b", text) is not None),
    ]


def consistency(style_NF: np.ndarray) -> np.ndarray:
    """[N] in 0..1, to be multiplied with quality: 1 for a row in the style of the data, less the farther it is from it:
    exp(-(d - 1.5)²/2), d the root mean square over the features of the distance from their median in robust deviations
    (1.4826 · the median absolute one)."""
    if len(style_NF) == 0:
        return np.ones(0)
    middle_F = np.median(style_NF, axis=0)
    spread_F = np.maximum(1.4826 * np.median(np.abs(style_NF - middle_F), axis=0), LEAST_SPREAD)
    distance_N = np.sqrt((((style_NF - middle_F) / spread_F) ** 2).mean(1))
    return np.exp(-0.5 * np.maximum(distance_N - FREE, 0) ** 2)
