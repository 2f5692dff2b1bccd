"""Measurements on their way from an agent to a job, as plain data.

What comes back may be anything: it is checked before anything is made of it.

Nothing of a refused answer is kept, unless it was the last that is asked for: then what is right in it is.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nas.measuring.requests import Results
from predictors.measurement.labels import RAW, ratios
from predictors.measurement.plausibility import DAY_MS, MOST_BYTES, MOST_MJ
from predictors.measurement.rounds import Failure, Measurement

MOST_ROUNDS = 1_000_000
LONGEST_REASON = 500
SECONDS = (1e-12, DAY_MS / 1e3)  # of one timing
POSITIONS = ("round", "position")  # columns that begin with 0
MAY_LACK = ("cpu_s", "before_cpu_s", "after_cpu_s")  # columns of devices without CPU time

Model = TypeVar("Model", bound=BaseModel)
Time = Annotated[float, Field(gt=0, lt=DAY_MS, allow_inf_nan=False)]
Spread = Annotated[float, Field(ge=0, lt=DAY_MS, allow_inf_nan=False)]
Cell = Annotated[float, Field(ge=0, lt=DAY_MS, allow_inf_nan=False)] | None


class BadAnswerError(Exception):
    """An answer that cannot be one; its text says why."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class _Answer(_Strict):
    device_id: int
    subnets: dict[str, Any]


class _Measured(_Strict):
    """The fields of `Measurement`; all that the measuring code can tell has to be there."""

    latency_ms: Time
    spread_ms: Spread
    stderr_ms: Spread
    reference_ms: Time
    rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)]
    raw: Annotated[list[list[Cell]], Field(max_length=MOST_ROUNDS)]
    contention: Spread
    peak_memory_bytes: Annotated[int, Field(ge=0, lt=MOST_BYTES)] | None = None
    energy_mj: Annotated[float, Field(gt=0, lt=MOST_MJ, allow_inf_nan=False)] | None = None
    extras_failure: Annotated[str, AfterValidator(lambda text: text[:LONGEST_REASON])] | None = None


class _Failed(_Strict):
    """Those of `Failure`."""

    reason: str
    raw: Annotated[list[list[Cell]], Field(max_length=MOST_ROUNDS)] = []


def plain_answer(device_id: int, results: Results) -> dict[str, Any]:
    """What an agent answers to a request: the results on its device, as plain data."""
    return {"device_id": device_id, "subnets": {key: asdict(result) for key, result in results.items()}}


def checked_answer(answer: object, *, asked: Collection[str], device_id: int) -> Results:
    """The results of a request for the subnets of these keys on a device. Raises BadAnswerError."""
    by_key = _by_key(answer, asked=asked, device_id=device_id)
    return {key: _result(key, by_key[key]) for key in asked}


def salvaged(answer: object, *, asked: Collection[str], device_id: int) -> Results:
    """What is right in an answer, and Failures with the reason for all else."""
    try:
        by_key = _by_key(answer, asked=asked, device_id=device_id)
    except BadAnswerError as error:
        return {key: Failure(str(error)) for key in asked}
    results: Results = {}
    for key in asked:
        try:
            results[key] = _result(key, by_key[key])
        except BadAnswerError as error:
            results[key] = Failure(str(error))
    return results


def is_useful(answer: object, *, asked: Collection[str], device_id: int) -> bool:
    """Whether it is a good answer that tells a latency at all."""
    try:
        results = checked_answer(answer, asked=asked, device_id=device_id)
    except BadAnswerError:
        return False
    return any(isinstance(result, Measurement) for result in results.values())


def _by_key(answer: object, *, asked: Collection[str], device_id: int) -> Mapping[str, object]:
    """What it says of each subnet, about which it says something of all that were asked and of no other."""
    whole = _checked(_Answer, answer, "the answer")
    if whole.device_id != device_id:
        raise BadAnswerError(f"the answer is of device {str(whole.device_id)[:20]}, not of {device_id}")
    if others := [key for key in whole.subnets if key not in asked]:
        raise BadAnswerError(f"the answer tells of a network that was not asked for, {others[0][:40]!a}")
    if missing := [key for key in asked if key not in whole.subnets]:
        raise BadAnswerError(f"the answer lacks {len(missing)} of {len(asked)} networks, as {missing[0]}")
    return whole.subnets


def _result(key: str, fields: object) -> Measurement | Failure:
    if isinstance(fields, Mapping) and "reason" in fields:
        failed = _checked(_Failed, fields, f"the answer about {key}")
        _check_rows(key, failed.raw)
        return Failure(failed.reason[:LONGEST_REASON], failed.raw)
    good = _checked(_Measured, fields, f"the answer about {key}")
    _check_rows(key, good.raw)
    if len(good.raw) != good.rounds:
        raise BadAnswerError(f"the answer about {key} has {len(good.raw)} timings of {good.rounds} rounds")
    _check_ratios(key, good)
    return Measurement(**good.model_dump())


def _check_ratios(key: str, good: _Measured) -> None:
    """Labels are made of them again later."""
    with np.errstate(all="ignore"):
        milliseconds = ratios(good.raw) * good.reference_ms
    if not ((milliseconds > 0) & (milliseconds < DAY_MS)).all():
        raise BadAnswerError(f"the answer about {key} has a timing that its calibrator cannot have seen")


def _check_rows(key: str, raw: list[list[float | None]]) -> None:
    for row in raw:
        if len(row) != len(RAW):
            raise BadAnswerError(f"the answer about {key} has a timing of {len(row)} numbers, not {len(RAW)}")
        for name, value in zip(RAW, row, strict=True):
            if value is None and name in MAY_LACK:
                continue
            least, most = SECONDS if name.endswith("_s") else (float(name not in POSITIONS), DAY_MS)
            if value is None or not least <= value < most:
                raise BadAnswerError(f"the answer about {key} has a timing whose {name} is {value}")


def _checked(model: type[Model], value: object, what: str) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"]).encode("ascii", "backslashreplace").decode()
        message = f"{what} is none: {f'{place}: ' if place else ''}{first['msg']}"
        raise BadAnswerError(message[:LONGEST_REASON]) from error
