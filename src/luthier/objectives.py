"""Every loss and every advantage: pure functions, tensors in, sums out. The step divides once.

Log-probs are in nats. Sums run over predictions M, pairs P or samples; the caller knows the count before the first
forward, so that accumulation, packing and data parallelism cannot change the gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def nll(logp_M: Tensor, weight_M: Tensor) -> Tensor:
    """Weighted negative log-likelihood, summed: −Σ w·logp."""
    return -(weight_M * logp_M).sum()


def bradley_terry(
    chosen_P: Tensor, rejected_P: Tensor, margin_P: Tensor | float = 0.0, agreement_P: Tensor | float = 1.0
) -> Tensor:
    """−a·log σ(Δ − m) − (1 − a)·log σ(m − Δ) with Δ = r_chosen − r_rejected, summed over pairs: by default
    −log σ(Δ). Bradley & Terry 1952; Ouyang et al. 2022, eq. 1.

    `margin_P` is by how much the chosen answer shall lead, m (Touvron et al. 2023, Llama 2, eq. 2); `agreement_P` the
    share of raters that preferred it, a: the loss is least at Δ = m + log(a / (1 − a)).
    """
    lead_P = chosen_P - rejected_P - margin_P
    return -(agreement_P * F.logsigmoid(lead_P) + (1 - agreement_P) * F.logsigmoid(-lead_P)).sum()


def dpo(chosen_P: Tensor, rejected_P: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """−(1 − ε)·log σ(βh) − ε·log σ(−βh), summed over pairs. The arguments are gains log π(y|x) − log ρ(y|x) of policy
    over reference in nats, h is their difference. Rafailov et al. 2023, eq. 7; `smoothing` ε, the chance that a label
    is wrong: Mitchell 2023, "A note on DPO with noisy preferences"."""
    margin_P = beta * (chosen_P - rejected_P)
    return -((1 - smoothing) * F.logsigmoid(margin_P) + smoothing * F.logsigmoid(-margin_P)).sum()


def ipo(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> Tensor:
    """(h − 1/(2β))², summed over pairs; h as in `dpo`. Azar et al. 2023, eq. 17, whose τ is β."""
    return (chosen_P - rejected_P - 1 / (2 * beta)).square().sum()


def simpo(chosen_P: Tensor, rejected_P: Tensor, beta: float, target_margin: float) -> Tensor:
    """−log σ(β·(c − r) − γ), summed over pairs; c and r are mean log-probs a token. Meng et al. 2024, eq. 6."""
    return -F.logsigmoid(beta * (chosen_P - rejected_P) - target_margin).sum()


def log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 − p)) of a log-prob. At p = 1, which float32 reaches, the odds are those of the next smaller p."""
    held = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    return held - (-held.expm1()).log()


