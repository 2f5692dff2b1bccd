"""A job's search as a study in an Optuna storage, such as `optuna-dashboard` shows.

The search itself keeps its study in memory. Everything is written through Optuna's public interface, trial
by trial: slow in a database, where each takes many queries; fast in a journal, where it is a line.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import optuna
import sqlalchemy as sa
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from nas.config.components import as_stored
from nas.errors import ConflictError, StoreError
from nas.limits import QUALITIES, kind_of
from nas.proposals.optuna_adapters import distributions, parameters, quiet
from nas.searchers import STDERR
from nas.spaces.job_space import space_of
from nas.store import Evaluation, Job, Store
from search_spaces import SearchSpace
from search_spaces.errors import UsageError

LONGEST_NAME = 512  # characters of a study's name in a database of Optuna's
OPTUNAS = "version_info"  # a table that each database of Optuna's has
JOURNAL, JOURNAL_ENDINGS = "journal:", (".log", ".journal")
HINT = "Write FILE.log, sqlite:///FILE.db or postgresql://USER@HOST/NAME."


@dataclass(frozen=True)
class Exported:
    """What was written: the study's name and how many trials it has."""

    study: str
    trials: int


def export(store: Store, job: Job, storage: str, *, study: str | None = None) -> Exported:
    """Writes the search of a job, as far as it is, to an Optuna storage; all of it or nothing.

    storage: as `place_of`; a file that is not there is made.  study: its name in the storage, by default the
    job's.  A subnet that could not be evaluated is a failed trial.
    Raises UsageError for a storage or name that is none, ConflictError for a study that is there already, a
    storage that is not Optuna's, or a job without evaluations, StoreError where nothing can be written.
    """
    name = job.name if study is None else study
    if not 0 < len(name) <= LONGEST_NAME:
        raise UsageError(f"The name of a study has between 1 and {LONGEST_NAME} characters.", "Try --study.")
    place = place_of(storage)
    space, evaluations = space_of(store, job), store.evaluations(job, "search")
    if not evaluations:
        raise ConflictError(
            f"Job '{job.name}' has not evaluated any subnet yet.", f"`nas show {job.id}` tells how far it is."
        )
    objectives = as_stored(job.config, where=f"The config of job '{job.name}'").objectives
    trials = _trials(space, objectives, evaluations)
    with _written(place) as opened:
        _add_study(opened, name, job, objectives, trials)
    return Exported(name, len(trials))


@dataclass(frozen=True)
class Place:
    """Where studies are written.

    A journal (without a URL), a SQLite file (with one) or a server's database (without a file).
    """

    file: Path | None
    url: URL | None

    @property
    def shown(self) -> str:
        """As messages name it, without a password."""
        if self.url is None or self.file is not None:
            return f"'{self.file}'"
        return f"'{self.url.render_as_string(hide_password=True)}'"

    def moved(self, file: Path) -> "Place":
        """The same in another file."""
        return Place(file, self.url and self.url.set(database=str(file)))


def place_of(storage: str) -> Place:
    """Where a storage is: `journal:FILE`, a path that ends in .log or .journal, or a database's URL.

    Raises UsageError for what is none of these, or for a file that cannot be.
    """
    if storage.startswith(JOURNAL):
        return Place(_file(storage.removeprefix(JOURNAL)), None)
    if "://" not in storage and storage.endswith(JOURNAL_ENDINGS):
        return Place(_file(storage), None)
    try:
        url = make_url(storage)
    except (ArgumentError, ValueError):
        raise UsageError(
            f"The storage '{storage[:200]}' is not a database URL and not a journal file.", HINT
        ) from None
    if url.get_backend_name() == "sqlite":
        if url.database == ":memory:" or url.query:
            raise UsageError("The storage names no plain file.", HINT)
        return Place(None, url).moved(_file(url.database or ""))
    return Place(None, url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url)


def _add_study(
    storage: BaseStorage, name: str, job: Job, objectives: Sequence[str], trials: Sequence[FrozenTrial]
) -> None:
    """A new study with these trials; one that cannot be written to its end is deleted."""
    study = _new_study(storage, name, objectives)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(objectives))
        for key, value in {"job": job.name, "seed": job.seed}.items():
            study.set_user_attr(key, value)
        study.add_trials(trials)
    except BaseException:
        with suppress(Exception):  # what is wrong with the storage is told by the first error
            optuna.delete_study(study_name=name, storage=storage)
        raise


def _new_study(storage: BaseStorage, name: str, objectives: Sequence[str]) -> optuna.Study:
    """Raises ConflictError for a study that is there already."""
    goals = [
        StudyDirection.MAXIMIZE
        if objective in QUALITIES and kind_of(objective).goal == "max"
        else StudyDirection.MINIMIZE
        for objective in objectives
    ]
    try:
        with quiet():
            return optuna.create_study(storage=storage, study_name=name, directions=goals)
    except DuplicatedStudyError:
        raise ConflictError(
            f"The storage has a study '{name}' already.", "Give another name with --study."
        ) from None


