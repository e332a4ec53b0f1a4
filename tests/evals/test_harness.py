"""lm-eval on our engine = lm-eval on its own `hf` backend: every log-likelihood, every text, every score."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from luthier.base.errors import UserError
from luthier.base.recipe import Fresh
from luthier.evals.benchmarks import ask, asked_of, chosen, load_benchmark, load_benchmarks
from luthier.model.load import Loaded, fresh_model, wrap
from luthier.tokens.tokenizer import CHATML, train_tokenizer

pytest.importorskip("lm_eval")

TEXTS = [
    "Question: Which planet is the largest of all?\nAnswer: Jupiter, by far.",
    "Question: What keeps an eyepiece in its place?\nAnswer: Two small screws keep it in its place.",
    "Janet has 3 apples and buys 4 more. How many apples has she now? She has 3 + 4 = <<3+4=7>>7 apples.\n#### 7",
]
WORDS = ["red", "blue", "large", "small", "Jupiter", "Mars", "the screws", "the lens", "a mirror, or two"]


def write_rows(folder: Path, name: str, rows) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def options(n: int, count: int = 4) -> list[str]:
    return [WORDS[(n + 2 * k) % len(WORDS)] for k in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Small benchmarks in the shapes of real ones."""
    root = tmp_path_factory.mktemp("rows")
    ask_of = lambda n: f"Which of these is number {n} in the list of small parts?"  # noqa: E731
    write_rows(root / "arc", "arc_easy_test.jsonl", [
        {"query": f"Question: {ask_of(n)}", "choices": options(n), "gold": n % 4} for n in range(6)
    ])  # fmt: skip
    lettered = lambda n: [{"text": text, "label": a} for a, text in zip("ABCD", options(n), strict=True)]  # noqa: E731
    write_rows(root / "arc", "ARC-Challenge-Test.jsonl", [
        {"question": {"stem": ask_of(n), "choices": lettered(n)}, "answerKey": "ABCD"[n % 4]} for n in range(4)
    ])  # fmt: skip
    write_rows(root / "hellaswag", "hellaswag_val.jsonl", [
        {"activity_label": "Repairing", "ctx_a": "A man holds a telescope.", "ctx_b": "he", "label": str(n % 4),
         "endings": [f"turns {w} [title] and looks." for w in options(n)]} for n in range(5)
    ])  # fmt: skip
    subjects = ("anatomy", "world_religions")
    row = lambda s, n: {"subject": s, "question": ask_of(n), "choices": options(n), "answer": n % 4}  # noqa: E731
    write_rows(root / "mmlu", "test.jsonl", [row(s, n) for s in subjects for n in range(7)])
    write_rows(root / "mmlu", "dev.jsonl", [row(s, n + 20) for s in subjects for n in range(5)])
    (root / "truthfulqa").mkdir()
    (root / "truthfulqa" / "mc_task.json").write_text(json.dumps([
        {"question": ask_of(n), "mc1_targets": {options(n)[0]: 1, options(n)[1]: 0},
         "mc2_targets": {w: int(k < 2) for k, w in enumerate(dict.fromkeys(options(n, 5)))}} for n in range(4)
    ]))  # fmt: skip
    for split, count in (("train", 9), ("test", 4)):
        write_rows(root / "gsm8k", f"{split}.jsonl", [
            {"question": f"Janet has {n} apples and buys {k}. How many?", "answer": f"{n} + {k} is it.\n#### {n + k}"}
            for n in range(count) for k in (len(split),)
        ])  # fmt: skip
    return root


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    tokenizer = train_tokenizer([*TEXTS, *WORDS] * 3, 400)
    module = fresh_model(Fresh(layers=2, width=32, heads=4, kv_heads=2, context=700, vocab=400), tokenizer, 0)
    with torch.no_grad():
        for parameter in module.parameters():  # a fresh model is nearly indifferent: make answers differ by nats
            parameter.mul_(3 if parameter.ndim == 2 else 1)
    return wrap(module.eval(), tokenizer, "cpu", torch.float32)


def theirs(loaded: Loaded, batch_size: int = 3):
    """lm-eval's own backend on the same weights, with the library's own attention. What it writes depends on its batch
    size: a row whose stop string is a special token is cut there only where it stands alone."""
    import copy

    from lm_eval.models.huggingface import HFLM

    module = copy.deepcopy(loaded.lm.core)
    module.set_attn_implementation("sdpa")
    return HFLM(pretrained=module, tokenizer=loaded.tokenizer, batch_size=batch_size, device="cpu")


ALL = ["arc_easy", "arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2", "gsm8k"]


