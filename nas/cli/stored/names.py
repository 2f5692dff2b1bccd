"""Names in the store, for whom they are not typed: what a shell completes, and whether there are any.

A shell that completes must not be disturbed: whatever is wrong with a store, nothing is offered.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from nas.store import Store

Named = tuple[str, str]  # a name, and what it is


def is_empty() -> bool:
    """Whether there is no default store yet, or no job in it; not, where that cannot be seen."""
    from nas.store.connection.engine import default_url, sqlite_file
    from search_spaces.errors import NASError

    with suppress(NASError):
        file = sqlite_file(default_url())
        if file is not None and not file.exists():
            return True
        with _opened(None) as opened:
            return not opened.jobs()
    return False


def jobs(ctx: typer.Context, incomplete: str) -> list[Named]:
    """Jobs by name, the newest first."""
    return _begin(incomplete, _asked(ctx, lambda opened: [(j.name, j.state) for j in opened.jobs()[::-1]]))


def subnets(ctx: typer.Context, incomplete: str) -> list[Named]:
    """The finalists of the job that stands before, with their quality."""
    # Behind an option that still lacks its value the words before it have not been given their meaning yet.
    job = ctx.params.get("job") or ctx.params.get("subject") or next(iter(ctx.args), None)
    return [] if job is None else _begin(incomplete, _asked(ctx, lambda opened: _finalists(opened, str(job))))


def devices(ctx: typer.Context, incomplete: str) -> list[Named]:
    """Devices that the store knows."""
    return _begin(incomplete, _asked(ctx, lambda opened: [(d.name, "") for d in opened.devices()]))


def measurable(ctx: typer.Context, incomplete: str) -> list[Named]:
    """Devices that the store knows, and backends."""
    return [*devices(ctx, incomplete), *backends(incomplete)]


def supernets(ctx: typer.Context, incomplete: str) -> list[Named]:
    """Supernets by name."""
    return _begin(incomplete, _asked(ctx, lambda opened: [(s.name, s.state) for s in opened.supernets()]))


def spaces(incomplete: str) -> list[Named]:
    """The spaces that ship with Elastiform."""
    import search_spaces

    return _begin(incomplete, [(name, "") for name in search_spaces.names()])


def backends(incomplete: str) -> list[Named]:
    """Device backends."""
    return _begin(incomplete, _components("predictors.devices"))


def formats(incomplete: str) -> list[Named]:
    """Export formats; of several with commas between them the last."""
    before, comma, last = incomplete.rpartition(",")
    return [(f"{before}{comma}{name}", what) for name, what in _begin(last, _components("nas.exporters"))]


def _finalists(opened: "Store", job: str) -> list[Named]:
    reported = opened.evaluations(opened.job(job), split="report", weights=None)
    return list(
        {
            one.subnet.key: "" if one.value is None else f"{one.metric} {one.value:.4g}" for one in reported
        }.items()
    )


def _components(package: str) -> list[Named]:
    from search_spaces.registry import names

    return [(name, "") for name in names(package)]


def _asked(ctx: typer.Context, question: Callable[["Store"], Sequence[Named]]) -> Sequence[Named]:
    with suppress(Exception), _opened(ctx.params.get("store")) as opened:
        return question(opened)
    return ()


@contextmanager
def _opened(url: str | None) -> Iterator["Store"]:
    """The store to read from, by default the default one, which is not waited for."""
    from nas.store import Store, default_url

    with Store.open(url or default_url(), read_only=True) as opened, opened.waits.none():
        yield opened


def _begin(incomplete: str, named: Sequence[Any]) -> list[Named]:
    return [(name, what) for name, what in named if name.startswith(incomplete)]
