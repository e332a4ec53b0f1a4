"""`luthier compare A B` on a small run: what is asked, what is kept, what is said, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.server import Answer, says, serving
from luthier.base.errors import RunError, UserError
from luthier.base.files import read_json
from luthier.base.lines import read_lines
from luthier.base.nouns import Chat, Message, Reply
from luthier.base.rubric import Rubric
from luthier.evals.formats import regex_check
from luthier.run.against.arena import count_votes
from luthier.run.against.measures import differences_of, figures_of, measures_of
from luthier.run.against.versus import Asked, compare_answers
from luthier.run.against.versus_page import pieces_of, write_page
from luthier.run.against.versus_words import said, table
from luthier.run.asked import remembering
from luthier.run.judged_words import bout_lines, judge_lines
from luthier.run.subjects import Asking, Nats, open_subject, open_subjects
from luthier.tokens.render import Renderer
from run.small import colour, run_small, small_world, stage_folders, write_rows

HOW = Asking(max_new_tokens=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a run in runs/."""
    folder = tmp_path_factory.mktemp("versus")
    recipe = small_world(folder / "world")
    run_small(recipe, folder / "runs")
    return folder


@pytest.fixture(autouse=True)
def _there(made, monkeypatch):
    monkeypatch.chdir(made)


def counted(subject):
    """The subject's ask, with a note of how many prompts it was given."""
    calls: list[int] = []

    def ask(prompts):
        calls.append(len(prompts))
        return subject.ask(prompts)

    return ask, calls


def test_a_subject_answers_as_the_run_measured_it(made):
    """Greedy answers of `small:sft` are those that the run's own `answers` probe kept, and its −log p of the reference
    is that of the probability of each token, one forward at a time."""
    subject = open_subject("small:sft", HOW)
    kept = [read_json(path) for path in (made / "runs/small/measures").glob("answers-sft-*.json")]
    rows = [json.loads(line) for line in (made / "world/asked.jsonl").read_text().splitlines()]
    prompts = [(Message("user", row["question"]),) for row in rows]
    assert [reply.text for reply in subject.ask(prompts)] == kept[0]["texts"]
    chat = Chat((*prompts[0], Message("assistant", rows[0]["answer"])), "x")
    assert subject.nats is not None
    (found,) = subject.nats([chat])
    folder = stage_folders(made / "runs/small")["sft"] / "model"
    tokens = Renderer(AutoTokenizer.from_pretrained(folder)).completion(chat.prompt, rows[0]["answer"], "x")
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([tokens.ids])).logits[0]
    logp = torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(tokens.ids[1:])[:, None])[:, 0]
    wanted = -(logp * torch.tensor(tokens.weights[1:])).sum().item()
    assert found is not None and found.nats == pytest.approx(wanted, rel=1e-4)
    assert found.tokens == sum(tokens.weights)
    subject.close()


def test_names_of_subjects(made):
    assert open_subject("small").hash == open_subject("runs/small:ppo").hash == open_subject("./runs/small").hash
    assert open_subject("small:base").hash == open_subject("small:pretrain").hash != open_subject("small").hash
    folder = next((made / "runs/small").glob("2-sft-*/model"))
    by_folder, by_name = open_subject(str(folder), HOW), open_subject("small:sft", HOW)
    prompt = [(Message("user", "Which colour has the hat 70?"),)]
    assert by_folder.ask(prompt) == by_name.ask(prompt) and by_folder.kind == "folder"
    assert open_subject("org/name").kind == "hub" and open_subject("http://127.0.0.1:9/v1#m").kind == "endpoint"
    for name, words in [
        ("smal", "smal: no model of that name. Did you mean small? The runs here: runs/small."),
        ("small:stf", "stage 'stf' has no finished model. Run its recipe to the end first. Did you mean sft?"),
        ("world", "neither a run nor a model"),
        ("runs/smalll", "Did you mean runs/small?"),
        ("method", "Did you mean methods?"),
    ]:
        with pytest.raises(UserError, match=re.escape(words)):
            open_subject(name)
    with pytest.raises(UserError) as error:
        open_subjects(["small", "runs/small", "smal", "small"], HOW)
    one, two = open_subjects(["http://127.0.0.1:9/v1#m", "http://127.0.0.1:8/v1#m"], HOW)
    assert (one.label, two.label) == (one.named, two.named)  # the model's name alone would be both
    one, two = open_subjects(["http://127.0.0.1:9/v1#m", str(folder)], HOW)
    assert (one.label, two.label) == ("m", "model")
    assert [line.partition(". ")[0] for line in error.value.problems] == [
        "smal: no model of that name",
        "runs/small: it is the same model as small",
        "small: it is named twice",
    ]


