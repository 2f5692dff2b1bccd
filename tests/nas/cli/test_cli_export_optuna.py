"""`nas export-optuna`: the study that Optuna reads back, exit codes, and what is left behind."""

import inspect
import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from filled_store import finished_job
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from running import Nas
from sqlalchemy.pool import NullPool

import nas
import search_spaces
from nas.errors import ConflictError
from nas.proposals.optuna_adapters import architecture, distributions
from nas.results import optuna_study
from nas.searchers import STDERR
from nas.store import NewEvaluation, NewSubnet, Store
from search_spaces.errors import UsageError


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """The URL of a SQLite file that is not there, alone in its folder."""
    (tmp_path / "studies").mkdir()
    return f"sqlite:///{tmp_path / 'studies' / 'optuna.db'}"


@pytest.fixture
def journal(tmp_path: Path) -> str:
    """The path of a journal that is not there, alone in its folder."""
    (tmp_path / "studies").mkdir()
    return str(tmp_path / "studies" / "optuna.log")


@pytest.fixture(params=["database", "journal"])
def either(request: pytest.FixtureRequest) -> str:
    """As `storage` and as `journal`."""
    place: str = request.getfixturevalue("storage" if request.param == "database" else "journal")
    return place


@pytest.fixture
def few(filled: str) -> str:
    """As `filled`, with a job `few` whose 12 trials a database takes quickly."""
    with Store.open(filled) as store:
        finished_job(store, "few", count=12)
    return filled


def file_of(storage: str) -> Path:
    return Path(storage.removeprefix("sqlite:///").removeprefix("journal:"))


def left_in(storage: str) -> list[str]:
    return sorted(file.name for file in file_of(storage).parent.iterdir())


def opened(storage: str) -> BaseStorage:
    """Somebody's own storage, which keeps no connection that nobody would close."""
    if storage.startswith("sqlite:"):
        return RDBStorage(storage, engine_kwargs={"poolclass": NullPool})
    return JournalStorage(JournalFileBackend(str(file_of(storage))))


def loaded(storage: str, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=opened(storage))


def refused(run_nas: Nas, code: int, *words: object) -> str:
    ran = run_nas("export-optuna", *words)
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert "Traceback" not in ran.err
    assert ran.err.startswith("Error: ")
    return ran.err


def test_optuna_reads_the_search_as_it_was(run_nas: Nas, filled: str, either: str) -> None:
    ran = run_nas("export-optuna", "first", "--storage", either)
    assert (ran.code, ran.out) == (0, "first\n"), ran.err
    study = loaded(either, "first")
    assert study.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    assert study.metric_names == ["accuracy", "latency_ms"]
    assert study.user_attrs == {"job": "first", "seed": 0}
    with Store.open(filled, read_only=True) as store:
        evaluations = store.evaluations(store.job("first"), "search")
        space = nas.results.extraction.space_of(store, store.job("first"))
    assert [trial.number for trial in study.trials] == list(range(len(evaluations)))
    for trial, evaluation in zip(study.trials, evaluations, strict=True):
        assert trial.state == TrialState.COMPLETE
        assert trial.values == [evaluation.objectives[name] for name in study.metric_names]
        assert trial.distributions == distributions(space)
        assert architecture(space, trial.params).key == evaluation.subnet.key
        assert trial.user_attrs["subnet"] == evaluation.subnet.key
        assert trial.user_attrs["stderr"] == evaluation.stderr
        assert trial.user_attrs[STDERR] == {"accuracy": evaluation.stderr}
        assert trial.datetime_complete.astimezone() == evaluation.created_at
    assert len(study.best_trials) >= 2
    assert left_in(either) == [file_of(either).name]


def test_the_json_and_another_name(run_nas: Nas, few: str, either: str) -> None:
    ran = run_nas("export-optuna", "few", "--storage", either, "--study", "mine", "--json", "--quiet")
    assert json.loads(ran.out) == {"job": "few", "study": "mine", "trials": 12}
    assert ran.err == ""
    assert len(loaded(either, "mine").trials) == 12


