"""Stores that the code of earlier schemas wrote: whatever becomes of the code, what is in them stays usable.

Only the command line and the dashboard's HTTP are used, so that the tests outlive every change behind them.
"""

import hashlib
import json
import sqlite3
import tarfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from safetensors import safe_open

from dashboards.app import create_app
from nas.cli import main
from nas.store.connection import schema

STORES = Path(__file__).parents[2] / "released_stores"
SCHEMAS = sorted(file.name.partition(".")[0] for file in STORES.glob("*.tar.xz"))
FAMILIES = ("autoformer", "matformer", "stitching", "turbovit", "vit_resnas")
STOPPED = {"stopped-in-search": "supernet", "stopped-in-training": "checkpoint"}  # job -> what it has saved
HOST = {"Host": "127.0.0.1:8050"}


class Opened:
    """An unpacked copy of a store, as the command line sees it."""

    def __init__(self, schema: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with tarfile.open(STORES / f"{schema}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        self.schema, self.file, self._capsys = schema, folder / "store.sqlite", capsys
        self.url = f"sqlite:///{self.file}"

    def nas(self, *words: object, code: int = 0, stored: bool = True) -> str:
        """What `nas` prints on stdout, or on stderr if it has to end with another code than 0."""
        self._capsys.readouterr()
        ended = main([*map(str, words), *(["--store", self.url] if stored else [])])
        streams = self._capsys.readouterr()
        assert ended == code, streams.err
        return streams.err if code else streams.out

    def told(self, *words: object) -> Any:
        """The JSON document that `nas` prints."""
        return json.loads(self.nas(*words, "--json"))

    def rows(self, query: str, *values: object) -> list[Any]:
        """What the file holds, by SQL of the schema that it has."""
        with closing(sqlite3.connect(self.file)) as connection:
            return connection.execute(query, values).fetchall()

    def stop(self, *jobs: str) -> None:
        """As if they had been stopped after their last stage."""
        with closing(sqlite3.connect(self.file)) as connection, connection:
            for job in jobs:
                query = "UPDATE jobs SET state = 'stopped', finished_at = NULL WHERE name = ?"
                connection.execute(query, (job,))

    def set_fingerprints(self, change: Any) -> None:
        """Rewrites the devices' fingerprints, and the digests that are made of them."""
        for row, before, digest in self.rows("SELECT id, fingerprint, digest FROM devices"):
            assert digest == digest_of(json.loads(before)), "the rule by which released code makes digests"
            after = change(json.loads(before))
            with closing(sqlite3.connect(self.file)) as connection, connection:
                values = (json.dumps(after), digest_of(after), row)
                connection.execute("UPDATE devices SET fingerprint = ?, digest = ? WHERE id = ?", values)


def digest_of(fingerprint: object) -> str:
    text = json.dumps(fingerprint, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def as_here(before: Any, here: Any) -> Any:
    """What was recorded there, its values those of this machine where this machine has such a field."""
    if isinstance(before, Mapping) and isinstance(here, Mapping) and before:
        return {key: as_here(value, here[key]) if key in here else value for key, value in before.items()}
    return here


@pytest.fixture(params=SCHEMAS)
def released(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Opened:
    return Opened(request.param, tmp_path, capsys)


@pytest.fixture
def upgraded(released: Opened) -> Opened:
    released.nas("db", "upgrade")
    return released


def finalists(released: Opened, job: str) -> dict[str, tuple[int, int, float]]:
    """Params, MACs and quality on the report split by subnet, as the unchanged file has them."""
    query = """
        SELECT s.key, s.params, s.macs, e.value FROM evaluations e
        JOIN subnets s ON s.id = e.subnet_id JOIN jobs j ON j.id = s.job_id
        WHERE j.name = ? AND e.split = 'report'"""
    return {key: (params, macs, value) for key, params, macs, value in released.rows(query, job)}


def measured(released: Opened, job: str) -> dict[str, float]:
    query = """
        SELECT s.key, m.latency_ms FROM measurements m
        JOIN subnets s ON s.id = m.subnet_id JOIN jobs j ON j.id = s.job_id
        WHERE j.name = ? AND m.purpose = 'finalist'"""
    return dict(released.rows(query, job))


def test_there_is_a_store_of_every_schema_that_was_released() -> None:
    assert SCHEMAS == schema.revisions()[: len(SCHEMAS)] == ["0001", "0002", "0003", "0004"]


def test_the_upgrade_keeps_a_copy_and_everything_that_was_found(released: Opened) -> None:
    expected = {job: (finalists(released, job), measured(released, job)) for job in FAMILIES}
    released.nas("db", "upgrade")
    (now,) = released.rows("SELECT version_num FROM alembic_version")[0]
    if now != released.schema:
        (copy,) = released.file.parent.glob(f"store.schema-{released.schema}.*.sqlite")
        with closing(sqlite3.connect(copy)) as connection:
            assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (
                released.schema,
            )
    assert released.told("db", "check") == {"ok": True, "problems": []}
    listed = {row["name"]: (row["state"], row["evaluations"]) for row in released.told("ls")}
    assert listed == {
        **dict.fromkeys(FAMILIES, ("succeeded", 16)),
        "stitching": ("succeeded", 14),  # all that there are
        "stopped-in-search": ("stopped", 8),
        "stopped-in-training": ("stopped", 0),
    }
    for job, (qualities, latencies) in expected.items():
        front = released.told("front", job)["front"]
        found = {m["subnet"]: (m["params"], m["macs"], m["quality"]["value"]) for m in front}
        assert found
        assert found == {key: qualities[key] for key in found}
        assert {m["subnet"]: m["latency"]["measured_ms"] for m in front} == {
            key: pytest.approx(latencies[key]) for key in found
        }


def test_no_row_is_lost_and_what_was_trained_has_a_row_of_its_own(released: Opened) -> None:
    names = [name for (name,) in released.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
    tables = [name for name in names if name not in ("alembic_version", "artifacts")]

    def content() -> dict[str, list[Any]]:
        columns = {name: released.rows(f"SELECT * FROM {name} LIMIT 0") for name in tables}
        assert not any(columns.values())
        return {
            name: [row[: width[name]] for row in released.rows(f"SELECT * FROM {name}")] for name in tables
        }

    with closing(sqlite3.connect(released.file)) as connection:
        width = {name: len(connection.execute(f"SELECT * FROM {name}").description) for name in tables}
    files = "SELECT id, kind, path, sha256, size, step, created_at FROM artifacts"
    before, files_before = content(), released.rows(files)
    raw = before.pop("measurements")
    released.nas("db", "upgrade")
    after = content()
    measured_after = after.pop("measurements")
    assert {name: rows for name, rows in after.items() if name != "hits"} == {
        name: rows for name, rows in before.items() if name != "hits"
    }
    assert len(measured_after) == len(raw)
    assert [row[:7] for row in after.get("hits", [])] == [row[:7] for row in before.get("hits", [])]
    assert released.rows(files) == files_before
    supernets = {row["name"]: row for row in released.told("supernets")}
    assert set(supernets) == {*FAMILIES, "stopped-in-search"}
    for name, supernet in supernets.items():
        assert (supernet["key"], supernet["state"], supernet["steps"]) == (None, "trained", 20)
        assert supernet["jobs"] == [name]
        assert supernet["family"] == ("matformer" if name == "stopped-in-search" else name)
        assert supernet["curve"][-1]["step"] == 20


def test_every_family_is_extracted(upgraded: Opened, tmp_path: Path) -> None:
    for job in FAMILIES:
        told = upgraded.told("extract", job, "--knee", "-o", tmp_path / job)
        assert all(Path(file).is_file() for file in told["files"])
        with safe_open(tmp_path / job / "model.safetensors", framework="np") as tensors:
            assert all(abs(tensors.get_tensor(name)).max() < 1e3 for name in tensors.keys())  # noqa: SIM118


@pytest.mark.slow
def test_what_is_extracted_runs_and_is_timed(upgraded: Opened, tmp_path: Path) -> None:
    for job in FAMILIES:
        upgraded.told("extract", job, "--knee", "-o", tmp_path / job)
        told = json.loads(upgraded.nas("measure", tmp_path / job, "--batch", 2, "--json", stored=False))
        assert told["measured_ms"] > 0


def test_latency_is_predicted_and_architectures_are_generated(upgraded: Opened) -> None:
    for job in FAMILIES:
        subnet = upgraded.told("front", job)["front"][0]["subnet"]
        assert upgraded.told("predict", job, subnet)["latency"]["predicted_ms"] > 0
    assert upgraded.told("generate", "autoformer", "-n", 2)["subnets"]


@pytest.mark.slow
@pytest.mark.parametrize("job", STOPPED)
def test_a_stopped_job_goes_on_and_nothing_is_done_twice(
    released: Opened, job: str, here: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    released.set_fingerprints(lambda before: as_here(before, here))
    released.nas("db", "upgrade")
    before = stages(released, job)
    number = released.told("show", job)["id"]
    saved = {
        file: file.read_bytes() for file in tmp_path.glob(f"store*.artifacts/job-{number}/{STOPPED[job]}*")
    }
    assert saved
    assert released.told("resume", job)["front"]
    after, shown = stages(released, job), released.told("show", job)
    assert shown["state"] == "succeeded"
    assert shown["counts"]["evaluations"] == 16
    assert {name: after[name] for name, (state, _) in before.items() if state == "done"} == {
        name: stage for name, stage in before.items() if stage[0] == "done"
    }
    if job == "stopped-in-search":
        assert saved == {file: file.read_bytes() for file in saved}
    else:
        steps = released.rows("SELECT step FROM events WHERE job_id = ? AND kind = 'train'", number)
        assert sorted(steps) == [(10,), (20,)]


@pytest.mark.slow
def test_no_finished_stage_is_done_again(released: Opened, here: dict[str, Any]) -> None:
    released.set_fingerprints(lambda before: as_here(before, here))
    released.stop(*FAMILIES)
    released.nas("db", "upgrade")
    for job in FAMILIES:
        before = stages(released, job)
        assert {state for state, _ in before.values()} == {"done"}
        assert released.told("resume", job)["front"]
        assert stages(released, job) == before


@pytest.mark.slow
def test_a_stopped_job_does_not_go_on_on_another_device(released: Opened, here: dict[str, Any]) -> None:
    released.set_fingerprints(lambda before: as_here(before, here) | {"cpu": "Another CPU"})
    released.nas("db", "upgrade")
    assert "cpu was 'Another CPU'" in released.nas("resume", "stopped-in-search", code=1)
    assert released.told("show", "stopped-in-search")["counts"]["evaluations"] == 8


def stages(released: Opened, job: str) -> dict[str, tuple[str, float | None]]:
    """State and seconds of each: a stage that is run again takes another time."""
    return {s["name"]: (s["state"], s["seconds"]) for s in released.told("show", job)["stages"]}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The fingerprint of this machine's CPU as the jobs use it."""
    file = tmp_path_factory.mktemp("here") / "here.json"
    url = f"sqlite:///{file.with_suffix('.sqlite')}"
    with pytest.MonkeyPatch.context() as patch, file.open("w", encoding="utf-8") as out:
        patch.setattr("sys.stdout", out)
        assert main(["devices", "add", "here", "--batch", "4", "--store", url, "--json"]) == 0
    told = json.loads(file.read_text(encoding="utf-8"))
    fingerprint: dict[str, Any] = told["fingerprint"]
    return fingerprint


@pytest.mark.slow
def test_every_page_of_the_dashboard_answers(upgraded: Opened) -> None:
    client = create_app(upgraded.url).server.test_client()
    assert client.get("/", headers=HOST).status_code == 200
    callbacks = client.get("/_dash-dependencies", headers=HOST).get_json()
    for_all = [c for c in callbacks if not c["prevent_initial_call"] and not is_for(c, "job")]
    of_a_job = [c for c in callbacks if not c["prevent_initial_call"] and is_for(c, "job")]
    assert for_all
    assert of_a_job
    jobs = upgraded.told("ls")
    for path in ("/", "/devices", "/device/1", *(f"/job/{job['name']}" for job in jobs)):
        # A word in the search field that the address does not have: the field is made anew.
        values = {"url.pathname": path, "device.data": 1, "jobs-search.value": "of another page"}
        answers(client, for_all[:1] if "job" in path else for_all, values)
    for job in jobs:
        search = f"?subnet={chosen}" if (chosen := subnet_of(upgraded, job["name"])) else ""
        answers(client, of_a_job, {"job.data": job["id"], "url.search": search})


def is_for(callback: Mapping[str, Any], name: str) -> bool:
    return any(part["id"] == name for part in [*callback["inputs"], *callback["state"]])


def answers(client: FlaskClient, callbacks: list[dict[str, Any]], values: Mapping[str, Any]) -> None:
    for callback in callbacks:
        answer = client.post("/_dash-update-component", json=asked(callback, values), headers=HOST)
        assert answer.status_code == 200, (values, callback["output"])
        assert "No such" not in answer.get_data(as_text=True)


def subnet_of(released: Opened, job: str) -> str:
    """A subnet that was evaluated; of a job that has none, nothing."""
    front = released.told("front", job)["front"] if job in FAMILIES else []
    return str(front[0]["subnet"]) if front else ""


def asked(callback: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What a browser sends for a callback when its inputs and states have these values."""

    def filled(parts: list[dict[str, str]]) -> list[dict[str, Any]]:
        return [part | {"value": values.get(f"{part['id']}.{part['property']}")} for part in parts]

    output = callback["output"]
    names = output.strip(".").split("...") if output.startswith("..") else [output]
    outputs = [{"id": n.rpartition(".")[0], "property": n.rpartition(".")[2]} for n in names]
    return {
        "output": output,
        "outputs": outputs if output.startswith("..") else outputs[0],
        "inputs": filled(callback["inputs"]),
        "state": filled(callback["state"]),
        "changedPropIds": [],
    }
