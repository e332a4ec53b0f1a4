"""The run display: on a terminal a bar, elsewhere plain lines that a CI log can hold."""

from __future__ import annotations

import io
import os
import re
import select
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from luthier.console import (
    RunDisplay,
    closing,
    duration,
    figure,
    guard_lines,
    leaves,
    legend,
    memory,
    on_one_line,
    show_tokens,
    size,
)

STORY = [
    {"kind": "begin", "t": 0.0, "stage": "pretrain", "stage_kind": "pretrain", "steps": 100, "seconds_estimate": 75},
    {"kind": "guard", "t": 0.1, "name": "single BOS", "ok": True, "detail": "none doubled"},
    {"kind": "guard", "t": 0.1, "name": "disk", "ok": True, "detail": "9 GB free"},
    {"kind": "eval", "t": 0.2, "step": 0, "name": "heldout_loss", "value": 6.5, "low": 6.25, "high": 6.75, "n": 64},
    # One step a second, 500 tokens each, of which training takes half a second: 1,000 tokens/s.
    *(
        {
            "kind": "step",
            "t": float(k),
            "step": k,
            "steps": 100,
            "loss": 5 - k / 100,
            "lr": 1e-3,
            "tokens": 500 * k,
            "seconds": 0.5,
        }
        for k in range(1, 101)
    ),
    {
        "kind": "sample",
        "t": 100.1,
        "step": 100,
        "prompt": "Who?\nWhere?",
        "answer": "A\x1b[31mred\x1b[0m " + "word " * 60,
    },
    {"kind": "note", "t": 100.2, "text": "three rows were left out"},
    {"kind": "surprise", "t": 100.3},
    {"kind": "end", "t": 100.5, "seconds": 100.5, "peak_bytes": 951_800_000},
    {"kind": "begin", "t": 101.0, "stage": "ask", "stage_kind": "prefer", "simulated": True},
    {"kind": "resume", "t": 101.1, "step": 1200},
    {"kind": "guard", "t": 101.2, "name": "pad unsupervised", "ok": False, "detail": "faq.csv:3 trains on pad"},
    {"kind": "end", "t": 102.0, "seconds": 3723},
]
LEFT = {
    10: "1 min 30 s",
    20: "1 min 20 s",
    30: "1 min 10 s",
    40: "1 min 00 s",
    **{k: f"{100 - k} s" for k in range(50, 100, 10)},
}


def told(events, width=100):
    out = io.StringIO()
    with RunDisplay(Console(file=out, width=width, highlight=False)) as display:
        for event in events:
            display(event)
    return out.getvalue()


def test_without_a_terminal_the_story_is_plain_lines():
    assert told(STORY).splitlines() == [
        "",
        "1  pretrain · 100 steps · about 1 min 15 s",
        "   ✓ 2 checks hold: single BOS, disk",
        "   heldout_loss 6.500 [6.250, 6.750] n=64",
        # One line every ten seconds; time left is what remains at one step a second.
        *(f"   step {k}/100 · loss {5 - k / 100:.3f} · 1.0 k tokens/s · {left} left" for k, left in LEFT.items()),
        "   step 100/100 · loss 4.000 · 1.0 k tokens/s",
        "     Who?⏎ Where?",
        "   → A·[31mred·[0m " + ("word " * 60)[: 94 - 15] + "…",
        "   three rows were left out",
        "   ✓ pretrain: 1 min 40 s · loss 4.000 · peak memory 951.8 MB",
        "",
        "2  ask (prefer) (simulated rater)",
        "   goes on from step 1,200",
        "   ✗ pad unsupervised: faq.csv:3 trains on pad",
        "   ✓ ask: 1 h 02 min",
    ]


def test_the_prompt_is_not_repeated_while_it_stays_the_same():
    sample = {"kind": "sample", "t": 1.0, "step": 1, "prompt": "Who?", "answer": "I"}
    text = told([STORY[0], sample, sample | {"answer": "you"}, sample | {"prompt": "Where?"}])
    assert [line.strip() for line in text.splitlines()[2:]] == ["Who?", "→ I", "→ you", "Where?", "→ I"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_the_same_lines_stay_and_a_bar_comes_and_goes():
    ours, theirs = os.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal:
        console = Console(
            file=terminal, width=100, highlight=False, force_terminal=True, _environ={"TERM": "xterm-256color"}
        )
        with RunDisplay(console) as display:
            assert display.live
            for event in STORY[:30]:
                display(event)
            assert display.bar.live.is_started
            for event in STORY[-8:]:
                display(event)
            assert not display.bar.live.is_started
        terminal.flush()
        parts = [os.read(ours, 1_000_000)]
        while select.select([ours], [], [], 0)[0]:  # a terminal hands out what it has in pieces
            parts.append(os.read(ours, 1_000_000))
        written = b"".join(parts).decode()
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    assert "1  pretrain · 100 steps" in text and "/100" in text and "2  ask (prefer) (simulated rater)" in text
    assert "\x1b[31mred" not in written  # what a model writes does not steer the terminal
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor is back


def test_a_run_that_fails_gives_the_terminal_back():
    out = io.StringIO()
    with pytest.raises(ZeroDivisionError), RunDisplay(Console(file=out, force_terminal=True)) as display:
        for event in STORY[:10]:
            display(event)
        raise ZeroDivisionError
    assert not display.bar.live.is_started


@given(st.text(), st.integers(1, 80))
def test_a_models_text_is_one_printable_line(text, width):
    line = on_one_line(text, width)
    assert len(line) <= width and line.isprintable()
    if text.isprintable() and len(text.strip()) <= width:
        assert line == text.strip()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7325, "2 h 02 min"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0"), (950, "950"), (999.7, "1.0 k"), (11_620, "11.6 k"), (1.2e9, "1.2 G"), (3e12, "3.0 T")],
)
def test_sizes(count, words):
    assert size(count) == words