@pytest.mark.parametrize(("name", "shots"), [*((name, None) for name in ALL), ("mmlu", 0)])
def test_every_answer_and_every_score_is_that_of_the_hf_backend(loaded, folder, name, shots):
    from luthier.evals.harness import Harness

    both = []
    for model in (Harness(loaded), theirs(loaded, 1 if name == "gsm8k" else 3)):
        benchmark = load_benchmark(name, folder, shots)
        both.append(ask(model, [benchmark], chosen(benchmark, None), False))
    ours, reference = both
    assert len(ours) == len(reference) >= 4
    for one, other in zip(ours, reference, strict=True):
        assert one.origin == other.origin
        assert one.sample["arguments"] == other.sample["arguments"]
        assert one.values == pytest.approx(other.values, abs=1e-5)
        for mine, his in zip(one.sample["resps"], other.sample["resps"], strict=True):
            if isinstance(mine[0], str):
                assert mine == his
            else:
                assert mine[0][0] == pytest.approx(float(his[0][0]), abs=1e-4)
                assert bool(mine[0][1]) == bool(his[0][1])


def instances(kind, *pairs):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, pair, n, ("t", n, 1)) for n, pair in enumerate(pairs)]


def test_what_is_longer_than_the_context_is_cut_as_there(loaded):
    from luthier.evals.harness import Harness

    long = " ".join(TEXTS * 40)
    ours, hf = Harness(loaded), theirs(loaded, 1)
    pairs = [(long, " Jupiter"), ("", "Mars is red"), (" ", "x"), ("Question: ", " red"), (TEXTS[0] + " \n", "blue")]
    pairs = [pair for pair in pairs if pair[0].strip() or not pair[0]]  # the hf backend fails on spaces alone
    mine, his = (
        ours.loglikelihood(instances("loglikelihood", *pairs)),
        hf.loglikelihood(instances("loglikelihood", *pairs)),
    )
    assert [logp for logp, _ in mine] == pytest.approx([float(logp) for logp, _ in his], abs=2e-4)
    assert [greedy for _, greedy in mine] == [bool(greedy) for _, greedy in his]
    assert ours.cut == 1
    texts = [(long,), (TEXTS[1],), ("a",)]
    rolled = [model.loglikelihood_rolling(instances("loglikelihood_rolling", *texts)) for model in (ours, hf)]
    assert rolled[0] == pytest.approx([float(total) for total in rolled[1]], rel=1e-5)
    settings = {"until": ["\n\n", "Question"], "max_gen_toks": 20, "do_sample": False}
    asked = [(text, dict(settings)) for text in (long, TEXTS[0], TEXTS[2], "Question:")]
    written = [model.generate_until(instances("generate_until", *asked)) for model in (ours, hf)]
    assert written[0] == written[1]


def test_drawn_texts_differ_when_asked_again_and_unknown_settings_are_told(loaded):
    from luthier.evals.harness import Harness

    settings = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    asked = instances("generate_until", *[(TEXTS[0], dict(settings))] * 3)
    assert len(set(Harness(loaded).generate_until(asked))) == 3
    with pytest.raises(UserError, match="num_beams: not supported"):
        Harness(loaded).generate_until(instances("generate_until", ("a", {"num_beams": 4})))
    with pytest.raises(UserError, match="smaller max_gen_toks"):
        Harness(loaded).generate_until(instances("generate_until", ("a", {"max_gen_toks": 9999})))


def test_a_chat_template_is_the_models_own_or_an_error(loaded, folder):
    from luthier.evals.harness import Harness

    benchmark = load_benchmark("truthfulqa_mc1", folder, None)
    with pytest.raises(UserError, match="no chat template"):
        ask(Harness(loaded), [benchmark], chosen(benchmark, None), chat=True)
    loaded.tokenizer.chat_template = CHATML
    try:
        benchmark = load_benchmark("truthfulqa_mc1", folder, None)
        (first, *_) = ask(Harness(loaded), [benchmark], chosen(benchmark, None), chat=True)
    finally:
        loaded.tokenizer.chat_template = None
    assert first.sample["arguments"][0][0].startswith("<|im_start|>user\n")
    assert first.sample["arguments"][0][0].endswith("<|im_start|>assistant\n")


def test_a_subset_is_spread_over_subjects_and_lies_in_every_larger_one(folder):
    benchmark = load_benchmark("mmlu", folder, None)
    assert benchmark.sizes == {"mmlu_anatomy": 7, "mmlu_world_religions": 7}
    sets = [chosen(benchmark, limit) for limit in (2, 6, 0.5, 13, None)]
    assert [sum(map(len, one.values())) for one in sets] == [2, 6, 7, 13, 14]
    for small, large in pairwise(sets):
        assert all(set(small[name]) <= set(large[name]) for name in small)
    assert [len(numbers) for numbers in sets[1].values()] == [3, 3]


