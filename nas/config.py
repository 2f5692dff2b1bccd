"""The job file, and how a file, the environment and `--set` become one config.

Precedence: defaults < file < environment (`NAS_SEARCH__EVALUATIONS=100`) < `--set search.evaluations=100`.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nas import _yaml
from nas._family_training import family_training
from nas._init_sections import AnchorsInit, CheckpointInit, TimmInit, TrainedAnchor
from nas._latency_sections import REMOTE, STORED, DeviceConfig, PredictorConfig
from nas._problems import problems_error
from nas._quantities import checked_devices, checked_objective, constraints_of, named, objectives_of
from nas._sections import (
    DataConfig,
    ExecutionConfig,
    SamplingConfig,
    SearchConfig,
    StoreConfig,
    SupernetConfig,
    TrainConfig,
)
from nas._strict import AUTHOR, AList, Section
from nas.conditions import QUALITIES, Condition
from nas.job_paths import with_absolute_paths
from search_spaces._errors import UsageError, did_you_mean
from search_spaces._registry import names

__all__ = [
    "REMOTE",
    "STORED",
    "AnchorsInit",
    "CheckpointInit",
    "DataConfig",
    "DeviceConfig",
    "ExecutionConfig",
    "JobConfig",
    "PredictorConfig",
    "SamplingConfig",
    "SearchConfig",
    "StoreConfig",
    "SupernetConfig",
    "TimmInit",
    "TrainConfig",
    "TrainedAnchor",
    "checked_config",
    "load_config",
    "merged",
]


def _checked_name(value: str) -> str:
    if (
        not 0 < len(value) <= 200
        or not value.isprintable()
        or value != value.strip()
        or value.startswith("-")
    ):
        raise ValueError("must be 1 to 200 printable characters, no spaces around them and no '-' in front")
    return value


def _data(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _device(value: Any) -> Any:
    if value is None:
        return {}
    return {"backend": value} if value == STORED else value


def _devices_by_name(value: Any) -> Any:
    """`devices: [pi]` is short for `devices: {pi: stored}`. Raises ValueError for a name that comes twice."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        twice = [name for name in value if value.count(name) > 1]
        if twice:
            raise ValueError(f"'{twice[0][:60]}' is there twice")
        return dict.fromkeys(value, STORED)
    return value


def _under(defaults: Mapping[str, Any], given: Any) -> Any:
    """`given` over `defaults`, section by section; what is no section is left for the models to judge."""
    if given is None:
        return dict(defaults)
    if not isinstance(given, dict):
        return given
    merged = {
        key: _under(value, given.get(key)) if isinstance(value, Mapping) else value
        for key, value in defaults.items()
    }
    return merged | {key: value for key, value in given.items() if not isinstance(defaults.get(key), Mapping)}


Name = Annotated[str, AfterValidator(_checked_name)]
Objective = Annotated[str, AfterValidator(checked_objective)]


