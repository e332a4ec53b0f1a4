"""The report: everything it shows is in the run's files, nothing runs or is fetched that is not its own."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from fixture_run import STAGES, WORST, make_run

from luthier.base.errors import UserError
from luthier.base.files import read_json, write_json, write_jsonl
from luthier.run.pictures import (
    Frame,
    Series,
    Stop,
    count,
    duration,
    interval_plot,
    line_chart,
    nice_ticks,
    number,
    size,
    slope_chart,
    spread,
    thin,
    tick_label,
)
from luthier.run.report import write_report
from luthier.run.story import percent, read_run
from luthier.run.verdict import verdict


class Page(HTMLParser):
    """A page taken apart by another parser than the one that made it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: list[str] = []
        self.scripts, self.styles, self.words = "", "", ""
        self.feed(html)
        self.words = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and tag == self.inside[-1]:
            self.inside.pop()

    def handle_data(self, data):
        if self.inside == ["script"]:
            self.scripts += data
        elif self.inside == ["style"]:
            self.styles += data
        else:
            self.texts.append(data)

    def ids(self) -> list[str | None]:
        return [attrs["id"] for tag, attrs in self.tags if tag == "section"]


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Page]:
    run = make_run(tmp_path_factory.mktemp("runs") / "demo")
    return run, page_of(run)


def said(run: Path) -> str:
    return "".join(f"{piece.text}{piece.aside}" for piece in verdict(read_run(run))).strip()


def test_nothing_is_fetched(whole):
    _, page = whole
    for tag, attrs in page.tags:
        assert "src" not in attrs and "srcset" not in attrs and tag not in ("iframe", "object", "embed", "base", "form")
        assert (attrs.get("href") or "#").startswith(("#", "data:")), (tag, attrs)
        assert not [name for name in attrs if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?:", page.styles)
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|https?:", page.scripts)


def test_only_the_pages_own_script_may_run(whole):
    _, page = whole
    assert [tag for tag, _ in page.tags].count("script") == 1
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.scripts.encode()).digest()).decode()
    assert policy is not None and f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_what_models_and_files_say_is_text(whole):
    """The fixture's base model, and a reason for rejecting a row, hold a script and an image with a handler."""
    _, page = whole
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert page.words.count(WORST) >= 3  # preview and whole answer of the base, and the rejected row


@pytest.mark.parametrize("key", ["name", "kind", "detail", "prompt", "origin", "reference", "text", "version"])
def test_every_string_of_the_files_is_escaped(tmp_path, key):
    run = make_run(tmp_path / "run", ("sft",))
    stage = next(run.glob("1-sft-*"))
    report, record = read_json(run / "report.json"), read_json(stage / "stage.json")
    if key in ("name", "kind"):
        report[key] = report["data"][0]["name"] = WORST
        report["metrics"][WORST] = {WORST: {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}}
        report["metrics"]["forgetting"][WORST] = {
            k: {"value": 0.1, "loss": 1.0 + i} for i, k in enumerate((WORST, "sft"))
        }
        record["kind"] = WORST if key == "kind" else "sft"
    elif key == "detail":
        record["guards"] = [{"name": WORST, "ok": False, "detail": WORST}]
    elif key == "version":
        report["versions"] = report["hardware"] = {WORST: WORST}
        record["inputs"] = {WORST: WORST}
    elif key == "text":
        extra = [{"kind": "note", "t": 0, "text": WORST}]
        extra += [{"kind": "eval", "t": 0, "step": s, "name": WORST, "value": 0.1 * s} for s in (1, 2)]
        extra += [{"kind": "step", "t": 0, "step": s, WORST: 0.5 * s} for s in (1, 2)]
        write_jsonl(stage / "events.jsonl", extra)
    else:
        rows = [{"origin": "a", "prompt": "b", "reference": "c", "answer": "d", "accept": [WORST]} | {key: WORST}]
        write_jsonl(stage / "samples.jsonl", rows)
    write_json(run / "report.json", report)
    write_json(stage / "stage.json", record)
    page = page_of(run)
    assert [tag for tag, _ in page.tags].count("script") == 1 and not [tag for tag, _ in page.tags if tag == "img"]
    for _, attrs in page.tags:
        assert not {"onerror", "onload"} & set(attrs)


