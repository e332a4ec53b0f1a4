"""Rewards of our own, as a recipe names them: rewards.py:right, rewards.py:brief. A reward is any function of the
prompt's messages, the answer and the prompt's row (its `accept`, `meta` and reference answer) that returns a number."""

from __future__ import annotations

import re


def right(messages, answer, row):
    """1 where the answer's last number is an accepted one."""
    numbers = re.findall(r"\d+", answer)
    return float(bool(numbers) and numbers[-1] in row.accept)


def brief(messages, answer, row):
    """-1 for every hundred characters."""
    return -len(answer) / 100


def rate(messages, answer):
    """What a simulated person thinks, who can add, likes to see the result marked, and to read little: for `prefer`
    stages, whose raters are not shown the row."""
    a, b = map(int, re.findall(r"\d+", messages[-1].content))
    numbers = re.findall(r"\d+", answer)
    right = bool(numbers) and numbers[-1] == str(a + b)
    return 2 * right + answer.startswith("#### ") - len(answer) / 100
