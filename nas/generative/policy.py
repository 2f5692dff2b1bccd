"""Generators: distributions over the architectures of a space, from which they are drawn for a request.

Shapes: B architectures, C choices of the space, T options of all choices together, R numbers that a request
consists of (budgets, and weights where there are several objectives).
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces import Architecture, SearchSpace
from search_spaces.space import INACTIVE, Codes

Floats = NDArray[np.float64]

PROTOTYPE_SHARE = 0.6  # probability of each of the prototype's options before anything is learned
MOST_PAIRED = 1024  # options of all choices together
KNOTS = 8  # bumps along every number of a request, so that what is asked for may matter abruptly


class Policy(Protocol):
    """A generator. Codes (B, C), requests (B, R) from 0 to 1."""

    def sample(self, requests: Floats, rng: np.random.Generator, *, temperature: float = 1.0) -> Codes:
        """One architecture for each request, as it comes: legal, but perhaps over its budgets."""

    def mode(self, requests: Floats) -> Codes:
        """For each request the most likely option of one choice after the other."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that was learned."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes what `tensors` gave; raises RuntimeError for those of another space."""


def prototype_logits(space: SearchSpace, prototype: Architecture) -> list[Floats]:
    """Per choice the logits (options,) under which the prototype is the mode."""
    code = space.encode([prototype])[0]
    logits = []
    for choice, chosen in zip(space.choices, code, strict=True):
        row = np.zeros(len(choice.options))
        if chosen != INACTIVE and len(row) > 1:
            row[chosen] = np.log(PROTOTYPE_SHARE / (1 - PROTOTYPE_SHARE) * (len(row) - 1))
        logits.append(row)
    return logits


class AutoregressivePolicy(nn.Module):
    """Every choice given the request and the choices before it: a masked network with one hidden layer.

    Source of the masks: Germain et al., "MADE: Masked Autoencoder for Distribution Estimation" (arXiv
    1502.03509). Before anything is learned it draws the prototype's options most often, whatever the request.
    """

    def __init__(
        self, space: SearchSpace, prototype: Architecture, *, request: int, seed: int, hidden: int = 128
    ) -> None:
        super().__init__()
        self.space = space
        sizes = [len(choice.options) for choice in space.choices]
        self.sizes, self.starts = sizes, np.concatenate([[0], np.cumsum(sizes)])
        choice_of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        sees = torch.arange(hidden) * len(sizes) // hidden  # a hidden unit sees choices below this one
        self._into = (choice_of[None] < sees[:, None]).float()
        self._out = (sees[None] <= choice_of[:, None]).float()
        generator = torch.Generator().manual_seed(seed)
        features = request * (KNOTS + 1)

        def weights(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns, generator=generator) / columns**0.5)

        total = len(choice_of)
        self.into, self.asked, self.shift = weights(hidden, total), weights(hidden, features), _zeros(hidden)
        self.out, self.asked_out = _zeros(total, hidden), _zeros(total, features)
        # From option to option, where that is no huge matrix, and not all of it masked.
        paired = len(sizes) > 1 and total <= MOST_PAIRED
        self.direct = _zeros(total, total) if paired else None
        self._past = (choice_of[None] < choice_of[:, None]).float() if paired else torch.zeros(0)
        first = np.concatenate(prototype_logits(space, prototype))
        self.bias = nn.Parameter(torch.tensor(first, dtype=torch.float32))

    def logits(self, shown: Tensor, requests: Tensor) -> Tensor:
        """Logits (B, T) of all options; those of a choice depend on earlier ones of `shown` (B, T) only."""
        asked = _bumps(requests)
        hidden = torch.relu(shown @ (self.into * self._into).T + asked @ self.asked.T + self.shift)
        logits = hidden @ (self.out * self._out).T + asked @ self.asked_out.T + self.bias
        return logits if self.direct is None else logits + shown @ (self.direct * self._past).T

    def log_probs(self, codes: Codes, requests: Floats) -> tuple[Tensor, Tensor]:
        """Of the options that were chosen, and the entropy of each choice: (B, C) each, 0 where inactive."""
        logits = self.logits(self._shown(codes), torch.as_tensor(requests, dtype=torch.float32))
        chosen = torch.as_tensor(codes)
        parts = [part.log_softmax(dim=1) for part in logits.split(self.sizes, dim=1)]
        picked = [part.gather(1, chosen[:, i, None].clamp(min=0))[:, 0] for i, part in enumerate(parts)]
        entropy = [-(part.exp() * part).sum(dim=1) for part in parts]
        active = (chosen != INACTIVE).float()
        return torch.stack(picked, dim=1) * active, torch.stack(entropy, dim=1) * active

    def sample(self, requests: Floats, rng: np.random.Generator, *, temperature: float = 1.0) -> Codes:
        noise = rng.gumbel(size=(len(requests), len(self.bias)))
        return self._decided(requests, temperature * torch.as_tensor(noise, dtype=torch.float32))

    def mode(self, requests: Floats) -> Codes:
        return self._decided(requests, torch.zeros(len(requests), len(self.bias)))

    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.load_state_dict(dict(tensors), strict=True)

    @torch.no_grad()
    def _decided(self, requests: Floats, noise: Tensor) -> Codes:
        """One choice after the other takes its largest logit, `noise` (B, T) added.

        What `logits` computes, but each choice's share only when its turn has come.
        """
        asked = _bumps(torch.as_tensor(requests, dtype=torch.float32))
        before = asked @ self.asked.T + self.shift  # what the hidden units have been told so far
        logits = asked @ self.asked_out.T + self.bias + noise
        rows = (self.into * self._into).T  # a row for each option
        direct = None if self.direct is None else (self.direct * self._past).T
        out = (self.out * self._out).T
        codes = np.full((len(requests), len(self.sizes)), INACTIVE, dtype=np.int64)
        for i, size in enumerate(self.sizes):
            start = int(self.starts[i])
            scores = logits[:, start : start + size] + torch.relu(before) @ out[:, start : start + size]
            codes[:, i] = scores.argmax(dim=1).numpy()
            chosen = exists(self.space, codes, i)
            codes[:, i] = np.where(chosen, codes[:, i], INACTIVE)
            option, active = torch.as_tensor(start + codes[:, i].clip(0)), torch.as_tensor(chosen)[:, None]
            before = before + rows[option] * active
            if direct is not None:
                logits = logits + direct[option] * active
        return codes

    def _shown(self, codes: Codes) -> Tensor:
        columns = [codes[:, i, None] == np.arange(size) for i, size in enumerate(self.sizes)]
        return torch.as_tensor(np.concatenate(columns, axis=1)).float()


class FactorisedPolicy:
    """The quick generator: for every choice by itself a table (levels, options) of probabilities.

    They are moved towards the best by the cross-entropy method.
    Source: Rubinstein and Kroese, "The Cross-Entropy Method" (2004). Ours: one distribution for each of a few
    levels, between which requests interpolate by their tightest budget, whatever metric it is for.
    """

    def __init__(
        self, space: SearchSpace, prototype: Architecture, *, levels: int, budgets: int | None = None
    ) -> None:
        """`budgets`: how many of the first numbers of a request are budgets; None: all."""
        self.space, self._budgets = space, budgets
        rows = [np.exp(row) / np.exp(row).sum() for row in prototype_logits(space, prototype)]
        self.tables: list[Floats] = [np.tile(row, (levels, 1)) for row in rows]

    @property
    def levels(self) -> Floats:
        """The budget that each level stands for; the last is none."""
        return np.linspace(0, 1, len(self.tables[0]) + 1)[1:]

    def adjust(self, level: int, elites: Codes, *, rate: float, floor: float) -> None:
        """Moves a level towards the options of elites (n, C); no option falls below floor / options."""
        for i, table in enumerate(self.tables):
            chosen = elites[elites[:, i] != INACTIVE, i]
            if len(chosen):
                seen = np.bincount(chosen, minlength=table.shape[1]) / len(chosen)
                moved = (1 - rate) * table[level] + rate * seen
                table[level] = (1 - floor) * moved + floor / table.shape[1]

    def sample(self, requests: Floats, rng: np.random.Generator, *, temperature: float = 1.0) -> Codes:
        return self._decided(requests, lambda shape: temperature * rng.gumbel(size=shape))

    def mode(self, requests: Floats) -> Codes:
        return self._decided(requests, np.zeros)

    def tensors(self) -> dict[str, Tensor]:
        return {f"choice.{i}": torch.as_tensor(table.copy()) for i, table in enumerate(self.tables)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        names = [f"choice.{i}" for i in range(len(self.tables))]
        loaded = [tensors[name].numpy().copy() for name in names if name in tensors]
        if [table.shape for table in loaded] != [table.shape for table in self.tables]:
            raise RuntimeError("these are the distributions of another space")
        self.tables = loaded

    def _decided(self, requests: Floats, noise: Callable[[tuple[int, ...]], Floats]) -> Codes:
        shares = self._shares(requests)
        codes = np.full((len(requests), len(self.tables)), INACTIVE, dtype=np.int64)
        for i, table in enumerate(self.tables):
            logits = np.log(shares @ table)
            codes[:, i] = (logits + noise(logits.shape)).argmax(axis=1)
            codes[:, i] = np.where(exists(self.space, codes, i), codes[:, i], INACTIVE)
        return codes

    def _shares(self, requests: Floats) -> Floats:
        """How much of each level goes into each request, (B, levels)."""
        levels = self.levels
        first = requests[:, : self._budgets].min(axis=1, initial=1.0)
        shares = np.zeros((len(requests), len(levels)))
        shares[:, 0] = first <= levels[0]
        for (i, below), (j, above) in pairwise(enumerate(levels)):
            between = (first > below) & (first <= above)
            part = (first - below) / (above - below)
            shares[:, i] += np.where(between, 1 - part, 0)
            shares[:, j] += np.where(between, part, 0)
        return shares


def exists(space: SearchSpace, codes: Codes, choice: int) -> NDArray[np.bool_]:
    """Which architectures have this choice, by those before it."""
    if choice not in space.conditions:
        return np.ones(len(codes), dtype=np.bool_)
    parent, enabled = space.conditions[choice]
    active: NDArray[np.bool_] = enabled[codes[:, parent]]
    return active


def _bumps(requests: Tensor) -> Tensor:
    """Each number of a request with its distance to KNOTS places between 0 and 1."""
    knots = torch.linspace(0, 1, KNOTS)
    near = torch.exp(-((requests[:, :, None] - knots) * (KNOTS - 1)).square())
    return torch.cat([requests, near.flatten(1)], dim=1)


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))
