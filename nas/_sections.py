"""The sections of a job file as strict models; every field has a default that works."""

from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from nas._init_sections import Init
from nas._ray_address import is_cluster
from nas._strict import (
    AList,
    BelowOne,
    Count,
    NotNegative,
    Options,
    Positive,
    Section,
    Share,
    Text,
    Threads,
    by_author,
    check_option_names,
    known_component,
)

MOST_OF_AN_OPTION = 1_000_000_000  # a number of a searcher's

DataSetName = Annotated[str, AfterValidator(partial(known_component, "nas.datasets"))]
FamilyName = Annotated[str, AfterValidator(partial(known_component, "supernet"))]
SearcherName = Annotated[str, AfterValidator(partial(known_component, "nas.searchers"))]


class DataConfig(Section):
    """A data set by name; every further key is an option of its `build`, in `options`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: Options

    name: DataSetName = "digit_pairs"

    @model_validator(mode="after")
    def _options_known(self, info: ValidationInfo) -> Self:
        if self.options and by_author(info):  # without any, nothing heavy is imported to look
            check_option_names("nas.datasets", self.name, self.options)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What is handed to the data set's `build`."""
        return dict(self.__pydantic_extra__)


class SupernetConfig(Section):
    """What is trained: the family, the options of its space, and where its weights begin.

    variant: a named space of the family (`nas spaces` lists them), whose options lie below those in `space`.
    """

    LATER = frozenset({"variant"})
    family: FamilyName = "matformer"
    variant: Text | None = None
    space: Options = Field(default_factory=dict)
    init: Init = "scratch"


class SamplingConfig(Section):
    """Which subnets a training step draws; `smallest` and `largest` are shares of the steps.

    paths: of `multi_architectural` and `resource_constrained`, whose subnets share the batch.
    at_once, blocks_twice: of `multi_architectural`: how many subnets are drawn so that they differ, and then
    the next ones (null: all of a step); whether a block is there counts as four options, yes and no twice
    each, where options are dealt out and where a widening lets them in. The released training: 2 and true.
    bins, gap_gmacs: of `resource_constrained`, which draws uniformly over groups of like cost: exact levels,
    or `bins` intervals of MACs, or groups by an absolute gap.
    """

    LATER = frozenset({"at_once", "blocks_twice"})
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
        dealt = self.at_once is not None or self.blocks_twice
        if dealt and self.strategy != "multi_architectural":
            raise ValueError(
                f"at_once and blocks_twice belong to multi_architectural, not to {self.strategy}"
            )
        if self.at_once is not None and self.paths % self.at_once:
            raise ValueError(f"paths ({self.paths}) must be a multiple of at_once ({self.at_once})")
        if self.distill and self.splits_batch:
            raise ValueError(
                f"distill cannot be combined with {self.strategy}, whose subnets see different images; "
                "train.teacher can"
            )
        return self

    @property
    def splits_batch(self) -> bool:
        """Whether each subnet of a step sees its own share of the images."""
        return self.strategy in ("multi_architectural", "resource_constrained")


class TeacherConfig(Section):
    """A timm model that teaches every subnet; `weight` is its share of the loss.

    hard: subnets learn the class that it answers, and not its probabilities.
    """

    timm: Text
    weight: Share = 0.5
    hard: bool = True