def leaves(tree: dict, path: tuple[str, ...] = ()) -> list[dict]:
    if "value" in tree:
        return [tree]
    return [leaf for key, inner in tree.items() if isinstance(inner, dict) for leaf in leaves(inner, (*path, key))]


def test_figures_are_those_of_the_report(whole):
    """Each leaf of report.json's metrics is a row of the page, with its value, interval and n."""
    run, page = whole
    wanted = leaves(read_json(run / "report.json")["metrics"])
    rows = [attrs for tag, attrs in page.tags if tag == "tr" and "data-value" in attrs]
    shown = [tuple(float(row[f"data-{key}"] or "nan") for key in ("value", "low", "high")) for row in rows]
    assert sorted(shown) == sorted((leaf["value"], leaf["low"], leaf["high"]) for leaf in wanted)


def test_figures_are_written_as_they_are_measured(whole):
    _, page = whole
    # Wilson 1927 for 118 of 120: centre ± spread = [0.9413, 0.9954]; the win rate is 0.86 of 200.
    assert "SFT 98.3 % [94.1, 99.5] 120" in page.words
    assert "PPO against SFT 86.0 % [80.5, 90.1] 200" in page.words
    assert "length baseline 61.0 % [55.5, 66.2] 312" in page.words
    assert "margin 2.310 [2.140, 2.470] 312" in page.words
    assert "+0.660 [0.620, 0.710] 64" in page.words
    assert "90 % is all that can be expected: 10 % of the labels are flipped." in page.words


def test_the_verdict_is_made_of_the_metrics(whole):
    run, _ = whole
    assert said(run) == (
        "After SFT the model answers 98 %[94, 100] of held-out questions (base: 0 %), after PPO 98 %[93, 99]. "
        "PPO wins 86 %[81, 90] against SFT in the eyes of the scripted rater."
    )


def test_the_verdict_of_losses_alone(tmp_path):
    run = make_run(tmp_path / "run", ("pretrain", "sft"))
    report = read_json(run / "report.json")
    report["metrics"] = {"forgetting": report["metrics"]["forgetting"]}
    write_json(run / "report.json", report)
    assert said(run) == "Held-out loss on handbook fell from 5.31 to 2.36 nats per token after pretrain."
    report["metrics"] = {}
    write_json(run / "report.json", report)
    assert said(run) == "2 stages finished; nothing was measured."


def test_a_fresh_runs_base_is_what_pretraining_left(tmp_path):
    run = make_run(tmp_path / "run", ("pretrain", "sft"))
    report = read_json(run / "report.json")
    answers = report["metrics"]["answers"]
    answers["pretrain"] = answers.pop("base")
    write_json(run / "report.json", report)
    assert said(run) == "After SFT the model answers 98 %[94, 100] of held-out questions (base: 0 %)."


def test_simulated_preferences_are_labelled(whole, tmp_path):
    label = "Preferences are simulated by a scripted rater"
    assert label in whole[1].words
    assert label not in page_of(make_run(tmp_path / "run", ("pretrain", "sft"))).words


ALWAYS = ["path", "answers", "curves", "guards", "data", "provenance"]


@pytest.mark.parametrize(
    ("stages", "finished", "sections"),
    [
        (STAGES, True, ["path", "figures", "answers", "curves", "forgetting", "guards", "data", "provenance"]),
        (("sft",), True, ["path", "figures", "answers", "curves", "forgetting", "guards", "data", "provenance"]),
        (("pretrain", "sft"), False, ALWAYS),
        (("pretrain", "sft", "prefer"), False, ALWAYS),
        (("pretrain",), False, ALWAYS[:4] + ALWAYS[5:]),
    ],
)
def test_missing_parts_are_left_out(tmp_path, stages, finished, sections):
    page = page_of(make_run(tmp_path / "run", stages, finished))
    assert page.ids() == sections
    assert ("This run is not finished" in page.words) == (not finished)
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert [f"#{name}" for name in sections] == links[: len(sections)]


