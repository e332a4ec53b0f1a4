"""Sizes as people write them, and a learning curve that a recipe can have."""

from __future__ import annotations

import pytest

from luthier.base.config import load_recipe
from luthier.base.curves import size_words, sizes_of
from luthier.base.errors import UserError
from run.small import small_world


def test_sizes():
    assert sizes_of(["1/16..1"]) == (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
    assert sizes_of(["1/3..1"]) == (1 / 3, 2 / 3, 1)
    assert sizes_of([1, "1/2", 0.125, "1/2"]) == (0.125, 0.5, 1)
    assert [size_words(one) for one in (1 / 16, 1 / 3, 0.3, 1)] == ["1/16", "1/3", "0.3", "1"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (["1/2", "1"], "2 sizes: a curve needs at least 3"),
        (["1/0", "1/2", "1"], '"1/0" is no part of the data'),
        (["2", "1/2", "1"], "2 is not above 0 and at most 1"),
        (["1..1/8"], "runs backwards. Write the smaller one first: 1/8..1"),
        ([], "no sizes"),
        (["half"], '"half" is no part'),
    ],
)
def test_what_is_no_size(written, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        sizes_of(written)


def test_a_recipes_curve_is_checked_with_the_rest(tmp_path):
    recipe = small_world(tmp_path)
    good = load_recipe(recipe, ["learning_curve={sizes: [1/4, 1/2, 1]}"])
    assert good.learning_curve is not None and good.learning_curve.sizes == ["1/4", "1/2", 1]
    with pytest.raises(UserError) as told:
        load_recipe(recipe, ["learning_curve={stage: sfd, metric: win_rate, sizes: [1]}"])
    assert [line.split("}: ", 1)[1] for line in told.value.problems] == [
        'learning_curve.stage: no pretrain or sft stage "sfd". Did you mean sft? There are: pretrain, sft.',
        'learning_curve.metric: no such probe under evaluate: "win_rate". There are: knowledge, answers, forgetting.',
        "learning_curve.sizes: 1 sizes: a curve needs at least 3. Write 1/8..1, for example.",
    ]
    with pytest.raises(UserError, match="is not in the plan of budget"):
        load_recipe(recipe, ["learning_curve={}", "budget={hours: 1}"])
    with pytest.raises(UserError, match="which is streamed"):
        load_recipe(recipe, ["learning_curve={}", "data.questions.stream=true"])
