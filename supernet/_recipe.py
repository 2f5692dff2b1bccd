"""How to train, as plain numbers."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal


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
    widening: the fraction of the steps, behind those of `largest_first`, over which smaller options are let
    in.
    sort_every: steps after which neurons and heads are sorted by the size of their weights, while that lasts;
    None: never.
    patch_mixup: images are mixed, and every patch learns its class through a head that is then thrown away;
    `published` mixes them by the released rule (`supernet/_patch_mixup.py`).
    decay_also: what weight decay holds for beside matrices and kernels, keys of `_parameter_groups.EXEMPT`.
    blocks_twice: whether a block is there counts as four options (`search_spaces/_widening.py`).
    init_std: of fresh linear layers; None: by their inputs (`supernet/_init.py`).
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
    widening: float = 0.0
    sort_every: int | None = None
    patch_mixup: bool | Literal["published"] = False
    precision: str = "auto"
    decay_also: tuple[str, ...] = ()
    blocks_twice: bool = False
    init_std: float | None = None

    def inputs(self) -> dict[str, Any]:
        """Every number of it; of what older trainings did not have only what is used."""
        later = ("decay_also", "blocks_twice", "init_std")
        unused = {f.name for f in fields(self) if f.name in later and getattr(self, f.name) == f.default}
        return {name: value for name, value in asdict(self).items() if name not in unused}

    def learning_rate(self, step: int) -> float:
        """Of optimiser step `step`, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
