"""The supernet of `searched_job.yaml` as a search problem: each subnet's one evaluation is its truth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from search_overhead import searched_job
from search_problems import QUALITY, Floats, Problem

from nas import datasets
from nas.config import JobConfig
from nas.measuring.latency import stored_predictor
from nas.results.extraction import load_supernet
from nas.spaces.job_space import space_of
from nas.store import Job, Store
from search_spaces import SearchSpace
from search_spaces.space import Codes
from supernet.evaluation.scores import scored

REAL = "real"
LATENCY = "latency_ms"
EVALUATED_AT_ONCE = 256


def real(folder: Path) -> Problem:
    """Accuracy on the search split with inherited weights against predicted latency.

    The folder keeps the job that trained the supernet, and the table of all its subnets.
    """
    path = folder / "real.json"
    if not path.exists():
        store, job = searched_job(folder)
        with store:
            path.write_text(json.dumps(_table(store, job)), encoding="utf-8")
    told = json.loads(path.read_text(encoding="utf-8"))
    store, job = searched_job(folder)
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
        hits = scored(net, archs, data.batches("search", 256))
        accuracy += [float(hits[arch].double().mean()) for arch in archs]
    return {"codes": codes.tolist(), QUALITY: accuracy, LATENCY: _latency(store, job, space, codes)}


def _latency(store: Store, job: Job, space: SearchSpace, codes: Codes) -> list[float]:
    device = store.devices()[0]
    predictor = stored_predictor(store, job, space, device)
    assert predictor is not None, "the job has succeeded"
    latency_ms: list[float] = predictor.predict(codes)[0].tolist()
    return latency_ms
