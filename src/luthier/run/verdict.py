"""A run in one sentence or two, made from its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from luthier.run.curation_page import made_words
from luthier.run.judged_words import in_whose_eyes
from luthier.run.story import Figure, Group, Story, groups, losses, percent, stage_word
from luthier.run.words import PREFERRING


class Said(NamedTuple):
    """A piece of a sentence: whether it is stressed, and what stands small beside it."""

    text: str
    stressed: bool = False
    aside: str = ""


def verdict(story: Story) -> list[Said]:
    """The run in a sentence or two, made from the metrics; what was not measured is not mentioned."""
    if not story.finished:
        done = sum(s.state == "done" for s in story.stages)
        whole = Said(f"{done} of {len(story.stages)} stages", True)
        return [Said("This run is not finished: "), whole, Said(" done so far.")]
    by_kind: dict[str, Group] = {}
    for group in groups(story):
        by_kind.setdefault(group.kind, group)
    first = (
        _of_answers(by_kind.get("answers"), story)
        or _of_choices(by_kind.get("fill_mask"), story, fills=True)
        or _of_losses(story)
        or _of_choices(by_kind.get("choices"), story)
    )
    second = _of_wins(by_kind.get("win_rate"), story) or _of_preferences(by_kind)
    count, made = len(story.stages), [Said(*one) for one in made_words([(s.kind, s.record) for s in story.stages])]
    return [*first, *second] or made or [Said(f"{count} stage{'s' * (count != 1)} finished; nothing was measured.")]


def stressed(figure: Figure) -> Said:
    """'86 %', with '[80, 91]' beside it."""
    known = figure.low is not None and figure.high is not None
    return Said(percent(figure.value), True, f"[{figure.low * 100:.0f}, {figure.high * 100:.0f}]" if known else "")  # type: ignore[operator]


def _of_answers(group: Group | None, story: Story) -> list[Said]:
    if group is None:
        return []
    base, tuned = split_base(group.figures, story)
    if not tuned:
        return [Said("The base model answers "), stressed(base[0]), Said(" of held-out questions. ")]
    first, *rest = tuned
    before = f" (base: {percent(base[0].value)})" if base else ""
    said = [Said(f"After {stage_word(first.name)} the model answers "), stressed(first)]
    said.append(Said(f" of held-out questions{before}"))
    for figure in rest:
        said += [Said(f", after {stage_word(figure.name)} "), stressed(figure)]
    return [*said, Said(". ")]


def _of_choices(group: Group | None, story: Story, fills: bool = False) -> list[Said]:
    if group is None:
        return []
    base, tuned = split_base([f for f in group.figures if not fills or f.path[0] == "top_1"], story)
    last = (tuned or base)[-1]
    before = f" (base: {percent(base[0].value)})" if base and tuned else ""
    does, of = ("puts the hidden word first", "places") if fills else ("picks the right option", "questions")
    said = [Said(f"After {stage_word(last.name)} the model {does} in "), stressed(last)]
    return [*said, Said(f" of {of}{before}. ")]


def _of_wins(group: Group | None, story: Story) -> list[Said]:
    if group is None:
        return []
    figure = group.figures[-1]
    new, _, old = figure.name.partition("_vs_")
    before, rater = in_whose_eyes(story.report, group.name, figure.name)
    against = f" against {stage_word(old) if old else 'the model before it'}{rater}. "
    opening = f"{before}{stage_word(new)}"
    return [Said(f"{opening[:1].upper()}{opening[1:]} wins "), stressed(figure), Said(against)]


def _of_preferences(by_kind: Mapping[str, Group]) -> list[Said]:
    group = next((by_kind[kind] for kind in reversed(PREFERRING) if kind in by_kind), None)
    found = [f for f in group.figures if f.path == ("accuracy",)] if group else []
    if group is None or not found:
        return []
    who = "The reward model" if group.kind == "reward" else f"After {stage_word(group.name)} the model"
    return [Said(f"{who} agrees with "), stressed(found[0]), Said(" of held-out preferences. ")]


def _of_losses(story: Story) -> list[Said]:
    """The text whose loss fell most from the base, at its best stage; nothing when none fell."""
    falls: list[tuple[float, float, str, Figure]] = []
    for corpus, leaves in losses(story).items():
        (start, first), *later = [(f.loss, f) for f in leaves if f.loss is not None]
        if first.name == "base" and later:
            end, best = min(later, key=lambda item: item[0])
            falls.append((start, end, corpus, best))
    if not falls:
        return []
    start, end, corpus, best = max(falls, key=lambda fall: fall[0] - fall[1])
    if start <= end:
        return []
    said = [Said(f"Held-out loss on {corpus.replace('_', ' ')} fell from "), Said(f"{start:.2f} to {end:.2f}", True)]
    return [*said, Said(f" nats per token after {stage_word(best.name)}. ")]


def split_base(leaves: Sequence[Figure], story: Story) -> tuple[list[Figure], list[Figure]]:
    """(figure of the base model, figures of later stages' models). A run from fresh weights makes its own base: what
    its pretraining left."""
    base = [f for f in leaves if f.name == "base"]
    if not base and story.resolved.get("base", {}).get("fresh"):
        base = [f for f in leaves if any(s.name == f.name and s.kind == "pretrain" for s in story.stages)][:1]
    return base, [f for f in leaves if f not in base]
