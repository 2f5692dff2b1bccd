"""What JSON of the store is below its first level, as far as readers rely on it; the rest may be anything.

What is not there is not checked: readers say themselves what they cannot do without.
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

Count = Annotated[int, Field(ge=0)]
Place = Annotated[int, Field(ge=0, lt=2**63)]  # the id of a row
Interval = tuple[float | None, float | None, float | None]
Object = dict[str, Any]


class _Form(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Member(_Form):
    name: str
    family: str
    options: Object


class _Space(_Form):
    family: str = ""
    options: Object = {}
    members: list[_Member] = []


class _Data(_Form):
    name: str = ""
    digest: str | Object = ""
    preprocessing: Object | None = None


class _Baseline(_Form):
    """Of classes; or of text, which has no classes, and then `bits_per_byte`."""

    classes: Annotated[int, Field(ge=1)] | None = None
    examples: Count | None = None
    majority: float | None = None
    bits_per_byte: float | None = None

    @model_validator(mode="after")
    def _of_one_task(self) -> Self:
        if (self.classes is None) == (self.bits_per_byte is None):
            raise ValueError("it has to have either classes or bits_per_byte")
        return self


class _Agreement(_Form):
    model_config = ConfigDict(extra="forbid", strict=True)
    tau: float
    low: float | None
    high: float | None
    count: Count


class _Ranked(_Form):
    ranking: _Agreement | None
    predictor: _Agreement | None


class _Draft(_Form):
    """The best draft of a subnet."""

    draft: str = ""
    ahead: Count = 0
    acceptance: float = 0.0
    acceptance_stderr: float = 0.0
    tokens_a_call: float = 0.0
    speed_up: float = 0.0


class Result(_Form):
    """What a stage found."""

    space: _Space = _Space()
    data: _Data | None = None
    baseline: _Baseline | None = None
    ended: str | None = None
    reproducibility: _Ranked | Annotated[Object, Field(max_length=0)] | None = None
    predicted_ms: dict[str, Annotated[Interval, Field(strict=False)]] = {}
    device_id: Place = 0
    artifact: Place = 0
    artifacts: dict[str, Place] = {}
    how: str = ""
    chosen: list[str] = []
    refused: dict[str, str] = {}
    generator: Place = 0
    subnet: str = ""
    weights: str = ""
    best: _Draft = _Draft()


class _Repeated(_Form):
    mape: float | None = None
    tau: float | None = None
    sigma: float | None = None


class _Point(_Form):
    subnet: str
    measured_ms: float
    predicted_ms: float
    low_ms: float | None = None
    high_ms: float | None = None


class _Term(_Form):
    term: str
    value: float
    unit: str
    share: float


class Score(_Form):
    """How good a predictor is."""

    count: Count = 0
    mape: float = 0.0
    perfect_mape: float = 0.0
    within_10: float = 0.0
    within_5: float = 0.0
    tau: float = 0.0
    half_width: float = 0.0
    why: str = ""
    repeatability: _Repeated | None = None
    held_out: list[_Point] = []
    card: list[_Term] = []
    by_kind: dict[str, dict[str, float]] = {}


class Happened(_Form):
    """What an event tells."""

    message: str = ""
    hypervolume: float | None = None
    evaluations: Count = 0
    round: Count = 0
    best: float | None = None
    feasible_rate: float | None = None
    loss: float | None = None
    lr: float | None = None
    subnet: str = ""
    reactions: dict[str, dict[str, float | None]] = {}


class Config(_Form):
    """The sections of a job file that views look into without building a job of it."""

    data: Object = {}
    supernet: Object = {}
    supernets: list[Object] | None = None
    search: Object = {}
    devices: dict[str, Object] | None = {}
    quality: str = ""


class Numbers(_Form):
    """Named numbers, each of which may be unknown."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, float | None]


class Tags(RootModel[list[str]]):
    """What people have marked a job with."""

    model_config = ConfigDict(strict=True)


def fault(form: type[BaseModel], value: object) -> str | None:
    """What is wrong with a value, in words that follow its name; None where nothing is."""
    try:
        form.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:60] for part in first["loc"])
        return f"'{where}' is wrong: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return None
