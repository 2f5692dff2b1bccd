"""What a front tells of a subnet: each column once, with where it stands and what it is called there.

`nas front` (table, CSV, JSON) and the dashboard (table, hover texts, panel of a subnet) take their columns
from here. A view says only how a kind of value looks in it.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, NamedTuple

from nas.limits import ACCURACY, BALANCED, QUALITIES, is_share, kind_of
from nas.results.frames import DRAFT, INHERITED, ON_DEVICE, RETRAINED, SPECIALISED

# The fields of a `Member` by name; a row of `frames.finalists` has some of them, NaN for what is missing.
Row = Mapping[str, Any]
Interval = tuple[float, float]
ALWAYS = (ACCURACY, BALANCED)  # what CSV has a column for in any case
TOKENS = "tokens_per_s"
DEVIATIONS = 2.0  # paired standard errors beyond which two qualities differ
CLEAR = "!"  # behind a difference that is clear
SEEN = 5e-4  # the smallest difference of which one digit is shown
OTHERS = tuple(name for name in QUALITIES if name not in ALWAYS)


class View(StrEnum):
    """Where columns are shown."""

    TABLE = "table"  # of `nas front` and `nas run`
    CSV = "csv"  # and `ParetoFront.to_pandas`; has every column of its own in any case
    JSON = "json"
    PAGE = "page"  # the table on a job's page
    HOVER = "hover"  # the text of a finalist in the figure of the front
    PANEL = "panel"  # beside the figure, of the subnet that was chosen


class Kind(Enum):
    """How a value is formatted."""

    TEXT = "text"
    SUBNET = "subnet"  # its key
    DEVICE = "device"  # its name
    ARCHITECTURE = "architecture"
    COUNT = "count"
    BYTES = "bytes"
    NUMBER = "number"  # with its unit
    QUALITY = "quality"  # with its standard error
    SHARE = "share"  # between 0 and 1, with its standard error
    DIFFERENCE = "difference"  # of qualities, with its standard error
    LATENCY = "latency"  # with its spread
    PREDICTION = "prediction"  # of a latency; `error` is half of its interval
    INTERVAL = "interval"  # of a latency

    @property
    def is_number(self) -> bool:
        """Whether it stands to the right of its column."""
        return self not in (Kind.TEXT, Kind.SUBNET, Kind.DEVICE, Kind.ARCHITECTURE)


class At(NamedTuple):
    """Where a column stands in a view, from the left (HOVER: the tens are the line), and its name there.

    name: by default the key in TABLE, CSV and JSON, and else the title; in JSON a path, in HOVER a phrase
    with {value}. May name {metric}, that of the quality, and in TABLE {choice}, the only one of the space.
    """

    place: int
    name: str = ""


def at(**views: int | tuple[int, str]) -> dict[View, At]:
    """Places by the names of views; where it has a name of its own there, with that."""
    return {View(view): At(place) if isinstance(place, int) else At(*place) for view, place in views.items()}


@dataclass(frozen=True)
class Column:
    """One thing that is told of a subnet.

    key: its name in code.  title: in words.  read: off a row, by default the field of this key.
    error: how uncertain it is, in the same unit.  only_if: of a row that has it; CSV has the column always,
    a table if any row has it, a document and a panel if that row has it.  on_demand: the views that have it
    only if they are asked for it.
    """

    key: str
    title: str
    kind: Kind
    views: Mapping[View, At]
    unit: str = ""
    read: Callable[[Row], Any] | None = None
    error: Callable[[Row], float | None] | None = None
    only_if: Callable[[Row], bool] | None = None
    on_demand: Collection[View] = ()

    def value(self, row: Row) -> Any:
        """What the row tells; None where that is missing."""
        value = row.get(self.key) if self.read is None else self.read(row)
        return value if is_known(value) else None

    def uncertainty(self, row: Row) -> float | None:
        """How uncertain that is; None where nobody knows."""
        error = None if self.error is None else self.error(row)
        return error if is_known(error) else None

    def called(self, view: View, *, metric: str = "", choice: str = "", value: str = "") -> str:
        """Its name in a view."""
        by_key = view in (View.TABLE, View.CSV, View.JSON)
        name = self.views[view].name or (self.key if by_key else self.title)
        return name.format(metric=metric, choice=choice, value=value)


def is_known(value: Any) -> bool:
    """Whether there is a value: frames have NaN for what is missing."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def interval(row: Row) -> Interval | None:
    """The ends of the predicted latency's 90 % interval, in ms."""
    low, high = row.get("predicted_low_ms"), row.get("predicted_high_ms")
    return (low, high) if low is not None and high is not None and is_known(low) and is_known(high) else None


