"""One trainer for all families: optimiser steps over architectures that a strategy draws.

Everything random in step t is derived from (seed, t), so that a training which was interrupted and resumed
from a checkpoint ends with the same weights, bit for bit, as one that was not. Under an initialised
`torch.distributed` process group every rank sees its own batches and gradients are averaged.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from search_spaces import Architecture
from search_spaces._errors import JobFailedError, UsageError
from supernet._base import Supernet
from supernet._sampling import Strategy

Batches = Callable[[int], tuple[Tensor, Tensor]]
LOG_EVERY = 25


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train; the learning rate is a cosine to zero after `warmup` steps.

    largest_first: the fraction of the steps, at the start, in which only the largest architecture is trained;
    the others inherit what it has learnt (as Once-for-all begins; Cai et al., arXiv 1908.09791).
    ema: decay of an exponential moving average of the weights, which evaluation then uses; None for none.
    distill: from the fraction `distill_after` of the steps on, the first architecture of a step teaches the
    others (half of their loss is the cross entropy to its softened outputs). Before that all learn from the
    labels: an untrained teacher ruins the start.
    precision: `fp32`, `bf16` (autocast) or `auto` (bf16 on a GPU).
    """

    steps: int
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: int = 150
    clip: float = 1.0
    label_smoothing: float = 0.05
    largest_first: float = 0.0
    ema: float | None = None
    distill: bool = False
    distill_after: float = 0.4
    precision: str = "auto"

    def learning_rate(self, step: int) -> float:
        """Of optimiser step `step`, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


class Training:
    """A supernet in training: its optimiser, its average and the step it has reached."""

    def __init__(self, supernet: Supernet, strategy: Strategy, recipe: Recipe, *, seed: int) -> None:
        self.supernet, self.strategy, self.recipe, self.seed = supernet.train(), strategy, recipe, seed
        self.step = 0
        self._parameters = dict(supernet.shared.named_parameters())
        self._optimizer = torch.optim.AdamW(
            _groups(self._parameters, recipe.weight_decay), betas=recipe.betas, fused=True
        )
        self._ema = (
            {name: p.detach().clone() for name, p in self._parameters.items()}
            if recipe.ema is not None
            else None
        )
        device = next(iter(self._parameters.values())).device
        self._device_type = device.type
        if recipe.precision not in ("fp32", "bf16", "auto"):
            raise UsageError(f"precision = '{recipe.precision}' is unknown.", "Options: fp32, bf16, auto.")

    def run(self, batches: Batches, *, until: int | None = None) -> Iterator[dict[str, float]]:
        """Trains up to step `until` (default: the recipe's end); yields step, loss, lr now and then and last.

        batches: step -> (inputs, labels), a pure function.
        Raises JobFailedError when the loss is not finite.
        """
        end = self.recipe.steps if until is None else min(until, self.recipe.steps)
        while self.step < end:
            lr = self.recipe.learning_rate(self.step)
            loss = self._optimise(*batches(self.step * _world() + _rank()), lr=lr)
            self.step += 1
            if self.step % LOG_EVERY == 0 or self.step == end:
                yield {"step": self.step, "loss": self._finite(loss), "lr": lr}

    def weights(self) -> dict[str, Tensor]:
        """What evaluation and extraction use: the moving average if there is one, else the weights."""
        source = self._ema or self._parameters
        return {name: tensor.detach().clone() for name, tensor in source.items()}

    def state(self) -> dict[str, Tensor]:
        """Everything that `load_state` needs, as tensors by name."""
        state = {f"model.{name}": p.detach() for name, p in self._parameters.items()}
        state |= {f"ema.{name}": tensor for name, tensor in (self._ema or {}).items()}
        for name, parameter in self._parameters.items():
            moments = self._optimizer.state.get(parameter, {})
            state |= {f"optimizer.{key}.{name}": tensor for key, tensor in moments.items()}
        return state | {"step": torch.tensor(self.step)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continues where `state` was taken; the recipe and the seed must be the same."""
        self.step = int(state["step"])
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(state[f"model.{name}"])
                if self._ema is not None:
                    self._ema[name].copy_(state[f"ema.{name}"])
        for name, parameter in self._parameters.items():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if (tensor := state.get(f"optimizer.{key}.{name}")) is not None:
                    self._optimizer.state[parameter][key] = tensor.to(parameter.device, copy=True)

    def _optimise(self, x: Tensor, labels: Tensor, *, lr: float) -> Tensor:
        archs = self._draw()
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._backward(x, labels, archs)
        if dist.is_initialized():
            _average_gradients(list(self._parameters.values()))
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), self.recipe.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        if self._ema is not None and self.recipe.ema is not None:
            torch._foreach_lerp_(
                list(self._ema.values()), [p.detach() for p in self._parameters.values()], 1 - self.recipe.ema
            )
        return loss

    def _draw(self) -> list[Architecture]:
        space = self.supernet.space
        if self.step < self.recipe.largest_first * self.recipe.steps:
            return [space.largest]
        return self.strategy.draw(space, np.random.default_rng([self.seed, self.step]))

    def _backward(self, x: Tensor, labels: Tensor, archs: list[Architecture]) -> Tensor:
        """Accumulates the mean gradient of the architectures; returns the first one's loss."""
        teach = self.recipe.distill and self.step >= self.recipe.distill_after * self.recipe.steps
        first = teacher = None
        for arch in archs:
            with self._autocast():
                logits = self.supernet(x, arch)
                loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
                if teacher is not None:
                    loss = 0.5 * loss + 0.5 * F.cross_entropy(logits, teacher)
            (loss / len(archs)).backward()
            if first is None:
                first = loss.detach()
                teacher = logits.detach().float().softmax(dim=-1) if teach else None
        assert first is not None, "a strategy draws at least one architecture"
        return first

    def _autocast(self) -> AbstractContextManager[object]:
        wanted = self.recipe.precision
        if wanted == "bf16" or (wanted == "auto" and self._device_type == "cuda"):
            return torch.autocast(self._device_type, torch.bfloat16)
        return nullcontext()

    def _finite(self, loss: Tensor) -> float:
        value = float(loss)
        if not math.isfinite(value):
            raise JobFailedError(
                f"The training loss is {value} at step {self.step} of {self.recipe.steps}.",
                "Lower train.lr, raise train.warmup, or check the data for NaN.",
            )
        return value


def _groups(parameters: dict[str, torch.nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels only: not for norms, biases, tokens and positions."""
    exempt = ("pos_embed", "cls_token", "reg_token")
    decayed = [p for name, p in parameters.items() if p.ndim >= 2 and name not in exempt]
    plain = [p for name, p in parameters.items() if p.ndim < 2 or name in exempt]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Averages over the ranks; a parameter without a gradient has none on any rank, since all draw alike.

    DistributedDataParallel does not fit: a step runs several forward passes and leaves different parameters
    unused each time.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= _world()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