class TrainConfig(Section):
    """How the shared weights are trained; `threads: 0` takes all cores.

    recipe: whose values hold where nothing is said: the family's `own` or, where they are known, those
    `published` with the authors' code.
    largest_first: the share of the steps, at the start, in which only the largest subnet is trained.
    lr_scale: first part of a shared parameter's name -> factor on its learning rate; 0 keeps it as it is.
    widening: the share of the steps, behind largest_first, over which smaller and smaller options are let in.
    sort_every: steps after which neurons and heads are sorted by weight, while that lasts; null: never.
    patch_mixup: mixed images with a label for every patch, for families that have such labels; `published`
    draws boxes, blends and partners as the release of ViT-ResNAS does.
    decay_also: weight decay holds for these, too: position embeddings, tokens, tables of relative positions.
    init_std: standard deviation of fresh linear layers; null: by the number of their inputs.
    """

    LATER = frozenset({"widening", "sort_every", "patch_mixup", "decay_also", "init_std", "recipe"})
    recipe: Literal["own", "published"] = "own"
    steps: Count = 2000
    batch_size: Count = 64
    lr: Positive = 3e-3
    lr_scale: dict[str, NotNegative] = Field(default_factory=dict)
    weight_decay: NotNegative = 0.05
    betas: Annotated[tuple[BelowOne, BelowOne], AList] = (0.9, 0.98)
    warmup: Annotated[int, Field(ge=0, le=1_000_000_000)] = 150
    clip: Positive = 1.0
    label_smoothing: BelowOne = 0.05
    largest_first: Share = 0.25
    widening: Share = 0.0
    sort_every: Count | None = None
    patch_mixup: bool | Literal["published"] = False
    decay_also: Annotated[tuple[Literal["positions", "tokens", "relative_positions"], ...], AList] = ()
    init_std: Annotated[float, Field(gt=0, le=1)] | None = None
    sampling: SamplingConfig = SamplingConfig()
    teacher: TeacherConfig | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_every: Count = 500
    threads: Annotated[int, Field(ge=0, le=4096)] = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.widening and self.sampling.strategy in ("weighted", "resource_constrained"):
            raise ValueError(
                f"widening cannot be combined with {self.sampling.strategy}, which draws from fixed subnets"
            )
        if self.largest_first + self.widening > 1:
            raise ValueError("largest_first and widening are shares of the steps: together at most 1")
        if self.sort_every and not self.widening:
            raise ValueError("sort_every sorts while the widening lasts: set widening, too")
        if self.sampling.splits_batch and self.batch_size < self.sampling.paths:
            raise ValueError(
                f"batch_size ({self.batch_size}) must not be less than sampling.paths "
                f"({self.sampling.paths}): each path has its own share of the images"
            )
        return self


class SearchConfig(Section):
    """How many subnets are evaluated, in what batches, on how many images (null: all) and reported.

    racing: subnets are evaluated on growing parts of the images and stop when they are clearly worse than the
    front; this is the probability with which one that is not worse is taken to be. Besides, at most half of a
    batch goes on after each part. null: all see all images.
    options: of the searcher's `build`.
    latency_margin: a limit on latency or peak memory holds for the prediction plus so many of its standard
    deviations.
    measure_above: a subnet that would enter the front is measured during the search when half of the 90 %
    interval of its latency is more than this share of the prediction; null: never.
    """

    LATER = frozenset({"options", "latency_margin", "measure_above", "racing"})
    searcher: SearcherName = "surrogate"
    options: Options = {}  # noqa: RUF012 - pydantic copies it
    evaluations: Annotated[int, Field(ge=1, le=10_000_000)] = 200
    batch: Annotated[int, Field(ge=1, le=100_000)] = 16
    population: Annotated[int, Field(ge=2, le=1_000_000)] = 32
    finalists: Annotated[int, Field(ge=1, le=100_000)] = 16
    images: Count | None = None
    racing: Annotated[float, Field(gt=0, lt=0.5)] | None = 0.1
    latency_margin: NotNegative = 1.0
    measure_above: Positive | None = 0.1

    @field_validator("options")
    @classmethod
    def _options_known(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if options and by_author(info) and "searcher" in info.data:
            for name, value in options.items():
                if isinstance(value, int | float) and abs(value) > MOST_OF_AN_OPTION:
                    raise ValueError(f"{name[:60]} is too large: at most {MOST_OF_AN_OPTION:,} is possible")
            check_option_names("nas.searchers", info.data["searcher"], options, given=1)
        return options


def _checked_address(value: str) -> str:
    if value != "local" and not is_cluster(value):
        raise ValueError(f"must be local, auto or HOST:PORT, not '{value[:60]}'")
    return value


class ExecutionConfig(Section):
    """Who evaluates subnets: how many processes, with how many threads each.

    engine: `local`, processes of this machine, or `ray`, actors.
    address: of `ray`: `local` starts one on this machine, `auto` takes the cluster that this machine is part
    of, `HOST:PORT` the one whose head is there.
    cache_mib: what each process remembers of activations between batches of subnets; 0: nothing.
    siblings: subnets that differ only in the width of an FFN compute it together, which changes logits by
    rounding (1e-6) against the extracted subnet.
    """

    engine: Literal["local", "ray"] = "local"
    address: Annotated[Text, AfterValidator(_checked_address)] = "local"
    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    threads: Threads = 1
    cache_mib: Annotated[int, Field(ge=0, le=1_000_000)] = 256
    siblings: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.engine == "local" and self.address != "local":
            raise ValueError("address is that of a Ray cluster: it needs engine: ray")
        return self


class StoreConfig(Section):
    """What a job does when its store stops answering.

    patience: seconds for which a database server that was there is tried again before the job ends.
    """

    patience: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 600.0
