"""The job file, and how a file, the environment and `--set` become one config.

Precedence: defaults < file < environment (`NAS_SEARCH__EVALUATIONS=100`) < `--set search.evaluations=100`.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nas.config import yaml
from nas.config.family_training import FRESH, family_search, family_training
from nas.config.init import AnchorsInit, BaselineInit, is_fresh, with_tokenizer
from nas.config.latency import STORED, DeviceConfig, PredictorConfig, one_for_each_precision
from nas.config.paths import with_absolute_paths
from nas.config.problems import problems_error
from nas.config.quantities import (
    check_quality,
    check_quality_on,
    checked_devices,
    checked_objective,
    checked_quality,
    first_quality,
    limits_of,
    named,
    objectives_of,
    seconds_of,
    task_of,
    with_quality_on,
)
from nas.config.sections import (
    DataConfig,
    ExecutionConfig,
    FinalistsConfig,
    NotifyConfig,
    SearchConfig,
    Seed,
    StoreConfig,
    SupernetConfig,
    SupernetEntry,
    TrainConfig,
    check_entries,
    supernet_names,
)
from nas.config.strict import AUTHOR, STORED_JOB, by_author
from nas.limits import ACCURACY, QUALITIES, Limit
from search_spaces.errors import UsageError, did_you_mean
from supernet.training.recipe import InitTeacher
from supernet.training.sections import AList, Section


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
    """`devices: [pi]` is short for `devices: {pi: stored}`; one with `precisions` is one for each of them.

    Raises ValueError for a name that comes twice, and as `one_for_each_precision`.
    """
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        twice = [name for name in value if value.count(name) > 1]
        if twice:
            raise ValueError(f"'{twice[0][:60]}' is there twice")
        return dict.fromkeys(value, STORED)
    return one_for_each_precision(value) if isinstance(value, dict) else value


def _with_defaults(supernet: Mapping[str, Any], train: Any, task: str) -> Any:
    """Section `train` of a new job over the training defaults of the supernet's family, and of the task."""
    family = supernet.get("family", SupernetConfig.model_fields["family"].default)
    if not isinstance(family, str):
        return train
    if isinstance(train, dict):  # a key without a value asks for the default, and that is a new job's
        train = {key: item for key, item in train.items() if item is not None or key not in FRESH}
    asked = train if isinstance(train, dict) else {}
    sampling = asked.get("sampling")
    defaults = family_training(
        family,
        published=asked.get("recipe") == "published",
        fresh=supernet.get("init") in (None, "scratch"),
        strategy=sampling.get("strategy") if isinstance(sampling, dict) else None,
        task=task,
    )
    given = asked.get("teacher", {})
    if given is None or (isinstance(given, dict) and "timm" in given):
        defaults = {key: value for key, value in defaults.items() if key != "teacher"}
    return _under(defaults, train)


def _trained(entry: Any, train: Any, task: str) -> Any:
    """One of several supernets of a new job with its whole recipe, unless it is trained already."""
    if not isinstance(entry, dict) or entry.get("use") is not None:
        return entry
    both = _under(train, entry.get("train")) if isinstance(train, dict) else entry.get("train")
    return {**entry, "train": _with_defaults(entry, both, task)}


def _told_task(value: Mapping[str, Any], info: ValidationInfo) -> str:
    """That of the data that a job's author names; a stored job has everything in it that follows from it."""
    return task_of(value.get("data") if by_author(info) else None)


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


WHERE = frozenset(
    {"device", "threads", "loaders", "workers", "checkpoint_every"}
)  # what `train` says of more than a training
BUDGETED = (("train", "steps"), ("search", "evaluations"))  # what a budget in time becomes
Name = Annotated[str, AfterValidator(_checked_name)]
Objective = Annotated[str, AfterValidator(checked_objective)]
Quality = Annotated[str, AfterValidator(checked_quality)]