def test_several_studies_share_a_storage_and_optuna_goes_on_with_one(
    run_nas: Nas, few: str, either: str
) -> None:
    mine = optuna.create_study(study_name="mine", storage=opened(either))
    mine.add_trial(optuna.create_trial(value=1.0))
    for name in ("a", "b"):
        assert run_nas("export-optuna", "few", "--storage", either, "--study", name).code == 0
    assert sorted(optuna.get_all_study_names(opened(either))) == ["a", "b", "mine"]
    assert [len(loaded(either, name).trials) for name in ("mine", "a", "b")] == [1, 12, 12]
    study = loaded(either, "b")
    study.tell(study.ask(), [0.5, 1.0])
    assert study.trials[-1].number == 12
    assert left_in(either) == [file_of(either).name]


def test_a_journal_may_have_any_name_behind_its_prefix(run_nas: Nas, few: str, tmp_path: Path) -> None:
    for storage in (f"journal:{tmp_path / 'studies.txt'}", str(tmp_path / "studies.journal")):
        assert run_nas("export-optuna", "few", "--storage", storage).code == 0
        assert len(loaded(storage, "few").trials) == 12


def test_the_python_twin(few: str, either: str) -> None:
    with Store.open(few, read_only=True) as store:
        made = nas.JobHandle(store, store.job("few")).export_optuna(either, study="twin")
    assert (made.study, made.trials) == ("twin", 12)
    assert len(loaded(either, "twin").trials) == 12


def test_an_evaluation_that_failed_is_a_failed_trial(filled: str, either: str) -> None:
    space = search_spaces.get("matformer")
    arch, cost = space.largest, space.cost(space.largest)
    broken = NewEvaluation(
        NewSubnet(arch.key, arch.to_dict(), cost.params, cost.macs), float("nan"), position=80, batch=9
    )
    with Store.open(filled) as store:
        job = store.create_job("broken", config={}, seed=3, provenance={})
        with store.acquire(job) as lease:
            store.begin_stage(lease, "space", "key")
            described = {"family": space.family, "options": dict(space.options), "size": str(space.size)}
            store.finish_stage(lease, "space", {"space": described})
            store.add_evaluations(lease, [broken])
            lease.finish("failed", "all")
        optuna_study.export(store, job, either)
    (trial,) = loaded(either, "broken").trials
    assert (trial.state, trial.values) == (TrialState.FAIL, None)
    assert trial.user_attrs["reason"] == "accuracy is nan"
    assert architecture(space, trial.params) == arch


def test_what_is_no_storage(run_nas: Nas, filled: str, storage: str, tmp_path: Path) -> None:
    assert "is not a database URL" in refused(run_nas, 2, "first", "--storage", "nonsense")
    assert "no plain file" in refused(run_nas, 2, "first", "--storage", "sqlite://")
    assert "no plain file" in refused(run_nas, 2, "first", "--storage", "sqlite:///:memory:")
    nowhere = f"sqlite:///{tmp_path / 'no' / 'where.db'}"
    assert "cannot be written" in refused(run_nas, 2, "first", "--storage", nowhere)
    assert "no plain file" in refused(run_nas, 2, "first", "--storage", "journal:")
    for file in (tmp_path / "no" / "where.log", f"journal:{tmp_path}"):
        assert "cannot be written" in refused(run_nas, 2, "first", "--storage", file)
    assert "--storage" in refused(run_nas, 2, "first")
    assert "between 1 and" in refused(run_nas, 2, "first", "--storage", storage, "--study", "")
    assert "driver" in refused(run_nas, 5, "first", "--storage", "nosuch://host/name")
    assert left_in(storage) == []


def test_what_has_nothing_to_export(run_nas: Nas, filled: str, either: str) -> None:
    refused(run_nas, 3, "third", "--storage", either)
    assert "not evaluated any subnet" in refused(run_nas, 4, "second", "--storage", either)
    assert left_in(either) == []


def test_a_study_of_that_name_stays_as_it_is(run_nas: Nas, filled: str, either: str) -> None:
    theirs = optuna.create_study(study_name="first", storage=opened(either))
    theirs.add_trial(optuna.create_trial(value=1.0))
    message = refused(run_nas, 4, "first", "--storage", either)
    assert "has a study 'first' already" in message
    assert "--study" in message
    assert [trial.values for trial in loaded(either, "first").trials] == [[1.0]]
    assert left_in(either) == [file_of(either).name]


