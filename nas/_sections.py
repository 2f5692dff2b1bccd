"""The sections of a job file as strict models; every field has a default that works."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from search_spaces._errors import did_you_mean
from search_spaces._registry import names


class Section(BaseModel):
    """Unknown keys, text for numbers, NaN and infinities are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_default(cls, value: Any) -> Any:
        """YAML reads a key without a value (or with all of its section commented out) as null."""
        if not isinstance(value, dict):
            return value
        optional = {
            name for name, info in cls.model_fields.items() if type(None) in get_args(info.annotation)
        }
        unset = cls.model_fields.keys() - optional
        return {key: item for key, item in value.items() if item is not None or key not in unset}


def _known(package: str, name: str) -> str:
    """The name of a component of the package, or, with a dot, of somebody's own module."""
    if "." not in name and name not in (known := names(package)):
        raise ValueError(f"'{name[:60]}' is unknown. {did_you_mean(name, known)}".strip())
    return name


def _plain(value: Any) -> Any:
    """The value as it came. Raises ValueError unless it is JSON data without NaN and infinities."""
    inside: Iterable[Any] = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    )
    for item in inside:
        _plain(item)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if value is not None and not isinstance(value, bool | int | float | str | list | dict):
        raise ValueError(
            "must be text (put it in quotes), a number, true, false, null, or lists and sections of these"
        )
    return value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


AList = BeforeValidator(_tuple)
Options = dict[str, Annotated[Any, AfterValidator(_plain)]]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Threads = Annotated[int, Field(ge=1, le=4096)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]

DataSetName = Annotated[str, AfterValidator(partial(_known, "nas.datasets"))]
FamilyName = Annotated[str, AfterValidator(partial(_known, "supernet"))]
PredictorName = Annotated[str, AfterValidator(partial(_known, "predictors"))]
BackendName = Annotated[str, AfterValidator(partial(_known, "predictors.devices"))]
SearcherName = Annotated[str, AfterValidator(partial(_known, "nas.searchers"))]


class DataConfig(Section):
    """A data set by name; every further key is an option of its `build`, in `options`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: Options

    name: DataSetName = "digit_pairs"

    @property
    def options(self) -> dict[str, Any]:
        """What is handed to the data set's `build`."""
        return dict(self.__pydantic_extra__)


class TimmInit(Section):
    """Weights of a timm model, pretrained or freshly drawn by timm.

    The model is built for the images and classes of the data: `supernet._timm.load_timm` tells what becomes
    of pretrained weights that were made for others.
    """

    timm: Text
    pretrained: bool = True


class CheckpointInit(Section):
    """Weights from a folder with a checkpoint."""

    checkpoint: Text


def _init_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    if isinstance(value, CheckpointInit) or (isinstance(value, dict) and "checkpoint" in value):
        return "<checkpoint>"
    return "<timm>" if isinstance(value, TimmInit | dict) else None


Init = Annotated[
    Annotated[Literal["scratch"], Tag("<text>")]
    | Annotated[TimmInit, Tag("<timm>")]
    | Annotated[CheckpointInit, Tag("<checkpoint>")],
    Discriminator(
        _init_tag,
        custom_error_type="init",
        custom_error_message="must be 'scratch', {timm: NAME} or {checkpoint: FOLDER}",
    ),
]


class SupernetConfig(Section):
    """What is trained: the family, the options of its space, and where its weights begin."""

    family: FamilyName = "matformer"
    space: Options = Field(default_factory=dict)
    init: Init = "scratch"


class SamplingConfig(Section):
    """Which subnets a training step draws; `smallest` and `largest` are shares of the steps."""

    strategy: Literal["single_path", "sandwich", "weighted", "joint"] = "single_path"
    smallest: Share = 0.1
    largest: Share = 0.2
    random: Annotated[int, Field(ge=0, le=1000)] = 2
    weights: Annotated[tuple[NotNegative, ...], AList] | None = None
    distill: bool = False
    distill_after: Share = 0.4

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.smallest + self.largest > 1:
            raise ValueError("smallest and largest are shares of the steps: together at most 1")
        if self.weights is not None and not sum(self.weights) > 0:
            raise ValueError("weights must hold at least one number above 0")
        return self


class TrainConfig(Section):
    """How the shared weights are trained; `threads: 0` takes all cores.

    largest_first: the share of the steps, at the start, in which only the largest subnet is trained.
    """

    steps: Count = 2000
    batch_size: Count = 64
    lr: Positive = 3e-3
    weight_decay: NotNegative = 0.05
    betas: Annotated[tuple[BelowOne, BelowOne], AList] = (0.9, 0.98)
    warmup: Annotated[int, Field(ge=0, le=1_000_000_000)] = 150
    clip: Positive = 1.0
    label_smoothing: BelowOne = 0.05
    largest_first: Share = 0.25
    sampling: SamplingConfig = SamplingConfig()
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_every: Count = 500
    threads: Annotated[int, Field(ge=0, le=4096)] = 0


class DeviceConfig(Section):
    """Where latency is measured; everything here decides which timings compare."""

    backend: BackendName = "torch_cpu"
    threads: Threads = 1
    batch: Annotated[int, Field(ge=1, le=65536)] = 64
    precision: Literal["fp32", "bf16"] = "fp32"


class PredictorConfig(Section):
    """The latency predictor, and on how many subnets it is fitted, timed `rounds` to `max_rounds` times."""

    name: PredictorName = "additive"
    samples: Annotated[int, Field(ge=4, le=100_000)] = 40
    rounds: Annotated[int, Field(ge=2, le=10_000)] = 5
    max_rounds: Annotated[int, Field(ge=2, le=10_000)] = 12

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_rounds < self.rounds:
            raise ValueError(f"max_rounds ({self.max_rounds}) must not be less than rounds ({self.rounds})")
        return self


class SearchConfig(Section):
    """How many subnets are evaluated, in what batches, on how many images (null: all) and reported."""

    searcher: SearcherName = "nsga2"
    evaluations: Count = 200
    batch: Count = 16
    population: Annotated[int, Field(ge=2, le=1_000_000)] = 32
    finalists: Count = 16
    images: Count | None = None


class ExecutionConfig(Section):
    """The local pool: how many processes, with how many threads each."""

    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    threads: Threads = 1