def _trials(
    space: SearchSpace, objectives: Sequence[str], evaluations: Sequence[Evaluation]
) -> list[FrozenTrial]:
    """A trial an evaluation; it took no time: the store has when it was written, not when it began."""
    kinds = distributions(space)
    trials = []
    for evaluation in evaluations:
        values = _values(evaluation, objectives)
        trial = optuna.create_trial(
            state=TrialState.FAIL if values is None else TrialState.COMPLETE,
            values=values,
            params=parameters(space, space.architecture(evaluation.subnet.architecture)),
            distributions=kinds,
            user_attrs=_attributes(evaluation),
        )
        moment: datetime = evaluation.created_at.astimezone().replace(tzinfo=None)  # Optuna has local times
        trial.datetime_start = trial.datetime_complete = moment
        trials.append(trial)
    return trials


def _values(evaluation: Evaluation, objectives: Sequence[str]) -> list[float] | None:
    """The values of the objectives, None where the search could not be told all of them."""
    values = [evaluation.objectives.get(name) for name in objectives]
    numbers = [value for value in values if value is not None]
    return numbers if evaluation.state == "ok" and len(numbers) == len(values) else None


def _attributes(evaluation: Evaluation) -> dict[str, object]:
    subnet = evaluation.subnet
    attributes = {"subnet": subnet.key, "params": subnet.params, "macs": subnet.macs}
    attributes |= {name: getattr(evaluation, name) for name in ("stderr", "count", "batch", "reason")}
    if evaluation.stderr is not None:
        attributes[STDERR] = {evaluation.metric: evaluation.stderr}
    return {key: value for key, value in attributes.items() if value is not None}


def _file(path: str) -> Path:
    if not path:
        raise UsageError("The storage names no plain file.", HINT)
    file = Path(path).expanduser().absolute()
    if not file.parent.is_dir() or file.is_dir():
        raise UsageError(f"The storage '{file}' cannot be written.", "Name a file in a folder that exists.")
    return file


@contextmanager
def _written(place: Place) -> Iterator[BaseStorage]:
    """The storage, open; a new file gets its name when it is complete.

    Raises ConflictError for what is not Optuna's, StoreError for a storage that cannot be written, is of
    another Optuna, or has no driver here.
    """
    file = place.file
    if file is None or file.exists():
        with _opened(place, place) as storage:
            yield storage
        return
    try:
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".", suffix=".partial") as folder:
            partial = Path(folder) / file.name
            with _opened(place.moved(partial), place) as storage:
                yield storage
            os.link(partial, file)
    except FileExistsError:
        raise ConflictError(f"Somebody has made {place.shown} meanwhile.", "Try again.") from None
    except OSError as error:
        raise _unusable(place, error) from None


@contextmanager
def _opened(place: Place, named: Place) -> Iterator[BaseStorage]:
    """`named` is the place that messages tell."""
    try:
        if place.url is None:
            assert place.file is not None
            yield _journal(place.file, named)
            return
        database = _database(place.url, named)
        try:
            yield database
        finally:
            database.remove_session()
    except (SQLAlchemyError, StorageInternalError, OSError) as error:
        raise _unusable(named, error) from None


def _journal(file: Path, named: Place) -> JournalStorage:
    """Raises ConflictError for a file that is no journal."""
    try:
        if file.exists():
            _check_lines(file)
        return JournalStorage(JournalFileBackend(str(file)))
    except (ValueError, LookupError, TypeError, AssertionError):  # Optuna has no error for it
        raise ConflictError(
            f"The file {named.shown} is not a journal of Optuna's.", "Name another file."
        ) from None


def _check_lines(file: Path) -> None:
    """Raises ValueError where the last line is not a JSON document: Optuna reads over it and writes on."""
    *_, last = file.read_bytes().splitlines(keepends=True) or [b"{}\n"]
    if not last.endswith(b"\n"):
        raise ValueError("The last line has no end.")
    json.loads(last)


def _database(url: URL, named: Place) -> RDBStorage:
    """The storage with its tables. Raises ConflictError for a database with the tables of something else."""
    try:
        engine = sa.create_engine(url)
    except (ImportError, NoSuchModuleError) as error:
        raise StoreError(
            f"No driver for this storage is installed: {error}.",
            "Install it, or export to sqlite:///FILE.db.",
        ) from None
    try:
        tables = sa.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if tables and OPTUNAS not in tables:
        raise ConflictError(
            f"The database {named.shown} holds tables that are not Optuna's.", "Name another database."
        )
    try:
        # Without a pool: a storage that cannot be made would leave its connections behind.
        return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs={"poolclass": NullPool})
    except RuntimeError:
        assert named.url is not None
        raise StoreError(
            f"The storage {named.shown} was made by another version of Optuna.",
            f"`optuna storage upgrade --storage {named.url.render_as_string()}` makes it this one's.",
        ) from None


def _unusable(place: Place, error: Exception) -> StoreError:
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    reason = str(getattr(cause, "orig", None) or cause).strip()
    first_line = (reason.splitlines() or [type(cause).__name__])[0].rstrip(".")
    return StoreError(
        f"The storage {place.shown} cannot be written: {first_line}.",
        "Check the path, the server, the rights.",
    )
