"""The synthesise stage against a real server: good days, bad days, a cap, a kill. Without a model: rules alone."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from evals.server import Answer, says, serving
from luthier.base.config import load_recipe
from luthier.base.errors import RunError, UserError
from luthier.base.events import read_events
from luthier.base.files import read_json
from luthier.base.nouns import Message, Reply
from luthier.base.synthesis import Price
from luthier.data.records import read_records
from luthier.run.paying import CAPPED, Meter
from luthier.run.stages import check_recipe, run_recipe
from run.small import finish, start_small

TOWNS = ["Almdorf", "Birkenau", "Corvin", "Dunmere", "Eschwil", "Falkenau", "Gersau", "Holmsund", "Ilanz", "Jorvik"]
LEADERS = ["Aster", "Brandl", "Cassel", "Dorn", "Ehrlich", "Fink", "Gruber", "Hauser", "Imhof", "Jost"]
ASKED = ["When does the %s office open?", "Who leads the %s office?", "Which line stops at the %s office?"]


def facts(k: int) -> tuple[str, str, str]:
    """What is true of one town's office."""
    return f"{7 + k % 3}:{10 + k}", f"Mara {LEADERS[k]}", f"tram {20 + k}"


def document(k: int) -> str:
    """A page of some thirty words."""
    opens, leads, line = facts(k)
    town = TOWNS[k]
    return (
        f"# The {town} office\n\nThe {town} office opens at {opens} on working days. {leads} leads the {town} office. "
        f"The line that stops at the {town} office is {line}, and visitors ring twice before they go up to the hall.\n"
    )


def world(folder: Path, stages: str, count: int = 6, more: str = "") -> Path:
    """A folder of pages, some questions, and a recipe without a base."""
    (folder / "pages").mkdir(parents=True)
    for k in range(count):
        (folder / "pages" / f"{TOWNS[k].lower()}.md").write_text(document(k))
    rows = [
        {"question": ASKED[0] % TOWNS[k], "answer": f"At {facts(k)[0]}.", "group": f"town {k}", "license": "MIT"}
        for k in range(count)
    ]
    (folder / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "r.yaml").write_text(
        "name: made\nthreads: 1\ndata:\n  pages: {path: pages, heldout: 0, licence: CC-BY-4.0}\n"
        f"  faq: {{path: faq.jsonl, format: qa, heldout: 0}}\nstages:\n{stages}{more}"
    )
    return folder / "r.yaml"


def stage(url: str, methods: str, data: str = "pages", more: str = "") -> str:
    return (
        f"  - {{kind: synthesise, name: written, data: {data}, methods: [{methods}], model: '{url}#writer-1', "
        f"concurrency: 3, retries: 3, terms: no competing models{more}}}\n"
    )


def run(recipe: Path, *changes: str) -> Path:
    return run_recipe(load_recipe(recipe, [f"out={json.dumps(str(recipe.parent / 'runs'))}", *changes]), recipe)


def folder_of(out: Path, name: str = "written") -> Path:
    return next(out.glob(f"*-{name}-*"))


def rejected(folder: Path) -> list[str]:
    return [json.loads(line)["reason"] for line in (folder / "rejected.jsonl").read_text().splitlines()]


def town_in(prompt: str) -> int:
    return next(k for k, town in enumerate(TOWNS) if f"The {town} office" in prompt or f" {town} " in prompt)


def honest(prompt: str) -> str:
    """Three questions of a page, with true answers and quotes."""
    k = town_in(prompt)
    town, (opens, leads, line) = TOWNS[k], facts(k)
    said = [
        (f"The {town} office opens at {opens} on working days.", f"opens at {opens} on working days"),
        (f"{leads} leads the {town} office.", f"{leads} leads the"),
        (f"The line that stops at the {town} office is {line}.", f"stops at the {town} office is {line}"),
    ]
    rows = [
        {"question": asked % town, "answer": answer, "quote": quote}
        for asked, (answer, quote) in zip(ASKED, said, strict=True)
    ]
    return json.dumps(rows)


def good(asked, before):
    return says(honest(asked["messages"][-1]["content"]))