class JobConfig(Section):
    """One job, from its data to its front; every field has a default that works.

    quality: what is told of evaluated subnets; it may be named among the objectives only.
    objectives, constraints: with several devices `latency_ms` (and `peak_memory_bytes`) becomes one of each,
    `latency_ms@NAME`.
    """

    name: Name | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    data: Annotated[DataConfig, BeforeValidator(_data)] = DataConfig()
    supernet: SupernetConfig = SupernetConfig()
    train: TrainConfig = TrainConfig()
    devices: Annotated[
        dict[Name, Annotated[DeviceConfig, BeforeValidator(_device)]], BeforeValidator(_devices_by_name)
    ] = Field(default_factory=lambda: {"cpu": DeviceConfig()})
    objectives: Annotated[tuple[Objective, ...], AList] = Field(
        default=("accuracy", "latency_ms"), validate_default=True
    )
    quality: Literal["accuracy", "balanced_accuracy"] = "accuracy"
    constraints: Annotated[tuple[str, ...], AList] = ()
    predictor: PredictorConfig = PredictorConfig()
    search: SearchConfig = SearchConfig()
    execution: ExecutionConfig = ExecutionConfig()
    store: StoreConfig = StoreConfig()

    @model_validator(mode="before")
    @classmethod
    def _family_trains_so(cls, value: Any) -> Any:
        """Puts the training defaults of the family or its authors below what the file says."""
        if not isinstance(value, dict) or not isinstance(value.get("supernet", {}), dict):
            return value
        given, train = value.get("supernet", {}), value.get("train")
        family = given.get("family", SupernetConfig.model_fields["family"].default)
        if not isinstance(family, str) or family not in names("search_spaces"):
            return value
        asked = train if isinstance(train, dict) else {}
        sampling = asked.get("sampling")
        own = family_training(
            family,
            published=asked.get("recipe") == "published",
            fresh=given.get("init") in (None, "scratch"),
            strategy=sampling.get("strategy") if isinstance(sampling, dict) else None,
        )
        return {**value, "train": _under(own, train)} if own else value

    @model_validator(mode="after")
    def _fresh_weights(self) -> Self:
        if self.train.init_std is not None and self.supernet.init != "scratch":
            raise ValueError("train.init_std is for fresh weights, and supernet.init names others")
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_quality(cls, value: Any) -> Any:
        """What is named in one of two places, `quality` and `objectives`, stands in both."""
        if not isinstance(value, dict):
            return value
        given, objectives = value.get("quality"), value.get("objectives")
        if given in QUALITIES and objectives is None:
            return {**value, "objectives": [given, "latency_ms"]}
        if given is None and isinstance(objectives, list | tuple):
            named = [name for name in QUALITIES if name in objectives]
            return {**value, "quality": named[0]} if named else value
        return value

    @model_validator(mode="after")
    def _qualities_agree(self) -> Self:
        other = next((name for name in QUALITIES if name in self.objectives and name != self.quality), None)
        if other:
            raise ValueError(f"quality is {self.quality} and objectives hold {other}: name one of them")
        return self

    @field_validator("devices")
    @classmethod
    def _some_device(cls, devices: dict[str, DeviceConfig]) -> dict[str, DeviceConfig]:
        checked_devices(devices)
        return devices

    @field_validator("objectives")
    @classmethod
    def _objectives_on_devices(cls, objectives: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        # Devices that have problems of their own are not there.
        return objectives_of(objectives, info.data["devices"]) if "devices" in info.data else objectives

    @field_validator("constraints")
    @classmethod
    def _constraints_on_devices(cls, constraints: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return constraints_of(constraints, info.data["devices"]) if "devices" in info.data else constraints

    @property
    def limits(self) -> tuple[Condition, ...]:
        """The constraints, parsed."""
        return tuple(Condition.parse(text) for text in self.constraints)

    def named(self, metric: str, device: str) -> str:
        """The name of a quantity on one of the job's devices: plain, or with several `metric@device`."""
        return named(metric, device, self.devices)


def load_config(
    path: Path, overrides: Iterable[str] = (), *, environment: Mapping[str, str] | None = None
) -> JobConfig:
    """The job of a YAML file under the environment's and the caller's settings (`a.b=c`).

    Relative paths in the file are taken from its folder, those in settings from the current one.
    Raises UsageError that lists every problem with its dotted path.
    """
    tree = _yaml.read_file(path)
    if tree is None:
        raise UsageError(
            f"The job file '{path}' is empty.", "The shortest job file is one line: `data: digits`."
        )
    if not isinstance(tree, dict):
        hint = "Write `key: value` lines, such as `data: digits`."
        raise UsageError(f"The job file '{path}' holds no settings.", hint)
    settings = [
        *_from_environment(os.environ if environment is None else environment),
        *_from_options(overrides),
    ]
    tree = with_absolute_paths(tree, path.absolute().parent)
    for where, keys, value in settings:
        _put(tree, keys, _yaml.read_text(value, where=where))
    where = f"{path} (with {', '.join(where for where, _, _ in settings)})" if settings else str(path)
    return checked_config(with_absolute_paths(tree, Path.cwd()), where=where)


def checked_config(tree: Mapping[str, Any], *, where: str) -> JobConfig:
    """The job of a tree of settings; modules of somebody's own that it names are imported.

    Raises UsageError that lists every problem in `where`.
    """
    try:
        return JobConfig.model_validate(dict(tree), context=AUTHOR)
    except ValidationError as error:
        raise problems_error(error, JobConfig, where=where) from None


def merged(config: JobConfig) -> dict[str, Any]:
    """The whole config, defaults included, as plain data: what the store keeps and `nas validate` prints."""
    return config.model_dump(mode="json")


_Setting = tuple[str, list[str], str]  # where it comes from, its keys, its text


def _from_environment(environment: Mapping[str, str]) -> list[_Setting]:
    """`NAS_SEED`, `NAS_SEARCH__EVALUATIONS`: the parts of a job, and whatever has two underscores."""
    found: list[_Setting] = []
    for name, text in sorted(environment.items()):
        if name.startswith("NAS_"):
            _yaml.check_text(name, where="The environment")
        section, *keys = name.removeprefix("NAS_").lower().split("__")
        if not name.startswith("NAS_") or not (keys or section in JobConfig.model_fields):
            continue
        if name == "NAS_STORE":  # the store's URL, no part of a job
            continue
        if section not in JobConfig.model_fields or not all(keys):
            hint = did_you_mean(section, JobConfig.model_fields)
            raise UsageError(f"The variable {name} does not set a part of a job.", hint)
        found.append((name, [section, *keys], text))
    return found


def _from_options(overrides: Iterable[str]) -> list[_Setting]:
    found: list[_Setting] = []
    for override in overrides:
        _yaml.check_text(override, where="--set")
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys) or len(keys) > _yaml.DEEPEST_TREE:
            hint = "Example: --set search.evaluations=100"
            raise UsageError(f"--set {override[:80]!r} is not of the form a.b=c.", hint)
        found.append((f"--set {dotted.strip()}", keys, text))
    return found


def _put(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    """Sets one value in place; what stands in its way gives way, and the models judge the result."""
    tree["data"] = _data(tree.get("data"))
    *parents, last = keys
    for key in parents:
        inner = tree.get(key)
        tree[key] = dict(inner) if isinstance(inner, dict) else {}
        tree = tree[key]
    tree[last] = value