def orpo(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> Tensor:
    """−c − β·log σ(log odds(c) − log odds(r)), summed over pairs; c and r are mean log-probs a token, and the first
    term is supervised tuning on the chosen answer. Hong et al. 2024, eq. 2, 4, 6 and 7, whose λ is β."""
    return -(chosen_P + beta * F.logsigmoid(log_odds(chosen_P) - log_odds(rejected_P))).sum()


def kto(
    gain_N: Tensor, good_N: Tensor, baseline: Tensor | float, beta: float, good_weight: float, bad_weight: float
) -> Tensor:
    """w·(1 − σ(±β·(g − z))), summed over answers: + and w = `good_weight` where `good_N` is 1, − and `bad_weight`
    where it is 0. g is log π(y|x) − log ρ(y|x), z the `baseline`: the policy's KL from the reference, which is not
    differentiated. Ethayarajh et al. 2024, eq. 7."""
    toward_N = 2 * good_N - 1
    weight_N = bad_weight + (good_weight - bad_weight) * good_N
    return (weight_N * torch.sigmoid(-toward_N * beta * (gain_N - baseline))).sum()


def gae(reward_NL: Tensor, value_NL: Tensor, mask_NL: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates A_t = Σ_l (γλ)^l δ_{t+l}, with δ_t = r_t + γ V_{t+1} − V_t and V = 0 after the
    end. Schulman et al. 2016, eq. 16. `mask_NL` is 1 on real tokens, which stand left-aligned; 0 elsewhere."""
    advantage_NL = torch.zeros_like(reward_NL)
    running_N = torch.zeros_like(reward_NL[:, 0])
    next_value_N = torch.zeros_like(running_N)
    for t in range(reward_NL.shape[1] - 1, -1, -1):
        alive_N = mask_NL[:, t]
        delta_N = reward_NL[:, t] + gamma * next_value_N - value_NL[:, t]
        running_N = alive_N * (delta_N + gamma * lam * running_N)
        advantage_NL[:, t] = running_N
        next_value_N = alive_N * value_NL[:, t]
    return advantage_NL


def whiten(values: Tensor, shift_mean: bool = True) -> Tensor:
    """Zero mean (if asked) and unit variance; constant values become their deviation from the mean, 0."""
    centred = values - values.mean()
    scaled = centred / (centred.square().mean().sqrt() + 1e-8)
    return scaled if shift_mean else scaled + values.mean()


class Clipped(NamedTuple):
    """A clipped loss (sum) and the number of elements on which the clip was active."""

    loss: Tensor
    clipped: Tensor


def clipped_policy(logp_M: Tensor, old_logp_M: Tensor, advantage_M: Tensor, clip: float) -> Clipped:
    """−min(ρA, clip(ρ, 1−ε, 1+ε)A) summed, ρ = exp(logp − old). Schulman et al. 2017, eq. 7.
    At ρ = 1 its gradient is REINFORCE's: −A ∇logp."""
    ratio_M = (logp_M - old_logp_M).exp()
    free_M, held_M = ratio_M * advantage_M, ratio_M.clamp(1 - clip, 1 + clip) * advantage_M
    return Clipped(-torch.minimum(free_M, held_M).sum(), (held_M < free_M).sum())


def clipped_value(value_M: Tensor, old_value_M: Tensor, return_M: Tensor, clip: float) -> Clipped:
    """½ max((V−R)², (V_old + clip(V−V_old, ±ε) − R)²) summed."""
    held_M = old_value_M + (value_M - old_value_M).clamp(-clip, clip)
    free_M, held_M = (value_M - return_M).square(), (held_M - return_M).square()
    return Clipped(0.5 * torch.maximum(free_M, held_M).sum(), (held_M > free_M).sum())


def kl_estimate(logp_M: Tensor, ref_logp_M: Tensor) -> Tensor:
    """Per-token estimate of KL(π‖ref) from samples of π: e^d − 1 − d with d = ref − logp. Never negative, unbiased,
    and 0 exactly where the two agree. Schulman 2020, "Approximating KL divergence", k3."""
    difference_M = ref_logp_M - logp_M
    return difference_M.expm1() - difference_M


def adapt_kl(coefficient: float, kl: float, target: float, samples: int, horizon: int) -> float:
    """β ← β (1 + clip(KL/target − 1, ±0.2) · n/horizon). Ziegler et al. 2019, §2.2."""
    error = max(-0.2, min(0.2, kl / target - 1))
    return coefficient * (1 + error * samples / horizon)


def group_advantages(reward_BG: Tensor, kind: str) -> Tensor:
    """How much better each answer is than the others to its prompt [B, G]; 0 exactly where all are equal.

    grpo: (r − mean) / (std + 1e-4), std over G − 1 (Shao et al. 2024, §4.1.2; the constant and the G − 1 as in TRL);
    dr_grpo: r − mean (Liu et al. 2025); rloo: r − mean of the others = G/(G − 1) · (r − mean) (Ahmadian et al. 2024;
    Kool et al. 2019). Raises ValueError on another kind, and on a group of one, which has nothing to compare with.
    """
    samples = reward_BG.shape[1]
    if samples < 2:
        raise ValueError("a group of one answer has no others to compare it with")
    centred_BG = reward_BG - reward_BG.mean(1, keepdim=True)
    if kind == "grpo":
        centred_BG = centred_BG / (reward_BG.std(1, keepdim=True) + 1e-4)
    elif kind == "rloo":
        centred_BG = centred_BG * (samples / (samples - 1))
    elif kind != "dr_grpo":
        raise ValueError(f"{kind} is not grpo, dr_grpo or rloo")
    # The mean of equal numbers may differ from them by rounding.
    return torch.where(reward_BG.amax(1, keepdim=True) == reward_BG.amin(1, keepdim=True), 0.0, centred_BG)


def group_policy(
    logp_M: Tensor,
    old_logp_M: Tensor,
    advantage_M: Tensor,
    weight_M: Tensor,
    clip: tuple[float, float],
    ref_logp_M: Tensor | None = None,
    kl: float = 0.0,
    kl_corrected: bool = False,
) -> Clipped:
    """Σ w · (−min(ρA, clip(ρ, 1 − ε_low, 1 + ε_high)A) + β·k3), ρ = exp(logp − old), k3 the estimate of the KL to the
    reference (`kl_estimate`), which is left out where there is none. `clip` is (ε_low, ε_high).

    The gradient of k3 at samples of π is not that of the KL; that of ρ·k3 is (`kl_corrected`).

    Shao et al. 2024, eq. 3 and 4; the two ends of the clip: Yu et al. 2025 (DAPO), eq. 8. With w = 1/|answer| and
    divided by the answers it is GRPO's loss; with w = 1 and divided by the tokens DAPO's; with w = 1 and divided by
    answers · longest answer Dr. GRPO's. At ρ = 1 its gradient is REINFORCE's: −wA ∇logp.
    """
    ratio_M = (logp_M - old_logp_M).exp()
    free_M, held_M = ratio_M * advantage_M, ratio_M.clamp(1 - clip[0], 1 + clip[1]) * advantage_M
    per_token_M = -torch.minimum(free_M, held_M)
    if ref_logp_M is not None and kl:
        kl_M = kl_estimate(logp_M, ref_logp_M)
        per_token_M = per_token_M + kl * (ratio_M * kl_M if kl_corrected else kl_M)
    return Clipped((weight_M * per_token_M).sum(), (held_M < free_M).sum())
