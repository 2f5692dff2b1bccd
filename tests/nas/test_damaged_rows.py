"""Rows that somebody else has written: JSON of another type, or none at all, in every column that has it."""

import json
from typing import Any

import pytest
import sqlalchemy as sa
from filled_store import finished_job

from dashboards.app import create_app
from nas.cli import main
from nas.store import Store
from nas.store import _tables as t
from search_spaces._errors import StoreError

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


@pytest.fixture
def filled(store_url: str) -> tuple[str, str]:
    """A store with a finished job `j`, and the key of a subnet of it."""
    with Store.open(store_url) as store:
        key = finished_job(store, "j", count=15)[0].subnet.key
        device = store.devices()[0]
        with store.acquire(store.job("j")) as lease:
            store.put_predictor(lease, device_id=device.id, kind="roofline", state={}, score={"mape": 0.1})
            lease.finish("succeeded")
    return store_url, key


@pytest.mark.parametrize("text", ["3", DEEP, "garbage"], ids=["number", "deep", "garbage"])
@pytest.mark.parametrize("column", COLUMNS, ids=str)
def test_a_damaged_row_is_told_and_no_internal_error(
    column: sa.Column[Any], text: str, filled: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    url, key = filled
    with Store.open(url) as store, store.write() as connection:
        if connection.dialect.name != "sqlite" and text == "garbage":
            pytest.skip("the server refuses what is no JSON")
        statement = f"UPDATE {column.table.name} SET {column.name} = :text"
        connection.execute(sa.text(statement), {"text": text})
    for verb in ("ls", "show j", "front j", f"predict j {key}", "devices ls"):
        code = main([*verb.split(), "--store", url])
        assert "internal error" not in capsys.readouterr().err, verb
        assert code in (0, 2, 3, 5)
    client = create_app(url).server.test_client()
    for body in (WATCH, SHOW):
        asked = json.loads(json.dumps(body).replace("KEY", key))
        sent = client.post("/_dash-update-component", json=asked, headers={"Host": "127.0.0.1:8050"})
        assert sent.status_code < 500, sent.get_data(as_text=True)[-300:]


def test_the_damaged_column_is_named(filled: tuple[str, str]) -> None:
    with Store.open(filled[0]) as store:
        with store.write() as connection:
            connection.execute(sa.text("UPDATE jobs SET config = '[]'"))
        with pytest.raises(StoreError, match="config in jobs of a row cannot be read, it is a list"):
            store.job("j")
