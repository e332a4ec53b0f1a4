"""The report on what each stage added: its words and pictures are those of report.json, and a run without comparisons
shows none."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from luthier.base.files import read_json, write_json
from luthier.evals.calibration import calibration
from luthier.run.added import gain_chart, headline, lines, points_of
from luthier.run.report import write_report
from luthier.run.story import read_run
from luthier.run.tradeoff import Axis, Span, Spot, front, plane
from run.fixture_run import WORST, make_run
from run.test_report import Page


def figure(value: float, low: float, high: float, n: int = 90) -> dict:
    return {"value": value, "low": low, "high": high, "n": n}


def point(model: str, value: float, gain: dict | None, before: str | None, was: float = 0.0) -> dict:
    found = {"model": model, **figure(value, value - 0.05, min(1.0, value + 0.04))}
    return found | ({"before": before, "was": was, "gain": gain} if gain else {})


ATTRIBUTION = {
    "stages": [{"name": name, "kind": name, "from": before}
               for name, before in (("pretrain", None), ("sft", "pretrain"), ("ppo", "sft"))],
    "abilities": [
        {"probe": "knowledge", "kind": "choices", "group": "knowledge", "points": [
            point("pretrain", 0.97, figure(0.72, 0.66, 0.78), "chance", 0.25),
            point("sft", 0.96, figure(-0.01, -0.05, 0.03), "pretrain", 0.97),
            point("ppo", 0.96, figure(0.0, -0.02, 0.02), "sft", 0.96)]},
        {"probe": "alignment", "kind": "alignment", "group": "alignment", "points": [
            point("pretrain", 0.0, figure(0.0, -0.04, 0.04), "chance", 0.0),
            point("sft", 0.93, figure(0.93, 0.88, 0.97), "pretrain", 0.0),
            point("ppo", 0.99, figure(0.06, 0.01, 0.12), "sft", 0.93)]},
        {"probe": "corpus_loss", "kind": "loss", "group": "forgetting", "data": "corpus", "points": [
            {"model": "pretrain", **figure(0.52, 0.5, 0.54)},
            {"model": "sft", **figure(0.54, 0.52, 0.56), "before": "pretrain", "gain": figure(0.02, 0.015, 0.025),
             "rise": figure(0.02, 0.015, 0.025), "since": "pretrain"},
            {"model": "ppo", **figure(0.541, 0.52, 0.56), "before": "sft", "gain": figure(0.001, -0.002, 0.004),
             "rise": figure(0.021, 0.015, 0.027), "since": "pretrain"}]},
    ],
}  # fmt: skip


@pytest.fixture
def told(tmp_path):
    """A finished run whose report.json tells of gains, calibration, parts and rows seen in training."""
    run = make_run(tmp_path / "run")
    report = read_json(run / "report.json")
    report["attribution"] = ATTRIBUTION
    scores = [[0.0, -1.0 - i / 20] for i in range(40)]
    report["metrics"]["knowledge"]["sft"]["calibration"] = calibration(scores, [0] * 30 + [1] * 10, 0).as_dict()
    held = {"parts": {"unanswerable_answered": figure(0.25, 0.1, 0.4)}}
    held |= {"examples": [{"question": "q", "claim": WORST, "why": "1 is not in the source", "origin": "q:1"}]}
    report["metrics"]["kept"] = {"sft": figure(0.8, 0.7, 0.9) | held}
    seen = {"rows": 90, "seen": 4, "exact": 1, "ngram": 3, "words": 13, "excluded": True, "training_rows": 900}
    seen |= {"sampled": [], "all": {"sft": figure(0.96, 0.9, 0.98)}, "clean": {"sft": figure(0.95, 0.89, 0.97, 86)}}
    seen |= {"examples": [{"origin": "c:3", "how": "exact", "like": "corpus:7", "words": WORST}]}
    report["contamination"] = {"knowledge": seen}
    write_json(run / "report.json", report)
    return run


def test_the_words_are_those_of_the_figures(told):
    story = read_run(told)
    assert headline(story) == (
        "Pretraining gave the knowledge (25 % → 97 %, +72 points [66, 78]), SFT the manners "
        "(0 % → 93 %, +93 points [88, 97])."
    )
    assert lines(story) == [
        "Pretraining: knowledge +72 points [66, 78]; no real difference in alignment.",
        "SFT: alignment +93 points [88, 97]; held-out loss on corpus +0.020 [0.015, 0.025] nats per token; "
        "no real difference in knowledge.",
        "PPO: alignment +6 points [1, 12]; preferred in 86 % of comparisons with SFT; held-out loss on corpus "
        "+0.001 [−0.002, 0.004] nats per token (not a real difference); no real difference in knowledge.",
    ]


def test_the_page_shows_gain_cost_and_closer_looks(told):
    page = Page(write_report(told).read_text())
    assert page.ids()[:3] == ["path", "figures", "added"]
    assert {"looks", "contaminated"} <= set(page.ids())
    assert "Pretraining gave the knowledge" in page.words and "+93 [88, 97]" in page.words
    assert "4 of 90 rows" in page.words and "left out of the figures above" in page.words
    assert "0.950 [0.890, 0.970], n = 86" in page.words
    assert "25 % [10, 40]" in page.words and "unanswerable questions answered all the same" in page.words
    pictures = [attrs["aria-label"] for _, attrs in page.tags if attrs.get("class") == "plane"]
    assert any(label.startswith("alignment over forgetting. pretrain: 0, 0; SFT: 0.02, 0.93") for label in pictures)
    assert [tag for tag, _ in page.tags].count("script") == 1 and not [tag for tag, _ in page.tags if tag == "img"]
    assert WORST in page.words


@pytest.mark.parametrize("key", ["probe", "model"])
def test_names_are_escaped(told, key):
    report = read_json(told / "report.json")
    if key == "probe":
        for ability in report["attribution"]["abilities"]:
            ability["probe"] = WORST
    else:
        report["attribution"]["stages"][1]["name"] = WORST
        for ability in report["attribution"]["abilities"]:
            ability["points"][1]["model"] = WORST
    write_json(told / "report.json", report)
    page = Page(write_report(told).read_text())
    assert [tag for tag, _ in page.tags].count("script") == 1 and not [tag for tag, _ in page.tags if tag == "img"]


def test_nothing_to_compare_is_not_shown(told):
    report = read_json(told / "report.json")
    report["attribution"]["abilities"] = [
        {"probe": "knowledge", "kind": "choices", "group": "knowledge", "points": [point("sft", 0.9, None, None)]}
    ]
    write_json(told / "report.json", report)
    assert "added" not in Page(write_report(told).read_text()).ids()


def test_gains_are_written_with_their_intervals():
    assert points_of(figure(-0.012, -0.051, 0.03)) == "−1 points [−5, 3]"
    assert points_of(figure(0.004, -0.02, 0.02), unit=False) == "±0 [−2, 2]"
    chart = gain_chart("a", ATTRIBUTION["abilities"][1]["points"], {"sft": "--green"})
    assert re.findall(r'<i class="(\w+)">', chart) == ["same", "up", "up"]
    assert chart.count("quiet") == 3  # from chance, and from each stage to the next


def test_the_pareto_front():
    """(forgot, quality): c is beaten by a in both; b and d tie with nobody; e is a again."""
    at = {"a": (1, 5), "b": (2, 7), "c": (3, 4), "d": (0, 1), "e": (1, 5), "f": (2, 6)}
    spots = [Spot(name, Span(x), Span(y), "--ink") for name, (x, y) in at.items()]
    assert {spots[i].label for i in front(spots)} == {"a", "b", "d", "e"}


def test_the_plane_is_svg_whose_places_are_to_scale():
    spots = [
        Spot("start", Span(0.0), Span(0.0), "--blue"),
        Spot("<end>", Span(0.2, 0.1, 0.3), Span(1.0, 0.9, 1.0), "--red", before=0),
    ]
    root = ET.fromstring(plane("title & all", spots, Axis("x"), Axis("y", share=True), alone=True))
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("{http://www.w3.org/2000/svg}circle")]
    texts = ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"title & all", "start", "<end>", "100 %", "x →", "↑ y"} <= set(texts)
    (x0, y0), (x1, y1) = circles
    assert x1 > x0 and y1 < y0
    ticks = {
        text: float(t.get("x")) for t, text in zip(root.iter("{http://www.w3.org/2000/svg}text"), texts, strict=True)
    }
    assert ticks["0.2"] == pytest.approx(x1) and plane("t", [], Axis("x"), Axis("y")) == ""
