"""The jobs of a sweep: every combination of the values that were given for some keys of the job file."""

import json
from collections.abc import Sequence
from itertools import product
from math import prod

from nas.config import yaml
from search_spaces.errors import UsageError

MOST_JOBS = 1_000
HINT = "Example: --sweep search.seed=0,1,2"


def settings_of(sweeps: Sequence[str]) -> list[tuple[str, ...]]:
    """For each job of a sweep its settings `a.b=c`, the last key changing fastest; one without any of none.

    sweeps: `a.b=x,y,z`, the values as in YAML's [x, y, z]. Raises UsageError.
    """
    keys: dict[str, list[str]] = {}
    for text in sweeps:
        key, equals, values = text.partition("=")
        key = key.strip()
        if not key or not equals:
            raise UsageError(f"--sweep {text[:80]!r} is not of the form KEY=a,b.", HINT)
        if key in keys:
            raise UsageError(f"--sweep names {key[:80]!r} twice.", "Give all of its values at once.")
        keys[key] = _values(key, values)
    count = prod(map(len, keys.values()))
    if count > MOST_JOBS:
        raise UsageError(f"The sweep has {count:,} jobs; at most {MOST_JOBS:,} are queued at once.")
    return list(product(*keys.values()))


def _values(key: str, text: str) -> list[str]:
    values = yaml.read_text(f"[{text}]", where=f"--sweep {key}")
    if not isinstance(values, list) or not values:
        raise UsageError(f"--sweep {key[:80]} has no values.", HINT)
    settings = [f"{key}={json.dumps(value, default=str)}" for value in values]
    if len(set(settings)) < len(settings):
        raise UsageError(f"--sweep {key[:80]} has a value twice.", "Equal jobs find equal results.")
    return settings