def test_a_result_names_what_was_asked(loaded, folder):
    from luthier.evals.harness import Harness

    benchmark = load_benchmark("mmlu_anatomy", folder, None)
    items = ask(Harness(loaded), [benchmark], chosen(benchmark, 3), False)
    asked = asked_of(benchmark.tasks["mmlu_anatomy"], items)
    assert asked.shots == 5 and asked.prompt.startswith("The following are multiple choice questions (with answers)")
    assert (
        asked.prompt.count("Answer:") == 6 and asked.version == "1.0" and "acc: log-likelihood" in asked.normalisation
    )
    other = load_benchmark("mmlu_anatomy", folder, 2)
    few = asked_of(other.tasks["mmlu_anatomy"], ask(Harness(loaded), [other], chosen(other, 3), False))
    assert few.shots == 2 and few.data != asked.data


def test_ones_own_questions_are_a_task(loaded, tmp_path):
    from luthier.evals.harness import Harness

    write_rows(tmp_path, "quiz.jsonl", [
        {"question": "Which is red?", "choices": ["Mars", "Jupiter"], "answer": "Mars"},
        {"question": "Which is large?", "options": ["Mars", "Jupiter"], "gold": 1},
        {"question": "Which is blue?", "choices": ["Mars", "Neptune", "x"], "answer": "B"},
    ])  # fmt: skip
    write_rows(tmp_path, "open.jsonl", [{"prompt": "How many screws?", "answers": ["two", "2"]}] * 2)
    (tmp_path / "mine.yaml").write_text("task: telescopes\njsonl: quiz.jsonl\n")
    one, two, three = load_benchmarks(
        [str(tmp_path / n) for n in ("quiz.jsonl", "open.jsonl", "mine.yaml")], None, None
    )
    assert [b.name for b in (one, two, three)] == ["quiz", "open", "telescopes"]
    items = ask(Harness(loaded), [one, two], {**chosen(one, None), **chosen(two, None)}, False)
    assert [item.sample["target"] for item in items[:3]] == [0, 1, 1]
    assert set(items[3].values) == {"contains", "exact_match"}
    assert items[0].origin.endswith("quiz.jsonl:1")


def test_a_yaml_of_lm_evals_is_read_as_it_is(loaded, tmp_path):
    from luthier.evals.harness import Harness

    write_rows(tmp_path, "rows.jsonl", [{"q": "Which is red?", "a": ["Mars", "Jupiter"], "n": n % 2} for n in range(4)])
    (tmp_path / "plain.yaml").write_text(
        "task: plain\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "output_type: multiple_choice\ntest_split: test\n"
        'doc_to_text: "{{q}}"\ndoc_to_choice: "{{a}}"\ndoc_to_target: "{{n}}"\n'
    )
    benchmark = load_benchmark(str(tmp_path / "plain.yaml"), None, None)
    items = ask(Harness(loaded), [benchmark], chosen(benchmark, None), False)
    assert len(items) == 4 and sum(item.values["acc"] for item in items) == 2


def test_what_is_wrong_is_told_at_once(folder, tmp_path):
    with pytest.raises(UserError, match="none is left to show"):
        load_benchmark("arc_easy", folder, 2)
    with pytest.raises(UserError) as told:
        load_benchmarks(["arc_esy", "mmlu_astrology", "nothing.yaml"], folder, None)
    assert len(told.value.problems) == 3
    assert "Did you mean arc_easy" in told.value.problems[0]
    assert "no test question of astrology" in told.value.problems[1]
    with pytest.raises(UserError, match=r"no file below .* looks like HellaSwag"):
        load_benchmark("hellaswag", folder / "arc", None)
    with pytest.raises(UserError, match="no such folder"):
        load_benchmark("hellaswag", tmp_path / "gone", None)
    write_rows(tmp_path / "broken", "arc_easy_test.jsonl", [{"query": "a", "choices": ["x", "y"], "gold": 7}, {"b": 1}])
    with pytest.raises(UserError) as told:
        load_benchmark("arc_easy", tmp_path / "broken", None)
    assert [line.split(": ")[0].rpartition("/")[2] for line in told.value.problems] == [
        "arc_easy_test.jsonl:1",
        "arc_easy_test.jsonl:2",
    ]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "arc_easy_test.jsonl").write_text("")
    with pytest.raises(UserError, match=r"no rows|empty"):
        load_benchmark("arc_easy", tmp_path / "empty", None)
    (tmp_path / "quiz.jsonl").write_text("not json\n")
    with pytest.raises(UserError, match=r"quiz\.jsonl:1"):
        load_benchmark(str(tmp_path / "quiz.jsonl"), None, None)
