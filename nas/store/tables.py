"""The tables of the store; `migrations/` builds the same ones step by step (a test compares the two)."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.engine import Dialect

from nas.errors import StoreError
from nas.store import forms
from nas.store.values import plain, storable_text

LONGEST_SHOWN = 200  # characters of what cannot be read

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UTCDateTime(sa.TypeDecorator[datetime]):
    """A moment: goes in and comes out in UTC, also where the database keeps no time zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """As the base class; what SQLite keeps and is no moment raises StoreError."""
        read = super().result_processor(dialect, coltype)
        assert read is not None, "there is a process_result_value"

        def checked(value: Any) -> Any:
            try:
                return read(value)
            except (ValueError, TypeError, OverflowError) as error:
                raise damaged("a moment", "it is none") from error

        return checked


def damaged(what: str, reason: str) -> StoreError:
    """The error of a row that somebody else has written."""
    return StoreError(
        f"The store is damaged: {what} of a row cannot be read, {reason}.", "`nas doctor` checks the store."
    )


class PlainJSON(sa.TypeDecorator[object]):
    """JSON without NaN and infinities: a section of named values, unless `kinds` say otherwise.

    What comes out is of these kinds, and of this form below the first level: a row that somebody else has
    written raises StoreError.
    """

    impl = sa.JSON(none_as_null=True)
    cache_ok = True

    def __init__(
        self, what: str, kinds: tuple[type, ...] = (dict,), *, form: type[BaseModel] | None = None
    ) -> None:
        super().__init__()
        self.what, self.kinds, self.form = what, kinds, form

    def process_bind_param(self, value: object, dialect: Dialect) -> object:
        return plain(value)

    def process_result_value(self, value: object, dialect: Dialect) -> object:
        if not isinstance(value, self.kinds):
            raise damaged(self.what, f"it is {'null' if value is None else f'a {type(value).__name__}'}")
        wrong = None if self.form is None or value is None else forms.fault(self.form, value)
        if wrong is not None:
            raise damaged(self.what, wrong)
        return value

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """As the base class; what is no JSON at all, or is nested without end, is a damaged row, too."""
        read = super().result_processor(dialect, coltype)
        assert read is not None, "there is a process_result_value"

        def checked(value: Any) -> Any:
            try:
                return read(value)
            except (ValueError, TypeError, RecursionError) as error:
                raise damaged(self.what, f"it is no JSON ({type(error).__name__})") from error

        return checked


OPTIONAL = (dict, type(None))


class ToldJSON(PlainJSON):
    """JSON that agents may have written: what cannot be read comes out as the beginning of its text."""

    cache_ok = True

    def process_result_value(self, value: object, dialect: Dialect) -> object:
        return value

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        read = sa.TypeDecorator.result_processor(self, dialect, coltype)
        return None if read is None else partial(self._read, read)

    def _read(self, read: Callable[[Any], Any], value: Any) -> Any:
        try:
            return read(value)
        except (ValueError, TypeError, RecursionError):
            return storable_text(str(value)[:LONGEST_SHOWN])


class ToldObject(ToldJSON):
    """The same of a JSON object; what is none comes out as an empty one, or as None where that may be."""

    cache_ok = True

    def _read(self, read: Callable[[Any], Any], value: Any) -> Any:
        loaded = super()._read(read, value)
        return loaded if isinstance(loaded, dict) else None if type(None) in self.kinds else {}


class Checked(sa.TypeDecorator[Any]):
    """A column whose type SQLite does not enforce: a value of another type raises StoreError."""

    cache_ok = True
    python_types: tuple[type, ...] = (str,)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """As the base class; only SQLite keeps values of other types, and is asked."""
        if dialect.name != "sqlite":
            return super().result_processor(dialect, coltype)
        allowed = frozenset((*self.python_types, type(None)))

        def checked(value: Any) -> Any:
            if type(value) not in allowed:
                raise damaged("a column", f"a {type(value).__name__} stands where it cannot be")
            return value

        return checked


class Text(Checked):
    """Text."""

    impl = sa.Text
    cache_ok = True


class Word(Checked):
    """Short text, of at most so many characters where the database counts them."""

    impl = sa.String
    cache_ok = True


