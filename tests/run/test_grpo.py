"""The grpo stage as a recipe runs it: programs and reward models judge, it resumes, and bad programs are told of."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from luthier.base.errors import RunError, UserError
from luthier.base.events import read_events
from luthier.base.files import read_json
from luthier.base.nouns import Chat, Message, Sample
from luthier.model.adapt import load_adapter
from luthier.model.heads import folder_scores, load_head
from luthier.model.load import load_folder
from luthier.run.rewards import Scorer, by_model, by_program, program, short_names
from run.rewarded import interrupt, rewarded_world, run_stages, with_base
from run.small import results, stage_folders

GRPO = (
    "  - {kind: grpo, prompts: questions, iterations: 3, rollout_prompts: 4, samples: 3, max_new_tokens: 8, "
    "learning_rate: 1.0e-3, checkpoint_every_steps: 1, evaluate_every_steps: 3, %s}\n"
)
PREFER = (
    "  - {kind: prefer, prompts: questions, rater: rater.py:rate, samples: 2, pairs_per_prompt: 1, max_new_tokens: 8}\n"
    "  - {kind: reward, init: sft, batch_pairs: 16, learning_rate: 1.0e-3%s}\n"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return rewarded_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def out(world, tmp_path):
    return with_base(world, tmp_path / "out")


def told(folder, kind="step"):
    return [e for e in read_events(folder / "events.jsonl") if e["kind"] == kind]


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ("rewards: ['rewards.py:short', 'rewards.py:named']", (1, 1)),
        ("rewards: {'rewards.py:short': 2, 'rewards.py:named': 1}, epochs: 2, kl: 0.1, adapter: {rank: 2}", (2, 1)),
        ("rewards: 'rewards.py:short', minibatches: 2, kl_stop: 50, advantage: rloo, average: constant", (1, 0)),
    ],
    ids=["full", "lora with kl", "rloo"],
)
def test_a_stage_resumes_bit_for_bit_and_tells_of_itself(settings, weights, world, out, tmp_path):
    """Interrupted between two steps, inside a rollout where it has two: it goes on at a rollout's start."""
    whole = run_stages(world, out, GRPO % settings)
    folder = stage_folders(whole)["grpo"]
    record, steps = read_json(folder / "stage.json"), told(folder)
    again = with_base(world, tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        run_stages(world, again, GRPO % settings, (interrupt("grpo", len(steps) // 3 + 1),))
    resumed = run_stages(world, again, GRPO % settings)
    assert [e["step"] for e in told(stage_folders(resumed)["grpo"], "resume")] == [len(steps) // 3]
    assert results(resumed) == results(whole)
    same = ("step", "reward", "loss", "grad_norm", "answer_tokens")
    lived = [[e[key] for e in told(stage_folders(run)["grpo"]) for key in same] for run in (whole, resumed)]
    assert lived[0] == lived[1]

    guards = {guard["name"]: guard for guard in record["guards"]}
    assert {"prompts fit", "no leak", "KL starts at 0", "largest batch fits", "disk", "export certificate"} <= set(
        guards
    )
    assert all(guard["ok"] for guard in guards.values())
    starts = "0 nats an answer" if "kl" in settings else "no reference is needed"
    assert guards["KL starts at 0"]["detail"].startswith(starts)
    assert record["reward"] == {"first": steps[0]["reward"], "last": steps[-1]["reward"]}
    for step in steps:
        judged = weights[0] * step["reward_short"] + weights[1] * step.get("reward_named", 0)
        assert step["reward"] == pytest.approx(judged)
        assert ("kl" in step) is ("kl" in settings), "without a KL there is no reference"
        assert {"reward_std", "no_spread_frac", "answer_tokens", "ended_frac", "clip_frac", "sampler_drift"} <= set(
            step
        )


def test_an_edited_program_leads_to_a_new_stage(world, out):
    before = stage_folders(run_stages(world, out, GRPO % "rewards: 'rewards.py:odd'"))["grpo"]
    same = stage_folders(run_stages(world, out, GRPO % "rewards: 'rewards.py:odd'"))["grpo"]
    assert before == same and len(told(before, "begin")) == 1
    file = world / "rewards.py"
    text = file.read_text()
    try:
        file.write_text(text + "\n# of another opinion\n")
        assert stage_folders(run_stages(world, out, GRPO % "rewards: 'rewards.py:odd'"))["grpo"] != before
    finally:
        file.write_text(text)


@pytest.mark.parametrize("adapters", [True, False], ids=["one base", "weights of their own"])
def test_a_reward_model_judges_as_transformers_does(adapters, world, out):
    """As a judge beside a program; its scores are those of the classifier that it left for everyone."""
    adapter = ", adapter: {rank: 2, alpha: 4}" if adapters else ""
    grpo = GRPO % ("init: sft, rewards: {reward: 1, 'rewards.py:short': 0.1}, kl: 0.05" + adapter)
    run = run_stages(world, out, PREFER % adapter + grpo)
    folders = stage_folders(run)
    for step in told(folders["grpo"]):
        assert step["reward"] == pytest.approx(step["reward_reward"] + 0.1 * step["reward_short"], abs=1e-6)
    assert all(guard["ok"] for guard in read_json(folders["grpo"] / "stage.json")["guards"])

    scorer = folders["reward"] / "scorer"
    lm = load_folder(folders["sft"] / "model" if adapters else scorer, "cpu", torch.float32).lm
    if adapters:
        lm = load_adapter(lm, "reward", scorer)
    head = load_head(scorer / "head.safetensors", 32, torch.device("cpu"))
    samples = [Sample((5, 6, 7), (8, 9, 2)[: 1 + n % 3], (), "", True) for n in range(7)]
    asked = [Chat((Message("user", "?"),), "x")] * 7
    found = by_model(Scorer(lambda: nullcontext(lm), head, shared=False), 12)(asked, samples)
    expected = folder_scores(folders["reward"] / "model", [s.prompt_ids + s.ids for s in samples])
    torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=1e-4)


FAILS = {
    "raises": r"grpo: rewards: rewards.py:raises raised ZeroDivisionError: .* \(rewards.py:\d+\), for the prompt of questions.jsonl:\d+ and the answer ['\"].*['\"]\. Make it return",  # noqa: E501
    "nothing": r"grpo: rewards: rewards.py:nothing returned None, which is no finite number, for the prompt of questions.jsonl:\d+",  # noqa: E501
    "endless": r"grpo: rewards: rewards.py:endless returned nan, which is no finite number",
    "leaves": r"grpo: rewards: rewards.py:leaves raised SystemExit: 3",
}


@pytest.mark.parametrize("name", FAILS)
def test_a_program_that_fails_is_one_clear_line(name, world, out):
    with pytest.raises(RunError, match=FAILS[name]) as error:
        run_stages(world, out, GRPO % f"rewards: 'rewards.py:{name}'")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ("'rewards.py:two'", r"grpo.rewards: rewards.py:two: does not take \(messages, answer, row\): too many"),
        ("'rewards.py:shrot'", r"grpo.rewards: rewards.py:shrot: shrot is not there. Did you mean short\?"),
        ("'rewads.py:short'", r"rewads.py:short: rewads.py: no such file. Did you mean rewards.py\?"),
        ("'luthier.evals.gsm8q:right'", r"grpo.rewards: luthier.evals.gsm8q: there is no module"),
        ("reward", r'recipe.yaml:13: stages\[2\].grpo.rewards.reward: no stage "reward" stands before this one'),
        ("sft", r"rewards.sft: sft is a sft stage, which makes no reward model"),
        ("[]", r"rewards: is empty. Give rewards: path/file.py:name"),
        ("'rewards.py:short', neftune: 5", r"grpo.neftune: is noise that the sampler does not see"),
        ("'rewards.py:short', watchdog: {}", r"grpo.watchdog: looks for a loss that runs away, .* Remove it; kl_stop"),
        ("'rewards.py:short', minibatches: 5", r"grpo.minibatches: is 5, more than the 4 prompts of a rollout"),
        ("'rewards.py:short', adapter: {dropout: 0.1}", r"grpo.adapter.dropout: would train other log-probs than"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told_before_the_first_stage(rewards, said, world, tmp_path):
    with pytest.raises(UserError, match=said):
        run_stages(world, tmp_path / "out", GRPO % f"rewards: {rewards}")
    assert not list(tmp_path.glob("out/small/1-*")), "nothing was trained before"


def test_rewards_that_teach_nothing_are_told_of(world, out):
    run = run_stages(world, out, GRPO % "rewards: 'rewards.py:named'")
    notes = [e["text"] for e in told(stage_folders(run)["grpo"], "note")]
    steps = told(stage_folders(run)["grpo"])
    assert steps[-1]["no_spread_frac"] >= 0.5, "the answers are all wrong at first"
    assert any("had all their answers rewarded alike" in note and "these teach nothing" in note for note in notes)


def test_prompts_without_room_for_an_answer_are_left_out_or_refused(world, out):
    with pytest.raises(RunError, match=r"guard: prompts fit: 0 of \d+ prompts leave room for 90 new tokens. Lower"):
        run_stages(world, out, (GRPO % "rewards: 'rewards.py:odd'").replace("max_new_tokens: 8", "max_new_tokens: 90"))


def test_a_program_sees_the_stripped_answer_and_its_row(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def see(messages, answer, row):\n    seen.append((messages, answer, row))\n    return True\nseen = []\n"
    )
    function = program("mine.py:see", tmp_path)
    chat = Chat((Message("user", "a?"), Message("assistant", "b")), "x:1", ("b",), {"level": 3})
    judge = by_program("grpo", "mine.py:see", function)
    assert judge([chat], [Sample((1,), (2,), (0.0,), " c\n", True)]) == [1.0]
    assert function.__globals__["seen"] == [(chat.messages[:1], "c", chat)]
    assert short_names(["a.py:f", "b:g", "c.py:f", "reward"]) == ["a.py:f", "g", "c.py:f", "reward"]
