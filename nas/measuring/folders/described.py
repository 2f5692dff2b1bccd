"""What a folder that was extracted says of its file, read with suspicion: anybody may hand one on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas.exported.sums import check_whole
from predictors.measurement.plausibility import DAY_MS
from search_spaces.errors import NotFoundError, UsageError
from search_spaces.workloads import tokens_of
from supernet.pretrained.weight_files import CONFIG, read_config

MOST_A_SIDE = 100_000  # of an input, tokens included
MOST_TOKENS = 10_000_000  # that a vocabulary may have

Time = Annotated[float, Field(gt=0, lt=DAY_MS, allow_inf_nan=False)]
Predicted = Annotated[float, Field(ge=0, lt=DAY_MS, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=MOST_A_SIDE)]


class _Section(BaseModel):
    """Of config.json; what else it says is not needed here."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


class OnFront(_Section):
    """A latency of the front; None of stores that do not know it.

    device: by the job's name for it.  reference_ms: the clean time of its calibrator.
    predicted_ms and the ends of its interval: of the subnet there, by the job's predictor.
    """

    device: str
    measured_ms: Time
    spread_ms: float | None = None
    reference_ms: Time | None = None
    predicted_ms: Predicted | None = None
    predicted_low_ms: Predicted | None = None
    predicted_high_ms: Predicted | None = None
    fingerprint: dict[str, Any]

    @property
    def backend(self) -> str:
        return str(self.fingerprint.get("backend"))

    @property
    def options(self) -> dict[str, Any]:
        """What a device has to share with it so that a whole input takes as long."""
        numbers = {name: self.fingerprint.get(name) for name in ("threads", "batch")}
        options: dict[str, Any] = {name: number for name, number in numbers.items() if type(number) is int}
        return options if self.workload is None or self.is_step else options | {"workload": self.workload}

    @property
    def workload(self) -> Mapping[str, Any] | None:
        """The texts that a language model was run on. Raises UsageError for what is no workload."""
        workload = self.fingerprint.get("workload")
        if workload is not None:
            tokens_of(workload)
        return workload

    @property
    def is_step(self) -> bool:
        """Whether it is that of a step of decoding."""
        return self.workload is not None and tokens_of(self.workload)[1]


class _Arguments(_Section):
    """Of the network's class; those of a vision transformer have no vocabulary."""

    vocabulary: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None


class Described(_Section):
    """The section of ours in config.json.

    input_shape: of one image (channels, height, width), or the tokens of a text.
    """

    format: str
    precision: str
    input_shape: Annotated[list[Side], Field(min_length=1, max_length=3)]
    measured: list[OnFront] = []
    arguments: _Arguments


def of_format(folder: Path, format: str) -> Path:
    """The folder with the file in that format: itself, or the one of this name in it.

    Raises NotFoundError for one that is not there.
    """
    inner = folder / format
    if not folder.is_dir() or (not (folder / CONFIG).exists() and not inner.is_dir()):
        raise NotFoundError(
            f"There is no network in the format '{format}' in '{folder}'.",
            f"`nas extract JOB --knee --format {format} -o DIR` writes one.",
        )
    return folder if (folder / CONFIG).exists() else inner


def described(folder: Path) -> Described:
    """What it says of itself, after all its files were compared with their hashes.

    Raises UsageError for a damaged one, and for one that says too little.
    """
    check_whole(folder)
    try:
        return Described.model_validate(read_config(folder)["elastiform"])
    except (OSError, KeyError, ValidationError) as error:
        raise UsageError(
            f"The {CONFIG} in '{folder}' does not say what its file takes.",
            "It is no folder of one subnet, or one that an older version extracted: extract it again.",
        ) from error
