"""Votes between models -> how strong each is: Bradley–Terry by maximum likelihood, on the Elo scale.

P(i beats j) = σ(θ_i − θ_j); a tie is half a win for each. Bradley and Terry 1952; a covariate for length as in Chatbot
Arena's style control (Li et al. 2024). Elo: 1000 + 400/ln 10 · θ, the mean of all models at 1000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from luthier.base.errors import RunError, UserError
from luthier.base.nouns import Row
from luthier.evals.intervals import Figure, wilson

WINNERS = ("a", "b", "tie", "both_bad")
ELO = 400 / math.log(10)
PRIOR_GAMES = 0.1
"""Games, half won and half lost, against an opponent of mean strength, given to each model where the likelihood has no
maximum: somebody won everything, or lost everything."""
STEPS, SMALL = 100, 1e-10


@dataclass(frozen=True, slots=True)
class Vote:
    """One comparison of two models' answers."""

    a: str
    b: str
    winner: str
    """a, b, tie or both_bad."""
    origin: str = ""
    category: str | None = None
    prompt: str | None = None
    answer_a: str | None = None
    answer_b: str | None = None
    voter: str | None = None


def votes_of(rows: Sequence[Row]) -> list[Vote]:
    """Rows as votes. Raises UserError with every line that is none."""
    votes, wrong = [], []
    for row in rows:
        fields = row.fields
        problems = [f"{key}: a model's name is wanted" for key in ("a", "b") if not is_name(fields.get(key))]
        if not problems and fields["a"] == fields["b"]:
            problems.append(f"a and b: both are {fields['a']}")
        winner = str(fields.get("winner", "")).strip().lower().replace("-", "_").replace(" ", "_")
        winner = {"bothbad": "both_bad", "neither": "both_bad", "draw": "tie"}.get(winner, winner)
        if winner not in WINNERS:
            named = "is missing" if "winner" not in fields else f'"{fields["winner"]}" is not a, b, tie or both_bad'
            problems.append(f"winner: {named}")
        texts = ("category", "prompt", "answer_a", "answer_b", "voter")
        given = {key: fields[key] for key in texts if fields.get(key) is not None}
        problems += [f"{key}: is not text" for key, value in given.items() if not isinstance(value, str)]
        wrong += [f"{row.origin}: {problem}." for problem in problems]
        if not problems:
            votes.append(Vote(str(fields["a"]), str(fields["b"]), winner, row.origin, **given))
    if wrong:
        raise UserError(wrong)
    return votes


def is_name(value: object) -> bool:
    """Whether a field can name a model."""
    return isinstance(value, str) and bool(value.strip())


class Strengths(NamedTuple):
    """A fitted arena."""

    theta_K: np.ndarray
    """Mean 0, in nats."""
    gamma: float | None
    """Of the length covariate: nats of preference for one standard deviation of length; None without one."""
    prior: bool
    """Whether the prior had to help."""


def score_a(vote: Vote) -> float:
    """What a got: 1, 0, or ½ of a tie and of both bad."""
    return {"a": 1.0, "b": 0.0}.get(vote.winner, 0.5)


def fit(
    a_N: np.ndarray,
    b_N: np.ndarray,
    score_N: np.ndarray,
    models: int,
    weight_N: np.ndarray | None = None,
    length_N: np.ndarray | None = None,
    prior: bool | None = None,
) -> Strengths:
    """Maximum likelihood by Newton's method. `a_N`, `b_N`: model numbers; `score_N`: what a got, 0 to 1; `length_N`: a
    covariate of each game, for a. `prior` None: only where the likelihood has no maximum without it (Ford 1957: the
    graph of who beat whom, with ties both ways, is not strongly connected). Raises RunError where it does not converge.
    """
    weight_N = np.ones(len(a_N)) if weight_N is None else weight_N
    if prior is None:
        prior = len(groups(beats(a_N, b_N, score_N * weight_N, (1 - score_N) * weight_N, models))) > 1
    if length_N is None:  # equal games count together
        games_G3, game_N = np.unique(np.stack([a_N, b_N, score_N], axis=1), axis=0, return_inverse=True)
        weight_N = np.bincount(game_N.ravel(), weight_N)
        a_N, b_N, score_N = games_G3[:, 0].astype(int), games_G3[:, 1].astype(int), games_G3[:, 2]
    design_NF = np.zeros((len(a_N), models + (length_N is not None)))
    games = np.arange(len(a_N))
    design_NF[games, a_N], design_NF[games, b_N] = 1.0, -1.0
    if length_N is not None:
        design_NF[:, models] = length_N
    if prior:
        against_KF = np.eye(models, design_NF.shape[1])
        design_NF = np.concatenate([design_NF, against_KF])
        score_N = np.concatenate([score_N, np.full(models, 0.5)])
        weight_N = np.concatenate([weight_N, np.full(models, PRIOR_GAMES)])
    found_F = newton(design_NF, score_N, weight_N)
    theta_K = found_F[:models] - found_F[:models].mean()
    return Strengths(theta_K, float(found_F[models]) if length_N is not None else None, prior)


