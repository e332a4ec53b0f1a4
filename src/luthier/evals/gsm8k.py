"""GSM8K's answer check, as a reward and for evaluation: is the number that an answer ends in the right one?

    rewards: luthier.evals.gsm8k:answer_is_right

An answer's number is what stands behind its last "####" (Cobbe et al. 2021), else in its last \\boxed{}, else the last
number of the text. Numbers are compared exactly: 72, 72.0, $72.00 and 72 clips are one; 0.33 is not a third.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from luthier.base.nouns import Chat, Message

MARK = "####"
LONGEST = 300
"""Characters: what is longer is no number but a model that repeats itself."""
NUMBER = re.compile(
    r"""(?<![\w.])                # not inside a word (H2O), nor the decimals of another number
        (?P<sign>[-−–+]\s?)?      # a minus may be typeset
        [$€£¥]?\s?
        (?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?
        (?P<part>\.\d+)?(?<=\d)
        (?P<power>[eE][-+]?\d{1,3}\b)?
        (?:\s?/\s?(?P<under>\d+)(?![\d.,]*\d))?""",
    re.VERBOSE,
)
TEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
TEX_NOISE = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}|\\[,!;:%$ ]|\\left|\\right|\{,\}")


def answer_is_right(messages: Sequence[Message], answer: str, row: Chat) -> float:
    """1.0 where the answer's number is the row's, else 0.0. The row's is any of `accept`, else that of its reference
    answer. Raises ValueError where the row has none: then there is nothing to check against."""
    references = row.accept or ((row.answer,) if row.answer is not None else ())
    wanted = {number for text in references if (number := final_number(text)) is not None}
    if not wanted:
        raise ValueError("the row has no number to compare with: give it an answer that ends in one, or `accept`")
    return float(final_number(answer) in wanted)


def answer_is_marked(messages: Sequence[Message], answer: str, row: Chat) -> float:
    """1.0 where the answer's last line is "#### number", as GSM8K's are: for the habit, with a small weight."""
    lines = answer.strip().splitlines()
    return float(bool(lines) and lines[-1].startswith(MARK) and len(numbers(lines[-1])) == 1)


def final_number(text: str) -> Fraction | None:
    """The number that an answer ends in; None where it has none, or marks something else as its answer."""
    if MARK in text:
        found = numbers(text.rpartition(MARK)[2].strip().partition("\n")[0])
        return found[0] if found else None
    if "\\boxed" in text:
        found = numbers(boxed(text))
        return found[-1] if found else None
    found = numbers(text)
    return found[-1] if found else None


def boxed(text: str) -> str:
    """What stands in the last \\boxed{...}, braces inside it included."""
    inside = text.rpartition("\\boxed")[2].lstrip()
    if not inside.startswith("{"):  # \boxed 5
        return inside.partition(" ")[0]
    depth = 0
    for at, letter in enumerate(inside):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return inside[1:at]
    return inside[1:]


def numbers(text: str) -> list[Fraction]:
    """All numbers of a text, in order: 1,234.5, -3, 2e3, 3/4 and \\frac{3}{4}. A hyphen between two numbers is no sign;
    a division that is not in lowest terms (48/2) is work left undone, and counts as its two numbers."""
    plain = TEX_NOISE.sub(lambda match: match[1] or "", TEX_FRACTION.sub(r" \1/\2 ", text)).replace("**", "")
    found: list[Fraction] = []
    end = -1
    for match in NUMBER.finditer(plain):
        if (match["whole"] is None and match["part"] is None) or len(match[0]) > LONGEST:
            continue
        value = Fraction((match["whole"] or "0").replace(",", "") + (match["part"] or "") + (match["power"] or ""))
        negative = (match["sign"] or "+")[0] != "+" and not follows_a_number(plain, match.start(), end)
        found.append(-value if negative else value)
        end = match.end()
        if match["under"] is not None:
            below = Fraction(match["under"])
            ratio = value / below if below else Fraction(0)
            if value.denominator == 1 and (ratio.numerator, ratio.denominator) == (value, below) and below != 1:
                found[-1] = -ratio if negative else ratio
            else:
                found.append(below)
    return found


def follows_a_number(text: str, start: int, end: int) -> bool:
    """Whether a sign at `start` stands behind a number that ended at `end`, or behind a bracket: a minus, no sign."""
    return 0 <= end <= start and text[end:start].strip(" )") == "" and end > 0
