"""Results of `matlm.py`: lines of JSON in a folder, written as they end, so that none is made twice."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def kept(
    path: Path, wanted: Sequence[Mapping[str, Any]], make: Callable[..., Mapping[str, Any]]
) -> list[Row]:
    """A row for each wanted key: those that the file has, the others made (`make(**key)`) and added."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    listed = []
    for key in wanted:
        row = next((row for row in rows if all(row.get(name) == value for name, value in key.items())), None)
        if row is None:
            row = {**key, **make(**key)}
            with path.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
        listed.append(row)
    return listed


def told(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard error; of one value only that."""
    if len(values) < 2:
        return f"{np.mean(values):.{digits}f}"
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.{digits}f} ± {error:.{digits}f}"


def table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Of Markdown."""
    rule = "|".join("---" for _ in titles)
    return "\n".join(
        [f"| {' | '.join(titles)} |", f"|{rule}|", *(f"| {' | '.join(line)} |" for line in lines)]
    )
