"""How shared weights are trained. Section `train` of a job file is a `Recipe`."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from search_spaces.errors import did_you_mean
from supernet.training.sections import AList, BelowOne, Count, NotNegative, Positive, Section, Share, Text

FADING = 0.4  # of the steps, over which the learning rate of a trapezoid falls


def one_of(*words: str) -> BeforeValidator:
    """Raises ValueError, with the closest of the words, for text that is none of them."""

    def checked(value: Any) -> Any:
        if isinstance(value, str) and value not in words:
            raise ValueError(f"'{value[:60]}' is unknown. {did_you_mean(value, words)}")
        return value

    return BeforeValidator(checked)


class Sampling(Section):
    """Which subnets a training step draws.

    strategy: one architecture a step, several on the same batch (`sandwich`, `joint`), uniform granularities
    (`weighted`), or several that share the batch. Example: `sandwich`
    smallest [share of the steps]: of `single_path`: in how many it is the smallest subnet. Example: `0.2`
    largest [share of the steps]: of `single_path`: in how many it is the largest subnet. Example: `0.3`
    random [subnets]: of `sandwich`: how many besides the smallest and the largest. Example: `1`
    weights: of `weighted` and `joint`, one for each uniform granularity, smallest first: how often it is
    drawn, or what its loss counts. Example: `[1.0, 1.0, 2.0]`
    distill: from the share `distill_after` of the steps on, the first subnet of a step teaches the others
    (half of their loss is the cross entropy to its softened outputs). Before that all learn from the labels:
    an untrained teacher ruins the start. Example: `true`
    distill_after [share of the steps]: when that begins. Example: `0.5`
    paths [subnets]: of `multi_architectural` and `resource_constrained`, whose subnets share the batch.
    Example: `8`
    at_once [subnets]: of `multi_architectural`: how many are drawn so that they differ, and then the next
    ones; null: all of a step. The released training: 2. Example: `2`
    blocks_twice: of `multi_architectural`: whether a block is there counts as four options, yes and no twice
    each, where options are dealt out and where a widening lets them in (`search_spaces/restriction.py`). The
    released training: true. Example: `true`
    lot_norms: of `multi_architectural`: batch norms that stand before all that is chosen see the images of
    all subnets that are drawn at once; false: those of each subnet. The released training: true. Example:
    `true`
    bins [intervals]: of `resource_constrained`, which draws uniformly over groups of like cost: intervals of
    MACs; null: exact levels. Example: `10`
    gap_gmacs [GMACs]: of `resource_constrained`: groups by an absolute gap, in place of `bins`. Example:
    `0.5`
    """

    strategy: Literal[
        "single_path", "sandwich", "weighted", "joint", "multi_architectural", "resource_constrained"
    ] = "single_path"
    smallest: Share = 0.1
    largest: Share = 0.2
    random: Annotated[int, Field(ge=0, le=1000)] = 2
    weights: Annotated[tuple[NotNegative, ...], AList] | None = None
    distill: bool = False
    distill_after: Share = 0.4
    paths: Annotated[int, Field(ge=1, le=1000)] = 4
    at_once: Annotated[int, Field(ge=1, le=1000)] | None = None
    blocks_twice: bool = False
    lot_norms: bool = False
    bins: Annotated[int, Field(ge=1, le=100_000)] | None = None
    gap_gmacs: Positive | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.smallest + self.largest > 1:
            raise ValueError("smallest and largest are shares of the steps: together at most 1")
        if self.weights is not None and not sum(self.weights) > 0:
            raise ValueError("weights must hold at least one number above 0")
        if self.bins is not None and self.gap_gmacs is not None:
            raise ValueError("bins and gap_gmacs are two ways to group subnets by cost: give one of them")
        grouped = self.bins is not None or self.gap_gmacs is not None
        if grouped and self.strategy != "resource_constrained":
            raise ValueError(f"bins and gap_gmacs belong to resource_constrained, not to {self.strategy}")
        dealt = self.at_once is not None or self.blocks_twice or self.lot_norms
        if dealt and self.strategy != "multi_architectural":
            raise ValueError(
                f"at_once, blocks_twice and lot_norms belong to multi_architectural, not to {self.strategy}"
            )
        if self.at_once is not None and self.paths % self.at_once:
            raise ValueError(f"paths ({self.paths}) must be a multiple of at_once ({self.at_once})")
        if self.distill and self.splits_batch:
            raise ValueError(
                f"distill cannot be combined with {self.strategy}, whose subnets see different examples; "
                "train.teacher can"
            )
        return self

    @property
    def splits_batch(self) -> bool:
        """Whether each subnet of a step sees its own share of the examples."""
        return self.strategy in ("multi_architectural", "resource_constrained")


class Teacher(Section):
    """A timm model that teaches every subnet.

    timm: its name, as of `init`. Example: `deit_small_patch16_224`
    weight [share of the loss]: what it counts. Example: `0.7`
    hard: subnets learn the class that it answers, and not its probabilities. Example: `false`
    """

    timm: Text
    weight: Share = 0.5
    hard: bool = True


class InitTeacher(Section):
    """The network whose weights a training begins with, as it was: it teaches every subnet, the largest, too.

    init: that it is this one. Example: `true`
    weight [share of the loss]: as of a timm model. Example: `1.0`
    hard: as of a timm model. Example: `true`
    """

    init: Literal[True]
    weight: Share = 0.5
    hard: bool = False


def _teacher_tag(value: Any) -> str:
    fields = value if isinstance(value, dict) else getattr(type(value), "model_fields", ())
    return "<init>" if "init" in fields else "<timm>"


AnyTeacher = Annotated[
    Annotated[Teacher, Tag("<timm>")] | Annotated[InitTeacher, Tag("<init>")], Discriminator(_teacher_tag)
]


class Muon(Section):
    """Muon's own numbers, beside those of AdamW, which trains what Muon does not.

    lr: the peak; warm-up, schedule and `lr_scale` hold for it as for the recipe's `lr`. A step is as long as
    the rate says whatever the gradients are, so that it is of another size than AdamW's. Example: `0.01`
    momentum: of its gradients. Example: `0.9`
    weight_decay: of the weights that Muon trains, of which each step takes `lr * weight_decay`. Not the
    recipe's, which at this rate would be several times as strong. Example: `0.05`
    """

    lr: Positive = 0.02
    momentum: BelowOne = 0.95
    weight_decay: NotNegative = 0.1

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.lr * self.weight_decay >= 1:
            raise ValueError("lr times weight_decay is what a step takes of the weights: it must be below 1")
        return self


class Recipe(Section):
    """How to train; after `warmup` steps the learning rate goes to zero as `schedule` says.

    steps [steps]: of the optimiser; 0 leaves weights as they came. Example: `5000`
    batch_size [examples]: of a step, by all who share it. Example: `32`
    optimizer: AdamW for everything, or LAMB (You et al., arXiv 1904.00962), or Muon for the weights of hidden
    layers (`supernet/training/parameter_groups.py`) and AdamW for the rest. `adamw` is what a job trains with
    that was stored before it could be chosen, and new jobs whose weights begin trained; others have `muon`.
    Example: `lamb`
    muon: Muon's numbers; there with Muon only, and then always. Example: `{lr: 0.01}`
    lr: the peak learning rate of AdamW or LAMB. Example: `0.001`
    schedule: a cosine, a straight line, or a trapezoid, which begins to fall for the last 0.4 of the steps.
    Example: `linear`
    lr_floor [share of the peak]: at which the schedule ends. Example: `0.01`
    lr_scale [factor]: by the first part of a shared parameter's name, on its learning rate; 0 keeps it as it
    is. Example: `{head: 10.0}`
    layer_decay [factor]: on the learning rate from each block to the one before it; the head has the full
    rate and what comes before the blocks the lowest (Bao et al., "BEiT", arXiv 2106.08254). Example: `0.75`
    accumulate [parts]: of a batch, that are learnt from one after the other, for less memory; the step is the
    same but for rounding, and for statistics of batches. Example: `4`
    weight_decay: of AdamW or LAMB. Example: `0.1`
    betas: of AdamW or LAMB. Example: `[0.9, 0.999]`
    warmup [steps]: over which the learning rate rises. Example: `500`
    clip: the longest gradient of all weights together; `none`: any. Example: `none`
    label_smoothing: what the wrong classes get of the target, together. Example: `0.1`
    largest_first [share of the steps]: at the start, in which only the largest subnet is trained; the others
    inherit what it has learnt (as Once-for-all begins; Cai et al., arXiv 1908.09791). Example: `0.5`
    widening [share of the steps]: behind `largest_first`, over which smaller and smaller options are let in.
    Example: `0.25`
    sort_every [steps]: after which neurons and heads are sorted by weight, while the widening lasts; null:
    never. Example: `100`
    patch_mixup: mixed images with a label for every patch, learnt through a head that is then thrown away,
    for families that have such labels; `published` draws boxes, blends and partners as the release of
    ViT-ResNAS does (`supernet/training/mixing.py`). Example: `true`
    drop_path [probability]: with which a step leaves out what the last block adds, example by example
    (`supernet/passes/dropping.py`); or one for each anchor of a family that joins networks. Example: `0.1`
    drop_path_by: which chance a block has. `subnet`: it rises linearly over the blocks of the subnet, from 0;
    `network`: over those of the whole network, or anchor, that the block is of; `equal`: the same for all.
    Example: `network`
    dropout [probability]: with which a number is left out behind the embedding, attention, and layers of an
    FFN. Example: `0.1`
    mixup: alpha of the Beta distribution by which a batch is blended with itself in reverse order, by timm's
    own code; 0: it is not. With `cutmix`, too, one of them a batch by chance. Example: `0.8`
    cutmix: alpha of the Beta distribution of rectangles that a batch gets of itself in reverse order; 0:
    none. Example: `1.0`
    decay_also: weight decay holds for these beside matrices and kernels: position embeddings, tokens, tables
    of relative positions. Example: `[positions, tokens]`
    init_std: standard deviation of fresh linear layers; null: by the number of their inputs. Example: `0.02`
    sampling: which subnets a step draws. Example: `{strategy: sandwich}`
    teacher: a network that teaches every subnet: a model of timm, or `{init: true}`. Example: `{timm:
    deit_small_patch16_224}`
    ema: decay of an exponential moving average of the weights, which evaluation then uses; null: none.
    Example: `0.999`
    precision: `fp32`, `bf16` (autocast) or `auto` (bf16 on a GPU). Example: `auto`
    recalibrate: whether statistics of batches are estimated anew after the training; else running averages
    stay. Example: `false`
    channels_last: images lie in memory pixel by pixel, which convolutions may be faster with. Example: `true`
    tf32: products of fp32 matrices on a GPU may round their factors to TensorFloat-32. Example: `true`
    checkpoint_activations: blocks keep their inputs only and compute the rest again in the backward pass.
    Example: `true`
    compile: blocks run compiled, each shape of them once (`supernet/passes/compiling.py`). Example: `true`
    """

    steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 2000
    batch_size: Count = 64
    optimizer: Annotated[Literal["adamw", "muon", "lamb"], one_of("adamw", "muon", "lamb")] = "adamw"
    muon: Muon | None = None
    lr: Positive = 3e-3
    schedule: Annotated[Literal["cosine", "linear", "trapezoid"], one_of("cosine", "linear", "trapezoid")] = (
        "cosine"
    )
    lr_floor: Share = 0.0
    lr_scale: dict[str, NotNegative] = Field(default_factory=dict)
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    accumulate: Annotated[int, Field(ge=1, le=10_000)] = 1
    weight_decay: NotNegative = 0.05
    betas: Annotated[tuple[BelowOne, BelowOne], AList] = (0.9, 0.98)
    warmup: Annotated[int, Field(ge=0, le=1_000_000_000)] = 150
    clip: Positive | Literal["none"] = 1.0
    label_smoothing: BelowOne = 0.05
    largest_first: Share = 0.25
    widening: Share = 0.0
    sort_every: Count | None = None
    patch_mixup: bool | Literal["published"] = False
    drop_path: Annotated[BelowOne | tuple[BelowOne, ...], AList] = 0.0
    drop_path_by: Annotated[Literal["subnet", "network", "equal"], one_of("subnet", "network", "equal")] = (
        "subnet"
    )
    dropout: BelowOne = 0.0
    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0
    decay_also: Annotated[tuple[Literal["positions", "tokens", "relative_positions"], ...], AList] = ()
    init_std: Annotated[float, Field(gt=0, le=1)] | None = None
    sampling: Sampling = Sampling()
    teacher: AnyTeacher | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    recalibrate: bool = True
    channels_last: bool = False
    tf32: bool = False
    checkpoint_activations: bool = False
    compile: bool = False

    @model_validator(mode="before")
    @classmethod
    def _muon_has_its_numbers(cls, value: Any) -> Any:
        """Puts them there, so that a stored job keeps those that it began with."""
        if not isinstance(value, dict) or value.get("optimizer") != "muon" or value.get("muon") is not None:
            return value
        return {**value, "muon": {}}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.muon is not None and self.optimizer != "muon":
            raise ValueError(
                f"muon says how Muon trains, and optimizer is {self.optimizer}: "
                "set optimizer: muon, or leave muon away"
            )
        if self.widening and self.sampling.strategy in ("weighted", "resource_constrained"):
            raise ValueError(
                f"widening cannot be combined with {self.sampling.strategy}, which draws from fixed subnets"
            )
        if isinstance(self.drop_path, tuple) and self.drop_path_by == "subnet":
            raise ValueError("drop_path has a rate for each anchor: drop_path_by must be network or equal")
        if self.patch_mixup and self.mixes:
            raise ValueError("patch_mixup mixes images already: leave it out, or mixup and cutmix")
        if self.mixes and self.batch_size % 2:
            raise ValueError(f"mixup and cutmix take an even batch_size, and it is {self.batch_size}")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate ({self.accumulate}) must not be more than batch_size ({self.batch_size}): each "
                "part has examples"
            )
        if self.largest_first + self.widening > 1:
            raise ValueError("largest_first and widening are shares of the steps: together at most 1")
        if self.sort_every and not self.widening:
            raise ValueError("sort_every sorts while the widening lasts: set widening, too")
        if self.sampling.splits_batch and self.batch_size < self.sampling.paths:
            raise ValueError(
                f"batch_size ({self.batch_size}) must not be less than sampling.paths "
                f"({self.sampling.paths}): each path has its own share of the examples"
            )
        return self

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed by `mixup` or `cutmix`."""
        return bool(self.mixup or self.cutmix)

    def learning_rate(self, step: int) -> float:
        """Of optimiser step `step`, counted from 0; where there are two optimisers, AdamW's."""
        return self.scheduled(self.lr, step)

    def scheduled(self, peak: float, step: int) -> float:
        """What has become of a peak learning rate at step `step`, counted from 0."""
        if step < self.warmup:
            return peak * (step + 1) / self.warmup
        if not self.lr_floor:
            return self._fading(peak, step)
        floor = self.lr_floor * peak
        return floor + self._fading(peak - floor, step)

    def _fading(self, peak: float, step: int) -> float:
        """From the peak at the end of the warm-up to 0."""
        after = max(1, self.steps - self.warmup)
        if self.schedule == "cosine":
            return peak * 0.5 * (1.0 + math.cos(math.pi * ((step - self.warmup) / after)))
        fading = after if self.schedule == "linear" else min(after, FADING * self.steps)
        return peak * min(1.0, (self.steps - step) / fading)
