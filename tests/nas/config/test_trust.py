"""What a store names is not imported, unless whoever works here has allowed it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from filled_store import finished_job

import search_spaces
from dashboards.job import panel
from nas.cli import main
from nas.config import checked_config, merged
from nas.config.components import stored_config
from nas.errors import StoreError
from nas.measuring.latency import stored_predictor
from nas.measuring.requests import plan_of
from nas.measuring.targets import registered
from nas.store import Store
from search_spaces.errors import UsageError
from search_spaces.registry import ALLOWED, allow

EVIL = "import pathlib, os\npathlib.Path(os.environ['MARK']).write_text('ran')\n"
FIELDS = ("data.name", "supernet.family", "predictor.name", "search.searcher", "devices.cpu.backend")
VERBS = (
    *("front j", "show j", "ls", "resume j", "predict j {key}", "extract j --subnet {key} -o {out}"),
    *("generate j", "finetune j --front", "export-optuna j sqlite:///{out}.db", "devices", "doctor"),
    *("devices measure lab j", "devices check lab", "db check"),
)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where somebody else's module, `evil.module`, leaves a file when it is imported."""
    folder = tmp_path / "path" / "evil"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(EVIL)
    (folder / "module.py").write_text("")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.delenv(ALLOWED, raising=False)
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    return tmp_path / "mark"


@pytest.fixture
def poisoned(store_url: str, mark: Path) -> tuple[str, str]:
    """A store in which everything that can name a module names `evil.module`; and the key of a subnet."""
    config: dict[str, Any] = merged(checked_config({"data": "digits"}, where="here"))
    for field in FIELDS:
        *path, last = field.split(".")
        section = config
        for name in path:
            section = section[name]
        section[last] = "evil.module"
    config["devices"]["cpu"]["precision"] = "int8"  # which only the backend's module can judge
    with Store.open(store_url) as store:
        key = finished_job(store, "j", count=15)[0].subnet.key
        with store.acquire(store.job("j")) as lease:
            device_id = store.devices()[0].id
            store.put_predictor(lease, device_id=device_id, kind="evil.module", state={}, score={})
            lease.finish("succeeded")
        store.register_device("lab", {"cpu": "x"}, {"backend": "evil.module"})
        with store.write() as connection:
            family = json.dumps({"space": {"family": "evil.module", "options": {}}})
            connection.execute(sa.text("UPDATE stages SET result = :r WHERE name = 'space'"), {"r": family})
            connection.execute(sa.text("UPDATE jobs SET config = :c"), {"c": json.dumps(config)})
    return store_url, key


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_imports_what_a_store_names(
    verb: str, poisoned: tuple[str, str], mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, key = poisoned
    words = verb.format(key=key, out=tmp_path / "out").split()
    main([*words, "--store", url])
    assert not mark.exists()
    assert "internal error" not in capsys.readouterr().err


@pytest.mark.parametrize("field", FIELDS)
def test_a_job_goes_on_with_the_modules_that_were_allowed(
    field: str, poisoned: tuple[str, str], mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(poisoned[0], read_only=True) as store:
        job = store.job("j")
    with pytest.raises(UsageError, match=r"names the module 'evil.module'") as caught:
        stored_config(job)
    assert f"{ALLOWED}=evil.module" in caught.value.hint
    monkeypatch.setenv(ALLOWED, "somebodys.own,evil.module")
    assert stored_config(job).data.name == "evil.module"
    assert not mark.exists()


def test_neither_panel_nor_agent_nor_predictor_nor_device(poisoned: tuple[str, str], mark: Path) -> None:
    url, key = poisoned
    with Store.open(url, read_only=True) as store:
        assert "was not allowed here" in str(panel.subnet_panel(store, store.job("j"), key))
        with pytest.raises(UsageError, match="stored device 'lab'"):
            registered(store, "lab")
    request: Any = {"space": {"family": "evil.module", "options": {}}}
    with pytest.raises(UsageError, match="not allowed"):
        plan_of(request)
    with Store.open(url, read_only=True) as store:
        space, device = search_spaces.get("matformer"), store.devices()[0]
        with pytest.raises(UsageError, match=r"stored predictor names the module 'evil.module'"):
            stored_predictor(store, store.job("j"), space, device)
    assert not mark.exists()


@pytest.mark.parametrize(
    "space", [None, [], "matformer", {}, {"family": 3, "options": {}}, {"family": "matformer"}]
)
def test_a_stored_space_that_is_none(space: object) -> None:
    with pytest.raises(UsageError):
        search_spaces.described(space)


def test_a_stored_config_that_is_none(poisoned: tuple[str, str]) -> None:
    with Store.open(poisoned[0]) as store:
        with store.write() as connection:
            connection.execute(sa.text("""UPDATE jobs SET config = '{"seed": "x", "data": 3}'"""))
        with pytest.raises(StoreError, match="config in jobs of a row cannot be read"):
            stored_config(store.job("j"))


def test_what_is_allowed_is_known_to_processes_that_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "a.b")
    allow(["digits", "mine.family"])
    assert os.environ[ALLOWED] == "a.b,mine.family"
    code = "from search_spaces.registry import trusted; print(trusted('mine.family', where='It'))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "mine.family\n"