def test_a_stopped_run_says_where_and_why(tmp_path):
    run = make_run(tmp_path / "run", ("pretrain", "sft"), finished=False)
    stage = next(run.glob("2-sft-*"))
    with open(stage / "events.jsonl", "a") as file:
        file.write('{"kind": "step", "step": 107, "lo')  # killed in the middle of a line
    write_json(stage / "failed.json", {"step": 106, "loss": "nan", "grad_norm": "nan", "origins": ["faq.csv:17"]})
    page = page_of(run)
    assert "1 of 5 stages done so far." in page.words
    assert (
        "SFT is under way or was stopped at step 106 of 160. at step 106 the loss was nan (rows: faq.csv:17"
        in page.words
    )
    assert page.words.count("not begun") == 3


def test_a_guard_that_refused_is_told_from_the_events(tmp_path):
    run = make_run(tmp_path / "run", ("sft",), finished=False)
    stage = next(run.glob("1-sft-*"))
    record = read_json(stage / "stage.json")
    del record["guards"]
    write_json(stage / "stage.json", record)
    refused = {"kind": "guard", "t": 0, "name": "no leak", "ok": False, "detail": "3 evaluation rows are trained on."}
    write_jsonl(stage / "events.jsonl", [{"kind": "begin", "t": 0, "stage": "sft", "stage_kind": "sft"}, refused])
    page = page_of(run)
    assert "no leak: 3 evaluation rows are trained on." in page.words and "✗ 1 of 1 did not hold" in page.words


def test_a_run_that_has_only_begun(tmp_path):
    write_json(tmp_path / "resolved.json", {"name": "new", "stages": [{"kind": "sft", "name": None}]})
    page = page_of(tmp_path)
    assert "0 of 1 stages done so far." in page.words and page.ids() == ["path"]


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run's folder"):
        write_report(tmp_path)


def test_memos_of_an_earlier_recipe_are_not_told(tmp_path):
    """A stage run before with other settings leaves a newer-looking folder; current.json names the right one."""
    run = make_run(tmp_path / "run", ("pretrain", "sft"), finished=False)
    right = next(run.glob("1-pretrain-*"))
    write_json(run / "current.json", {"stages": [right.name]})
    shutil.copytree(right, run / "1-pretrain-00000000")
    record = read_json(right / "stage.json") | {"seconds": 12345.0}
    write_json(run / "1-pretrain-00000000" / "stage.json", record)
    story = read_run(run)
    assert [(s.name, s.state) for s in story.stages][:2] == [("pretrain", "done"), ("sft", "stopped")]
    assert story.stages[0].record["seconds"] == 98.4


def test_ten_thousand_steps_stay_light(tmp_path):
    report = write_report(make_run(tmp_path / "run", steps=10_000))
    assert report.stat().st_size < 1_000_000


