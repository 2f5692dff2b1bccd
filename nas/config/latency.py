"""The sections of a job file on where latency is measured and how it is predicted."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, model_validator

from nas.config.strict import Options, by_author, check_option_names, known_component
from search_spaces.registry import load
from supernet.training.sections import Count, Section, Text, Threads

DAY = 86_400.0  # seconds
PRECISIONS = "precisions"  # of a device in a job file, which is then one for each of them
REMOTE, STORED = "remote", "stored"  # backends without a file: an agent's device, one that the store knows


def _backend(name: str, info: ValidationInfo) -> str:
    return name if name in (REMOTE, STORED) else known_component("predictors.devices", name, info)


PredictorName = Annotated[str, AfterValidator(partial(known_component, "predictors.latency"))]
BackendName = Annotated[str, AfterValidator(_backend)]


class DecodeConfig(Section):
    """The next token of a text, of which the others are remembered.

    context [tokens]: how long that text is. Example: `512`
    """

    context: Count


class WorkloadConfig(Section):
    """What a language model is run on: a whole text, or one step of decoding.

    prefill [tokens]: the length of a text that is read at once. Example: `128`
    decode: a step that gives one more token. Example: `{context: 512}`
    """

    prefill: Count | None = None
    decode: DecodeConfig | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.prefill is None) == (self.decode is None):
            raise ValueError("must be {prefill: TOKENS} or {decode: {context: TOKENS}}")
        return self


class DeviceConfig(Section):
    """Where latency is measured; everything here decides which timings compare.

    Every further key is an option of the backend's `build`.

    backend: a backend of this host, or somebody's own module by a dotted name; `remote`: the device of an
    agent, `stored`: the one that is registered under this name; what they measure with is said there.
    Example: `onnxruntime_cpu`
    agent: of `remote`: which one; null: the one named like the device. Example: `pi`
    threads [threads]: on which a network runs. Example: `4`
    batch [samples]: in one forward pass. Example: `1`
    precision: what the backend computes in; which ones it has says the list of backends. Example: `fp32`
    workload: what language models are run on; null: a whole text of as many tokens as the data's. Example:
    `{decode: {context: 512}}`
    one_of: of a device that lists `precisions` the name that stands for all of them; set when the file is
    read. Example: `cpu`
    digest: of the fingerprint of a device that the store knows; set when a job is made, so that it is never
    measured elsewhere without a word. Example:
    `3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8550`
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: Options

    backend: BackendName = "torch_cpu"
    agent: Text | None = None
    threads: Threads = 1
    batch: Annotated[int, Field(ge=1, le=65536)] = 64
    precision: Text = "fp32"
    workload: WorkloadConfig | None = None
    one_of: Text | None = None
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _fits(self, info: ValidationInfo) -> Self:
        if self.agent is not None and self.backend != REMOTE:
            raise ValueError(f"agent belongs to backend: {REMOTE}, not to {self.backend}")
        given = sorted(self.model_fields_set - {"backend"} | set(self.extra))
        if self.backend == STORED and given:
            raise ValueError(
                f"{', '.join(given)}: a stored device has the options that it was registered with"
            )
        if by_author(info) and self.backend not in (REMOTE, STORED):
            precisions = getattr(load("predictors.devices", self.backend), "PRECISIONS", None)
            if precisions is not None and self.precision not in precisions:
                raise ValueError(
                    f"precision must be one of {', '.join(precisions)}, not '{self.precision[:60]}'"
                )
            of_backend = (key for key in self.options if key != "workload")
            check_option_names("predictors.devices", self.backend, ("name", *of_backend))
        return self

    @property
    def extra(self) -> dict[str, Any]:
        """The options that only some backends have."""
        return dict(self.__pydantic_extra__)

    @property
    def options(self) -> dict[str, Any]:
        """What is handed to the backend's `build`, and the workload, where there is one."""
        options = {"threads": self.threads, "batch": self.batch, "precision": self.precision, **self.extra}
        if self.workload is not None:
            options["workload"] = self.workload.model_dump(mode="json", exclude_none=True)
        return options


def one_for_each_precision(devices: Mapping[Any, Any]) -> dict[Any, Any]:
    """The devices, of one that lists `precisions` one for each of them: `NAME@PRECISION`.

    Raises ValueError for a list that names none, names one twice, or stands beside a `precision`.
    """
    expanded: dict[Any, Any] = {}
    for name, device in devices.items():
        precisions = device.get(PRECISIONS) if isinstance(device, Mapping) else None
        if precisions is None:
            expanded[name] = device
            continue
        listed = isinstance(precisions, list | tuple) and all(isinstance(one, str) for one in precisions)
        if not listed or not precisions or len(set(precisions)) < len(precisions):
            raise ValueError(f"{name}.precisions must be a list of different ones, such as [fp32, int8]")
        rest = {key: value for key, value in device.items() if key != PRECISIONS}
        if rest.get("precision") is not None or rest.get("backend") in (REMOTE, STORED):
            raise ValueError(
                f"{name}.precisions belongs to a backend of this host, without a precision beside it"
            )
        if len(precisions) == 1:
            expanded[name] = {**rest, "precision": precisions[0]}
        for precision in precisions if len(precisions) > 1 else ():
            expanded[f"{name}@{precision}"] = {**rest, "precision": precision, "one_of": str(name)}
    return expanded


class PredictorConfig(Section):
    """The latency predictor, and on how many subnets at most it is fitted.

    name: a predictor, or somebody's own module by a dotted name. Example: `gbm`
    samples [subnets]: how many are measured at most. Example: `60`
    rounds [visits]: the fewest to each subnet, with two timings each. Example: `5`
    max_rounds [visits]: the most. Example: `20`
    source: a job whose device's roofline predictor is taken for a beginning, so that few samples do. Example:
    `quickstart`
    max_age [s]: for how long a measurement of another job counts, of an equal network on the same device; 0:
    none does. Example: `3600.0`
    """

    name: PredictorName = "roofline"
    samples: Annotated[int, Field(ge=3, le=100_000)] = 40
    rounds: Annotated[int, Field(ge=2, le=10_000)] = 3
    max_rounds: Annotated[int, Field(ge=2, le=10_000)] = 10
    source: Text | None = None
    max_age: Annotated[float, Field(ge=0, le=10**9)] = DAY

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_rounds < self.rounds:
            raise ValueError(f"max_rounds ({self.max_rounds}) must not be less than rounds ({self.rounds})")
        if self.source is not None and self.name not in ("roofline", "auto"):
            raise ValueError(f"source belongs to the predictors roofline and auto, not to {self.name}")
        return self
