"""Requests that no page sends, and a store that goes away under an open page."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from filled_store import finished_job
from flask.testing import FlaskClient

from dashboards.app import create_app
from nas.store import Store, backup

HOST = {"Host": "127.0.0.1:8050"}
PATH = "/_dash-update-component"
GOOD: dict[str, Any] = {
    "output": "panel.children",
    "outputs": {"id": "panel", "property": "children"},
    "inputs": [
        {"id": "url", "property": "search", "value": ""},
        {"id": "job", "property": "data", "value": 1},
    ],
    "state": [],
    "changedPropIds": ["url.search"],
}
DEEP: Any = "x"
for _ in range(500):
    DEEP = [DEEP]
ODD = [None, True, 1, -1, 1.5, 10**30, "x", "\ud800", "a\0b", "x" * 5000, [], [1], {}, {"a": 1}, DEEP]
CALLBACKS = {
    "page.children": ["url.pathname", "/url.search"],
    "panel.children": ["url.search", "job.data"],
    "jobs.children": ["jobs-clock.n_intervals", "url.search"],
    "jobs-searched.children": ["url.search", "/jobs-search.value"],
    "url.search": ["front.clickData", "/url.search"],
    "job-version.data": ["job-clock.n_intervals", "url.search", "/job-version.data", "/job.data"],
    "front-view.data": ["front.relayoutData", "/front-view.data", "/url.search", "/job.data"],
    "devices.children": ["devices-clock.n_intervals"],
    **{
        f"{page}-version.data": [f"{page}-clock.n_intervals", "url.search", f"/{page}-version.data"]
        for page in ("compare", "decide", "why", "trust", "run")
    },
}


@pytest.fixture
def client(store_url: str) -> FlaskClient:
    with Store.open(store_url) as store:
        finished_job(store, "j", count=15)
    return create_app(store_url).server.test_client()


def post(client: FlaskClient, body: Any, **how: Any) -> int:
    return client.post(PATH, json=body, headers=HOST, **how).status_code


def test_what_a_page_sends_is_answered(client: FlaskClient) -> None:
    assert post(client, GOOD) == 200


@pytest.mark.parametrize("key", ["output", "outputs", "inputs", "state", "changedPropIds"])
@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_a_body_of_wrong_types_is_400(client: FlaskClient, key: str, value: Any) -> None:
    assert post(client, GOOD | {key: value}) == (
        200 if (key, value) in (("state", []), ("changedPropIds", [])) else 400
    )
    assert post(client, value) == 400


@pytest.mark.parametrize("output", CALLBACKS)
def test_values_of_wrong_types_are_never_an_error(client: FlaskClient, output: str) -> None:
    names = CALLBACKS[output]
    for place in range(len(names)):
        for odd in [*ODD, {"points": 3}, {"points": [3]}, {"points": [{"customdata": 3}]}, {"points": []}]:
            values: dict[str, list[dict[str, Any]]] = {"inputs": [], "state": []}
            for number, name in enumerate(names):
                of, what = name.removeprefix("/").split(".")
                usual = 1 if name.endswith("job.data") else None
                entry = {"id": of, "property": what, "value": odd if number == place else usual}
                values["state" if name.startswith("/") else "inputs"].append(entry)
            of, what = output.split(".")
            body = {"output": output, "outputs": {"id": of, "property": what}, "changedPropIds": []} | values
            assert post(client, body) in (200, 204, 400), (place, odd)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"\xff\xfe{}", "application/json"),
        (b'{"output": "\xff"}', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"1" * 10_000, "application/json"),
        (json.dumps(GOOD).encode(), "text/plain"),
        (b"output=panel.children", "application/x-www-form-urlencoded"),
    ],
)
def test_a_body_that_is_no_json_is_400(client: FlaskClient, content: bytes, kind: str) -> None:
    assert client.post(PATH, data=content, content_type=kind, headers=HOST).status_code == 400


def test_a_large_request_is_413(client: FlaskClient) -> None:
    body = GOOD | {"inputs": [{"id": "url", "property": "search", "value": "x" * 300_000}] * 2}
    assert post(client, body) == 413
    assert client.post("/", data=b"x" * 300_000, headers=HOST).status_code == 413


def alert(client: FlaskClient, seen: str | None) -> tuple[str, str | None]:
    body = {
        "output": "..store-alert.children...store-identity.data..",
        "outputs": [
            {"id": "store-alert", "property": "children"},
            {"id": "store-identity", "property": "data"},
        ],
        "inputs": [{"id": "store-clock", "property": "n_intervals", "value": 1}],
        "state": [{"id": "store-identity", "property": "data", "value": seen}],
        "changedPropIds": [],
    }
    answer = client.post(PATH, json=body, headers=HOST).get_json()["response"]
    return json.dumps(answer["store-alert"]["children"]), answer["store-identity"]["data"]


def pages(client: FlaskClient, path: str) -> str:
    body = {
        "output": "page.children",
        "outputs": {"id": "page", "property": "children"},
        "inputs": [{"id": "url", "property": "pathname", "value": path}],
        "state": [{"id": "url", "property": "search", "value": ""}],
        "changedPropIds": [],
    }
    return client.post(PATH, json=body, headers=HOST).get_data(as_text=True)


def test_a_store_that_goes_away_and_comes_back(client: FlaskClient, store_url: str) -> None:
    file = Path(store_url.removeprefix("sqlite:///"))
    text, seen = alert(client, None)
    assert (text, bool(seen)) == ("[]", True)
    moved = file.rename(file.with_name("moved.sqlite"))
    text, still = alert(client, seen)
    assert "is not there" in text
    assert still == seen
    assert "The store cannot be read" in pages(client, "/job/j")
    moved.rename(file)
    assert alert(client, seen) == ("[]", seen)
    assert "job-clock" in pages(client, "/job/j")


def test_a_store_that_another_one_replaces(client: FlaskClient, store_url: str) -> None:
    file = Path(store_url.removeprefix("sqlite:///"))
    _, seen = alert(client, None)
    for part in (file, file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")):
        part.exists() and part.rename(part.with_name(f"old-{part.name}"))
    with Store.open(store_url) as store:
        finished_job(store, "other", count=15)
    text, still = alert(client, seen)
    assert "Another store has taken the place" in text
    assert still == seen
    assert "job-clock" in pages(client, "/job/other")
    assert "No such job" in pages(client, "/job/j")
    text, now = alert(client, None)
    assert text == "[]"
    assert now not in (None, seen)


def test_a_store_that_another_one_is_copied_over(client: FlaskClient, store_url: str, tmp_path: Path) -> None:
    file, other = Path(store_url.removeprefix("sqlite:///")), tmp_path / "other" / "nas.sqlite"
    _, seen = alert(client, None)
    with Store.open(f"sqlite:///{other}") as store:
        finished_job(store, "other", count=15)
    for end in ("-wal", "-shm"):
        file.with_name(f"{file.name}{end}").unlink(missing_ok=True)
    shutil.copyfile(other, file)
    text, still = alert(client, seen)
    assert "Another store has taken the place" in text
    assert still == seen
    assert "job-clock" in pages(client, "/job/other")


def test_a_store_that_its_own_backup_replaces_is_the_same(
    client: FlaskClient, store_url: str, tmp_path: Path
) -> None:
    file = Path(store_url.removeprefix("sqlite:///"))
    _, seen = alert(client, None)
    backup(store_url, tmp_path / "backup.sqlite")
    file.unlink()
    assert "is not there" in alert(client, seen)[0]
    for end in ("-wal", "-shm"):
        file.with_name(f"{file.name}{end}").unlink(missing_ok=True)
    (tmp_path / "backup.sqlite").rename(file)
    assert alert(client, seen) == ("[]", seen)
    assert "job-clock" in pages(client, "/job/j")
