"""The tables of the store; `migrations/` builds the same ones step by step (a test compares the two)."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from nas.store._values import plain, storable_text
from search_spaces._errors import StoreError

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


class PlainJSON(sa.TypeDecorator[object]):
    """JSON without NaN and infinities: a section of named values, unless `kinds` say otherwise.

    What comes out is of these kinds: a row that somebody else has written raises StoreError.
    """

    impl = sa.JSON(none_as_null=True)
    cache_ok = True

    def __init__(self, what: str, kinds: tuple[type, ...] = (dict,)) -> None:
        super().__init__()
        self.what, self.kinds = what, kinds

    def process_bind_param(self, value: object, dialect: Dialect) -> object:
        return plain(value)

    def process_result_value(self, value: object, dialect: Dialect) -> object:
        if not isinstance(value, self.kinds):
            raise self._damaged(f"it is {'null' if value is None else f'a {type(value).__name__}'}")
        return value

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """As the base class; what is no JSON at all, or is nested without end, is a damaged row, too."""
        read = super().result_processor(dialect, coltype)
        assert read is not None, "there is a process_result_value"

        def checked(value: Any) -> Any:
            try:
                return read(value)
            except (ValueError, TypeError, RecursionError) as error:
                raise self._damaged(f"it is no JSON ({type(error).__name__})") from error

        return checked

    def _damaged(self, reason: str) -> StoreError:
        return StoreError(
            f"The store is damaged: {self.what} of a row cannot be read, {reason}.",
            "`nas doctor` checks the store.",
        )


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
        found = super()._read(read, value)
        return found if isinstance(found, dict) else None if type(None) in self.kinds else {}


class AnyText(sa.TypeDecorator[str]):
    """Text from outside (messages of exceptions), made storable."""

    impl = sa.Text()
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable_text(value)


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, primary_key=True)


def _of(table: str, *, indexed: bool = False) -> sa.Column[int]:
    return sa.Column(f"{table}_id", sa.ForeignKey(f"{table}s.id"), nullable=False, index=indexed)


def _created() -> sa.Column[datetime]:
    return sa.Column("created_at", UTCDateTime, nullable=False)


# One row: which store this is, wherever its database lies.
store = sa.Table(
    "store",
    metadata,
    _id(),
    sa.Column("uuid", sa.String(32), nullable=False),
    _created(),
)

jobs = sa.Table(
    "jobs",
    metadata,
    _id(),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("config", PlainJSON("config in jobs"), nullable=False),
    sa.Column("provenance", PlainJSON("provenance in jobs"), nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    _created(),
    sa.Column("started_at", UTCDateTime),
    sa.Column("finished_at", UTCDateTime),
    sa.Column("error", AnyText),
    sa.Column("stop_requested", sa.Boolean, nullable=False),
    sa.Column("owner", sa.Text),
    sa.Column("lease_until", sa.Double),
    sa.Column("attempt", sa.Integer, nullable=False),
)

stages = sa.Table(
    "stages",
    metadata,
    _id(),
    _of("job"),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("started_at", UTCDateTime, nullable=False),
    sa.Column("finished_at", UTCDateTime),
    sa.Column("result", PlainJSON("result in stages", OPTIONAL)),
    sa.UniqueConstraint("job_id", "name"),
)

subnets = sa.Table(
    "subnets",
    metadata,
    _id(),
    _of("job"),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("architecture", PlainJSON("architecture in subnets"), nullable=False),
    sa.Column("params", sa.BigInteger, nullable=False),
    sa.Column("macs", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("job_id", "key"),
)

evaluations = sa.Table(
    "evaluations",
    metadata,
    _id(),
    _of("subnet"),
    _of("job", indexed=True),
    sa.Column("split", sa.String(32), nullable=False),
    sa.Column("weights", sa.String(32), nullable=False),
    sa.Column("metric", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("value", sa.Double),
    sa.Column("stderr", sa.Double),
    sa.Column("count", sa.Integer),
    sa.Column("reason", AnyText),
    sa.Column("batch", sa.Integer),
    sa.Column("position", sa.Integer),
    sa.Column("objectives", PlainJSON("objectives in evaluations"), nullable=False),
    _created(),
    sa.UniqueConstraint("subnet_id", "split", "weights", "metric"),
)

# Which examples a subnet classifies right, in the order of the split, eight to a byte.
hits = sa.Table(
    "hits",
    metadata,
    _id(),
    _of("subnet"),
    _of("job", indexed=True),
    sa.Column("split", sa.String(32), nullable=False),
    sa.Column("weights", sa.String(32), nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("bits", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("subnet_id", "split", "weights"),
)

devices = sa.Table(
    "devices",
    metadata,
    _id(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("fingerprint", ToldObject("fingerprint in devices"), nullable=False),
    _created(),
    sa.Column("options", ToldObject("options in devices", OPTIONAL)),
    sa.Column("reference_ms", sa.Double),
)

agents = sa.Table(
    "agents",
    metadata,
    _id(),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    _of("device"),
    sa.Column("owner", sa.Text),
    sa.Column("lease_until", sa.Double),
)

requests = sa.Table(
    "requests",
    metadata,
    _id(),
    _of("job", indexed=True),
    sa.Column("agent", sa.Text, nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("payload", ToldJSON("payload in requests"), nullable=False),
    sa.Column("result", ToldJSON("result in requests", OPTIONAL)),
    sa.Column("error", AnyText),
    sa.Column("owner", sa.Text),
    sa.Column("lease_until", sa.Double),
    sa.Column("attempt", sa.Integer, nullable=False),
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
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("latency_ms", sa.Double),
    sa.Column("spread_ms", sa.Double),
    sa.Column("reference_ms", sa.Double),
    sa.Column("rounds", sa.Integer, nullable=False),
    sa.Column("raw", PlainJSON("raw in measurements", (dict, list)), nullable=False),
    _created(),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", AnyText),
    sa.Column("stderr_ms", sa.Double),
    sa.Column("contention", sa.Double),
    sa.Column("memory_bytes", sa.BigInteger),
    sa.Column("energy_mj", sa.Double),
    sa.UniqueConstraint("subnet_id", "device_id", "purpose"),
)

predictors = sa.Table(
    "predictors",
    metadata,
    _id(),
    _of("job"),
    _of("device"),
    sa.Column("metric", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("state", PlainJSON("state in predictors"), nullable=False),
    sa.Column("score", PlainJSON("score in predictors"), nullable=False),
    _created(),
    sa.UniqueConstraint("job_id", "device_id", "metric"),
)

artifacts = sa.Table(
    "artifacts",
    metadata,
    _id(),
    _of("job"),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("step", sa.Integer),
    _created(),
    sa.UniqueConstraint("job_id", "path"),
)

events = sa.Table(
    "events",
    metadata,
    _id(),
    _of("job"),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("step", sa.Integer),
    sa.Column("data", PlainJSON("data in events"), nullable=False),
    _created(),
    # A resumed stage repeats the steps since its last checkpoint; their rows must not appear twice.
    sa.UniqueConstraint("job_id", "kind", "stage", "step"),
)
