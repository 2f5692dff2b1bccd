"""`nas export-optuna`: the study that Optuna reads back, exit codes, and what is left behind."""

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState
from running import Nas
from sqlalchemy.pool import NullPool

import nas
import search_spaces
from nas import optuna_study
from nas.searchers import STDERR
from nas.searchers._distinct import architecture, distributions
from nas.store import NewEvaluation, NewSubnet, Store
from search_spaces._errors import ConflictError, UsageError


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """The URL of a SQLite file that is not there, alone in its folder."""
    (tmp_path / "studies").mkdir()
    return f"sqlite:///{tmp_path / 'studies' / 'optuna.db'}"


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def left_in(url: str) -> list[str]:
    return sorted(file.name for file in file_of(url).parent.iterdir())


def unpooled(url: str) -> RDBStorage:
    """Somebody's own storage, which keeps no connection that nobody would close."""
    return RDBStorage(url, engine_kwargs={"poolclass": NullPool})


def loaded(url: str, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=unpooled(url))


def refused(run_nas: Nas, code: int, *words: object) -> str:
    ran = run_nas("export-optuna", *words)
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert "Traceback" not in ran.err
    assert ran.err.startswith("Error: ")
    return ran.err


def test_optuna_reads_the_search_as_it_was(run_nas: Nas, filled: str, storage: str) -> None:
    ran = run_nas("export-optuna", "first", "--storage", storage)
    assert (ran.code, ran.out) == (0, "first\n"), ran.err
    study = loaded(storage, "first")
    assert study.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    assert study.metric_names == ["accuracy", "latency_ms"]
    assert study.user_attrs == {"job": "first", "seed": 0}
    with Store.open(filled, read_only=True) as store:
        evaluations = store.evaluations(store.job("first"), "search")
        space = nas.extraction.space_of(store, store.job("first"))
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
    assert left_in(storage) == ["optuna.db"]


def test_the_json_and_another_name(run_nas: Nas, filled: str, storage: str) -> None:
    ran = run_nas("export-optuna", "first", "--storage", storage, "--study", "mine", "--json", "--quiet")
    assert json.loads(ran.out) == {"job": "first", "study": "mine", "trials": 80}
    assert ran.err == ""
    assert len(loaded(storage, "mine").trials) == 80


def test_several_studies_share_a_storage_and_optuna_goes_on_with_one(
    run_nas: Nas, filled: str, storage: str
) -> None:
    own = optuna.create_study(study_name="own", storage=unpooled(storage))
    own.add_trial(optuna.create_trial(value=1.0))
    for name in ("a", "b"):
        assert run_nas("export-optuna", "first", "--storage", storage, "--study", name).code == 0
    assert sorted(optuna.get_all_study_names(unpooled(storage))) == ["a", "b", "own"]
    assert [len(loaded(storage, name).trials) for name in ("own", "a", "b")] == [1, 80, 80]
    study = loaded(storage, "b")
    study.tell(study.ask(), [0.5, 1.0])
    assert study.trials[-1].number == 80
    assert left_in(storage) == ["optuna.db"]


def test_the_python_twin(filled: str, storage: str) -> None:
    with Store.open(filled, read_only=True) as store:
        made = nas.JobHandle(store, store.job("first")).export_optuna(storage, study="twin")
    assert (made.study, made.trials) == ("twin", 80)
    assert len(loaded(storage, "twin").trials) == 80


def test_an_evaluation_that_failed_is_a_failed_trial(filled: str, storage: str) -> None:
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
        optuna_study.export(store, job, storage)
    (trial,) = loaded(storage, "broken").trials
    assert (trial.state, trial.values) == (TrialState.FAIL, None)
    assert trial.user_attrs["reason"] == "accuracy is nan"
    assert architecture(space, trial.params) == arch


def test_what_is_no_storage(run_nas: Nas, filled: str, storage: str, tmp_path: Path) -> None:
    assert "is not a database URL" in refused(run_nas, 2, "first", "--storage", "nonsense")
    assert "no plain file" in refused(run_nas, 2, "first", "--storage", "sqlite://")
    assert "no plain file" in refused(run_nas, 2, "first", "--storage", "sqlite:///:memory:")
    nowhere = f"sqlite:///{tmp_path / 'no' / 'where.db'}"
    assert "cannot be written" in refused(run_nas, 2, "first", "--storage", nowhere)
    assert "--storage" in refused(run_nas, 2, "first")
    assert "between 1 and" in refused(run_nas, 2, "first", "--storage", storage, "--study", "")
    assert "driver" in refused(run_nas, 5, "first", "--storage", "nosuch://host/name")
    assert left_in(storage) == []