def test_prompts_that_do_not_fit_have_an_error_and_hurt_nobody():
    subject = open_subject("small:sft", HOW)
    long, short = (Message("user", "hat " * 200),), (Message("user", "Which colour has the hat 70?"),)
    replies = subject.ask([long, short])
    assert "fills the context of 96" in replies[0].error and replies[1] == subject.ask([short])[0]
    subject.close()


def test_a_comparison_asks_once_and_goes_on_where_it_was_killed(made):
    found = compare_answers(["small:sft", "small"], Asked(how=HOW))
    assert found.folder == Path("runs/compare-small-sft-small") and found.questions == "runs/small: data.asked"
    files = sorted((found.folder / "answers").glob("[!n]*.jsonl"))
    before = [file.read_bytes() for file in files]
    assert [len(read_lines(file)) for file in files] == [12, 12]
    again = compare_answers(["small:sft", "small"], Asked(how=HOW))
    assert [file.read_bytes() for file in files] == before and again.figures == found.figures
    # A kill in the middle of a line, with four answers gone: they are asked for again, and come out the same.
    files[0].write_bytes(before[0][: before[0].rindex(b"\n", 0, len(before[0]) * 2 // 3) + 9])
    assert compare_answers(["small:sft", "small"], Asked(how=HOW)).answers == found.answers
    assert read_json(found.folder / "compare.json")["figures"]["right"]["small"]["n"] == 12


def test_nothing_is_asked_twice_not_even_in_one_call(tmp_path):
    heard: list[str] = []

    def ask(prompts):
        heard.extend(prompt[0].content for prompt in prompts)
        return [Reply("", error="gone") if p[0].content == "bad" else Reply(p[0].content.upper()) for p in prompts]

    def prompts(*words):
        return [[Message("user", word)] for word in words]

    remembered = remembering(ask, tmp_path / "a.jsonl", 2)
    assert [r.text for r in remembered(prompts("a", "b", "a", "bad", "c"))] == ["A", "B", "A", "", "C"]
    assert heard == ["a", "b", "bad", "c"]
    assert [r.text for r in remembered(prompts("c", "bad", "d"))] == ["C", "", "D"]
    assert heard[4:] == ["bad", "d"]  # what failed is asked again


def test_questions_may_come_from_any_file(made, tmp_path):
    rows = [{"prompt": "Which colour has the hat 70?"}, {"prompt": "And the boat 3?"}]
    write_rows(tmp_path / "mine.jsonl", rows)
    found = compare_answers(["small:base", "small:sft"], Asked(tmp_path / "mine.jsonl", how=HOW), tmp_path / "out")
    # Without references and accepted values there are only lengths; the base is asked in plain text, and it is said.
    assert [m.key for m in found.measures] == ["words"]
    assert any("small:base: it has no chat template" in note for note in found.notes)
    (tmp_path / "empty.jsonl").write_text("")
    write_rows(tmp_path / "texts.jsonl", [{"text": "No question."}])
    for name, words in [
        ("empty", "not one usable row"),
        ("texts", "holds no question to ask"),
        ("nope", "does not exist"),
    ]:
        with pytest.raises(UserError, match=words):
            compare_answers(["small:base", "small"], Asked(tmp_path / f"{name}.jsonl", how=HOW), tmp_path / "out")
    with pytest.raises(UserError, match="none of the models is a run"):
        compare_answers(["org/a", "org/b"], Asked(how=HOW), tmp_path / "out")
    with pytest.raises(UserError, match="name at least two models"):
        compare_answers(["small"], Asked(how=HOW))


def colour_server(asked, before):
    """Knows every other colour; fails for one question for ever."""
    text = asked["messages"][-1]["content"]
    number = int(re.search(r"\d+", text)[0])
    if number == 71:
        return Answer(b"<html>busy</html>", 503)
    return says(f"It is {colour(number) if number % 2 else 'pink'}.")


def test_a_run_beside_an_endpoint_that_skips_one(made, tmp_path):
    with serving(colour_server) as served:
        name = f"{served.url}#colours"
        how = Asking(max_new_tokens=8, retries=1, wait=lambda s: None)
        found = compare_answers(["small:sft", name], Asked(how=how), tmp_path)
        asked = len(served.asked)
        compare_answers(["small:sft", name], Asked(how=how), tmp_path)
        assert len(served.asked) == asked + 2  # the one that failed, and its second try
    assert found.left_out == {"colours": {"HTTP 503: busy": 1}} and len(found.chats) == 11
    assert found.notes[0] == "colours: 1 of 12 prompts got no answer (HTTP 503: busy); they are left out for all"
    assert table(found)[1][-2][2] == "—" and table(found)[1][-2][0].startswith("perplexity")
    right = found.figures["right"]
    assert right["colours"].value == pytest.approx(100 * 5 / 11)  # 73, 75, 77, 79, 81
    page = write_page(found).read_text()
    assert "no endpoint says it" in page and "busy" in page
    with (
        serving(lambda asked, before: Answer(b"", 500)) as served,
        pytest.raises(RunError, match="no prompt was answered"),
    ):
        compare_answers(["small:sft", f"{served.url}#m"], Asked(how=how), tmp_path / "none")


def judge_server(asked, before):
    """Prefers the answer without "pink", whichever place it has; of two such, the first."""
    text = asked["messages"][0]["content"]
    first, second = (re.search(rf"\[Answer {x}\]\n(.*?)\n\[End", text, re.DOTALL)[1] for x in "AB")
    return says("Verdict: B" if "pink" in first and "pink" not in second else "Verdict: A")


def test_a_judge_is_examined_before_it_speaks(made, tmp_path):
    votes = []
    for n in range(40):
        said = {"answer_a": "pink " + "w" * (n % 3), "answer_b": "blue ww", "winner": "b" if n % 8 else "a"}
        votes.append({"a": "x", "b": "y", "prompt": f"p{n}", **said})
    write_rows(tmp_path / "votes.jsonl", votes)
    with serving(colour_server) as served, serving(judge_server) as judging:
        name, how = f"{served.url}#colours", Asking(max_new_tokens=8, retries=0, wait=lambda s: None)
        asked = Asked(
            how=how, judge=f"{judging.url}#judge", votes=tmp_path / "votes.jsonl", rubric=Rubric(reasons=False)
        )
        found = compare_answers(["small:sft", name], asked, tmp_path)
        questions = len(judging.asked)
        compare_answers(["small:sft", name], asked, tmp_path)
        assert len(judging.asked) == questions  # a judge is not asked twice either
        unchecked = compare_answers(["small:sft", name], Asked(how=how, judge=asked.judge), tmp_path)
    assert found.judging is not None and found.judging.examined is not None
    # It says b 40 times, people 35 times.
    assert found.judging.examined.agreement.value == 35 / 40
    lines = judge_lines(found.judging)
    assert lines[0].startswith(f"judge {judging.url}#judge: ") and "Cohen's κ" in lines[1]
    votes_made = [json.loads(line) for line in (tmp_path / "votes.jsonl").read_text().splitlines()]
    assert unchecked.judging is not None and "nobody has checked this judge" in judge_lines(unchecked.judging)[0]
    assert bout_lines(unchecked.judging)[0].startswith("unverified: ") and len(votes_made) >= 11
    assert read_json(tmp_path / "compare.json")["judge"]["reliable"] is False
    assert "nobody has checked this judge" in write_page(unchecked).read_text()
    assert "Cohen&#39;s κ" in write_page(found).read_text()
    with pytest.raises(UserError, match="--votes: people's votes examine a judge"):
        compare_answers(["small:sft", "small"], Asked(votes=tmp_path / "votes.jsonl"), tmp_path)


def test_a_program_judges_three_and_makes_votes_of_it(made, tmp_path):
    asked = Asked(how=HOW, judge="world/rater.py:rate", limit=6)
    found = compare_answers(["small:base", "small:sft", "small"], asked, tmp_path)
    assert found.judging is not None and found.judging.table is not None and len(found.judging.bouts) == 3
    said_of = {(bout.a, bout.b): bout for bout in found.judging.bouts}
    for (a, b), bout in said_of.items():
        scores = {x: [r.text.count(".") - 0.1 * len(r.text) for r in found.answers[x]] for x in (a, b)}
        assert bout.wins == sum(y > x for x, y in zip(scores[a], scores[b], strict=True))
        assert bout.ties == sum(y == x for x, y in zip(scores[a], scores[b], strict=True))
    assert found.judging.bias is None or found.judging.bias.consistent.value == 1
    assert "Elo" in write_page(found).read_text()
    voted = count_votes(tmp_path / "votes.jsonl", None, 0)
    assert voted.whole.votes == 18 and voted.whole.resampled == "prompt"
    assert voted.whole.standings == found.judging.table.standings
    assert read_json(tmp_path / "arena.json")["all"]["standings"][0]["rank"] == 1
    with pytest.raises(UserError, match="Did you mean rate"):
        compare_answers(["small:sft", "small"], Asked(how=HOW, judge="world/rater.py:rat"), tmp_path)


def test_an_arena_of_a_file(tmp_path):
    rows = [
        {"a": "x", "b": "y", "winner": w, "category": c} for w, c in [("a", "p"), ("a", "p"), ("a", "p"), ("b", "p")]
    ]
    rows += [{"a": "x", "b": "y", "winner": "tie", "category": "q"}, {"a": "z", "b": "y", "winner": "tie"}]
    rows += [
        {"a": "u", "b": "v", "winner": "a", "category": "r"},
        {"a": "v", "b": "x", "winner": "tie", "category": "r"},
    ]
    rows += [{"a": "u", "b": "y", "winner": "tie", "answer_a": "long <b>", "answer_b": "short"}]
    write_rows(tmp_path / "votes.jsonl", rows)
    found = count_votes(tmp_path / "votes.jsonl", None, 0, tmp_path / "out")
    one = found.categories["p"].standings
    assert one[0].elo.value - one[1].elo.value == pytest.approx(190.848, abs=1e-3)
    assert set(found.categories) == {"p", "q", "r"} and "8 votes carry no answers" in found.notes[0]
    assert (tmp_path / "out/arena.svg").read_text().startswith("<svg ")
    write_rows(tmp_path / "votes.jsonl", [*rows, {"a": "x", "b": "y", "winner": "x"}, {"a": "x", "winner": "a"}])
    with open(tmp_path / "votes.jsonl", "a") as file:
        file.write("{broken\n")
    with pytest.raises(UserError) as error:
        count_votes(tmp_path / "votes.jsonl", None, 0)
    assert [line.partition(" ")[0] for line in error.value.problems] == [
        "votes.jsonl:12:", "votes.jsonl:10:", "votes.jsonl:11:",
    ]  # fmt: skip


def test_measures_and_words_by_hand():
    """Two models on eight questions: B is right on all, A on none. p = 2/2⁸."""
    asked = (Message("user", "Which?"),)
    chats = [Chat((*asked, Message("assistant", "It is red.")), f"q:{n}", ("red",)) for n in range(8)]
    answers = {"A": [Reply("It is blue.")] * 8, "B": [Reply("It is red.")] * 8}
    nats = {"A": [Nats(8.0, 4)] * 8, "B": [Nats(4.0, 4)] * 8}
    measures, notes = measures_of(chats, answers, nats, regex_check(r"It is \w+\."))
    assert [m.key for m in measures] == [
        "right",
        "format",
        "f1",
        "exact",
        "rouge_l",
        "bleu",
        "chrf",
        "perplexity",
        "words",
    ]
    assert notes == []
    figures = {m.key: figures_of(m, 0) for m in measures}
    assert figures["right"]["B"].value == 100 and figures["perplexity"]["A"].value == pytest.approx(np.exp(2))
    found = {d.measure: d for d in differences_of(measures, ["A", "B"], 0)}
    assert found["right"].chance == 2 / 2**8 == found["right"].adjusted and found["right"].real
    assert found["right"].words == (
        "B answers right 100.0 points more often than A [+100.0, +100.0] (n = 8): the difference is real (p = 0.008)."
    )
    # Seven tests of p = 1/128 or 1 beside it: the least is 8 times 2/256.
    assert found["exact"].adjusted == pytest.approx(8 * 2 / 256) and not found["exact"].real
    assert found["format"].words == "B and A are even by right form on each of 8 questions."
    assert found["perplexity"].figure.value == pytest.approx(-1) and found["perplexity"].unit == "nats a token"
    assert "more likely than A does, by 1.000 nats a token [+1.000, +1.000]" in found["perplexity"].words


def test_models_with_other_tokens_are_compared_by_the_byte():
    chats = [Chat((Message("user", "Which?"), Message("assistant", "red" * 4)), "q:1") for _ in range(6)]
    answers = {"A": [Reply("x")] * 6, "B": [Reply("x")] * 6}
    nats = {"A": [Nats(12 * np.log(2), 12)] * 6, "B": [Nats(6 * np.log(2), 3)] * 6}
    measures, _ = measures_of(chats, answers, nats, None)
    figures = figures_of(next(m for m in measures if m.key == "perplexity"), 0)
    assert figures["A"].value == pytest.approx(2) and figures["B"].value == pytest.approx(4)
    # Worse by the token, better by the byte: 6 bits less on 12 bytes.
    gap = next(d for d in differences_of(measures, ["A", "B"], 0) if d.measure == "perplexity")
    assert gap.unit == "bits a byte" and gap.figure.value == pytest.approx(-0.5) and "more likely" in gap.words


def test_the_page_escapes_what_models_say(made, tmp_path):
    evil = '<script>alert("x")</script> </style> {{ 7*7 }} red'
    with serving(lambda asked, before: says(evil)) as served:
        how = Asking(max_new_tokens=8, retries=0, wait=lambda s: None)
        found = compare_answers(["small:sft", f"{served.url}#<b>m</b>"], Asked(how=how, limit=3), tmp_path)
    page = write_page(found).read_text()
    assert (
        "alert(" not in page.replace("alert(&#34;x&#34;)", "") and "<b>m</b>" not in page and "49" not in said(found)[0]
    )
    assert page.count("<script>") == 1 and "default-src 'none'" in page and "src=" not in page
    assert pieces_of("It is red now", "It was red", ["red"]) == [
        ("It ", False, False), ("is", False, True), (" ", False, False), ("red", True, False), (" now", False, True),
    ]  # fmt: skip


def test_the_page_sorts_in_a_browser(made, chromium, tmp_path):
    sync = pytest.importorskip("playwright.sync_api")
    rows = [{"question": f"Number {n}?", "answer": "yes", "accept": ["yes"]} for n in range(3)]
    write_rows(tmp_path / "q.jsonl", rows)
    right = {"a": (True, False, True), "b": (True, True, False)}

    def script(asked, before):
        n = int(asked["messages"][-1]["content"].split()[1][0])
        return says("yes" if right[asked["model"]][n] else "no")

    with serving(script) as served:
        how = Asking(retries=0, wait=lambda s: None)
        names = [f"{served.url}#a", f"{served.url}#b"]
        page = write_page(compare_answers(names, Asked(tmp_path / "q.jsonl", how=how), tmp_path))
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(page.as_uri())
        titles = lambda: [t.strip() for t in tab.locator("article:visible h3").all_inner_texts()]  # noqa: E731
        assert titles()[-1] == "Number 0?"
        tab.select_option("#order", "w0")
        assert titles()[0] == "Number 1?"
        tab.select_option("#order", "w1")
        assert titles()[0] == "Number 2?"
        tab.select_option("#order", "number")
        assert titles() == ["Number 0?", "Number 1?", "Number 2?"]
        tab.fill("#find", "number 1")
        assert titles() == ["Number 1?"]
        browser.close()