def newton(design_NF: np.ndarray, score_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """argmax Σ w·(s·log σ(x·β) + (1 − s)·log σ(−x·β)), the solution of least length where strengths are free up to a
    constant. Steps are halved until the likelihood does not fall. Raises RunError where it does not converge."""
    beta_F = np.zeros(design_NF.shape[1])

    def likelihood(beta_F: np.ndarray) -> float:
        margin_N = design_NF @ beta_F
        return float((weight_N * (score_N * margin_N - np.logaddexp(0, margin_N))).sum())

    now = likelihood(beta_F)
    for _ in range(STEPS):
        win_N = 1 / (1 + np.exp(-(design_NF @ beta_F)))
        gradient_F = design_NF.T @ (weight_N * (score_N - win_N))
        if np.abs(gradient_F).max() < SMALL * max(1.0, weight_N.sum()):
            return beta_F
        curved_FF = design_NF.T @ ((weight_N * win_N * (1 - win_N))[:, None] * design_NF)
        step_F = np.linalg.lstsq(curved_FF, gradient_F, rcond=1e-12)[0]
        while (after := likelihood(beta_F + step_F)) < now - 1e-12 * abs(now):
            step_F /= 2
            if np.abs(step_F).max() < 1e-14:
                return beta_F
        beta_F, now = beta_F + step_F, after
    raise RunError("the arena's fit does not converge: votes that length alone explains, perhaps. Leave length out.")


def beats(a_N: np.ndarray, b_N: np.ndarray, won_N: np.ndarray, lost_N: np.ndarray, models: int) -> np.ndarray:
    """Whether i took anything from j [K, K]."""
    taken_KK = np.zeros((models, models))
    np.add.at(taken_KK, (a_N, b_N), won_N)
    np.add.at(taken_KK, (b_N, a_N), lost_N)
    return taken_KK > 0


def groups(edges_KK: np.ndarray) -> list[list[int]]:
    """Strongly connected parts of a graph, by the first of each."""
    reach_KK = edges_KK | np.eye(len(edges_KK), dtype=bool)
    for k in range(len(reach_KK)):  # Warshall 1962
        reach_KK = reach_KK | (reach_KK[:, k : k + 1] & reach_KK[k : k + 1])
    both_KK = reach_KK & reach_KK.T
    return [list(np.flatnonzero(row)) for k, row in enumerate(both_KK) if not row[:k].any()]


class Standing(NamedTuple):
    """One model in an arena."""

    model: str
    elo: Figure
    """n is its votes."""
    rank: int
    """1 + the models whose interval lies wholly above this one's."""
    wins: int
    losses: int
    ties: int
    both_bad: Figure
    """Share of its votes in which neither answer was any good."""
    undecided: str | None
    """"never lost" or "never won": its figure is a bound that the prior holds."""


class Arena(NamedTuple):
    """What votes say."""

    standings: list[Standing]
    """The strongest first."""
    votes: int
    resampled: str
    """What the intervals were drawn over: vote, prompt or voter."""
    prior: bool
    gap: Figure | None
    """Elo of the first less that of the second, of the same draws."""
    length: Figure | None
    """Of a length-controlled arena: nats of preference for an answer that is longer by one standard deviation."""


def arena(
    votes: Sequence[Vote], seed: int = 0, by: str | None = None, resamples: int = 500, length: bool = False
) -> Arena:
    """Strengths with percentile bootstrap intervals over votes, prompts or voters. `by` None: prompts, where every vote
    names one and some are voted on several times; else votes. `length`: with the relative difference of the answers'
    lengths as a covariate; votes without answers are left out. Raises UserError: no votes, models that were never
    compared, not even through others."""
    if length:
        votes = [vote for vote in votes if vote.answer_a is not None and vote.answer_b is not None]
    if not votes:
        what = "no vote carries both answers" if length else "there are no votes"
        raise UserError(f"{what}: nothing to compare.")
    names = sorted({name for vote in votes for name in (vote.a, vote.b)})
    a_N, b_N = (np.array([names.index(n) for n in side]) for side in ([v.a for v in votes], [v.b for v in votes]))
    score_N = np.array([score_a(vote) for vote in votes])
    refuse_apart(names, a_N, b_N)
    length_N = lengths(votes) if length else None
    by = by or resampling(votes)
    at_N = places(votes, by)
    whole = fit(a_N, b_N, score_N, len(names), length_N=length_N)
    random = np.random.default_rng(seed)
    clusters = int(at_N.max()) + 1
    rows_RK, gammas = [], []
    for _ in range(resamples):
        times_C = np.bincount(random.integers(0, clusters, clusters), minlength=clusters)
        kept = times_C[at_N] > 0
        weight_N = times_C[at_N][kept].astype(np.float64)
        drawn_N = None if length_N is None else length_N[kept]
        made = fit(a_N[kept], b_N[kept], score_N[kept], len(names), weight_N, drawn_N)
        rows_RK.append(made.theta_K)
        gammas.append(made.gamma)
    draws_RK = np.array(rows_RK)
    stands = standings(votes, names, whole, draws_RK)
    order = [names.index(standing.model) for standing in stands]
    gap = None
    if len(order) > 1:
        ahead_R = ELO * (draws_RK[:, order[0]] - draws_RK[:, order[1]])
        gap = spread(ELO * float(whole.theta_K[order[0]] - whole.theta_K[order[1]]), ahead_R, len(votes))
    gamma = spread(whole.gamma, np.array(gammas), len(votes)) if whole.gamma is not None else None
    return Arena(stands, len(votes), by, whole.prior, gap, gamma)


def spread(value: float, draws_R: np.ndarray, n: int) -> Figure:
    """A value with the interval of its draws."""
    low, high = np.quantile(draws_R, [0.025, 0.975])
    return Figure(value, min(float(low), value), max(float(high), value), n)


def standings(votes: Sequence[Vote], names: Sequence[str], whole: Strengths, draws_RK: np.ndarray) -> list[Standing]:
    """The table, the strongest first."""
    found = []
    for k, name in enumerate(names):
        mine = [vote for vote in votes if name in (vote.a, vote.b)]
        won = sum((vote.winner == "a" and vote.a == name) or (vote.winner == "b" and vote.b == name) for vote in mine)
        ties = sum(vote.winner in ("tie", "both_bad") for vote in mine)
        lost = len(mine) - won - ties
        elo = spread(1000 + ELO * float(whole.theta_K[k]), 1000 + ELO * draws_RK[:, k], len(mine))
        bad = wilson(sum(vote.winner == "both_bad" for vote in mine), len(mine))
        never = "never lost" if lost + ties == 0 else "never won" if won + ties == 0 else None
        found.append(Standing(name, elo, 0, won, lost, ties, bad, never))
    found.sort(key=lambda standing: -standing.elo.value)
    return [s._replace(rank=1 + sum(other.elo.low > s.elo.high for other in found)) for s in found]


def refuse_apart(names: Sequence[str], a_N: np.ndarray, b_N: np.ndarray) -> None:
    """Raises UserError where models fall into groups that no vote joins."""
    met_KK = beats(a_N, b_N, np.ones(len(a_N)), np.ones(len(a_N)), len(names))
    parts = groups(met_KK)
    if len(parts) > 1:
        said = "; ".join(", ".join(names[k] for k in part) for part in parts)
        raise UserError(f"no vote joins these groups: {said}. Gather votes between them, or give each its own file.")


def lengths(votes: Sequence[Vote]) -> np.ndarray:
    """(|a| − |b|) / (|a| + |b|) in characters, over its root mean square: longer by 1 is longer by a usual amount."""
    a_N, b_N = (np.array([len(text or "") for text in t]) for t in zip(*((v.answer_a, v.answer_b) for v in votes)))  # noqa: B905
    relative_N = (a_N - b_N) / np.maximum(1, a_N + b_N)
    size = math.sqrt(float((relative_N**2).mean()))
    return relative_N / size if size else relative_N


def resampling(votes: Sequence[Vote]) -> str:
    """What intervals are drawn over, where nobody says."""
    prompts = [vote.prompt for vote in votes]
    return "prompt" if None not in prompts and len(set(prompts)) < len(prompts) else "vote"


def places(votes: Sequence[Vote], by: str) -> np.ndarray:
    """The number of each vote's cluster. Raises UserError where a vote does not say."""
    if by == "vote":
        return np.arange(len(votes))
    keys = [vote.prompt if by == "prompt" else vote.voter for vote in votes]
    missing = [vote.origin for vote, key in zip(votes, keys, strict=True) if key is None]
    if missing:
        raise UserError(f"--by {by}: {len(missing)} votes name no {by} (the first: {missing[0]}). Use --by vote.")
    return np.unique(np.array(keys), return_inverse=True)[1]
