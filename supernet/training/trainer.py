"""One trainer for all families: optimiser steps over architectures that a strategy draws.

Everything random in step t is derived from (seed, t), so that a training which was interrupted and resumed
from a checkpoint ends with the same weights, bit for bit, as one that was not. Under an initialised
`torch.distributed` process group every rank sees its own batches and gradients are averaged.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from search_spaces import Architecture
from search_spaces.errors import NASError, UsageError
from search_spaces.restriction import widened
from supernet import tasks
from supernet.nested import Nested
from supernet.passes.dropping import Rows
from supernet.passes.passes import Passes
from supernet.supernet import Supernet
from supernet.training.channel_sorting import sort_by_magnitude
from supernet.training.lesson import Lesson, parts_of
from supernet.training.mixing import (
    PatchHead,
    classes_of,
    in_lots,
    patch_mixup,
    published_mixup,
    whole_mixup,
)
from supernet.training.optimizers import MOMENTS, Optimizers
from supernet.training.parameter_groups import trained_parameters
from supernet.training.recipe import Recipe
from supernet.training.strategies import Strategy

Batches = Callable[[int], tuple[Tensor, Tensor]]
LOG_EVERY = 25
MIXING, DROPPING, DROPOUT = (
    1,
    2,
    3,
)  # keep their random numbers apart from those of drawing, and of each other


class DivergedError(NASError):
    """A training whose loss or gradient is not a number, or infinite."""


class Training:
    """A supernet in training: its optimisers, its average and the step it has reached.

    strategy: draws by what the recipe says of sampling, for this supernet.
    teacher: the recipe's, from inputs to logits; it stays as it is.
    task: says what the losses are; classification unless given.
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
        task: tasks.Task | None = None,
    ) -> None:
        assert teacher is None or recipe.teacher is not None, "the recipe says how much it counts"
        if recipe.largest_first > 0 and supernet.space.largest in supernet.frozen:
            raise UsageError(
                "The largest subnet keeps the weights that it came with and cannot be trained first.",
                "Set train.largest_first: 0.",
            )
        if recipe.sort_every and not isinstance(supernet, Nested):
            raise UsageError(
                f"The subnets of family '{supernet.space.family}' are no prefixes: there is nothing to sort.",
                "Set train.sort_every: null.",
            )
        if recipe.sampling.lot_norms and type(supernet).common is Supernet.common:
            raise UsageError(
                f"The networks of family '{supernet.space.family}' have no batch norms.",
                "Set train.sampling.lot_norms: false; those of vit_resnas have.",
            )
        self.supernet, self.strategy, self.recipe, self.seed = supernet.train(), strategy, recipe, seed
        self._task = task or tasks.get()
        self.step = 0
        self.whole = True  # whether `state` is that of a step, also if this one is interrupted
        self._remembers = any("running_" in name for name, _ in supernet.shared.named_buffers())
        self._teacher = None if teacher is None else teacher.eval()
        self._parameters = trained_parameters(supernet.shared, recipe.lr_scale)
        self._patch_head = (
            PatchHead.of(supernet, seed=seed, std=recipe.init_std) if recipe.patch_mixup else None
        )
        self._learning = self._parameters | dict(
            self._patch_head.named_parameters() if self._patch_head else ()
        )
        self._optimizers = Optimizers(supernet, self._learning, recipe)
        self._ema = (
            {name: p.detach().clone() for name, p in self._parameters.items()}
            if recipe.ema is not None
            else None
        )
        self._around = Passes(supernet, recipe)
        self._common = supernet.common() if recipe.sampling.lot_norms else None
        self._device_type = next(iter(self._parameters.values())).device.type

    def run(self, batches: Batches, *, until: int | None = None) -> Iterator[dict[str, float]]:
        """Trains up to step `until` (default: the recipe's end); yields step, loss, lr now and then and last.

        batches: step -> (inputs, targets), a pure function.
        Raises DivergedError when loss or gradient are not finite.
        """
        if self.step == 0:
            for name, average in (self._ema or {}).items():
                average.copy_(self._parameters[name].detach())  # weights may have been loaded meanwhile
        end = self.recipe.steps if until is None else min(until, self.recipe.steps)
        while self.step < end:
            lr, batch = self.recipe.learning_rate(self.step), batches(self.step * world() + rank())
            self.whole = False
            self._sort()
            self.whole = not (self._remembers or self.recipe.sort_every)
            loss, norm = self._optimise(*batch)
            self.step, self.whole = self.step + 1, True
            if self.step % LOG_EVERY == 0 or self.step == end:
                yield {"step": self.step, "loss": self._finite(loss, norm), "lr": lr, **self._compiled()}

    def weights(self) -> dict[str, Tensor]:
        """What evaluation and extraction use: all shared tensors, averaged where there is an average."""
        averages = self._ema if self.step else None  # before the first step they are of no weights
        whole = self.supernet.shared.state_dict() | (averages or {})
        return {name: tensor.detach().clone() for name, tensor in whole.items()}

    def state(self) -> dict[str, Tensor]:
        """Everything that `load_state` needs, as tensors by name: what is never trained, too."""
        state = {f"model.{name}": tensor for name, tensor in self.supernet.shared.state_dict().items()}
        state |= {f"ema.{name}": tensor for name, tensor in (self._ema or {}).items()}
        if self._patch_head is not None:
            state |= self._patch_head.state_dict()
        for name, parameter in self._learning.items():
            moments = self._optimizers.moments(parameter)
            state |= {f"optimizer.{key}.{name}": tensor for key, tensor in moments.items()}
        return state | {"step": torch.tensor(self.step)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continues where `state` was taken; the recipe and the seed must be the same."""
        self.step = int(state["step"])
        shared = self.supernet.shared
        shared.load_state_dict({name: state[f"model.{name}"] for name in shared.state_dict()})
        for name, average in (self._ema or {}).items():
            average.copy_(state[f"ema.{name}"])
        if self._patch_head is not None:
            self._patch_head.load_state_dict({name: state[name] for name in self._patch_head.state_dict()})
        for name, parameter in self._learning.items():
            for key in MOMENTS:
                if (tensor := state.get(f"optimizer.{key}.{name}")) is not None:
                    self._optimizers.moments(parameter)[key] = tensor.to(parameter.device, copy=True)

    def _sort(self) -> None:
        """Sorts neurons and heads, where it is time to; a resumed training does it at the same steps."""
        every, (begin, takes) = self.recipe.sort_every, self._widening
        since = self.step - begin
        if not every or not self.step or not 0 <= since <= takes or since % every:
            return
        names = {id(parameter): name for name, parameter in self._parameters.items()}

        def companions(parameter: Tensor) -> Iterator[Tensor]:
            moments = self._optimizers.moments(parameter)
            yield from (moment for key, moment in moments.items() if key != "step")
            if self._ema is not None and id(parameter) in names:
                yield self._ema[names[id(parameter)]]

        sort_by_magnitude(self.supernet.shared, companions)

    @property
    def _widening(self) -> tuple[int, int]:
        """The step at which the widening begins, and how many it takes."""
        steps = self.recipe.steps
        return math.ceil(self.recipe.largest_first * steps), round(self.recipe.widening * steps)

    def _compiled(self) -> dict[str, float]:
        """How many shapes of blocks are compiled, and how many calls found that there were too many."""
        compiler = self._around.compiler
        return {} if compiler is None else {"compiled": compiler.shapes, "not_compiled": compiler.left}

    def remarks(self) -> list[str]:
        """Sentences about the passes that nobody has heard yet."""
        return [] if self._around.compiler is None else self._around.compiler.remarks()

    def _optimise(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """One step: the first architecture's loss, and the gradient's length."""
        archs = self._draw()
        self._optimizers.zero_grad()
        loss = self._backward(x, targets, archs)
        average_gradients(self._learning.values())
        # Muon's steps are as long with clipped gradients as without, but its momentum is an average of them:
        # one that is not clipped would point the way for twenty steps.
        longest = math.inf if self.recipe.clip == "none" else self.recipe.clip
        norm = torch.nn.utils.clip_grad_norm_(self._learning.values(), longest)
        self.whole = False
        self._optimizers.step(self.step)
        if self._ema is not None and self.recipe.ema is not None:
            torch._foreach_lerp_(
                list(self._ema.values()), [p.detach() for p in self._parameters.values()], 1 - self.recipe.ema
            )
        return loss, norm

    def _draw(self) -> list[Architecture]:
        space = self.supernet.space
        if self.step < self.recipe.largest_first * self.recipe.steps:
            return [space.largest]
        begin, takes = self._widening
        rng = np.random.default_rng([self.seed, self.step])
        space = widened(space, self.step - begin, takes, blocks_twice=self.recipe.sampling.blocks_twice)
        archs = self.strategy.draw(space, rng)
        if not self.supernet.frozen.isdisjoint(archs):
            raise UsageError(
                "The sampling strategy draws subnets that keep the weights they came with.",
                "Draw with `resource_constrained`, which leaves them out.",
            )
        return archs

    def mixed(self, x: Tensor, targets: Tensor, step: int) -> Lesson:
        """A batch as the architectures see it: with other images in its own, if the recipe says so."""
        head, recipe = self._patch_head, self.recipe
        if head is None and not recipe.mixes:
            return Lesson(x, targets)
        rng = np.random.default_rng([self.seed, abs(step), rank(), MIXING])
        if head is None:
            classes = classes_of(self.supernet.shared)
            return whole_mixup(x, targets, mixup=recipe.mixup, cutmix=recipe.cutmix, classes=classes, rng=rng)
        mix = published_mixup if self.recipe.patch_mixup == "published" else patch_mixup
        return in_lots(mix, x, targets, self.strategy.lots, grid=head.grid, classes=head.classes, rng=rng)

    def _lesson(self, x: Tensor, targets: Tensor) -> Lesson:
        """The batch, mixed if it is to be, and what the teacher says of it."""
        lesson = self.mixed(x, targets, self.step)
        if self.recipe.channels_last and x.ndim == 4:
            images = lesson.inputs.contiguous(memory_format=torch.channels_last)
            lesson = replace(lesson, inputs=images)
        if self._teacher is None:
            return lesson
        with torch.no_grad(), self._autocast():
            logits: Tensor = self._teacher(lesson.inputs).float()
        hard = self.recipe.teacher is not None and self.recipe.teacher.hard
        return replace(lesson, answers=self._task.answers(logits, lesson.targets, hard=hard))

    def _backward(self, x: Tensor, targets: Tensor, archs: list[Architecture]) -> Tensor:
        """Accumulates the mean gradient of the architectures, each counted as the strategy says.

        Returns the first one's loss.
        """
        lesson = self._lesson(x, targets)
        sampling = self.recipe.sampling
        teach = sampling.distill and self.step >= sampling.distill_after * self.recipe.steps
        parts = self._parts(len(x), len(archs))
        shares = self.strategy.shares([len(range(len(x))[part]) for part in parts])
        around = self._dropping()
        first, tutors = x.new_zeros((), dtype=torch.float32), dict[int, Tensor]()
        for block, members in self._lots(parts):
            with self._behind_common(lesson.part(block)) as (net, lot):
                for i, part in members:
                    its = lot.part(part)
                    for j, rows in enumerate(parts_of(len(its.inputs), self.recipe.accumulate)):
                        seen = its.part(rows)
                        with around(net, archs[i], i, len(its.inputs), rows):
                            with self._autocast():
                                logits, loss = self._logits_and_loss(net, archs[i], seen)
                                if j in tutors:
                                    loss = 0.5 * loss + 0.5 * self._task.loss(logits, tutors[j])
                            share = len(seen.inputs) / len(its.inputs)
                            if loss.requires_grad:  # not where `lr_scale` freezes all that it runs
                                (loss * (share * shares[i])).backward()
                        if i == 0:
                            first = first + share * loss.detach()
                            answers = logits.detach().float()
                            tutors |= (
                                {j: self._task.answers(answers, seen.targets, hard=False)} if teach else {}
                            )
        return first

    def _lots(self, parts: Sequence[slice]) -> Iterator[tuple[slice, list[tuple[int, slice]]]]:
        """Blocks of a batch whose architectures share what they have in common, and what each sees of one."""
        if self._common is None:
            yield slice(None), list(enumerate(parts))
            return
        each = len(parts) // min(self.strategy.lots, len(parts))
        for i in range(0, len(parts), each):
            start = parts[i].start
            members = [(k, slice(parts[k].start - start, None, parts[k].step)) for k in range(i, i + each)]
            yield slice(start, parts[i].stop), members

    @contextmanager
    def _behind_common(self, lot: Lesson) -> Iterator[tuple[Supernet, Lesson]]:
        """The supernet behind what a lot's architectures have in common, with what that makes of its images.

        Their gradients are collected there, and go on through it at the end.
        """
        if self._common is None:
            yield self.supernet, lot
            return
        part, behind = self._common
        with self._autocast():
            features: Tensor = part(lot.inputs)
        leaf = features.detach().requires_grad_(features.requires_grad)
        yield behind, replace(lot, inputs=leaf)
        if leaf.grad is not None:
            features.backward(leaf.grad)

    def _logits_and_loss(self, net: Supernet, arch: Architecture, lesson: Lesson) -> tuple[Tensor, Tensor]:
        smoothing, teacher = self.recipe.label_smoothing, self.recipe.teacher
        weight = 0.0 if teacher is None else teacher.weight
        if self._patch_head is None:
            logits = net(lesson.inputs, arch)
            return logits, lesson.loss(self._task, logits, smoothing=smoothing, teacher_weight=weight)
        logits, patches = net.with_patches(lesson.inputs, arch)
        loss = lesson.loss(self._task, logits, smoothing=smoothing, teacher_weight=weight)
        return logits, loss + lesson.patch_loss(self._task, self._patch_head(patches), smoothing=smoothing)

    def _dropping(self) -> Callable[[Supernet, Architecture, int, int, slice], AbstractContextManager[None]]:
        """The context of a pass in this step: of which architecture, its number, its examples, which now."""
        draw = partial(torch.rand, generator=torch.Generator().manual_seed(self._seed_of_step(DROPPING)))
        numbers = self._seed_of_step(DROPOUT) % 2**48

        def around(
            net: Supernet, arch: Architecture, i: int, examples: int, rows: slice
        ) -> AbstractContextManager[None]:
            return self._around.running(net, arch, draw=draw, rows=Rows(numbers + i, examples, rows))

        return around

    def _seed_of_step(self, purpose: int) -> int:
        rng = np.random.default_rng([self.seed, self.step, rank(), purpose])
        return int(rng.integers(2**63))

    def _parts(self, count: int, archs: int) -> Sequence[slice]:
        """Which examples of a batch each architecture sees."""
        parts = self.strategy.share(count, archs)
        if not all(range(count)[part] for part in parts):
            raise UsageError(
                f"A batch of {count} examples cannot be divided among {archs} subnets.",
                "Raise train.batch_size or lower train.sampling.paths.",
            )
        return parts

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self._device_type, torch.bfloat16) if self._uses_bf16 else nullcontext()

    @property
    def _uses_bf16(self) -> bool:
        wanted = self.recipe.precision
        return wanted == "bf16" or (wanted == "auto" and self._device_type == "cuda")

    def _finite(self, loss: Tensor, norm: Tensor) -> float:
        """The loss, if the step could be learnt from."""
        value, length = float(loss), float(norm)
        if math.isfinite(value) and math.isfinite(length):
            return value
        what = f"training loss is {value}" if not math.isfinite(value) else f"gradient's length is {length}"
        rates = " and ".join(self._optimizers.rates)
        precision = "set train.precision: fp32, " if self._uses_bf16 else ""
        raise DivergedError(
            f"The {what} at step {self.step} of {self.recipe.steps}{' in bf16' if precision else ''}.",
            f"Lower {rates}, {precision}raise train.warmup, or check the data for NaN.",
        )


def world() -> int:
    """How many ranks there are: one without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this one."""
    return dist.get_rank() if dist.is_initialized() else 0


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Averages over the ranks; a parameter without a gradient has none on any rank, since all draw alike.

    DistributedDataParallel does not fit: a step runs several forward passes and leaves different parameters
    unused each time.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients or not dist.is_initialized():
        return
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