def sign_of(metric: str) -> float:
    """What makes values of a quality ones of which the greater is better."""
    return kind_of(metric).sign


def asked_of_csv(rows: Sequence[Row]) -> list[str]:
    """The keys of columns that CSV has only if a row has them: of qualities, of tokens, of devices."""
    optional = [*OTHERS, *ON_DEVICE, *DRAFT, "precision"]
    others = [name for name in optional if any(is_known(row.get(name)) for row in rows)]
    return [*others, *([TOKENS] if any(tokens_per_s(row) is not None for row in rows) else [])]


def is_clear(difference: float | None, stderr: float | None) -> bool:
    """Whether a difference of qualities is more than two standard errors, and is seen in the digits shown."""
    if difference is None or not is_known(difference):
        return False
    return abs(difference) > max(DEVIATIONS * (stderr or 0.0), SEEN)


def difference_words(metric: str, difference: float, stderr: float | None) -> str:
    """A difference of qualities with its error, CLEAR behind one that is clear; of shares in points."""
    mark = f" {CLEAR}" if is_clear(difference, stderr) else ""
    if is_share(metric):
        error = "" if stderr is None else f" ± {100 * stderr:.1f}"
        return f"{100 * difference:+.1f}{error} points{mark}"
    return f"{difference:+.3f}" + ("" if stderr is None else f" ± {stderr:.3f}") + mark


def _differs(row: Row) -> bool:
    return is_clear(row.get("device_difference"), row.get("device_difference_stderr"))


def _computed_on_each(row: Row) -> list[dict[str, Any]]:
    """What the backend of each of several devices computes, with the device's name."""
    members = [one.row for one in row["on_devices"]]
    return [
        {"device": one["device"], **document(one)["computed"]}
        for one in members
        if is_known(one["device_quality"])
    ]


def tokens_per_s(row: Row) -> float | None:
    """That a language model reads or makes, by its latency as measured, or else as predicted."""
    times = [row.get(name) for name in ("measured_ms", "predicted_ms")]
    ms, tokens = next((time for time in times if is_known(time)), None), row.get("tokens_a_run")
    return round(1000.0 * tokens / ms, 1) if ms and tokens and is_known(tokens) else None


def columns_of(view: View, rows: Sequence[Row], *, chosen: Collection[str] = ()) -> list[Column]:
    """The columns of a view of these rows, from the left. chosen: keys of those on demand that are wanted."""
    shown = [
        column
        for column in COLUMNS
        if view in column.views
        and (view not in column.on_demand or column.key in chosen)
        and (view is View.CSV or column.only_if is None or any(map(column.only_if, rows)))
    ]
    return sorted(shown, key=lambda column: column.views[view].place)


def document(row: Row, *, chosen: Collection[str] = ()) -> dict[str, Any]:
    """The JSON of one subnet of `nas front --json`; chosen: as of `columns_of`."""
    whole: dict[str, Any] = {}
    for column in columns_of(View.JSON, [row], chosen=chosen):
        *outer, name = column.called(View.JSON).split(".")
        part = whole
        for key in outer:
            part = part.setdefault(key, {})
        part[name] = column.value(row)
    return whole


