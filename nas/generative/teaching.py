"""How a generator learns: from what it draws, from what it could have been asked for, and from what failed.

Two terms: a policy gradient on architectures that it draws now, judged by the inquisitor and by the indicator
of the requirements, with credit for every decision by itself; and the likelihood of good architectures under
requests that they answer, which is hindsight. Neither costs an evaluation.
Sources: Williams, "REINFORCE" (1992); Andrychowicz et al., "Hindsight Experience Replay" (arXiv 1707.01495).
How the two go together is ours.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nas.generative.inquisitor import Inquisitor
from nas.generative.policy import AutoregressivePolicy
from nas.generative.requests import Requests
from predictors.accuracy_kernels import one_hot
from search_spaces import SearchSpace
from search_spaces.space import INACTIVE, Codes

Floats = NDArray[np.float64]

GROUPS, GROUP = 16, 16  # requests of a step, and architectures that are drawn for each
REPLAYED = 128  # good architectures of a step
LR = 1e-2
ENTROPY, MORE_ENTROPY = 0.02, 2.0
DIVERSE = 6.0  # nats: some 400 architectures, each as likely as the others
HINDSIGHT = 1.5
CLIP = 3.0  # of an advantage
BROKEN = 2.0  # blame for a broken requirement, in the largest advantages
FAR = 0.2  # an excess that counts twice as much as a slight one, or nearly so
RIDGE = 1.0  # on main effects
TOLERANCE = 0.5  # standard deviations of the worth that a good architecture may be below the best at its cost


@dataclass(frozen=True, eq=False)
class Pool:
    """Architectures that keep the hard limits, with what is known and believed of them.

    codes (n, C), costs (n, names), values (n, objectives).  requests: what each answers (n, R).
    share: how likely each is to be replayed (n,).  scale: the spread of the worth, by which it is judged.
    effects: what every option adds to the worth by itself (options of all choices,); 0 with several
    objectives, whose weights every request sets anew.
    """

    codes: Codes
    costs: Floats
    values: Floats
    requests: Floats
    share: Floats
    scale: float
    effects: Floats


def make_pool(codes: Codes, asks: Requests, inquisitor: Inquisitor, rng: np.random.Generator) -> Pool:
    """The pool of those among `codes` (n, C) that keep the hard limits."""
    codes = np.unique(codes, axis=0)
    codes = codes[asks.requirements.distance(codes) == 0]
    costs, values = asks.requirements.costs(codes), inquisitor.means(codes)
    requests = asks.answered(rng, costs)
    worth = _worth_for_each(codes, values, asks.split(requests)[1], inquisitor)
    alone = np.diagonal(worth) if worth.ndim == 2 else worth
    scale = float(alone.std()) or 1.0
    rivals = worth if worth.ndim == 2 else np.broadcast_to(worth, (len(worth), len(worth)))
    cheaper = (costs[None, :, : asks.main] <= costs[:, None, : asks.main] + 1e-9).all(axis=2)
    best = np.where(cheaper & (inquisitor.below(values) <= 0)[None], rivals, -np.inf).max(
        axis=1, initial=-np.inf
    )
    gap = np.maximum(np.where(np.isfinite(best), best, alone.max(initial=0.0)) - alone, 0)
    shown = one_hot(asks.requirements.space, codes)
    effects = _main_effects(shown, alone) if worth.ndim == 1 else np.zeros(shown.shape[1])
    return Pool(codes, costs, values, requests, _shares(gap / scale, requests), scale, effects)


def teach(
    policy: AutoregressivePolicy,
    optimizer: torch.optim.Optimizer,
    pool: Pool,
    asks: Requests,
    inquisitor: Inquisitor,
    rng: np.random.Generator,
    *,
    steps: int,
    last: bool = False,
) -> None:
    """`steps` optimiser steps of both terms; in the last lesson ever smaller ones."""
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LR * (1 - step / steps) if last else LR
        picked = rng.integers(len(pool.codes), size=GROUPS)
        requests = np.repeat(asks.drawn(rng, pool.costs[picked]), GROUP, axis=0)
        codes = policy.sample(requests, rng)
        credit = torch.as_tensor(advantages(codes, requests, pool, asks, inquisitor)).float()
        log_probs, entropy = policy.log_probs(codes, requests)
        gain = (credit * log_probs).sum(dim=1).mean()
        gain = gain + (_wonder(log_probs.detach().sum(dim=1)) * entropy.sum(dim=1)).mean()
        again = rng.choice(len(pool.codes), size=REPLAYED, p=pool.share)
        answered = asks.answered(rng, pool.costs[again])
        if asks.objectives > 1:  # the weights under which it is good
            answered[:, len(asks.home) :] = pool.requests[again, len(asks.home) :]
        replayed = policy.log_probs(pool.codes[again], answered)[0].sum(dim=1).mean()
        optimizer.zero_grad()
        (-gain - HINDSIGHT * replayed).backward()
        optimizer.step()


def advantages(codes: Codes, requests: Floats, pool: Pool, asks: Requests, inquisitor: Inquisitor) -> Floats:
    """Credit for every decision (B, C), zero on average over the GROUP rows of one request.

    A decision answers for its own main effect and those of later decisions. What no decision alone explains
    is shared out by how strongly the blocks react that depend on it. Where a requirement is broken all are
    to blame, most of all those whose blocks react least.
    """
    weights = asks.split(requests)[1]
    values = inquisitor.means(codes)
    worth = inquisitor.worth(codes, values, weights)
    effects = effects_of_decisions(codes, pool.effects, asks.requirements.space)
    of_decisions = np.cumsum(effects[:, ::-1], axis=1)[:, ::-1]
    rest = (worth - effects.sum(axis=1))[:, None] * inquisitor.importance
    broken = asks.excess(codes, requests) + inquisitor.below(values)
    kept = (broken <= 0).reshape(-1, GROUP, 1)
    better = _above_mean((of_decisions + rest).reshape(-1, GROUP, codes.shape[1]), kept) / pool.scale
    blame = BROKEN + np.log1p(broken / FAR).reshape(-1, GROUP, 1)
    to_blame = np.clip(2 - inquisitor.importance, 0.5, 1.5)
    credit = np.where(kept, np.clip(better, -CLIP, CLIP), -CLIP * blame * to_blame)
    above: Floats = credit - credit.mean(axis=1, keepdims=True)
    return above.reshape(codes.shape)


def _wonder(log_probs: torch.Tensor) -> torch.Tensor:
    """What entropy is worth (B,): more for requests that are answered with ever the same architectures.

    log_probs: of the architectures (B,), GROUP in a row for one request.
    """
    entropy = -log_probs.view(-1, GROUP).mean(dim=1)
    lacking = (1 - entropy / DIVERSE).clamp(min=0)
    return (ENTROPY + MORE_ENTROPY * lacking).repeat_interleave(GROUP)


def _above_mean(values: Floats, kept: NDArray[np.bool_]) -> Floats:
    """Values (groups, GROUP, C) less their mean over those kept (groups, GROUP, 1)."""
    count = np.maximum(kept.sum(axis=1, keepdims=True), 1)
    above: Floats = values - (values * kept).sum(axis=1, keepdims=True) / count
    return above


def _main_effects(shown: Floats, worth: Floats) -> Floats:
    """Of every option (T,), from the worth (n,) of architectures whose options are shown (n, T): ridge."""
    gram = shown @ shown.T + RIDGE * np.eye(len(shown))
    effects: Floats = shown.T @ np.linalg.solve(gram, worth - worth.mean())
    return effects


def effects_of_decisions(codes: Codes, effects: Floats, space: SearchSpace) -> Floats:
    """The main effect of every decision (B, C), 0 for choices that do not exist."""
    starts = np.cumsum([0, *(len(choice.options) for choice in space.choices[:-1])])
    active = codes != INACTIVE
    return np.where(active, effects[starts + np.where(active, codes, 0)], 0.0)


def _worth_for_each(codes: Codes, values: Floats, weights: Floats, inquisitor: Inquisitor) -> Floats:
    """The worth (n,); of several objectives (n, n): a row by the weights of one, a column of another."""
    if values.shape[1] == 1:
        return inquisitor.worth(codes, values, weights)
    return inquisitor.worth(codes, values[None], weights[:, None])


def _shares(gap: Floats, requests: Floats) -> Floats:
    """High for those near the best at their cost, and as much for cheap ones as for dear ones, (n,)."""
    share = np.exp(-gap / TOLERANCE)
    if requests.shape[1]:
        level = np.minimum((requests[:, 0] * 10).astype(int), 9)
        share = share / np.bincount(level, weights=share, minlength=10)[level]
    whole: Floats = share / share.sum()
    return whole