class JobConfig(Section):
    """One job, from its data to its front; every field has a default that works.

    name: what it is called in the store, once only; null: after the file, with a number where that is taken.
    Example: `cats-on-pi`
    seed: of the training, of what is measured and, unless `search.seed` is given, of the proposals. Example:
    `1`
    reuse: whether supernets, evaluations and measurements that other jobs have paid for are taken. Example:
    `false`
    budget [s]: how long the job may take, also written with units; training, search and finalists divide it,
    and `train.steps` and `search.evaluations` are then not given. Example: `30min`
    data: the data set, by its name or as a section. Example: `digits`
    supernet: the family, its space, and where its weights begin. Example: `{family: matformer, init: {timm:
    vit_tiny_patch16_224}}`
    supernets: several of them in place of `supernet`, searched at once (docs/families.md). Example:
    `[{family: matformer}, {family: vit_resnas}]`
    train: how the supernet is trained. Example: `{steps: 4000, batch_size: 32}`
    devices: where latency is measured, by a name that the job gives; `[NAME]` takes one that the store knows.
    A device with `precisions` in place of `precision` is one for each of them. Example: `{phone-like:
    {backend: onnxruntime_cpu, batch: 1, precision: int8}}`
    objectives: what the front is a compromise of; with several devices `latency_ms` (and `peak_memory_bytes`)
    becomes one of each, `latency_ms@NAME`. Example: `[accuracy, params]`
    quality: what is told of evaluated subnets; it may be named among the objectives only. Example:
    `balanced_accuracy`
    quality_on: the device whose backend computes it during the search; null: the supernet does. Written
    `accuracy@NAME` among the objectives. Example: `cpu`
    constraints: limits that hold before a subnet is evaluated; with several devices as of `objectives`; on
    memory in bytes or with a unit. Example: `[latency_ms<=5, memory_bytes<=1.5GiB]`
    baselines: reference networks that are told beside the front, measured on all devices. Example: `[{timm:
    deit_tiny_patch16_224}]`
    predictor: how latency is predicted. Example: `{samples: 60}`
    search: how many subnets are evaluated, and how. Example: `{evaluations: 400, searcher: evolution}`
    finalists: what becomes of the subnets that are reported. Example: `{train: true}`
    execution: the processes that evaluate. Example: `{engine: ray, workers: 16}`
    store: what happens when the store does not answer. Example: `{patience: 60}`
    notify: who is told when the job has ended. Example: `{url: "https://example.org/hook"}`
    """

    name: Name | None = None
    seed: Seed = 0
    reuse: bool = True
    budget: Annotated[float, BeforeValidator(seconds_of)] | None = None
    data: Annotated[DataConfig, BeforeValidator(_data)] = DataConfig()
    supernet: SupernetConfig = SupernetConfig()
    supernets: Annotated[tuple[SupernetEntry, ...], AList] | None = None
    train: TrainConfig = TrainConfig()
    devices: Annotated[
        dict[Name, Annotated[DeviceConfig, BeforeValidator(_device)]], BeforeValidator(_devices_by_name)
    ] = Field(default_factory=lambda: {"cpu": DeviceConfig()})
    objectives: Annotated[tuple[Objective, ...], AList] = Field(
        default=("accuracy", "latency_ms"), validate_default=True
    )
    quality: Quality = ACCURACY
    quality_on: Name | None = None
    constraints: Annotated[tuple[str, ...], AList] = ()
    baselines: Annotated[tuple[BaselineInit, ...], AList, Field(max_length=100)] = ()
    predictor: PredictorConfig = PredictorConfig()
    search: SearchConfig = SearchConfig()
    finalists: FinalistsConfig = FinalistsConfig()
    execution: ExecutionConfig = ExecutionConfig()
    store: StoreConfig = StoreConfig()
    notify: NotifyConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _tokenizer_of_its_init(cls, value: Any) -> Any:
        """Where the language model is that the job begins with; a stored job has that place in it."""
        return with_tokenizer(value) if isinstance(value, dict) else value

    @model_validator(mode="before")
    @classmethod
    def _family_trains_so(cls, value: Any, info: ValidationInfo) -> Any:
        """Puts the training defaults of new jobs, of the family or its authors below what the file says.

        A stored job has those of its time in it, and goes on with them.
        """
        if info.context is STORED_JOB:
            return value
        if not isinstance(value, dict) or not isinstance(value.get("supernet", {}), dict):
            return value
        given, train = value.get("supernet", {}), value.get("train")
        task = _told_task(value, info)
        if isinstance(value.get("supernets"), list | tuple):
            entries = [_trained(entry, train, task) for entry in value["supernets"]]
            return {**value, "supernets": entries}
        if given.get("use") is not None:  # it was trained as it was
            return value
        search = family_search(given.get("family"), fresh=given.get("init") in (None, "scratch"))
        if search and value.get("budget") is None:
            value = {**value, "search": _under(search, value.get("search"))}
        return {**value, "train": _with_defaults(given, train, task)}

    @model_validator(mode="before")
    @classmethod
    def _divides_its_time_itself(cls, value: Any, info: ValidationInfo) -> Any:
        """Of the file, before the defaults of families. A stored job has numbers that were divided since."""
        if not by_author(info) or not isinstance(value, dict) or value.get("budget") is None:
            return value
        sections = {name: value.get(name) for name, _ in BUDGETED}
        given = [
            f"{name}.{field}"
            for name, field in BUDGETED
            if isinstance(section := sections[name], dict) and section.get(field) is not None
        ]
        if given:
            raise ValueError(f"budget says how long the job takes: leave {' and '.join(given)} out")
        return value

    @model_validator(mode="after")
    def _trained_as_it_was(self, info: ValidationInfo) -> Self:
        given = sorted(self.train.model_fields_set - WHERE)
        trains = any(one.use is None for one in self.supernets or (self.supernet,))
        if not trains and given and by_author(info):
            where = "supernet.use names a supernet that is" if self.supernets is None else "all supernets are"
            raise ValueError(f"{where} trained: leave train.{', train.'.join(given)} out")
        return self

    @model_validator(mode="after")
    def _several_supernets(self, info: ValidationInfo) -> Self:
        if self.supernets is None:
            return self
        if by_author(info) and "supernet" in self.model_fields_set:
            raise ValueError("supernet and supernets are both there: name one supernet, or a list of several")
        check_entries(self.supernets, self.train)
        if self.budget is not None:
            raise ValueError(
                "budget divides the time over the training of one supernet: give train.steps and "
                "search.evaluations, or name one supernet"
            )
        if self.finalists.train is not None:
            raise ValueError(
                "finalists.train trains the finalists of one supernet: leave it out, or name one supernet"
            )
        return self

    @model_validator(mode="after")
    def _one_process_is_timed(self) -> Self:
        if self.budget is not None and self.train.workers > 1:
            raise ValueError(
                "budget times the training in one process: leave train.workers out, or give train.steps and "
                "search.evaluations"
            )
        return self

    @model_validator(mode="after")
    def _fresh_weights(self) -> Self:
        for alone in self.each.values():
            if alone.train.init_std is not None and alone.supernet.init != "scratch":
                raise ValueError("train.init_std is for fresh weights, and supernet.init names others")
        return self

    @model_validator(mode="after")
    def _untrained_weights(self) -> Self:
        for alone in self.each.values():
            if alone.train.steps == 0 and is_fresh(alone.supernet.init):
                raise ValueError(
                    "train.steps: 0 searches weights as they come, and supernet.init names none that were "
                    "trained: name some there, or train for some steps"
                )
        return self

    @model_validator(mode="after")
    def _taught_by_its_beginning(self) -> Self:
        for alone in self.each.values():
            init = alone.supernet.init
            if isinstance(alone.train.teacher, InitTeacher) and (
                is_fresh(init) or isinstance(init, AnchorsInit)
            ):
                raise ValueError(
                    "train.teacher.init is the network that the job begins with, and supernet.init names no "
                    "single one that was trained: name one there, or leave the teacher out"
                )
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_quality(cls, value: Any, info: ValidationInfo) -> Any:
        """What is named in one of two places, `quality` and `objectives`, stands in both.

        In none of them it is the first of the data's task.
        """
        if not isinstance(value, dict):
            return value
        value = with_quality_on(value)
        given, objectives = value.get("quality"), value.get("objectives")
        first = first_quality(_told_task(value, info))
        if given is None and first != ACCURACY and not set(QUALITIES) & set(objectives or ()):
            both = {"quality": first} | ({} if objectives else {"objectives": [first, "latency_ms"]})
            return {**value, **both}
        if given in QUALITIES and objectives is None:
            return {**value, "objectives": [given, "latency_ms"]}
        if given is None and isinstance(objectives, list | tuple):
            qualities = [name for name in QUALITIES if name in objectives]
            return {**value, "quality": qualities[0]} if qualities else value
        return value

    @model_validator(mode="after")
    def _qualities_agree(self) -> Self:
        other = next((name for name in QUALITIES if name in self.objectives and name != self.quality), None)
        if other:
            raise ValueError(f"quality is {self.quality} and objectives hold {other}: name one of them")
        return self

    @model_validator(mode="after")
    def _quality_of_its_task(self, info: ValidationInfo) -> Self:
        if by_author(info):
            check_quality(self.quality, self.data.name)
        return self

    @model_validator(mode="after")
    def _computed_on_one_of_its_devices(self) -> Self:
        if self.quality_on is None:
            return self
        check_quality_on(self.quality, self.quality_on, self.devices)
        if self.budget is not None:
            raise ValueError(
                f"budget times evaluations in processes, and {self.quality} is computed on "
                f"'{self.quality_on}': give train.steps and search.evaluations"
            )
        return self

    @model_validator(mode="after")
    def _finalists_are_trained(self) -> Self:
        further = self.finalists.train
        if further is not None and further.count(self.train.steps) < 1:
            raise ValueError(
                f"finalists.train.steps: {further.steps:g} of the {self.train.steps} steps in train.steps "
                "is less than one step"
            )
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
    def _limits_on_devices(cls, constraints: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return limits_of(constraints, info.data["devices"]) if "devices" in info.data else constraints

    @field_validator("baselines")
    @classmethod
    def _each_once(cls, baselines: tuple[BaselineInit, ...]) -> tuple[BaselineInit, ...]:
        for place, one in enumerate(baselines):
            if one in baselines[:place]:
                raise ValueError(f"the same network is there twice, at {baselines.index(one)} and {place}")
        return baselines

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The constraints, parsed."""
        return tuple(Limit.parse(text) for text in self.constraints)

    @property
    def each(self) -> dict[str, "JobConfig"]:
        """The job with each of its several supernets alone, by their names; of one with one itself by ""."""
        if self.supernets is None:
            return {"": self}
        names = supernet_names(self.supernets)
        return {name: self._alone(entry) for name, entry in zip(names, self.supernets, strict=True)}

    def _alone(self, entry: SupernetEntry) -> "JobConfig":
        train = self.train if entry.train is None else entry.train
        return self.model_copy(update={"supernet": entry.supernet, "train": train, "supernets": None})

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
    tree = yaml.read_file(path)
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
        _put(tree, keys, yaml.read_text(value, where=where))
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


def with_names(config: JobConfig) -> JobConfig:
    """The job with a name for each of its several supernets."""
    if config.supernets is None:
        return config
    named_entries = zip(config.each, config.supernets, strict=True)
    entries = tuple(entry.model_copy(update={"name": name}) for name, entry in named_entries)
    return config.model_copy(update={"supernets": entries})


def merged(config: JobConfig) -> dict[str, Any]:
    """The whole config, defaults included, as plain data: what the store keeps and `nas validate` prints.

    A job goes on with these values whatever later versions take for a default. What its stages are known by
    is what stands here, without fields that came later (`Section.inputs`).
    """
    left_out = {"supernets" if config.supernets is None else "supernet"}
    return config.model_dump(mode="json", exclude=left_out)


_Setting = tuple[str, list[str], str]  # where it comes from, its keys, its text


def _from_environment(environment: Mapping[str, str]) -> list[_Setting]:
    """`NAS_SEED`, `NAS_SEARCH__EVALUATIONS`: the parts of a job, and whatever has two underscores."""
    settings: list[_Setting] = []
    for name, text in sorted(environment.items()):
        if name.startswith("NAS_"):
            yaml.check_text(name, where="The environment")
        section, *keys = name.removeprefix("NAS_").lower().split("__")
        if not name.startswith("NAS_") or not (keys or section in JobConfig.model_fields):
            continue
        if name == "NAS_STORE":  # the store's URL, no part of a job
            continue
        if section not in JobConfig.model_fields or not all(keys):
            hint = did_you_mean(section, JobConfig.model_fields)
            raise UsageError(f"The variable {name} does not set a part of a job.", hint)
        settings.append((name, [section, *keys], text))
    return settings


def _from_options(overrides: Iterable[str]) -> list[_Setting]:
    settings: list[_Setting] = []
    for override in overrides:
        yaml.check_text(override, where="--set")
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys) or len(keys) > yaml.DEEPEST_TREE:
            hint = "Example: --set search.evaluations=100"
            raise UsageError(f"--set {override[:80]!r} is not of the form a.b=c.", hint)
        settings.append((f"--set {dotted.strip()}", keys, text))
    return settings


def _put(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    """Sets one value in place; what stands in its way gives way, and the models judge the result."""
    tree["data"] = _data(tree.get("data"))
    *parents, last = keys
    for key in parents:
        inner = tree.get(key)
        tree[key] = dict(inner) if isinstance(inner, dict) else {}
        tree = tree[key]
    tree[last] = value
