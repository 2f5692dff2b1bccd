"""The quickstart's supernet as a search problem: every subnet evaluated once, which is then its truth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from search_overhead import quickstart
from search_problems import QUALITY, Floats, Problem

from nas import datasets
from nas.config import JobConfig
from nas.extraction import load_supernet, space_of
from nas.store import Job, Store
from predictors._predictor import restored
from search_spaces import SearchSpace
from search_spaces._space import Codes
from supernet._evaluate import correct

REAL = "real"
LATENCY = "latency_ms"
EVALUATED_AT_ONCE = 256


def real(folder: Path) -> Problem:
    """Accuracy on the search split with inherited weights against predicted latency.

    The folder keeps the job that trained the supernet, and the table of all its subnets.
    """
    path = folder / "real.json"
    if not path.exists():
        store, job = quickstart(folder)
        with store:
            path.write_text(json.dumps(_table(store, job)), encoding="utf-8")
    told = json.loads(path.read_text(encoding="utf-8"))
    store, job = quickstart(folder)
    with store:
        space = space_of(store, job)
    rows = {np.array(code, dtype=np.int64).tobytes(): i for i, code in enumerate(told["codes"])}
    columns = {name: np.array(told[name]) for name in (QUALITY, LATENCY)}

    def column(name: str, codes: Codes) -> Floats:
        found: Floats = columns[name][[rows[code.tobytes()] for code in codes]]
        return found

    def metrics(codes: Codes) -> dict[str, Floats]:
        return {LATENCY: column(LATENCY, codes)}

    return Problem(REAL, space, (LATENCY,), lambda codes: column(QUALITY, codes), metrics)


def _table(store: Store, job: Job) -> dict[str, Any]:
    config = JobConfig.model_validate(job.config, strict=False)
    space, net = space_of(store, job), load_supernet(store, job)
    data = datasets.build(config.data.name, **config.data.options)
    codes = space.all_codes()
    accuracy: list[float] = []
    for start in range(0, len(codes), EVALUATED_AT_ONCE):
        archs = space.decode(codes[start : start + EVALUATED_AT_ONCE])
        hits = correct(net, archs, data.batches("search", 256))
        accuracy += [float(hits[arch].double().mean()) for arch in archs]
    return {"codes": codes.tolist(), QUALITY: accuracy, LATENCY: _latency(store, job, space, codes)}


def _latency(store: Store, job: Job, space: SearchSpace, codes: Codes) -> list[float]:
    row = store.predictor(job)
    assert row is not None, "the job has succeeded"
    told: list[float] = restored(space, row.kind, row.state).predict(codes)[0].tolist()
    return told