def unit(key: str) -> str:
    """That of the column with this key."""
    return next(column.unit for column in COLUMNS if column.key == key)


def _half_interval(row: Row) -> float | None:
    ends = interval(row)
    return None if ends is None else (ends[1] - ends[0]) / 2


def _field(key: str) -> Callable[[Row], Any]:
    return lambda row: row.get(key)


def _has(key: str) -> Callable[[Row], bool]:
    return lambda row: is_known(row.get(key))


def _retrained(weights: str, i: int) -> tuple[Column, Column]:
    """The quality of a subnet that was trained by itself; its standard error, which documents have apart."""
    words, stderr, path = RETRAINED[weights], f"{weights}_stderr", f"retrained.{weights}"
    value_at = at(
        table=(50 + i, words),
        csv=190 + 2 * i,
        json=(100 + 2 * i, f"{path}.value"),
        page=40 + i,
        panel=(20 + i, f"{{metric}}, {words}"),
    )
    error_at = at(csv=191 + 2 * i, json=(101 + 2 * i, f"{path}.stderr"))
    return (
        Column(weights, words, Kind.QUALITY, value_at, error=_field(stderr), only_if=_has(weights)),
        Column(stderr, f"{words}, standard error", Kind.NUMBER, error_at, only_if=_has(weights)),
    )


def _inherited() -> tuple[Column, Column]:
    """The quality of a subnet before its job trained it further; its standard error."""
    value_at = at(
        table=47,
        csv=221,
        json=(95, "inherited.value"),
        page=35,
        hover=(21, "{value} inherited"),
        panel=(15, "{metric}, inherited"),
    )
    stderr, error_at = f"{INHERITED}_stderr", at(csv=222, json=(96, "inherited.stderr"))
    return (
        Column(INHERITED, INHERITED, Kind.QUALITY, value_at, error=_field(stderr), only_if=_has(INHERITED)),
        Column(stderr, f"{INHERITED}, standard error", Kind.NUMBER, error_at, only_if=_has(INHERITED)),
    )


def _of_draft(key: str, title: str, kind: Kind, **views: int | tuple[int, str]) -> Column:
    """What is told of the best draft for a subnet, where `nas drafts` was asked."""
    error = _field(f"{key}_stderr") if kind is Kind.SHARE else None
    return Column(
        key, title, kind, at(**views), error=error, only_if=_has(key), on_demand=(View.CSV,)
    )  # where it is told


def _other_quality(name: str, i: int) -> Column:
    """A quality that is not the job's, where it is known."""
    return Column(
        f"other_{name}",
        name,
        Kind.QUALITY,
        at(json=(90 + i, f"quality.{name}")),
        read=_field(name),
        only_if=lambda row: row["metric"] != name and is_known(row.get(name)),
    )