def test_a_database_of_something_else_is_left_alone(run_nas: Nas, filled: str, storage: str) -> None:
    """The job's own store is one: Optuna's tables would meet ours in it."""
    before = file_of(filled).read_bytes()
    assert "not Optuna's" in refused(run_nas, 4, "first", "--storage", filled)
    assert file_of(filled).read_bytes() == before
    file_of(storage).write_text("no database at all, just some text that is long enough to be one")
    assert "cannot be written" in refused(run_nas, 5, "first", "--storage", storage)
    assert left_in(storage) == ["optuna.db"]


@pytest.mark.parametrize(
    "content",
    [b"just some text\n", b'{"op_code": 0', b'{"of": "something else"}\n', b"[1]\n", b"SQLite format 3\0"],
)
def test_a_file_that_is_no_journal_is_left_alone(
    run_nas: Nas, filled: str, journal: str, content: bytes
) -> None:
    file_of(journal).write_bytes(content)
    assert "not a journal of Optuna's" in refused(run_nas, 4, "first", "--storage", journal)
    assert file_of(journal).read_bytes() == content
    assert left_in(journal) == ["optuna.log"]


def test_another_version_of_optuna(run_nas: Nas, filled: str, storage: str) -> None:
    optuna.create_study(storage=opened(storage))
    with closing(sqlite3.connect(file_of(storage))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v1.3.0.a'")
    connection.close()
    assert "another version of Optuna" in refused(run_nas, 5, "first", "--storage", storage)


def rows_of(file: Path) -> dict[str, int]:
    """How many rows each table of a SQLite file has."""
    with closing(sqlite3.connect(file)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        count = "SELECT count(*) FROM "
        return {name: connection.execute(f"{count}{name}").fetchone()[0] for name in names}


@pytest.mark.parametrize("is_new", [True, False], ids=["new file", "storage that is there"])
@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        sa.exc.OperationalError("", {}, Exception("disk full")),
        StorageInternalError(),
        OSError(28, "disk full"),
    ],
    ids=repr,
)
def test_a_failure_leaves_nothing_behind(
    run_nas: Nas,
    filled: str,
    either: str,
    monkeypatch: pytest.MonkeyPatch,
    is_new: bool,
    error: BaseException,
) -> None:
    if not is_new:
        optuna.create_study(study_name="mine", storage=opened(either))
    is_database = either.startswith("sqlite:")
    before = rows_of(file_of(either)) if is_database and not is_new else {}

    def add_some(study: optuna.Study, trials: Iterable[FrozenTrial]) -> None:
        for trial in list(trials)[:3]:
            study.add_trial(trial)
        assert len(study.trials) == 3
        raise error

    monkeypatch.setattr(optuna.Study, "add_trials", add_some)
    ran = run_nas("export-optuna", "first", "--storage", either)
    assert (ran.code, ran.out) == (130 if isinstance(error, KeyboardInterrupt) else 5, ""), ran.err
    assert left_in(either) == ([] if is_new else [file_of(either).name])
    if not is_new:
        assert optuna.get_all_study_names(opened(either)) == ["mine"]
        assert not is_database or rows_of(file_of(either)) == before


def test_a_file_that_appears_meanwhile_is_kept(
    filled: str, either: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def appears(*_: object) -> None:
        file_of(either).write_text("mine")

    monkeypatch.setattr(optuna_study, "_add_study", appears)
    with (
        Store.open(filled, read_only=True) as store,
        pytest.raises(ConflictError, match="meanwhile"),
    ):
        optuna_study.export(store, store.job("first"), either)
    assert file_of(either).read_text() == "mine"
    assert left_in(either) == [file_of(either).name]


def test_a_name_that_no_study_can_have(filled: str, storage: str) -> None:
    with Store.open(filled, read_only=True) as store, pytest.raises(UsageError, match="between 1 and 512"):
        optuna_study.export(store, store.job("first"), storage, study="x" * 513)


def test_optuna_is_as_talkative_as_before(filled: str, journal: str) -> None:
    before = optuna.logging.get_verbosity()
    with Store.open(filled, read_only=True) as store:
        optuna_study.export(store, store.job("first"), journal)
    assert optuna.logging.get_verbosity() == before


def test_no_private_module_of_optuna_is_used() -> None:
    assert "optuna._" not in inspect.getsource(optuna_study)
    assert "._rdb" not in inspect.getsource(optuna_study)