def test_memory_and_figures():
    assert memory(951_800_000) == "951.8 MB" and memory(12) == "12 B"
    assert figure(0.975, 0.951, 0.987, 400) == "0.975 [0.951, 0.987] n=400"
    assert figure(0.5) == "0.500" and figure(0.5, n=3) == "0.500 n=3"


def test_guards_that_fail_are_told_in_full():
    guards = [{"name": "a", "ok": True, "detail": "x"}, {"name": "b", "ok": False, "detail": "row 3. Cut it."}]
    assert list(guard_lines(guards)) == [("   ✓ 1 check holds: a", "green"), ("   ✗ b: row 3. Cut it.", "bold red")]
    assert (
        next(guard_lines([{"name": "n" * 50, "ok": True, "detail": ""}], 30))[0]
        == "   ✓ 1 check holds: " + "n" * 9 + "…"
    )


METRICS = {
    "answers": {"base": {"value": 0.0, "low": 0.0, "high": 0.02, "n": 200}, "sft": {"value": 0.985, "n": 200}},
    "reward": {
        "accuracy": {"value": 0.88, "low": 0.84, "high": 0.91, "n": 300},
        "by_length": {"short": {"value": 0.9}},
    },
}


def test_leaves_of_nested_metrics():
    assert [name for name, _ in leaves(METRICS)] == [
        "answers.base",
        "answers.sft",
        "reward.accuracy",
        "reward.by_length.short",
    ]


def test_the_closing_table_holds_every_figure_or_says_where_it_is():
    out = io.StringIO()
    report = {"name": "demo", "metrics": METRICS, "simulated": True, "seconds": 200, "peak_bytes": 1.5e9}
    closing(report, Console(file=out, width=100))
    text = out.getvalue()
    rows = {
        cells[0]: cells[1:]
        for line in text.splitlines()
        if len(cells := [c.strip() for c in re.split("[│┃]", line)[1:-1]]) == 4
    }
    assert rows["answers.base"] == ["0.000", "0.000 – 0.020", "200"]
    assert rows["answers.sft"] == ["0.985", "", "200"]
    assert rows["reward.accuracy"] == ["0.880", "0.840 – 0.910", "300"]
    assert "1 more in report.json" in text and "simulated rater, not from people" in text
    assert "3 min 20 s, peak memory 1.5 GB" in text


ROW = [
    ("<|im_start|>", 0.0),
    ("user\n", 0.0),
    ("Who?", 0.0),
    ("<|im_end|>", 0.0),
    ("I", 1.0),
    (" am [bold]", 0.5),
    ("<|im_end|>", 1.0),
]


def test_tokens_in_colour_and_without():
    out = io.StringIO()
    show_tokens(ROW, Console(file=out, width=100))
    assert out.getvalue() == "<|im_start|>user↵\nWho?<|im_end|>⟦I am [bold]<|im_end|>⟧\n"
    out = io.StringIO()
    show_tokens(ROW, Console(file=out, width=100, force_terminal=True, color_system="standard", _environ={}))
    text = out.getvalue()
    assert "\x1b[2;7m<|im_start|>" in text  # context, special: dim, inverse
    assert "\x1b[2mWho?" in text
    assert "\x1b[1;32mI\x1b[0m\x1b[1;32m am [bold]" in text  # trained: bold green
    assert "\x1b[1;7;32m<|im_end|>" in text
    for terminal in (True, False):
        out = io.StringIO()
        legend(Console(file=out, width=100, force_terminal=terminal, _environ={}))
        assert "trained" in out.getvalue() and "context" in out.getvalue()


READING = [
    {"kind": "progress", "t": float(t), "name": "web", "what": what, "rows": rows, "total": total, "share": share,
     "rows_per_s": 1234.5, "seconds_left": left}
    for t, what, rows, total, share, left in [
        (1, "reading", 100, None, 0.25, 90.0), (2, "reading", 200, None, 0.5, 60.0), (3, "reading", 400, None, 1, 0.0),
        (4, "tokenising", 300, 380, 0.8, None), (5, "tokenising", 380, 380, 0.9, 1.0),
    ]
]  # fmt: skip


def test_a_streamed_source_shows_how_far_it_is():
    """Elsewhere than on a terminal a line now and then; at the end, always one."""
    written = io.StringIO()
    with RunDisplay(Console(file=written, force_terminal=False, width=80)) as display:
        for event in READING:
            display(event)
    assert written.getvalue().splitlines() == [
        "   web: reading · 400 rows · 1.2 k rows/s",
        "   web: tokenising · 380/380 rows · 1.2 k rows/s",
    ]
    seen = io.StringIO()
    with RunDisplay(Console(file=seen, force_terminal=True, width=80)) as display:
        for event in READING:
            display(event)
    assert "web: reading · 200 rows · 1.2 k rows/s · 1 min 00 s left" in seen.getvalue()