COLUMNS: tuple[Column, ...] = (
    Column("job", "job", Kind.TEXT, at(table=10, csv=10, json=10), on_demand=(View.TABLE, View.JSON)),
    Column(
        "subnet", "subnet", Kind.SUBNET, at(table=20, csv=20, json=20, page=10, hover=(10, "<b>{value}</b>"))
    ),
    Column(
        "family",
        "family",
        Kind.TEXT,
        at(table=25, csv=230, json=25, page=15, hover=(15, "family {value}"), panel=5),
        only_if=_has("family"),
    ),
    Column(
        "architecture",
        "architecture",
        Kind.ARCHITECTURE,
        at(table=(100, "{choice}"), csv=30, json=30, page=100, hover=(50, "{value}")),
        on_demand=(View.TABLE,),  # where it is one choice
    ),
    Column(
        "params",
        "parameters",
        Kind.COUNT,
        at(table=30, csv=40, json=40, page=80, hover=(40, "{value} parameters"), panel=80),
    ),
    Column(
        "macs",
        "MACs",
        Kind.COUNT,
        at(table=40, csv=50, json=50, page=90, hover=(41, "{value} MACs"), panel=90),
    ),
    Column("metric", "metric", Kind.TEXT, at(csv=60, json=(60, "quality.metric"))),
    Column(
        "quality",
        "{metric}, report split",
        Kind.QUALITY,
        at(
            table=(45, "{metric}"),
            csv=70,
            json=(70, "quality.value"),
            page=30,
            hover=(20, "{metric} {value} on the report split"),
            panel=10,
        ),
        error=_field("stderr"),
    ),
    Column("stderr", "standard error", Kind.NUMBER, at(csv=80, json=(80, "quality.stderr"))),
    Column(
        "weights",
        "weights",
        Kind.TEXT,
        at(csv=220, json=(85, "quality.weights"), panel=12),
        only_if=lambda row: row.get("weights") == SPECIALISED,
    ),
    *_inherited(),
    *(_other_quality(name, i) for i, name in enumerate(QUALITIES)),
    Column(
        "device_quality",
        "{metric} as the device computes it",
        Kind.QUALITY,
        at(
            table=(48, "{metric} on device"),
            csv=250,
            json=(97, "computed.value"),
            page=36,
            hover=(22, "{value} as the device computes it"),
            panel=16,
        ),
        error=_field("device_stderr"),
        only_if=_has("device_quality"),
        on_demand=(View.CSV,),  # where it is told
    ),
    Column(
        "device_stderr",
        "its standard error",
        Kind.NUMBER,
        at(csv=251, json=(98, "computed.stderr")),
        only_if=_has("device_quality"),
        on_demand=(View.CSV,),
    ),
    Column(
        "device_examples",
        "on how many examples",
        Kind.COUNT,
        at(csv=252, json=(99, "computed.examples")),
        only_if=_has("device_quality"),
        on_demand=(View.CSV,),
    ),
    Column(
        "device_difference",
        "the device's less the supernet's",
        Kind.DIFFERENCE,
        at(
            table=(49, "difference"),
            csv=253,
            json=(105, "computed.difference"),
            page=37,
            hover=(23, "{value} from the supernet's"),
            panel=17,
        ),
        error=_field("device_difference_stderr"),
        only_if=_has("device_difference"),
        on_demand=(View.CSV,),
    ),
    Column(
        "device_difference_stderr",
        "standard error of the paired differences",
        Kind.NUMBER,
        at(csv=254, json=(106, "computed.difference_stderr")),
        only_if=_has("device_difference"),
        on_demand=(View.CSV,),
    ),
    Column(
        "device_differs",
        "whether they differ by more than two standard errors",
        Kind.TEXT,
        at(json=(107, "computed.differs")),
        read=_differs,
        only_if=_has("device_difference"),
    ),
    Column(
        "computed_on_devices",
        "as each device computes it",
        Kind.TEXT,
        at(json=(161, "computed_on")),
        read=_computed_on_each,
        only_if=lambda row: any(is_known(one.device_quality) for one in row.get("on_devices") or ()),
    ),
    Column(
        "search_quality",
        "{metric}, search split",
        Kind.QUALITY,
        at(csv=90, panel=30),
        error=_field("search_stderr"),
    ),
    *(column for i, weights in enumerate(RETRAINED) for column in _retrained(weights, i)),
    Column(
        "device",
        "device",
        Kind.DEVICE,
        at(csv=100, json=(110, "latency.device"), page=20, panel=100),
        on_demand=(View.PAGE,),  # where there are several
    ),
    Column(
        "precision",
        "precision",
        Kind.TEXT,
        at(table=58, csv=255, json=(115, "latency.precision")),
        only_if=_has("precision"),
        on_demand=(View.CSV,),  # where it is chosen
    ),
    Column(
        "predicted_ms",
        "latency, predicted",
        Kind.PREDICTION,
        at(
            table=60,
            csv=110,
            json=(120, "latency.predicted_ms"),
            page=70,
            hover=(31, "{value} predicted"),
            panel=50,
        ),
        unit="ms",
        error=_half_interval,
    ),
    Column(
        "measured_ms",
        "latency, measured",
        Kind.LATENCY,
        at(
            table=70,
            csv=120,
            json=(130, "latency.measured_ms"),
            page=60,
            hover=(30, "{value} measured"),
            panel=40,
        ),
        unit="ms",
        error=_field("spread_ms"),
    ),
    Column("spread_ms", "its spread", Kind.NUMBER, at(csv=130, json=(140, "latency.spread_ms")), unit="ms"),
    Column(
        "interval_ms",
        "90 % interval of it",
        Kind.INTERVAL,
        at(json=(150, "latency.interval_ms"), panel=60),
        read=interval,
    ),
    Column(
        TOKENS,
        "tokens a second",
        Kind.COUNT,
        at(
            table=(75, "tokens/s"),
            csv=235,
            json=(155, "latency.tokens_per_s"),
            page=75,
            hover=(32, "{value} tokens a second"),
            panel=65,
        ),
        read=tokens_per_s,
        only_if=lambda row: tokens_per_s(row) is not None,
        on_demand=(View.CSV,),  # where they are told
    ),
    Column(
        "on_devices",
        "on each device",
        Kind.TEXT,
        at(json=(160, "latencies")),
        read=lambda row: [document(one.row)["latency"] for one in row["on_devices"]],
        only_if=lambda row: bool(row["on_devices"]),
    ),
    _of_draft("draft", "best draft", Kind.SUBNET, table=76, csv=260, json=(165, "draft.subnet"), panel=66),
    _of_draft(
        "draft_acceptance",
        "draft acceptance",
        Kind.SHARE,
        table=77,
        csv=261,
        json=(166, "draft.acceptance"),
        page=76,
        panel=67,
    ),
    _of_draft(
        "draft_acceptance_stderr",
        "its standard error",
        Kind.NUMBER,
        csv=262,
        json=(167, "draft.acceptance_stderr"),
    ),
    _of_draft("draft_ahead", "tokens at a time", Kind.COUNT, csv=263, json=(168, "draft.ahead")),
    _of_draft(
        "draft_tokens_a_call",
        "tokens a call with the draft",
        Kind.NUMBER,
        table=(78, "tokens a call"),
        csv=264,
        json=(169, "draft.tokens_a_call"),
        panel=68,
    ),
    _of_draft("draft_speed_up", "expected speed-up", Kind.NUMBER, csv=265, json=(170, "draft.speed_up")),
    Column("memory_bytes", "memory", Kind.BYTES, at(table=80, csv=140), on_demand=(View.TABLE,)),
    Column("predicted_low_ms", "from", Kind.NUMBER, at(csv=150), unit="ms"),
    Column("predicted_high_ms", "to", Kind.NUMBER, at(csv=160), unit="ms"),
    Column(
        "peak_memory_bytes",
        "peak memory, measured",
        Kind.BYTES,
        at(table=90, csv=170, json=171, panel=70),
        on_demand=(View.TABLE,),  # where a job optimises it
    ),
    Column("energy_mj", "energy, measured", Kind.NUMBER, at(csv=180, json=180, panel=75), unit="mJ"),
    *(Column(name, name, Kind.QUALITY, at(csv=200 + i)) for i, name in enumerate(ALWAYS)),
    *(
        Column(name, name, Kind.QUALITY, at(csv=240 + i), on_demand=(View.CSV,))  # where they are told
        for i, name in enumerate(OTHERS)
    ),
    Column(
        "beaten_by",
        "beaten by",
        Kind.SUBNET,
        at(csv=210, json=190),
        only_if=lambda row: bool(row.get("beaten_by")),
    ),
)