def test_what_has_nothing_to_export(run_nas: Nas, filled: str, storage: str) -> None:
    refused(run_nas, 3, "third", "--storage", storage)
    assert "not evaluated any subnet" in refused(run_nas, 4, "second", "--storage", storage)
    assert left_in(storage) == []


def test_a_study_of_that_name_stays_as_it_is(run_nas: Nas, filled: str, storage: str) -> None:
    optuna.create_study(study_name="first", storage=unpooled(storage))
    before = file_of(storage).read_bytes()
    message = refused(run_nas, 4, "first", "--storage", storage)
    assert "has a study 'first' already" in message
    assert "--study" in message
    assert file_of(storage).read_bytes() == before


def test_a_database_of_something_else_is_left_alone(run_nas: Nas, filled: str, storage: str) -> None:
    """The job's own store is one: Optuna's tables would meet ours in it."""
    before = file_of(filled).read_bytes()
    assert "not Optuna's" in refused(run_nas, 4, "first", "--storage", filled)
    assert file_of(filled).read_bytes() == before
    file_of(storage).write_text("no database at all, just some text that is long enough to be one")
    assert "cannot be written" in refused(run_nas, 5, "first", "--storage", storage)
    assert left_in(storage) == ["optuna.db"]


def test_another_version_of_optuna(run_nas: Nas, filled: str, storage: str) -> None:
    optuna.create_study(storage=unpooled(storage))
    with closing(sqlite3.connect(file_of(storage))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v1.3.0.a'")
    connection.close()
    assert "another version of Optuna" in refused(run_nas, 5, "first", "--storage", storage)


@pytest.mark.parametrize("there", [False, True], ids=["new file", "storage that is there"])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), sa.exc.OperationalError("", {}, Exception("disk full"))]
)
def test_a_failure_leaves_nothing_behind(
    run_nas: Nas, filled: str, storage: str, monkeypatch, there: bool, error: BaseException
) -> None:
    if there:
        optuna.create_study(study_name="own", storage=unpooled(storage))

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(optuna_study, "_attribute_rows", fails)
    ran = run_nas("export-optuna", "first", "--storage", storage)
    assert (ran.code, ran.out) == (130 if isinstance(error, KeyboardInterrupt) else 5, "")
    assert left_in(storage) == (["optuna.db"] if there else [])
    if there:
        assert optuna.get_all_study_names(unpooled(storage)) == ["own"]
        with closing(sqlite3.connect(file_of(storage))) as connection, connection:
            tables = (models.TrialModel, models.TrialParamModel, models.StudyUserAttributeModel)
            for table in tables:
                query = f"SELECT count(*) FROM {table.__tablename__}"
                assert connection.execute(query).fetchone() == (0,)
        connection.close()


def test_a_file_that_appears_meanwhile_is_kept(filled: str, storage: str, monkeypatch) -> None:
    def appears(*_: object) -> int:
        file_of(storage).write_text("mine")
        return 1

    monkeypatch.setattr(optuna_study, "_add_study", appears)
    monkeypatch.setattr(optuna_study, "_add_trials", lambda *_: None)
    with (
        Store.open(filled, read_only=True) as store,
        pytest.raises(ConflictError, match="meanwhile"),
    ):
        optuna_study.export(store, store.job("first"), storage)
    assert file_of(storage).read_text() == "mine"
    assert left_in(storage) == ["optuna.db"]


def test_a_name_that_no_study_can_have(filled: str, storage: str) -> None:
    with Store.open(filled, read_only=True) as store, pytest.raises(UsageError, match="between 1 and 512"):
        optuna_study.export(store, store.job("first"), storage, study="x" * 513)


def test_rows_are_written_in_bulk(filled: str, storage: str) -> None:
    """Optuna itself takes some 25 ms of CPU a trial for these few choices."""
    with Store.open(filled, read_only=True) as store:
        job = store.job("first")
        optuna_study.export(store, job, storage, study="warm")
        start = time.process_time()
        made = optuna_study.export(store, job, storage)
        spent = time.process_time() - start
    assert 1000 * spent / made.trials < 5
