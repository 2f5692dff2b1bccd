"""One trainer for all families: optimiser steps over architectures that a strategy draws.

Everything random in step t is derived from (seed, t), so that a training which was interrupted and resumed
from a checkpoint ends with the same weights, bit for bit, as one that was not. Under an initialised
`torch.distributed` process group the ranks share each batch (`supernet/distribution.py`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces import Architecture
from search_spaces.errors import NASError, UsageError
from search_spaces.restriction import widened
from supernet import tasks
from supernet.distribution import Part, Ranks, parts_of, world
from supernet.nested import Nested
from supernet.passes.dropping import Rows, rows_drawn
from supernet.passes.passes import Passes
from supernet.supernet import Supernet
from supernet.training.channel_sorting import sort_by_magnitude
from supernet.training.lesson import Lesson
from supernet.training.mixing import (
    Mixture,
    PatchHead,
    classes_of,
    in_lots,
    mixed,
    patch_mixup,
    published_mixup,
    whole_mixup,
)
from supernet.training.optimizers import MOMENTS, Average, Optimizers, clipped
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


@dataclass(frozen=True)
class _Pass:
    """A forward and backward pass of a step.

    place: the number of its architecture, which sees so many examples.  piece, rows: which part of them now.
    """

    net: Supernet
    place: int
    examples: int
    piece: int
    rows: slice
    seen: Lesson
    is_last: bool


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
        self._average = None if recipe.ema is None else Average(self._parameters, recipe.ema)
        self._around = Passes(supernet, recipe)
        self._common = supernet.common() if recipe.sampling.lot_norms else None
        self._device_type = next(iter(self._parameters.values())).device.type
        self._ranks: Ranks | None = None  # of the first step

    def run(
        self, batches: Batches, *, until: int | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[dict[str, float]]:
        """Trains up to step `until` (default: the recipe's end); yields step, loss, lr now and then and last.

        batches: step -> (inputs, targets), a pure function; each of several ranks is given its `part`.
        stop: asked in every step whether to end after it; of several ranks all end when one is told so.
        Raises DivergedError when loss or gradient are not finite.
        """
        if world() > 1 and self._ranks is None:
            self.check_ranks(world())
            self._ranks = Ranks(self._learning.values())
        if self.step == 0 and self._average is not None:
            self._average.restart()  # weights may have been loaded meanwhile
        end = self.recipe.steps if until is None else min(until, self.recipe.steps)
        while self.step < end:
            lr, batch = self.recipe.learning_rate(self.step), batches(self.step)
            self.whole = False
            self._sort()
            self.whole = not (self._remembers or self.recipe.sort_every)
            loss, norm, ends = self._optimise(*batch, stop=stop)
            self.step, self.whole = self.step + 1, True
            if self.step % LOG_EVERY == 0 or self.step == end or ends:
                yield {"step": self.step, "loss": self._finite(loss, norm), "lr": lr, **self._compiled()}
            if ends:
                return

    def weights(self) -> dict[str, Tensor]:
        """What evaluation and extraction use: all shared tensors, averaged where there is an average."""
        # Before the first step they are of no weights.
        averages = self._averages() if self.step else {}
        whole = self.supernet.shared.state_dict() | averages
        return {name: tensor.detach().clone() for name, tensor in whole.items()}

    def state(self) -> dict[str, Tensor]:
        """Everything that `load_state` needs, as tensors by name: what is never trained, too."""
        state = {f"model.{name}": tensor for name, tensor in self.supernet.shared.state_dict().items()}
        state |= {f"ema.{name}": tensor for name, tensor in self._averages().items()}
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
        if self._average is not None:
            self._average.restart({name: state[f"ema.{name}"] for name in self._parameters})
        if self._patch_head is not None:
            self._patch_head.load_state_dict({name: state[name] for name in self._patch_head.state_dict()})
        for name, parameter in self._learning.items():
            for key in MOMENTS:
                if (tensor := state.get(f"optimizer.{key}.{name}")) is not None:
                    self._optimizers.moments(parameter)[key] = tensor.to(parameter.device, copy=True)

    def _averages(self) -> dict[str, Tensor]:
        return {} if self._average is None else self._average.tensors()

    def _sort(self) -> None:
        """Sorts neurons and heads, where it is time to; a resumed training does it at the same steps."""
        every, (begin, takes) = self.recipe.sort_every, self._widening
        since = self.step - begin
        if not every or not self.step or not 0 <= since <= takes or since % every:
            return
        averages = self._averages()
        names = {id(parameter): name for name, parameter in self._parameters.items()}

        def companions(parameter: Tensor) -> Iterator[Tensor]:
            moments = self._optimizers.moments(parameter)
            yield from (moment for key, moment in moments.items() if key != "step")
            if averages and id(parameter) in names:
                yield averages[names[id(parameter)]]

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

    def _optimise(
        self, x: Tensor, targets: Tensor, *, stop: Callable[[], bool]
    ) -> tuple[Tensor, Tensor, bool]:
        """One step: the first architecture's loss, the gradient's length, whether to stop after it."""
        archs = self._draw(self.step)
        self._optimizers.zero_grad()
        loss = self._backward(x, targets, archs)
        ends = stop() if self._ranks is None else self._ranks.agreed(stop=stop())
        # Muon's steps are as long with clipped gradients as without, but its momentum is an average of them:
        # one that is not clipped would point the way for twenty steps.
        longest = math.inf if self.recipe.clip == "none" else self.recipe.clip
        norm = clipped(self._learning.values(), longest)
        self.whole = False
        if self._average is not None:
            self._average.before_step()
        self._optimizers.step(self.step)
        if self._average is not None:
            self._average.after_step()
        return loss, norm, ends

    def _draw(self, step: int) -> list[Architecture]:
        space = self.supernet.space
        if step < self.recipe.largest_first * self.recipe.steps:
            return [space.largest]
        begin, takes = self._widening
        rng = np.random.default_rng([self.seed, step])
        space = widened(space, step - begin, takes, blocks_twice=self.recipe.sampling.blocks_twice)
        archs = self.strategy.draw(space, rng)
        if not self.supernet.frozen.isdisjoint(archs):
            raise UsageError(
                "The sampling strategy draws subnets that keep the weights they came with.",
                "Draw with `resource_constrained`, which leaves them out.",
            )
        return archs

    def part(self, step: int) -> Part:
        """What this process needs of the batch of a step: all, or of several ranks its own part.

        That is what it sees, and what is mixed into that. May be asked by a thread beside the training.
        """
        size = self.recipe.batch_size
        if world() == 1:
            return Part.whole(size)
        shares = [range(size)[share] for share in self._parts(size, len(self._draw(step)))]
        mine = {
            place
            for share in shares
            for rows in parts_of(len(share), self.recipe.accumulate)
            for place in share[rows]
        }
        if self._patch_head is not None:
            partners = self._mixture(size, step).partners
            mine |= {int(partners[place]) for place in mine}
        elif self.recipe.mixes:
            mine |= {size - 1 - place for place in mine}
        return Part(size, sorted(mine))

    def mixed(self, x: Tensor, targets: Tensor, step: int, *, part: Part | None = None) -> Lesson:
        """A batch as the architectures see it: with other images in its own, if the recipe says so.

        part: what of a batch `x` and `targets` are; None: all of one.
        """
        head, recipe = self._patch_head, self.recipe
        if head is None and not recipe.mixes:
            return Lesson(x, targets)
        if head is None:
            classes, rng = classes_of(self.supernet.shared), self._mixing(step)
            return whole_mixup(x, targets, mixup=recipe.mixup, cutmix=recipe.cutmix, classes=classes, rng=rng)
        part = part or Part.whole(len(x))
        return mixed(x, targets, self._mixture(part.size, step), classes=head.classes, part=part)

    def _mixture(self, size: int, step: int) -> Mixture:
        """How the batch of a step is mixed by patches."""
        assert self._patch_head is not None
        mix = published_mixup if self.recipe.patch_mixup == "published" else patch_mixup
        grid = self._patch_head.grid
        return in_lots(mix, size, self.strategy.lots, grid=grid, rng=self._mixing(step))

    def _mixing(self, step: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, abs(step), 0, MIXING])

    def _lesson(self, x: Tensor, targets: Tensor, part: Part) -> Lesson:
        """The batch, mixed if it is to be, and what the teacher says of it; of several ranks not yet that."""
        lesson = self.mixed(x, targets, self.step, part=part)
        if self.recipe.channels_last and x.ndim == 4:
            images = lesson.inputs.contiguous(memory_format=torch.channels_last)
            lesson = replace(lesson, inputs=images)
        return lesson if self._ranks is not None else self._taught(lesson)

    def _taught(self, lesson: Lesson) -> Lesson:
        """With what the teacher says of it, if there is one."""
        if self._teacher is None:
            return lesson
        with torch.no_grad(), self._autocast():
            logits: Tensor = self._teacher(lesson.inputs).float()
        hard = self.recipe.teacher is not None and self.recipe.teacher.hard
        return replace(lesson, answers=self._task.answers(logits, lesson.targets, hard=hard))

    def _backward(self, x: Tensor, targets: Tensor, archs: list[Architecture]) -> Tensor:
        """Accumulates the mean gradient of the architectures, each counted as the strategy says.

        Returns the first one's loss; of several ranks this one's part of it.
        """
        part = Part.whole(len(x)) if self._ranks is None else self.part(self.step)
        assert len(x) == len(part.places), "each rank is given its part"
        lesson = self._lesson(x, targets, part)
        sampling = self.recipe.sampling
        teach = sampling.distill and self.step >= sampling.distill_after * self.recipe.steps
        parts = self._parts(part.size, len(archs))
        shares = self.strategy.shares([len(range(part.size)[its]) for its in parts])
        around = self._dropping(x)
        first, tutors = x.new_zeros((), dtype=torch.float32), dict[int, Tensor]()
        for one in self._passes(lesson, part, parts):
            i, j, seen = one.place, one.piece, one.seen
            with around(one.net, archs[i], i, one.examples, one.rows):
                with self._autocast():
                    logits, loss = self._logits_and_loss(one.net, archs[i], seen)
                    if j in tutors:
                        loss = 0.5 * loss + 0.5 * self._task.loss(logits, tutors[j])
                share = len(seen.inputs) / one.examples
                with self._summed() if one.is_last else nullcontext():
                    if loss.requires_grad:  # not where `lr_scale` freezes all that it runs
                        (loss * (share * shares[i])).backward()
            if i == 0:
                first = first + share * loss.detach()
                answers = logits.detach().float()
                tutors |= {j: self._task.answers(answers, seen.targets, hard=False)} if teach else {}
        return first

    def _passes(self, lesson: Lesson, whole: Part, parts: Sequence[slice]) -> Iterator["_Pass"]:
        """This rank's passes of a step; between the last ones of a lot their common part learns.

        whole: what the lesson is of.  parts: what each architecture sees of all of it.
        """
        answered: dict[tuple[object, ...], Lesson] = {}  # of several ranks each asks once about an example
        for block, members in self._lots(parts):
            with self._behind_common(lesson.part(block)) as (net, lot):
                here = whole if self._common is None else Part.whole(len(lot.inputs))
                for i, part in members:
                    its = range(here.size)[part]
                    mine = parts_of(len(its), self.recipe.accumulate)
                    for j, rows in enumerate(mine):
                        seen, key = lot.part(here.at(its[rows])), (part.start, part.stop, part.step, j)
                        if self._ranks is not None:
                            seen = answered.get(key) or self._taught(seen)
                            answered[key] = seen
                        last = i == len(parts) - 1 and j == len(mine) - 1
                        yield _Pass(net, i, len(its), j, rows, seen, is_last=last)

    def _summed(self) -> AbstractContextManager[None]:
        """Around this rank's last backward pass of a step: gradients are all ranks' afterwards."""
        return nullcontext() if self._ranks is None else self._ranks.last_pass()

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

    def _dropping(
        self, x: Tensor
    ) -> Callable[[Supernet, Architecture, int, int, slice], AbstractContextManager[None]]:
        """The context of a pass in this step: of which architecture, its number, its examples, which now.

        Of several ranks the same is left out of each example as in one process.
        """
        generator = torch.Generator().manual_seed(self._seed_of_step(DROPPING))
        numbers, drawn = self._seed_of_step(DROPOUT) % 2**48, dict[int, list[Tensor]]()

        def around(
            net: Supernet, arch: Architecture, i: int, examples: int, rows: slice
        ) -> AbstractContextManager[None]:
            draw: Callable[[int], Tensor] = partial(torch.rand, generator=generator)
            if self._ranks is not None and self.recipe.drop_path:
                if i not in drawn:
                    drawn[i] = self._drawn(arch, examples, x, generator)
                mine = iter([of_branch[rows].flatten() for of_branch in drawn[i]])
                draw = lambda count: next(mine)  # noqa: E731
            return self._around.running(net, arch, draw=draw, rows=Rows(numbers + i, examples, rows))

        return around

    def _drawn(self, arch: Architecture, count: int, x: Tensor, generator: torch.Generator) -> list[Tensor]:
        """For each branch the numbers (examples, rows) that one process draws, part by part of the batch."""
        example, rates = x[:1].to("meta"), self._around.rates(self.supernet, arch)
        example = example.float() if example.is_floating_point() else example  # as plain modules are
        with self.supernet.altered(arch, lambda plain: rows_drawn(plain, rates, example)) as rows:
            ends = [count * i // self.recipe.accumulate for i in range(self.recipe.accumulate + 1)]
            parts = [
                [torch.rand(each * (b - a), generator=generator).view(b - a, each) for each in rows]
                for a, b in pairwise(ends)
                if a < b
            ]
        return [torch.cat(draws) for draws in zip(*parts, strict=True)]

    def _seed_of_step(self, purpose: int) -> int:
        rng = np.random.default_rng([self.seed, self.step, 0, purpose])
        return int(rng.integers(2**63))

    def _parts(self, count: int, archs: int) -> Sequence[slice]:
        """Which examples of a batch each architecture sees; each rank has some of them."""
        parts = self.strategy.share(count, archs)
        least = min(len(range(count)[part]) for part in parts)
        if not least:
            raise UsageError(
                f"A batch of {count} examples cannot be divided among {archs} subnets.",
                "Raise train.batch_size or lower train.sampling.paths.",
            )
        if least < world():
            raise UsageError(
                f"A subnet sees {least} of the {count} examples of a batch: too few for {world()} workers.",
                "Raise train.batch_size, or lower train.workers or train.sampling.paths.",
            )
        return parts

    def check_ranks(self, count: int) -> None:
        """Raises UsageError where so many ranks would learn something else than one process does."""
        if self._remembers and self.recipe.accumulate % count:
            raise UsageError(
                f"Networks of family '{self.supernet.space.family}' have statistics of batches: those of a "
                "worker would be of its part.",
                f"Set train.accumulate to a multiple of train.workers ({count}): its parts are theirs then.",
            )
        if self._common is not None and count > 1:
            raise UsageError(
                "train.sampling.lot_norms takes statistics of whole lots, of which a worker sees a part.",
                "Set train.workers: 1 or train.sampling.lot_norms: false.",
            )

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self._device_type, torch.bfloat16) if self._uses_bf16 else nullcontext()

    @property
    def _uses_bf16(self) -> bool:
        wanted = self.recipe.precision
        return wanted == "bf16" or (wanted == "auto" and self._device_type == "cuda")

    def _finite(self, loss: Tensor, norm: Tensor) -> float:
        """The loss, of all ranks, if the step could be learnt from."""
        value, length = float(loss), float(norm)
        value = value if self._ranks is None else self._ranks.total(value)
        if math.isfinite(value) and math.isfinite(length):
            return value
        what = f"training loss is {value}" if not math.isfinite(value) else f"gradient's length is {length}"
        rates = " and ".join(self._optimizers.rates)
        precision = "set train.precision: fp32, " if self._uses_bf16 else ""
        raise DivergedError(
            f"The {what} at step {self.step} of {self.recipe.steps}{' in bf16' if precision else ''}.",
            f"Lower {rates}, {precision}raise train.warmup, or check the data for NaN.",
        )
