"""What each choice of a space counts for, as far as the evaluated subnets of a search tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dashboards.figures.look import option

MOST_ROWS = 5_000
FEWEST = 10  # evaluated subnets
RIDGE = 1e-6  # so that choices that always go together share what they do


@dataclass(frozen=True, eq=False)
class Importance:
    """rows: columns choice and spread, the greatest first.  explained: the share of the variance that choices
    explain when each does the same whatever the others are (R²).  count: of subnets.
    """

    rows: pd.DataFrame
    explained: float
    count: int


def choice_texts(architectures: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A column a choice, as texts; choices of layers have one for each layer, `name.0` and on.

    What a subnet does not have is a dash.
    """
    rows = [dict(_spread_out(architecture)) for architecture in architectures]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pd.DataFrame([[row.get(name, "–") for name in names] for row in rows], columns=names, dtype=object)


def choice_columns(architectures: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """As `choice_texts`, without the choices in which all are the same."""
    texts = choice_texts(architectures)
    return texts[[name for name in texts.columns if texts[name].nunique() > 1]]


def _spread_out(architecture: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        pair
        for name, value in architecture.items()
        for pair in (
            [(f"{name}.{i}", option(one)) for i, one in enumerate(value)]
            if isinstance(value, list | tuple)
            else [(name, option(value))]
        )
    ]


def importance(choices: pd.DataFrame, values: pd.Series) -> Importance | None:
    """By how much a choice moves a value: the standard deviation, over the evaluated subnets, of what an
    additive fit gives for that choice; in the unit of the value.

    None for too few subnets, and where nothing was chosen or nothing differs. What a search looked at is no
    fair sample: a choice that it settled early counts for little here.
    """
    has_value = values.notna().to_numpy()
    every = max(1, -(-int(has_value.sum()) // MOST_ROWS))
    places = np.flatnonzero(has_value)[::every]
    if len(places) < FEWEST or choices.empty:
        return None
    y: NDArray[np.float64] = values.to_numpy(dtype=np.float64)[places]
    spread = y.std()
    if spread == 0:
        return None
    columns, of_choice = _one_hot(choices.iloc[places])
    x = columns - columns.mean(axis=0)
    gram = x.T @ x + RIDGE * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (y - y.mean()))
    left = y - y.mean() - x @ weights
    parts = [
        float((x[:, of_choice == i] @ weights[of_choice == i]).std()) for i in range(len(choices.columns))
    ]
    rows = pd.DataFrame({"choice": list(choices.columns), "spread": parts})
    rows = rows.sort_values("spread", ascending=False, kind="stable", ignore_index=True)
    return Importance(rows, float(1 - np.square(left).mean() / spread**2), len(places))


def _one_hot(choices: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Columns of 0 and 1 for each option, and which choice each is of."""
    parts = [pd.get_dummies(choices[name], dtype=float).to_numpy() for name in choices.columns]
    of_choice = np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])
    return np.hstack(parts), of_choice