def test_a_browser_runs_the_script_and_nothing_else(whole):
    """The content security policy lets the theme be set, and the hostile answers run nothing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium to look at the page with")
    run, _ = whole
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--disable-quic", f"--user-data-dir={run / 'profile'}"]
    url = f"{(run / 'report.html').as_uri()}?theme=dark"
    found = subprocess.run([browser, *flags, "--dump-dom", url], capture_output=True, text=True, timeout=120)
    page = Page(found.stdout)
    assert dict(page.tags)["html"].get("data-theme") == "dark"
    assert [attrs.get("class") for tag, attrs in page.tags].count("tip") > 10  # one read-out a chart
    assert not [tag for tag, _ in page.tags if tag == "img"]


# Pictures and words, closed forms


def test_a_dot_stands_where_its_value_is():
    # 0.25 on an axis of 0..1 is at 250 of 1000; the interval runs from 100 to 600
    picture = interval_plot(0.25, 0.1, 0.6, "--blue", (0.0, 1.0), [0.5])
    assert 'd="M250 11h' in picture and 'd="M100 11H600"' in picture and 'd="M500 -6V28"' in picture
    assert "interval" not in interval_plot(0.25, None, None, "--blue", (0.0, 1.0))


def test_a_line_goes_through_its_points():
    # y from 0 to 4 over 100 px: 1 is at 75, 3 at 25; x from 0 to 10 over 1000
    chart = line_chart([Series("a", [(0, 1.0), (5, 4.0), (10, 0.0)], "--blue")], "Loss", height=100)
    assert 'd="M0 75L500 0L1000 100"' in chart
    assert line_chart([Series("a", [], "--blue")], "Loss") == ""


def test_branches_of_a_slope_chart_stay_apart():
    # two children of one parent: lines go from x = 167 to 500 and from 167 to 833 of 1000, none between the children
    stops = [Stop("base", 2.0, "", "--grey", None), Stop("a", 1.0, "", "--blue", 0), Stop("b", 3.0, "", "--blue", 0)]
    chart = slope_chart("x", stops)
    assert re.findall(r'line quiet" d="M([\d.]+) [\d.]+L([\d.]+)', chart) == [("166.7", "500"), ("166.7", "833.3")]


def test_the_path_says_where_a_stage_came_from(whole):
    _, page = whole
    assert "is moved towards what is preferred from SFT and reward" in page.words


def test_read_outs_are_the_data():
    chart = line_chart([Series('"<b>', [(1, 0.5), (2, 0.25)], "--blue")], "x")
    shown = next(attrs["data-chart"] for _, attrs in Page(chart).tags if "data-chart" in attrs)
    assert shown is not None and json.loads(shown)["series"] == [
        {"l": '"<b>', "c": "--blue", "p": [[1, 0.5], [2, 0.25]]}
    ]


FINITE = st.floats(-1e6, 1e6)


@given(st.lists(FINITE, min_size=1, max_size=900))
def test_thinning_hides_no_extreme(values):
    points = [(float(i), y) for i, y in enumerate(values)]
    line = thin(points, 50)
    assert len(line.points) == min(len(points), 50)
    if line.band:
        assert min(low for _, low, _ in line.band) == min(values) and max(h for *_, h in line.band) == max(values)
        for (x, y), (_, low, high) in zip(line.points, line.band, strict=True):
            assert low - 1e-6 <= y <= high + 1e-6 and 0 <= x <= len(values)
    assert [x for x, _ in line.points] == sorted(x for x, _ in line.points)


@given(FINITE, FINITE, st.integers(2, 8))
def test_ticks_are_round_and_cover(low, high, n):
    low, high = min(low, high), max(low, high)
    ticks = nice_ticks(low, high, n)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert ticks[0] <= low + slack and ticks[-1] >= high - slack and 2 <= len(ticks) <= 2 * n + 3
    if high - low > slack * 100:
        mantissa = f"{ticks[1] - ticks[0]:.3e}".split("e")[0]
        assert mantissa in ("1.000", "2.000", "5.000")


@given(st.lists(st.floats(0, 150), min_size=1, max_size=6))
def test_labels_do_not_overlap_and_keep_their_order(tops):
    placed = spread(tops, 17, 150)
    order = sorted(range(len(tops)), key=lambda i: tops[i])
    gaps = [placed[b] - placed[a] for a, b in itertools.pairwise(order)]
    assert all(gap >= 17 - 1e-6 for gap in gaps) and max(placed) <= 150 + 1e-6


@given(st.floats(0, 1))
def test_only_all_is_100_and_only_nothing_is_0(value):
    assert (float(percent(value)[:-2]) == 100) == (value == 1)
    assert (float(percent(value)[:-2]) == 0) == (value == 0)


def test_figures_for_people():
    assert [number(x) for x in (0, 0.25, -1.5, 1234, 123456, 2e-7)] == ["0", "0.250", "−1.50", "1,234", "123k", "2e−7"]
    assert [tick_label(x, 0.25, True) for x in (0, 0.25, 0.5)] == ["0 %", "25 %", "50 %"]
    assert [duration(x) for x in (4.21, 41, 98.4, 3600, 18720)] == ["4.2 s", "41 s", "1 min 38 s", "1 h", "5 h 12 min"]
    assert [size(x) for x in (912e6, 1.4e9)] == ["912 MB", "1.4 GB"]
    assert [count(x) for x in (7, 17_480, 402_000, 1_720_000, 7.24e9)] == ["7", "17,480", "402 k", "1.72 M", "7.24 B"]


def test_a_frame_clips_what_lies_outside():
    assert Frame(0, 1, 0, 1, 100).y(2.0) == 0 and Frame(0, 1, 0, 1, 100).y(-1.0) == 100
