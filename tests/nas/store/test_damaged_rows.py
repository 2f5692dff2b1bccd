"""Rows that somebody else has written: values of another type in columns, and anywhere inside their JSON."""

import json
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from filled_store import finished_job

from dashboards.app import create_app
from nas.cli import main
from nas.errors import StoreError
from nas.store import Store
from nas.store import tables as t

if TYPE_CHECKING:
    from benchmarks.postgresql_server import Server

SQLITE, SERVER = "SQLite", "server"
DEEP = "[" * 5000 + "]" * 5000
COLUMNS = [
    column
    for table in t.metadata.sorted_tables
    for column in table.c
    if isinstance(column.type, t.PlainJSON) and table.name not in ("requests", "agents")
]
WATCH: dict[str, Any] = {
    "output": "job-version.data",
    "outputs": {"id": "job-version", "property": "data"},
    "inputs": [
        {"id": "job-clock", "property": "n_intervals", "value": 0},
        {"id": "url", "property": "search", "value": ""},
    ],
    "state": [
        {"id": "job-version", "property": "data", "value": None},
        {"id": "job", "property": "data", "value": 1},
    ],
    "changedPropIds": [],
}
SHOW = WATCH | {
    "output": "panel.children",
    "outputs": {"id": "panel", "property": "children"},
    "inputs": [
        {"id": "url", "property": "search", "value": "?subnet=KEY"},
        {"id": "job", "property": "data", "value": 1},
    ],
    "state": [],
}


def fill(url: str) -> str:
    """A store with a finished job `j`; the key of a subnet of it."""
    with Store.open(url) as store:
        key: str = finished_job(store, "j", count=15)[0].subnet.key
        device = store.devices()[0]
        with store.acquire(store.job("j")) as lease:
            store.put_predictor(lease, device_id=device.id, kind="roofline", state={}, score={"mape": 0.1})
            lease.finish("succeeded")
    return key


