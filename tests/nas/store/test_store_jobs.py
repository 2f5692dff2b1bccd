import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import ConflictError, StoreError
from nas.store import Store, default_url
from search_spaces.errors import NotFoundError, UsageError

HOSTILE = [
    "'; DROP TABLE jobs;--",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "\u202eevil",
    "🦊" * 200,
    "=1+1",
]
REFUSED = ["", " ", "x ", "a\0b", "a\nb", "\ud800", "\x1b[31m", "x" * 201]


@pytest.fixture
def url(any_url):
    return any_url


@pytest.fixture
def store(url):
    with Store.open(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with Store.open(f"sqlite:///{tmp_path_factory.mktemp('shared') / 'nas.db'}") as opened:
        yield opened


def make(store, name="job", **config):
    return store.create_job(name, config=config, seed=7, provenance={"python": "3"})


def test_a_job_comes_back_as_it_went_in(store):
    job = make(store, data={"name": "digits"}, widths=(1, 2))
    assert store.job("job") == store.job(job.id) == store.job(str(job.id)) == job
    assert (job.state, job.seed, job.attempt, job.owner, job.error) == ("queued", 7, 0, None, None)
    assert job.config == {"data": {"name": "digits"}, "widths": [1, 2]}
    assert job.created_at.utcoffset().total_seconds() == 0
    assert [found.name for found in store.jobs()] == ["job"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_stored_verbatim(store, name):
    job = make(store, name)
    assert store.job(name).id == job.id
    assert store.jobs()[0].name == name


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_cannot_be_shown_are_refused(store, name):
    with pytest.raises(UsageError, match="name of a job"):
        make(store, name)
    with pytest.raises(NotFoundError):
        store.job(name)
    assert store.jobs() == []


@given(st.text(max_size=220))
@settings(max_examples=60, deadline=None)
def test_any_name_is_stored_verbatim_or_refused(shared, name):
    try:
        job = make(shared, name)
    except (UsageError, ConflictError):
        return
    assert shared.job(job.id).name == name


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def without_nan(value):
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return value


@given(st.dictionaries(st.text(), JSON, max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_json_comes_back_with_null_for_nan(shared, config):
    name = shared.free_name("json")
    assert shared.create_job(name, config=config, seed=0, provenance={}).config == without_nan(config)
    assert shared.job(name).config == without_nan(config)


def test_numpy_numbers_are_json_and_other_objects_are_not(store):
    job = make(store, a=np.float32(0.5), b=np.int64(3), c=np.array([[1.0, np.nan]]))
    assert job.config == {"a": 0.5, "b": 3, "c": [[1.0, None]]}
    with pytest.raises(sa.exc.StatementError, match="cannot be stored as JSON"):
        make(store, "other", d=object())
    assert len(store.jobs()) == 1


def test_a_taken_name_is_a_conflict_and_a_free_one_is_found(store):
    make(store, "quick")
    with pytest.raises(ConflictError, match="'quick' already") as caught:
        make(store, "quick")
    assert caught.value.exit_code == 4
    assert store.free_name("other") == "other"
    assert store.free_name("quick") == "quick-2"
    make(store, "quick-2")
    assert store.free_name("quick") == "quick-3"


def test_an_unknown_job_names_the_closest(store):
    with pytest.raises(NotFoundError) as caught:
        store.job("quick")
    assert "no jobs yet" in caught.value.hint
    make(store, "quickstart")
    with pytest.raises(NotFoundError, match="quickstrat") as caught:
        store.job("quickstrat")
    assert "quickstart" in caught.value.hint
    for word in ("99", "-1", "9" * 30, "²"):
        with pytest.raises(NotFoundError):
            store.job(word)


def test_a_name_of_digits_does_not_hide_the_job_of_this_id(store):
    first, second = make(store, "2"), make(store, "b")
    assert store.job("2") == store.job(2) == second
    assert store.job("1") == first
    assert make(store, "77") == store.job("77")
    zeros = make(store, "02")
    assert store.job("02") == zeros


def test_stages_begin_end_and_begin_anew(store):
    job = make(store)
    assert store.stage(job, "train") is None
    with store.acquire(job) as lease:
        assert store.begin_stage(lease, "train", "k1").state == "running"
        store.begin_stage(lease, "search", "k2")
        done = store.finish_stage(lease, "train", {"loss": float("nan"), "steps": 3})
        assert (done.state, done.key, done.result) == ("done", "k1", {"loss": None, "steps": 3})
        assert done.finished_at >= done.started_at
        assert [stage.name for stage in store.stages(job)] == ["train", "search"]
        again = store.begin_stage(lease, "train", "k3")
        assert (again.id, again.state, again.key, again.result) == (done.id, "running", "k3", None)
        assert store.fail_stage(lease, "train", "no space").result == {"error": "no space"}
        with pytest.raises(NotFoundError, match="no stage 'front'"):
            store.finish_stage(lease, "front", {})


def test_stop_is_asked_for_once_the_job_runs_and_refused_after_its_end(store):
    job = make(store)
    with store.acquire(job) as lease:
        assert not lease.stop_requested()
        assert store.request_stop(job).stop_requested
        assert lease.stop_requested()
        lease.finish("stopped")
    with pytest.raises(ConflictError, match="has stopped"):
        store.request_stop(job)


INSERT = "INSERT INTO devices (name, digest, fingerprint, created_at) VALUES ('a', 'b', '{}', '2026-01-01')"


@pytest.mark.parametrize(
    ("any_url", "first"),
    [
        ("sqlite", "SELECT 1"),
        ("sqlite", "PRAGMA query_only=OFF"),
        ("postgresql", "SELECT 1"),
        ("postgresql", "SAVEPOINT here"),
    ],
    indirect=["any_url"],
)
def test_the_read_only_handle_refuses_to_write(store, url, first):
    make(store)
    with Store.open(url, read_only=True) as reader:
        assert len(reader.jobs()) == 1
        with pytest.raises(StoreError, match="for reading only"):
            make(reader, "other")

        def write():
            with reader.read() as connection:
                connection.exec_driver_sql(first)
                connection.exec_driver_sql(INSERT)

        with pytest.raises(StoreError, match="read-only"):
            write()


def test_foreign_keys_hold(store):
    orphan = "INSERT INTO subnets (job_id, key, architecture, params, macs) VALUES (9, 'k', '{}', 1, 1)"
    with pytest.raises(sa.exc.IntegrityError), store.write() as connection:
        connection.exec_driver_sql(orphan)


def pragmas(store):
    names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "query_only")
    with store.read() as connection:
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]


@pytest.mark.parametrize("any_url", ["sqlite"], indirect=True)
def test_the_settings_of_sqlite(store, url):
    assert pragmas(store) == ["wal", 1, 1, 60_000, 0]
    with Store.open(url, read_only=True) as reader:
        assert pragmas(reader)[2:] == [1, 60_000, 1]


@pytest.mark.parametrize(
    "url", ["nas.db", "mysql://host/nas", "sqlite://", "sqlite:///:memory:", "sqlite:///a.db?mode=ro", ""]
)
def test_what_is_no_url_of_a_store(url):
    with pytest.raises(UsageError) as caught:
        Store.open(url)
    assert "sqlite:///" in caught.value.hint


def test_the_default_url(monkeypatch, tmp_path):
    monkeypatch.setenv("NAS_STORE", "postgresql://host/nas")
    assert default_url() == "postgresql://host/nas"
    monkeypatch.delenv("NAS_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_url() == f"sqlite:///{tmp_path}/elastiform/nas.db"


def test_an_unreachable_server_is_one_sentence_without_the_password():
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError) as caught:
        Store.open("postgresql://me:secret@127.0.0.1:1/nas")
    assert "127.0.0.1" in caught.value.message
    assert "secret" not in caught.value.message
    assert caught.value.exit_code == 5


def test_importing_the_store_loads_neither_torch_nor_pandas_nor_alembic():
    code = "import sys, nas.store; print(sorted({'torch', 'pandas', 'alembic', 'optuna'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_jobs_that_are_made_at_once_get_different_names(store, url):
    def make_one(_):
        with Store.open(url) as own:
            return own.create_numbered_job("quick", config={}, seed=0, provenance={}).name

    with ThreadPoolExecutor(2) as pool:
        names = list(pool.map(make_one, range(6)))
    assert sorted(names) == ["quick", *(f"quick-{n}" for n in range(2, 7))]


def test_a_name_that_is_taken_in_between_is_tried_again(store, monkeypatch):
    make(store, "quick")
    answers = iter(["quick", "quick", "quick-2"])
    monkeypatch.setattr(type(store), "free_name", lambda self, base: next(answers))
    assert store.create_numbered_job("quick", config={}, seed=0, provenance={}).name == "quick-2"
