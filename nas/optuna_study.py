"""A job's search as a study in an Optuna storage, such as `optuna-dashboard` shows.

The search itself keeps its study in memory. Optuna writes a trial in several transactions and a row for every
parameter, each with queries of its own: minutes for a search of thousands. Here all rows of a study go in a
single transaction, into the tables of the installed Optuna.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.study.study import _SYSTEM_ATTR_METRIC_NAMES
from optuna.trial import TrialState
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from nas._optuna_storage import parsed, written
from nas.components import as_stored
from nas.conditions import QUALITIES
from nas.extraction import space_of
from nas.searchers import STDERR
from nas.searchers._distinct import distributions, parameters
from nas.store import Evaluation, Job, Store
from search_spaces import SearchSpace
from search_spaces._errors import ConflictError, UsageError

Row = dict[str, Any]
LONGEST_NAME = models.MAX_INDEXED_STRING_LENGTH


@dataclass(frozen=True)
class Exported:
    """What was written: the study's name and how many trials it has."""

    study: str
    trials: int


def export(store: Store, job: Job, storage: str, *, study: str | None = None) -> Exported:
    """Writes the search of a job, as far as it is, to an Optuna storage; all of it or nothing.

    storage: a database URL as Optuna takes it; a SQLite file that is not there is made.  study: its name in
    the storage, by default the job's.  A subnet that could not be evaluated is a failed trial.
    Raises UsageError for a URL or name that is none, ConflictError for a study that is there already, a
    database that is not Optuna's, or a job without evaluations, StoreError where nothing can be written.
    """
    name = job.name if study is None else study
    if not 0 < len(name) <= LONGEST_NAME:
        raise UsageError(f"The name of a study has between 1 and {LONGEST_NAME} characters.", "Try --study.")
    url = parsed(storage)
    space, evaluations = space_of(store, job), store.evaluations(job, "search")
    if not evaluations:
        raise ConflictError(
            f"Job '{job.name}' has not evaluated any subnet yet.", f"`nas show {job.id}` tells how far it is."
        )
    objectives = as_stored(job.config, where=f"The config of job '{job.name}'").objectives
    with written(url) as connection:
        study_id = _add_study(connection, name, job, objectives)
        _add_trials(connection, study_id, space, objectives, evaluations)
    return Exported(name, len(evaluations))


def _add_study(connection: Connection, name: str, job: Job, objectives: Sequence[str]) -> int:
    """The id of a new study without trials."""
    try:
        row = connection.execute(sa.insert(models.StudyModel).values(study_name=name))
    except IntegrityError:
        raise ConflictError(
            f"The storage has a study '{name}' already.", "Give another name with --study."
        ) from None
    key = row.inserted_primary_key
    assert key is not None
    study = int(key[0])
    directions = [
        StudyDirection.MAXIMIZE if objective in QUALITIES else StudyDirection.MINIMIZE
        for objective in objectives
    ]
    rows = [
        {"study_id": study, "objective": place, "direction": direction}
        for place, direction in enumerate(directions)
    ]
    connection.execute(sa.insert(models.StudyDirectionModel), rows)
    _add_attributes(connection, models.StudyUserAttributeModel, study, {"job": job.name, "seed": job.seed})
    named = {_SYSTEM_ATTR_METRIC_NAMES: list(objectives)}
    _add_attributes(connection, models.StudySystemAttributeModel, study, named)
    return study


def _add_attributes(connection: Connection, model: Any, study: int, values: Mapping[str, Any]) -> None:
    rows = [{"study_id": study, "key": key, "value_json": json.dumps(told)} for key, told in values.items()]
    connection.execute(sa.insert(model), rows)


def _add_trials(
    connection: Connection,
    study: int,
    space: SearchSpace,
    objectives: Sequence[str],
    evaluations: Sequence[Evaluation],
) -> None:
    told = [_told(evaluation, objectives) for evaluation in evaluations]
    connection.execute(
        sa.insert(models.TrialModel.__table__),
        [_trial_row(study, number, e, told[number]) for number, e in enumerate(evaluations)],
    )
    c = models.TrialModel
    query = sa.select(c.number, c.trial_id).where(c.study_id == study)
    ids = {int(number): int(trial) for number, trial in connection.execute(query)}
    params, values, attributes = list[Row](), list[Row](), list[Row]()
    kinds = {name: (kind, distribution_to_json(kind)) for name, kind in distributions(space).items()}
    for number, evaluation in enumerate(evaluations):
        of = {"trial_id": ids[number]}
        params += [of | row for row in _param_rows(space, kinds, evaluation)]
        values += [of | row for row in _value_rows(told[number])]
        attributes += [of | row for row in _attribute_rows(evaluation)]
    for model, rows in (
        (models.TrialParamModel, params),
        (models.TrialValueModel, values),
        (models.TrialUserAttributeModel, attributes),
    ):
        if rows:
            connection.execute(sa.insert(model), rows)


def _told(evaluation: Evaluation, objectives: Sequence[str]) -> list[float] | None:
    """The values of the objectives, None where the search could not be told all of them."""
    values = [evaluation.objectives.get(name) for name in objectives]
    known = [value for value in values if value is not None]
    return known if evaluation.state == "ok" and len(known) == len(values) else None


def _trial_row(study: int, number: int, evaluation: Evaluation, told: list[float] | None) -> Row:
    """A trial that took no time: the store knows when an evaluation was written, not when it began."""
    moment: datetime = evaluation.created_at.astimezone().replace(tzinfo=None)  # Optuna has local times
    state = TrialState.FAIL if told is None else TrialState.COMPLETE
    row = {"study_id": study, "number": number, "state": state}
    return row | {"datetime_start": moment, "datetime_complete": moment}


def _param_rows(
    space: SearchSpace, kinds: Mapping[str, tuple[BaseDistribution, str]], evaluation: Evaluation
) -> list[Row]:
    arch = space.architecture(evaluation.subnet.architecture)
    return [
        {
            "param_name": name,
            "param_value": kinds[name][0].to_internal_repr(value),
            "distribution_json": kinds[name][1],
        }
        for name, value in parameters(space, arch).items()
    ]


def _value_rows(told: list[float] | None) -> list[Row]:
    finite = models.TrialValueModel.TrialValueType.FINITE  # the store holds no others
    return [
        {"objective": place, "value": value, "value_type": finite} for place, value in enumerate(told or ())
    ]


def _attribute_rows(evaluation: Evaluation) -> list[Row]:
    subnet = evaluation.subnet
    known = {"subnet": subnet.key, "params": subnet.params, "macs": subnet.macs}
    known |= {name: getattr(evaluation, name) for name in ("stderr", "count", "batch", "reason")}
    if evaluation.stderr is not None:
        known[STDERR] = {evaluation.metric: evaluation.stderr}
    return [
        {"key": key, "value_json": json.dumps(value)} for key, value in known.items() if value is not None
    ]
