"""One trainer for all families: optimiser steps over architectures that a strategy draws.

Everything random in step t is derived from (seed, t), so that a training which was interrupted and resumed
from a checkpoint ends with the same weights, bit for bit, as one that was not. Under an initialised
`torch.distributed` process group every rank sees its own batches and gradients are averaged.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import Architecture
from search_spaces._errors import JobFailedError, UsageError
from supernet._base import Supernet
from supernet._parameter_groups import parameter_groups, trained_parameters
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
    teacher_weight, teacher_hard: the share of the loss that a teacher from outside has, and whether it names
    one class or gives its probabilities.
    lr_scale: first component of a shared parameter's name -> factor on its learning rate; 0 freezes it.
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
    teacher_weight: float = 0.5
    teacher_hard: bool = True
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    precision: str = "auto"

    def learning_rate(self, step: int) -> float:
        """Of optimiser step `step`, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


class Training:
    """A supernet in training: its optimiser, its average and the step it has reached.

    teacher: a classifier from images to logits that teaches every architecture; it stays as it is.
    Raises UsageError for a recipe that the supernet cannot follow.
    """

    def __init__(
        self,
        supernet: Supernet,
        strategy: Strategy,
        recipe: Recipe,
        *,
        seed: int,
        teacher: nn.Module | None = None,
    ) -> None:
        if recipe.precision not in ("fp32", "bf16", "auto"):
            raise UsageError(f"precision = '{recipe.precision}' is unknown.", "Options: fp32, bf16, auto.")
        if recipe.largest_first > 0 and supernet.space.largest in supernet.frozen:
            raise UsageError(
                "The largest subnet keeps the weights that it came with and cannot be trained first.",
                "Set train.largest_first: 0.",
            )
        self.supernet, self.strategy, self.recipe, self.seed = supernet.train(), strategy, recipe, seed
        self.step = 0
        self._teacher = None if teacher is None else teacher.eval()
        self._parameters = trained_parameters(supernet.shared, recipe.lr_scale)
        groups = parameter_groups(
            self._parameters, weight_decay=recipe.weight_decay, lr_scale=recipe.lr_scale
        )
        self._optimizer = torch.optim.AdamW(groups, betas=recipe.betas, fused=True)
        self._ema = (
            {name: p.detach().clone() for name, p in self._parameters.items()}
            if recipe.ema is not None
            else None
        )
        self._device_type = next(iter(self._parameters.values())).device.type

    def run(self, batches: Batches, *, until: int | None = None) -> Iterator[dict[str, float]]:
        """Trains up to step `until` (default: the recipe's end); yields step, loss, lr now and then and last.

        batches: step -> (inputs, labels), a pure function.
        Raises JobFailedError when the loss is not finite.
        """
        if self.step == 0:
            for name, average in (self._ema or {}).items():
                average.copy_(self._parameters[name].detach())  # weights may have been loaded meanwhile
        end = self.recipe.steps if until is None else min(until, self.recipe.steps)
        while self.step < end:
            lr = self.recipe.learning_rate(self.step)
            loss = self._optimise(*batches(self.step * _world() + _rank()), lr=lr)
            self.step += 1
            if self.step % LOG_EVERY == 0 or self.step == end:
                yield {"step": self.step, "loss": self._finite(loss), "lr": lr}

    def weights(self) -> dict[str, Tensor]:
        """What evaluation and extraction use: all shared tensors, averaged where there is an average."""
        whole = self.supernet.shared.state_dict() | (self._ema or {})
        return {name: tensor.detach().clone() for name, tensor in whole.items()}

    def state(self) -> dict[str, Tensor]:
        """Everything that `load_state` needs, as tensors by name: what is never trained, too."""
        state = {f"model.{name}": tensor for name, tensor in self.supernet.shared.state_dict().items()}
        state |= {f"ema.{name}": tensor for name, tensor in (self._ema or {}).items()}
        for name, parameter in self._parameters.items():
            moments = self._optimizer.state.get(parameter, {})
            state |= {f"optimizer.{key}.{name}": tensor for key, tensor in moments.items()}
        return state | {"step": torch.tensor(self.step)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continues where `state` was taken; the recipe and the seed must be the same."""
        self.step = int(state["step"])
        shared = self.supernet.shared
        shared.load_state_dict({name: state[f"model.{name}"] for name in shared.state_dict()})
        for name, average in (self._ema or {}).items():
            average.copy_(state[f"ema.{name}"])
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
            group["lr"] = lr * group["lr_scale"]
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
        archs = self.strategy.draw(space, np.random.default_rng([self.seed, self.step]))
        if not self.supernet.frozen.isdisjoint(archs):
            raise UsageError(
                "The sampling strategy draws subnets that keep the weights they came with.",
                "Draw with `resource_constrained`, which leaves them out.",
            )
        return archs

    def _backward(self, x: Tensor, labels: Tensor, archs: list[Architecture]) -> Tensor:
        """Accumulates the mean gradient of the architectures; returns the first one's loss."""
        teach = self.recipe.distill and self.step >= self.recipe.distill_after * self.recipe.steps
        answers = self._answers(x)
        first = tutor = None
        for arch, part in zip(archs, self._parts(len(x), len(archs)), strict=True):
            with self._autocast():
                logits = self.supernet(x[part], arch)
                loss = self._loss(logits, labels[part], None if answers is None else answers[part])
                if tutor is not None:
                    loss = 0.5 * loss + 0.5 * F.cross_entropy(logits, tutor)
            if loss.requires_grad:  # not where `lr_scale` freezes all that this architecture runs
                (loss / len(archs)).backward()
            if first is None:
                first = loss.detach()
                tutor = logits.detach().float().softmax(dim=-1) if teach else None
        assert first is not None, "a strategy draws at least one architecture"
        return first

    def _parts(self, count: int, archs: int) -> Sequence[slice]:
        """Which examples of a batch each architecture sees."""
        if not self.strategy.splits_batch:
            return [slice(None)] * archs
        if count < archs:
            raise UsageError(
                f"A batch of {count} images cannot be divided among {archs} subnets.",
                "Raise train.batch_size or lower train.sampling.paths.",
            )
        ends = [count * i // archs for i in range(archs + 1)]
        return [slice(*ends[i : i + 2]) for i in range(archs)]

    def _answers(self, x: Tensor) -> Tensor | None:
        """What the teacher says of the images: classes (B,) or probabilities (B, classes)."""
        if self._teacher is None:
            return None
        with torch.no_grad(), self._autocast():
            logits: Tensor = self._teacher(x).float()
        return logits.argmax(dim=-1) if self.recipe.teacher_hard else logits.softmax(dim=-1)

    def _loss(self, logits: Tensor, labels: Tensor, answers: Tensor | None) -> Tensor:
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        if answers is None:
            return loss
        weight = self.recipe.teacher_weight
        return (1 - weight) * loss + weight * F.cross_entropy(logits, answers)

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


def _average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Averages over the ranks; a parameter without a gradient has none on any rank, since all draw alike.

    DistributedDataParallel does not fit: a step runs several forward passes and leaves different parameters
    unused each time.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= _world()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