@pytest.fixture(scope="module")
def filled_file(_session_home: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Only to be copied."""
    file = tmp_path_factory.mktemp("filled") / "store.sqlite"
    return file, fill(f"sqlite:///{file}")


@pytest.fixture(scope="module")
def filled_database(_session_home: None, postgresql: "Server") -> tuple[str, str]:
    """Only to be copied."""
    return "filled", fill(postgresql.create("filled"))


@pytest.fixture
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The URL of a store of a kind with a finished job `j`, and the key of a subnet of it."""
    if getattr(request, "param", SQLITE) == SQLITE:
        file, key = request.getfixturevalue("filled_file")
        yield f"sqlite:///{shutil.copyfile(file, tmp_path / 'nas.db')}", key
        return
    server, (template, key) = map(request.getfixturevalue, ("postgresql", "filled_database"))
    name = f"damaged_{uuid.uuid4().hex}"
    yield server.create(name, template), key
    server.drop(name)


# A column, the place in its JSON (none: the column itself), and what stands there as SQL or JSON.
LEAVES = [
    ("jobs.config", "$.devices", "[3]"),
    ("jobs.config", "$.data", '"x"'),
    ("stages.result", "$.baseline", '{"classes": 0}'),
    ("stages.result", "$.reproducibility", '{"ranking": {"tau": "x"}}'),
    ("predictors.score", "$.mape", '"x"'),
    ("evaluations.objectives", "$.latency_ms", '{"a": 1}'),
    ("jobs.created_at", None, "'x'"),
    ("subnets.params", None, "'x'"),
    ("measurements.device_id", None, "-1"),
    ("devices.name", None, "x'00ff'"),
]
MORE = [
    *(
        ("jobs.config", f"$.{name}", value)
        for name in ("data", "search", "supernet")
        for value in ("3", "[]")
    ),
    *(("stages.result", "$.space.options", value) for value in ("null", "[1]", '"x"')),
    *(
        ("stages.result", f"$.{name}", '"x"')
        for name in ("space", "data", "baseline", "predicted_ms", "best")
    ),
    ("stages.result", "$.reproducibility", '{"ranking": null}'),
    *(("predictors.score", f"$.{name}", "true") for name in ("count", "tau", "repeatability", "held_out")),
    *(("events.data", f"$.{name}", "[]") for name in ("hypervolume", "loss", "step")),
    *(("evaluations.objectives", "$.accuracy", value) for value in ("[]", "true", '"x"')),
    *(("subnets.architecture", f"$.{name}", "{}") for name in ("depth", "embed_dim")),
    *(
        (f"jobs.{name}", None, value)
        for name in ("state", "finished_at", "attempt")
        for value in ("x'ff'", "1e300")
    ),
    *(
        (f"evaluations.{name}", None, "'x'")
        for name in ("value", "stderr", "position", "metric", "created_at")
    ),
    *((f"measurements.{name}", None, "'x'") for name in ("latency_ms", "rounds", "memory_bytes")),
]


@pytest.mark.parametrize(
    ("filled", "column", "place", "value"),
    [
        *((SQLITE, *leaf) for leaf in LEAVES),
        *(pytest.param(SQLITE, *leaf, marks=pytest.mark.slow) for leaf in MORE),
        # A server keeps its columns' types.
        *(pytest.param(SERVER, *leaf, marks=pytest.mark.slow) for leaf in LEAVES if leaf[1] is not None),
    ],
    indirect=["filled"],
)
def test_a_damaged_leaf_is_told_and_no_internal_error(
    column: str, place: str | None, value: str, filled: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    url, key = filled
    table, _, name = column.partition(".")
    put = value if place is None else f"json_set({name}, '{place}', json('{value}'))"
    if url.startswith("sqlite"):  # without the keys that a store of ours enforces
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file, file:
            file.execute(f"UPDATE {table} SET {name} = {put}")
    else:
        path = str(place).removeprefix("$.").replace(".", ",")
        put = f"jsonb_set({name}::jsonb, '{{{path}}}', '{value}'::jsonb)::json"
        with Store.open(url) as store, store.write() as connection:
            connection.exec_driver_sql(f"UPDATE {table} SET {name} = {put}")
    _told_by_every_view(url, key, capsys)


def test_a_stage_that_lacks_what_is_asked_is_named(filled: tuple[str, str]) -> None:
    with Store.open(filled[0]) as store:
        stage = store.stage(store.job("j"), "space")
    assert stage is not None
    assert stage.told("space", "family") == "matformer"
    for keys in (("device_id",), ("space", "family", "x")):
        with pytest.raises(StoreError, match=f"result of stage 'space' does not say its {'.'.join(keys)}"):
            stage.told(*keys)


@pytest.mark.parametrize(
    ("filled", "text"),
    [
        (SQLITE, "3"),
        *(pytest.param(SQLITE, text, marks=pytest.mark.slow) for text in (DEEP, "garbage")),
        pytest.param(SERVER, "3", marks=pytest.mark.slow),  # it refuses what is no JSON
    ],
    ids=["SQLite-number", "SQLite-deep", "SQLite-garbage", "server-number"],
    indirect=["filled"],
)
@pytest.mark.parametrize("column", COLUMNS, ids=str)
def test_a_damaged_row_is_told_and_no_internal_error(
    column: sa.Column[Any], text: str, filled: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    url, key = filled
    with Store.open(url) as store, store.write() as connection:
        statement = f"UPDATE {column.table.name} SET {column.name} = :text"
        connection.execute(sa.text(statement), {"text": text})
    _told_by_every_view(url, key, capsys)


@pytest.mark.parametrize("filled", [SQLITE, SERVER], indirect=True)
def test_the_damaged_column_is_named(filled: tuple[str, str]) -> None:
    with Store.open(filled[0]) as store:
        with store.write() as connection:
            connection.execute(sa.text("UPDATE jobs SET config = '[]'"))
        with pytest.raises(StoreError, match="config in jobs of a row cannot be read, it is a list"):
            store.job("j")


def _told_by_every_view(url: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No verb that reads, and no callback, takes what is stored for a fault of its own."""
    for verb in ("ls", "show j", "front j", f"predict j {key}", "devices ls"):
        code = main([*verb.split(), "--store", url])
        assert "internal error" not in capsys.readouterr().err, verb
        assert code in (0, 2, 3, 5)
    client = create_app(url).server.test_client()
    for body in (WATCH, SHOW):
        asked = json.loads(json.dumps(body).replace("KEY", key))
        sent = client.post("/_dash-update-component", json=asked, headers={"Host": "127.0.0.1:8050"})
        assert sent.status_code < 500, sent.get_data(as_text=True)[-300:]