class Whole(Checked):
    """A whole number."""

    impl = sa.Integer
    cache_ok = True
    python_types = (int,)


class BigWhole(Whole):
    """A whole number of 64 bits."""

    impl = sa.BigInteger
    cache_ok = True


class Real(Checked):
    """A number."""

    impl = sa.Double
    cache_ok = True
    python_types = (float, int)


class AnyText(Text):
    """Text from outside (messages of exceptions), made storable."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable_text(value)


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, primary_key=True)


def _of(table: str, *, indexed: bool = False, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(f"{table}_id", sa.ForeignKey(f"{table}s.id"), nullable=nullable, index=indexed)


def _reused() -> sa.Column[bool]:
    """Whether another job had paid for it."""
    return sa.Column("reused", sa.Boolean, nullable=False, server_default=sa.false())


def _created() -> sa.Column[datetime]:
    return sa.Column("created_at", UTCDateTime, nullable=False)


# One row: which store this is, wherever its database lies.
store = sa.Table(
    "store",
    metadata,
    _id(),
    sa.Column("uuid", Word(32), nullable=False),
    _created(),
)

jobs = sa.Table(
    "jobs",
    metadata,
    _id(),
    sa.Column("name", Text, nullable=False, unique=True),
    sa.Column("state", Word(16), nullable=False),
    sa.Column("config", PlainJSON("config in jobs", form=forms.Config), nullable=False),
    sa.Column("provenance", PlainJSON("provenance in jobs"), nullable=False),
    sa.Column("seed", BigWhole, nullable=False),
    _created(),
    sa.Column("started_at", UTCDateTime),
    sa.Column("finished_at", UTCDateTime),
    sa.Column("error", AnyText),
    sa.Column("stop_requested", sa.Boolean, nullable=False),
    sa.Column("owner", Text),
    sa.Column("lease_until", Real),
    sa.Column("attempt", Whole, nullable=False),
    sa.Column("goal", Word(16), nullable=False, server_default=sa.text("'front'")),
    # What the queue goes by. A job that was never submitted is no worker's.
    sa.Column("submitted_at", UTCDateTime),
    sa.Column("priority", Whole, nullable=False, server_default=sa.text("0")),
    sa.Column("needs", Text),
    sa.Column("after_id", Whole),
    sa.Column("last_attempt", Whole, nullable=False, server_default=sa.text("3")),
    sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("sweep", Text),
    sa.Column("key", Text, unique=True, index=True),
    sa.Column("refusal", AnyText),
    # What people say about a job; nothing goes by it.
    sa.Column("note", Text),
    sa.Column("tags", PlainJSON("tags in jobs", (list, type(None)), form=forms.Tags)),
)

# For display only: who holds a job says the lease on its row, and nobody asks this table.
workers = sa.Table(
    "workers",
    metadata,
    _id(),
    sa.Column("owner", Text, nullable=False, unique=True),
    sa.Column("offers", PlainJSON("offers in workers", (list,)), nullable=False),
    sa.Column("gpus", PlainJSON("gpus in workers", (list,)), nullable=False),
    sa.Column("slots", Whole, nullable=False),
    sa.Column("started_at", UTCDateTime, nullable=False),
    sa.Column("lease_until", Real, nullable=False),
)

# What the processes of submitted jobs say, the last lines of each job.
log_lines = sa.Table(
    "log_lines",
    metadata,
    _id(),
    _of("job", indexed=True),
    sa.Column("attempt", Whole, nullable=False),
    sa.Column("text", AnyText, nullable=False),
    _created(),
)

# Shared weights, by what they depend on. Without a key they are found by name only.
supernets = sa.Table(
    "supernets",
    metadata,
    _id(),
    sa.Column("name", Text, nullable=False, unique=True),
    sa.Column("key", Word(64), unique=True),
    sa.Column("state", Word(16), nullable=False),
    sa.Column("space", PlainJSON("space in supernets"), nullable=False),
    sa.Column("data", PlainJSON("data in supernets"), nullable=False),
    sa.Column("settings", PlainJSON("settings in supernets"), nullable=False),
    sa.Column("steps", Whole, nullable=False),
    sa.Column("seconds", Real, nullable=False),
    sa.Column("cpu_seconds", Real, nullable=False),
    sa.Column("curve", PlainJSON("curve in supernets", (list,)), nullable=False),
    sa.Column("trainer", Text),
    _created(),
    sa.Column("finished_at", UTCDateTime),
    sa.Column("owner", Text),
    sa.Column("lease_until", Real),
)

# Which jobs use which supernets, whether the job found it trained, and what one with several calls it.
job_supernets = sa.Table(
    "job_supernets",
    metadata,
    _id(),
    _of("job"),
    _of("supernet", indexed=True),
    _reused(),
    sa.Column("name", Text),
    sa.UniqueConstraint("job_id", "supernet_id"),
)

stages = sa.Table(
    "stages",
    metadata,
    _id(),
    _of("job"),
    sa.Column("name", Text, nullable=False),
    sa.Column("key", Text, nullable=False),
    sa.Column("state", Word(16), nullable=False),
    sa.Column("started_at", UTCDateTime, nullable=False),
    sa.Column("finished_at", UTCDateTime),
    sa.Column("result", PlainJSON("result in stages", OPTIONAL, form=forms.Result)),
    sa.UniqueConstraint("job_id", "name"),
)

subnets = sa.Table(
    "subnets",
    metadata,
    _id(),
    _of("job"),
    sa.Column("key", Text, nullable=False, index=True),
    sa.Column("architecture", PlainJSON("architecture in subnets"), nullable=False),
    sa.Column("params", BigWhole, nullable=False),
    sa.Column("macs", BigWhole, nullable=False),
    # Of a job with several supernets the key in the space of its own, under which other jobs know it.
    sa.Column("own_key", Text, index=True),
    sa.UniqueConstraint("job_id", "key"),
)

evaluations = sa.Table(
    "evaluations",
    metadata,
    _id(),
    _of("subnet"),
    _of("job"),
    sa.Column("split", Word(32), nullable=False),
    sa.Column("weights", Word(32), nullable=False),
    sa.Column("metric", Word(64), nullable=False),
    sa.Column("state", Word(16), nullable=False),
    sa.Column("value", Real),
    sa.Column("stderr", Real),
    sa.Column("count", Whole),
    sa.Column("reason", AnyText),
    sa.Column("batch", Whole),
    sa.Column("position", Whole),
    sa.Column("objectives", PlainJSON("objectives in evaluations", form=forms.Numbers), nullable=False),
    _created(),
    _reused(),
    sa.UniqueConstraint("subnet_id", "split", "weights", "metric"),
    sa.Index("ix_evaluations_job_id_split_weights", "job_id", "split", "weights"),
)

# What a subnet scores on examples, in the order of the split: right or wrong, eight to a byte, or losses,
# four bytes each. Equal supernet, subnet, data, split, weights and precision: equal scores, of however many
# of the first examples.
hits = sa.Table(
    "hits",
    metadata,
    _id(),
    _of("subnet"),
    _of("job", indexed=True),
    sa.Column("split", Word(32), nullable=False),
    sa.Column("weights", Word(32), nullable=False),
    sa.Column("count", Whole, nullable=False),
    sa.Column("bits", sa.LargeBinary, nullable=False),
    _of("supernet", nullable=True),
    sa.Column("data", Word(64)),
    sa.Column("precision", Word(32)),
    sa.UniqueConstraint("subnet_id", "split", "weights"),
)

devices = sa.Table(
    "devices",
    metadata,
    _id(),
    sa.Column("name", Text, nullable=False),
    sa.Column("digest", Word(64), nullable=False, unique=True),
    sa.Column("fingerprint", ToldObject("fingerprint in devices"), nullable=False),
    _created(),
    sa.Column("options", ToldObject("options in devices", OPTIONAL)),
    sa.Column("reference_ms", Real),
)

agents = sa.Table(
    "agents",
    metadata,
    _id(),
    sa.Column("name", Text, nullable=False, unique=True),
    _of("device"),
    sa.Column("owner", Text),
    sa.Column("lease_until", Real),
)

requests = sa.Table(
    "requests",
    metadata,
    _id(),
    _of("job", indexed=True),
    sa.Column("agent", Text, nullable=False, index=True),
    sa.Column("state", Word(16), nullable=False),
    sa.Column("payload", ToldJSON("payload in requests"), nullable=False),
    sa.Column("result", ToldJSON("result in requests", OPTIONAL)),
    sa.Column("error", AnyText),
    sa.Column("owner", Text),
    sa.Column("lease_until", Real),
    sa.Column("attempt", Whole, nullable=False),
    _created(),
    sa.Column("finished_at", UTCDateTime),
)

measurements = sa.Table(
    "measurements",
    metadata,
    _id(),
    _of("job", indexed=True),
    _of("subnet"),
    _of("device"),
    sa.Column("purpose", Word(32), nullable=False),
    sa.Column("latency_ms", Real),
    sa.Column("spread_ms", Real),
    sa.Column("reference_ms", Real),
    sa.Column("rounds", Whole, nullable=False),
    sa.Column("raw", PlainJSON("raw in measurements", (dict, list)), nullable=False),
    _created(),
    sa.Column("state", Word(16), nullable=False),
    sa.Column("reason", AnyText),
    sa.Column("stderr_ms", Real),
    sa.Column("contention", Real),
    sa.Column("memory_bytes", BigWhole),
    sa.Column("energy_mj", Real),
    sa.Column("network", Word(64)),  # the plain module's class and arguments, hashed
    _reused(),
    sa.UniqueConstraint("subnet_id", "device_id", "purpose"),
    sa.Index("ix_measurements_network", "network", "device_id"),
)

# Qualities of subnets as the backend of a device computes them. Equal basis (weights, subnet, data and which
# examples of them, hashed) and device: equal scores, whichever job has paid for them.
device_qualities = sa.Table(
    "device_qualities",
    metadata,
    _id(),
    _of("job", indexed=True),
    _of("subnet"),
    _of("device"),
    sa.Column("split", Word(32), nullable=False),
    sa.Column("weights", Word(32), nullable=False),
    sa.Column("metric", Word(64), nullable=False),
    sa.Column("basis", Word(64), nullable=False),
    sa.Column("state", Word(16), nullable=False),
    sa.Column("value", Real),
    sa.Column("stderr", Real),
    sa.Column("count", Whole),
    # The value less that of the supernet on the same examples, and the standard error of paired differences.
    sa.Column("difference", Real),
    sa.Column("difference_stderr", Real),
    sa.Column("reason", AnyText),
    sa.Column("objectives", PlainJSON("objectives in device_qualities", form=forms.Numbers), nullable=False),
    sa.Column("scores", sa.LargeBinary),
    _created(),
    _reused(),
    sa.UniqueConstraint("subnet_id", "device_id", "split", "weights"),
    sa.Index("ix_device_qualities_basis", "basis", "device_id"),
)

predictors = sa.Table(
    "predictors",
    metadata,
    _id(),
    _of("job"),
    _of("device"),
    sa.Column("metric", Word(64), nullable=False),
    sa.Column("kind", Word(64), nullable=False),
    sa.Column("state", PlainJSON("state in predictors"), nullable=False),
    sa.Column("score", PlainJSON("score in predictors", form=forms.Score), nullable=False),
    _created(),
    sa.UniqueConstraint("job_id", "device_id", "metric"),
)

artifacts = sa.Table(
    "artifacts",
    metadata,
    _id(),
    _of("job", nullable=True),
    sa.Column("kind", Word(64), nullable=False),
    sa.Column("path", Text, nullable=False),
    sa.Column("sha256", Word(64), nullable=False),
    sa.Column("size", BigWhole, nullable=False),
    sa.Column("step", Whole),
    _created(),
    _of("supernet", indexed=True, nullable=True),
    sa.UniqueConstraint("job_id", "path"),
)

events = sa.Table(
    "events",
    metadata,
    _id(),
    _of("job"),
    sa.Column("stage", Text, nullable=False),
    sa.Column("kind", Word(64), nullable=False),
    sa.Column("step", Whole),
    sa.Column("data", PlainJSON("data in events", form=forms.Happened), nullable=False),
    _created(),
    # A resumed stage repeats the steps since its last checkpoint; their rows must not appear twice.
    sa.UniqueConstraint("job_id", "kind", "stage", "step"),
)