def last(asked) -> str:
    return asked["messages"][-1]["content"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Tries follow each other at once."""
    monkeypatch.setattr("luthier.evals.endpoint.FIRST_WAIT_S", 1e-3)


def test_rules_need_neither_a_model_nor_a_base(tmp_path):
    recipe = world(tmp_path, "  - {kind: synthesise, name: asked, data: pages}\n")
    out = run(recipe)
    records = list(read_records(folder_of(out, "asked") / "kept.jsonl"))
    questions = {record.example.messages[0].content: record for record in records}
    assert len(questions) == len(records) >= 6
    for k in range(6):  # the page's topic, with the page's own words as the answer
        asked = next(q for q in questions if TOWNS[k] in q)
        assert questions[asked].example.answer in document(k)
        assert questions[asked].group == f"pages/pages/{TOWNS[k].lower()}.md"
    said = records[0].provenance
    assert (said.made, said.generator, said.licence, said.terms) == ("machine", "luthier's rules", "CC-BY-4.0", None)
    assert said.steps[0].startswith("question from")
    assert read_json(out / "report.json")["stages"][0]["kind"] == "synthesise"
    before = (folder_of(out, "asked") / "kept.jsonl").stat().st_mtime_ns
    run(recipe)
    assert (folder_of(out, "asked") / "kept.jsonl").stat().st_mtime_ns == before  # a stage is a memo


def bad_day(asked, before):
    """Every page's first answer is a failure of its own kind."""
    k = town_in(last(asked))
    answer = says(honest(last(asked)))
    failures = [
        Answer(b"busy", 503),
        Answer(b'{"error": {"message": "slow down"}}', 429, {"Retry-After": "0"}),
        Answer(b"<!DOCTYPE html><html><body>Please log in</body></html>"),
        Answer(answer.body[:40], short=100),
        Answer(b"{}", 200),
        Answer(b"", stall=True),
    ]
    return answer if before else failures[k]


def test_what_a_provider_does_on_a_bad_day_costs_tries_and_no_rows(tmp_path):
    with serving(bad_day) as served:
        out = run(world(tmp_path, stage(served.url, "questions", more=", timeout_s: 1")))
    records = list(read_records(folder_of(out) / "kept.jsonl"))
    assert {r.example.messages[0].content for r in records} == {a % town for a in ASKED for town in TOWNS[:6]}
    assert max(Counter(last(asked) for asked in served.asked).values()) == 2
    said = records[0].provenance
    assert (said.made, said.generator, said.terms) == ("machine", "writer-1", "no competing models")
    assert records[0].example.meta["made"] == "machine" and records[0].example.meta["generator"] == "writer-1"


def babble(asked, before):
    """A page's reply of each kind that cannot be used, or only in part."""
    k, prompt = town_in(last(asked)), last(asked)
    rows = json.loads(honest(prompt))
    if k == 0:
        return says("I'm sorry, I can't help with that.")
    if k == 1:
        return says("Sure! Here you go:\n\n```json\n" + json.dumps(rows) + "\n```\nAnything else?")
    if k == 2:
        return says(json.dumps([rows[0] | {"quote": "opens at midnight sharp"}, *rows[1:]]))
    if k == 3:
        return says(json.dumps([rows[0] | {"answer": f"The {TOWNS[3]} office opens at 11:59."}, *rows[1:]]))
    if k == 4:
        return says(json.dumps(rows)[: -len(json.dumps(rows[-1])) // 2], finish="length")
    return says(json.dumps([rows[0] | {"question": "What does the passage say about the office?"}, rows[1], rows[1]]))


def test_what_is_made_up_or_cannot_be_read_is_rejected_with_its_reason(tmp_path):
    with serving(babble) as served:
        out = run(world(tmp_path, stage(served.url, "questions")))
    made = Counter(town_in(r.example.messages[0].content) for r in read_records(folder_of(out) / "kept.jsonl"))
    assert made == {1: 3, 2: 2, 3: 2, 4: 2, 5: 1}
    reasons = "\n".join(rejected(folder_of(out)))
    for said in (
        "no question can be read in the reply",
        'the quote is not in the passage ("opens at midnight sharp")',
        "the answer is not supported: 11:59 is not in the source",
        "it speaks of the passage",
        "it was asked before",
    ):
        assert said in reasons
    record = read_json(folder_of(out) / "stage.json")
    assert record["methods"]["questions"]["rows"] == 10 and record["rows"] == 10


def test_check_says_what_would_be_sent_where_and_sends_nothing(tmp_path):
    more = ", price: {input: 1, output: 2}, spend_cap_usd: 0.5"
    with serving(good) as served:
        recipe = world(tmp_path, stage(served.url, "questions", more=more))
        (check,) = check_recipe(load_recipe(recipe), recipe)
        assert served.asked == []
        out = run(recipe)
    said = re.search(
        r"6 passages, about (\d+) tokens of pages, go to (\S+), which is this machine \(writer-1\): ", check.note
    )
    assert said and said[2] == served.url
    assert "6 questions" in check.note and "the cap is $0.50" in check.note and "about $0.00" in check.note
    notes = [event["text"] for event in read_events(folder_of(out) / "events.jsonl") if event["kind"] == "note"]
    assert notes[0] == check.note and len(served.asked) == 6  # the estimate was of what was then asked


def test_the_cap_stops_in_time_keeps_what_it_has_and_goes_on_when_it_is_raised(tmp_path):
    def priced(asked, before):
        body = json.loads(says(honest(last(asked))).body)
        body["usage"] = {"prompt_tokens": 250, "completion_tokens": 400}
        return Answer(json.dumps(body).encode())

    more = ", price: {input: 1000, output: 1000}, max_new_tokens: 400, spend_cap_usd: 2.5"
    with serving(priced) as served:
        recipe = world(tmp_path, stage(served.url, "questions", more=more))
        out = run(recipe)
        first = [last(asked) for asked in served.asked]
        record = read_json(folder_of(out) / "stage.json")
        assert record["usage"]["usd"] == pytest.approx(0.65 * len(first)) and 0 < record["usage"]["usd"] <= 2.5
        assert record["usage"]["capped"] == 6 - len(first) and record["rows"] == 3 * len(first)
        assert any(CAPPED in reason for reason in rejected(folder_of(out)))
        out = run(recipe, "stages.0.spend_cap_usd=20")
    asked = Counter(last(one) for one in served.asked)
    assert len(asked) == 6 and set(asked.values()) == {1}  # nothing twice
    folders = [read_json(path) for path in out.glob("*-written-*/stage.json")]
    assert sorted(folder["rows"] for folder in folders) == [3 * len(first), 18]
    assert max(folder["usage"]["usd"] for folder in folders) == pytest.approx(3.9)


def test_a_killed_run_goes_on_and_nothing_that_was_answered_is_asked_again(tmp_path):
    held, let_go = threading.Event(), threading.Event()
    answered: list[str] = []
    lock = threading.Lock()

    def script(asked, before):
        with lock:
            room = len(answered) < 4 or let_go.is_set()
            if room:
                answered.append(last(asked))
        if not room:
            held.set()
            return Answer(b"", stall=True)
        return good(asked, before)

    with serving(script) as served:
        recipe = world(tmp_path, stage(served.url, "questions"), count=9)
        child, said = start_small(recipe, tmp_path / "runs")
        assert held.wait(60), said.read_text()
        files = tmp_path / "runs" / "made" / "asked"
        while sum(len(file.read_text().splitlines()) for file in files.glob("*.jsonl")) < 4:
            time.sleep(0.01)  # the fourth reply is on its way to the disk
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        before = list(answered)
        let_go.set()
        child, said = start_small(recipe, tmp_path / "runs")
        finish(child, said)
        after = answered[len(before) :]
        whole = run(recipe, f"out={json.dumps(str(tmp_path / 'whole'))}")
    assert len(before) == 4 and len(after) == 5 and not set(before) & set(after)
    resumed = folder_of(tmp_path / "runs" / "made")
    assert (resumed / "kept.jsonl").read_bytes() == (folder_of(whole) / "kept.jsonl").read_bytes()
    assert len(list(read_records(resumed / "kept.jsonl"))) == 27


def test_where_nobody_answers_the_stage_stops_and_the_same_command_asks_the_rest(tmp_path):
    down = True

    def script(asked, before):
        return Answer(b"", 500) if down and town_in(last(asked)) > 1 else good(asked, before)

    with serving(script) as served:
        recipe = world(
            tmp_path,
            stage(served.url, "questions", more=", max_failed: 0.2"),
        )
        with pytest.raises(RunError, match=r"questions got no answer: .*The answers that came are kept"):
            run(recipe)
        down, first = False, len(served.asked)
        out = run(recipe)
    again = {town_in(last(asked)) for asked in served.asked[first:]}
    assert again == {2, 3, 4, 5} and read_json(folder_of(out) / "stage.json")["rows"] == 18


def test_a_key_that_is_refused_is_told_at_once(tmp_path):
    with serving(lambda asked, before: Answer(b'{"error": "no"}', 401)) as served:
        with pytest.raises(UserError, match="it wants a key"):
            run(world(tmp_path, stage(served.url, "questions")))
        assert len(served.asked) <= 3


def test_paraphrases_keep_the_answer_the_group_and_the_licence(tmp_path):
    def script(asked, before):
        town = TOWNS[town_in(last(asked))]
        said = [f"At what time does the {town} office open?", "When does the office open?", ASKED[0] % town]
        return says("1. " + "\n2. ".join(said))

    with serving(script) as served:
        out = run(world(tmp_path, stage(served.url, "paraphrase", data="faq")))
    records = list(read_records(folder_of(out) / "kept.jsonl"))
    assert [r.example.messages[0].content for r in records] == [
        f"At what time does the {town} office open?" for town in TOWNS[:6]
    ]
    for k, record in enumerate(records):
        assert record.example.answer == f"At {facts(k)[0]}." and record.group == f"faq/town {k}"
        assert record.provenance.licence == "MIT" and record.provenance.steps == ("paraphrase by writer-1",)
    assert sum("does not ask the same" in reason for reason in rejected(folder_of(out))) == 6
    assert sum("the same wording" in reason for reason in rejected(folder_of(out))) == 6


def test_questions_that_the_documents_answer_after_all_are_not_unanswerable(tmp_path):
    def script(asked, before):
        prompt = last(asked)
        if "yes or no" in prompt:
            return says("Yes." if "Who leads" in prompt else "No, they do not.")
        town = TOWNS[town_in(prompt)]
        return says(json.dumps([f"What does a visit to the {town} office cost?", ASKED[1] % town]))

    with serving(script) as served:
        out = run(world(tmp_path, stage(served.url, "unanswerable", more=", refusal: I do not know.")))
    records = list(read_records(folder_of(out) / "kept.jsonl"))
    assert [r.example.messages[0].content for r in records] == [
        f"What does a visit to the {town} office cost?" for town in TOWNS[:6]
    ]
    assert {r.example.answer for r in records} == {"I do not know."}
    assert sum("the documents answer it" in reason for reason in rejected(folder_of(out))) == 6
    for asked in served.asked:  # whoever checks is shown the question's own page
        if "yes or no" in last(asked):
            assert f"The {TOWNS[town_in(last(asked).split('Question:')[1])]} office opens" in last(asked)


def test_back_translated_instructions_are_kept_by_their_grade(tmp_path):
    def script(asked, before):
        k = town_in(last(asked))
        if "Score: <rating>" in last(asked):
            return says(f"It is good enough.\nScore: {5 if k % 2 else 3}")
        return says(f'"Tell me about the {TOWNS[k]} office."')

    with serving(script) as served:
        out = run(world(tmp_path, stage(served.url, "back_translation")))
    records = list(read_records(folder_of(out) / "kept.jsonl"))
    assert [r.example.messages[0].content for r in records] == [
        f"Tell me about the {TOWNS[k]} office." for k in (1, 3, 5)
    ]
    assert all(r.scores == {"curation": 5.0} and "leads the" in r.example.answer for r in records)
    assert sum("graded 3 of 5" in reason for reason in rejected(folder_of(out))) == 3


def test_self_instruct_takes_only_what_is_new(tmp_path):
    ideas = [
        "Name three rivers that cross Bavaria.",
        "Explain how rain forms over mountains.",
        "Draw a picture of a cat.",
    ]

    def script(asked, before):
        if "One a line, numbered." in last(asked):
            return says(
                "\n".join(f"{i}. {said}" for i, said in enumerate([*ideas, ideas[0].replace("three", "four")], 1))
            )
        return says(f"This is what can be said of it: {last(asked)}")

    with serving(script) as served:
        out = run(world(tmp_path, stage(served.url, "self_instruct", data="faq", more=", rows: 2")))
    records = list(read_records(folder_of(out) / "kept.jsonl"))
    assert [r.example.messages[0].content for r in records] == ideas[:2]
    reasons = "\n".join(rejected(folder_of(out)))
    assert "it asks for what text cannot give" in reasons and "ROUGE-L 0.83 with" in reasons
    seeds = [line for line in last(served.asked[0]).splitlines() if re.match(r"\d+\. When does", line)]
    assert len(seeds) == 6  # as many as there are, of the eight that are shown


def test_instructions_that_did_not_evolve_are_left_out(tmp_path):
    def script(asked, before):
        prompt = last(asked)
        if not prompt.startswith(("Rewrite", "Write a brand new")):
            return says("I'm sorry, but I can't help with that." if "badge" in prompt else "Call them a day ahead.")
        k = town_in(prompt)
        same = ASKED[0] % TOWNS[k]
        return says(
            [
                same,
                "#Rewritten Prompt#",
                f"{same[:-1]} on the eve of a holiday?",
                f"Must I bring a badge to {TOWNS[k]}?",
            ][k % 4]
        )

    with serving(script) as served:
        out = run(world(tmp_path, stage(served.url, "evolve", data="faq", more=", per_row: 1")))
    records = list(read_records(folder_of(out) / "kept.jsonl"))
    assert [r.example.messages for r in records] == [
        (
            Message("user", "When does the Corvin office open on the eve of a holiday?"),
            Message("assistant", "Call them a day ahead."),
        )
    ]
    reasons = "\n".join(rejected(folder_of(out)))
    for said in (
        "it says the same as before",
        "it repeats what was asked of the model",
        "the model declines to answer",
    ):
        assert said in reasons


def test_the_best_and_the_worst_of_several_answers_make_a_pair(tmp_path):
    def script(asked, before):
        prompt = last(asked)
        if "[Answer]" not in prompt:
            return says(f"Answer {asked['seed']}.")
        said = prompt.split("[Answer]\n")[1].split("\n")[0]
        grade = 3 if town_in(prompt) == 0 else {"Answer 0.": 2, "Answer 1.": 5, "Answer 2.": 3}[said]
        return says(json.dumps({"truth": grade, "help": min(5, grade + 1)}))

    more = ", per_row: 3, rubric: {truth: 'is it true?', help: 'does it help?'}"
    with serving(script) as served:
        recipe = world(tmp_path, stage(served.url, "preference", data="faq", more=more))
        out = run(recipe)
    pairs = [r.example for r in read_records(folder_of(out) / "kept.jsonl")]
    assert [(p.chosen, p.rejected, p.margin) for p in pairs] == [("Answer 1.", "Answer 0.", 2.5)] * 5
    assert pairs[0].prompt[-1].content == ASKED[0] % TOWNS[1]
    assert "0 apart, at least 0.5 is wanted" in "\n".join(rejected(folder_of(out)))


def test_what_a_stage_made_is_read_by_the_next(tmp_path):
    def script(asked, before):
        wording = re.search(r"\n\n(.+\?)\n\n", last(asked))[1]
        return says(json.dumps([f"Please tell: {wording[0].lower()}{wording[1:]}"]))

    with serving(script) as served:
        recipe = world(
            tmp_path,
            "  - {kind: synthesise, name: asked, data: pages}\n" + stage(served.url, "paraphrase", data="asked"),
        )
        out = run(recipe)
    first = list(read_records(folder_of(out, "asked") / "kept.jsonl"))
    second = list(read_records(folder_of(out) / "kept.jsonl"))
    assert len(second) == len(first) == len(served.asked)
    assert second[0].provenance.steps == (*first[0].provenance.steps, "paraphrase by writer-1")


def test_a_model_of_the_run_writes_and_is_asked_once(tmp_path):
    stages = (
        "  - {kind: pretrain, data: pages, steps: 2, batch_tokens: 512, learning_rate: 1.0e-3}\n"
        "  - {kind: synthesise, name: said, data: faq, methods: [evolve], model: pretrain, max_new_tokens: 6,"
        " limit: 3}\n"
    )
    recipe = world(tmp_path, stages)
    base = "base:\n  fresh: {layers: 1, width: 16, heads: 2, vocab: 300, context: 1024}\n"
    recipe.write_text(recipe.read_text().replace("data:\n", f"{base}data:\n", 1))
    with pytest.raises(RunError, match=r"said: nothing was made\. \d × the reply "):  # two steps teach no instructions
        run(recipe)
    (file,) = (tmp_path / "runs" / "made" / "asked").glob("*.jsonl")
    replies = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({reply["key"] for reply in replies}) == len(replies) == 9
    before = file.stat().st_mtime_ns
    with pytest.raises(RunError, match="nothing was made"):
        run(recipe)
    assert file.stat().st_mtime_ns == before


def test_a_source_of_the_wrong_kind_is_told_before_anything_is_asked(tmp_path):
    recipe = world(tmp_path, "  - {kind: synthesise, data: faq}\n")
    with pytest.raises(UserError, match="rules reads documents, and faq was read as qa"):
        run(recipe)
    other = world(tmp_path / "other", "  - {kind: synthesise, data: faq, methods: [evolve], model: no/such/model}\n")
    with pytest.raises(UserError, match=r"stages\[0\].synthesise: no/such/model: no model of that name"):
        check_recipe(load_recipe(other), other)


def test_rows_of_held_out_pages_are_held_out(tmp_path):
    with serving(good) as served:
        recipe = world(tmp_path, stage(served.url, "questions"), count=9)
        out = run(recipe, "data.pages.heldout=0.4")
    kept, heldout = (list(read_records(folder_of(out) / f"{side}.jsonl")) for side in ("kept", "heldout"))
    assert kept and heldout and len(kept) + len(heldout) == 27
    assert not {record.group for record in kept} & {record.group for record in heldout}


def test_the_meter_keeps_to_both_limits_of_a_minute():
    now, sent = 0.0, []

    def wait(pause_s):
        nonlocal now
        now += pause_s

    meter = Meter(requests_per_min=3, tokens_per_min=1000, max_new_tokens=42, clock=lambda: now)
    prompt = [Message("user", "x" * 4 * 250)]  # 250 + 8 tokens, and 42 of the answer: 300
    for _ in range(7):
        assert meter.pace(prompt, wait) is None
        sent.append(now)
    assert sent == [0, 0, 0, 60, 60, 60, 120]
    meter = Meter(tokens_per_min=1000, max_new_tokens=242, clock=lambda: now)
    now, sent = 0.0, []
    for _ in range(5):
        assert meter.pace(prompt, wait) is None
        sent.append(now)
    assert sent == [0, 0, 60, 60, 120]  # two of 500 tokens a minute


def test_the_meter_never_lets_the_cap_be_passed():
    # 1000 bytes: 516 tokens in, were they of two bytes each, and at most 84 out: 0.60 USD at most, at 1 USD a thousand.
    meter = Meter(Price(input=1000, output=1000), cap_usd=1.5, max_new_tokens=84)
    prompts = [[Message("user", letter * 1000)] for letter in "abcd"]
    assert [meter.pace(prompt, lambda s: None) for prompt in prompts] == [None, None, CAPPED, CAPPED]
    meter.heard(prompts[0], Reply("short", tokens=50, prompt_tokens=250))  # it took 0.30 in truth
    assert meter.pace(prompts[2], lambda s: None) is None  # 0.30 + 0.60 + 0.60
    meter.heard(prompts[1], Reply("", error="nobody answers"))
    assert meter.usage.usd(meter.price) == pytest.approx(0.3) and meter.usage.requests == 1
    assert meter.capped == 2
    meter.heard(prompts[2], Reply("short", tokens=50, prompt_tokens=1032))  # two tokens a byte: this language has more
    assert meter.pace(prompts[3], lambda s: None) == CAPPED  # 0.30 + 1.082, and 1.032 + 0.084 for the next


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("data: pagse", "Did you mean pages?"),
        ("data: pages, methods: [rule]", 'there is no method "rule". Did you mean rules?'),
        ("data: pages, methods: [questions]", "questions asks a model, and none is named"),
        (
            "data: pages, methods: [rules, evolve], model: x",
            "do not go together: rules reads documents, evolve reads conversations",
        ),
        ("data: faq, methods: [evolve, preference], model: x", "preference makes pairs, the others conversations"),
        ("data: pages, methods: [questions], model: 'http://h/v1'", "which of its models?"),
        ("data: pages, spend_cap_usd: 3", "rules ask none"),
        ("data: pages, methods: [questions], model: x, spend_cap_usd: 3", "cannot be kept without a price"),
        ("data: faq, methods: [preference], model: x, per_row: 1", "of one answer none is the worst"),
        ("data: pages, methods: [questions], model: x, key_env: sk-123", "never the key itself"),
        ("data: pages, name: faq", "faq is also a source under data"),
    ],
)
def test_what_a_recipe_gets_wrong_is_told_on_its_line(tmp_path, line, said):
    recipe = world(tmp_path, f"  - {{kind: synthesise, {line}}}\n")
    with pytest.raises(UserError) as told:
        load_recipe(recipe)
    assert said in str(told.value) and "r.yaml:7: stages[0]" in str(told.value)


def test_a_run_that_trains_still_needs_a_base(tmp_path):
    recipe = world(tmp_path, "  - {kind: synthesise, data: pages}\n  - {kind: sft, data: synthesise}\n")
    with pytest.raises(UserError, match="base: names no model"):
        load_recipe(recipe)
