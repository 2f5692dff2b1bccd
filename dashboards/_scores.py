"""How good a latency predictor is, in words that stand beside the noise of what it was scored on.

A predictor is scored on noisy measurements, so that even one without any error would show some. An error
below that is luck, and no sentence here tells it as anything else.
"""

from collections.abc import Mapping
from typing import Any

from dashboards._look import is_number, option, percent


def score_words(row: Mapping[str, Any]) -> list[str]:
    """Sentences about a row of `latency_frames.predictors`: error, order, interval."""
    told = [_error_words(row)]
    if is_number(row["within_5"]) and is_number(row["within_10"]):
        within = f"{percent(row['within_5'])} of the subnets held out are within 5 %"
        told.append(f"{within}, {percent(row['within_10'])} within 10 %.")
    if is_number(row["tau"]):
        halves = row["repeat_tau"]
        noise = f"; odd and even rounds of the measurements: {halves:.2f}" if is_number(halves) else ""
        told.append(f"Kendall's tau of prediction and measurement: {row['tau']:.2f}{noise}.")
    if is_number(row["half_width"]):
        told.append(f"The 90 % interval of a typical prediction is ± {percent(row['half_width'])} of it.")
    return told


def short_score(row: Mapping[str, Any]) -> str:
    """The error for a table, never without what a perfect predictor would show, if that is known."""
    if not is_number(row["mape"]):
        return "not scored"
    if not is_number(row["perfect_mape"]):
        return f"{percent(row['mape'])} (noise unknown)"
    if row["mape"] <= row["perfect_mape"]:
        return f"{percent(row['mape'])}, within the noise ({percent(row['perfect_mape'])})"
    return f"{percent(row['mape'])} (perfect: {percent(row['perfect_mape'])})"


def predictor_words(row: Mapping[str, Any]) -> str:
    """What the predictor is: roofline (work), fitted to 40 subnets."""
    rung = f" ({row['rung']})" if isinstance(row["rung"], str) else ""
    count = f", fitted to {option(row['count'])} subnets" if is_number(row["count"]) else ""
    return f"{row['kind']}{rung}{count}"


def _error_words(row: Mapping[str, Any]) -> str:
    mape, perfect = row["mape"], row["perfect_mape"]
    if not is_number(mape):
        return "The predictor was not scored: too few subnets were measured to hold some out."
    error = f"Mean error {percent(mape)} on subnets held out"
    if not is_number(perfect):
        return f"{error}; how much of it is noise of the measurements is not known."
    noise = f"a perfect predictor would show {percent(perfect)}"
    if mape <= perfect:
        return f"{error}; {noise}, so that no error can be told from the noise of the measurements."
    return f"{error}; {noise}."
