"""Numbers of this tree that depend on floating point, as JSON on stdout: item -> text, or a list of texts.

`same_numbers.py` runs the probes of two trees on one machine and compares what they print. What is printed
names no module and no function: a probe changes with the code that it asks, and its items keep their names
and meanings.
"""

import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from torch import Tensor

import search_spaces
import supernet
from nas import datasets, searchers
from nas.config import load_config
from nas.exported import folder as exporter
from nas.limits import Limit
from nas.searchers import SearchProblem
from nas.spaces.job_space import exact_metrics, resolve
from nas.training.supernets import finished, strategy
from predictors.latency import additive, auto, flops, gbm, gp, mlp, roofline
from predictors.regression import features
from search_spaces import SearchSpace
from search_spaces.errors import NASError
from search_spaces.space import INACTIVE, Codes
from supernet.training.trainer import Training

ROOT = Path(search_spaces.__file__).parent.parent  # of the tree that is asked, whosever probe this is
SPACES = {"matformer": ("params<=30000",), "vit_resnas": ("macs>=60000", "macs<=4000000")}
SEEDS, PROPOSALS, BATCH = (0, 1), 50, 10
DEAR = {"gp": 14}  # proposals of searchers that take seconds for one; `--long`: as many as of the others
LONG = "--long"
STEPS = 60
OBJECTIVES: Mapping[str, Any] = {"accuracy": "maximize", "macs": "minimize"}
EXPORTED: Mapping[str, Mapping[str, Any]] = {
    "matformer": {"embed_dim": (8, 16), "depth": (1, 2), "num_heads": (1, 2)},
    "autoformer": {"embed_dim": (8, 16), "depth": (1, 2), "num_heads": (1, 2)},
    "vit_resnas": {},
    "turbovit_digit_pairs": {},
    "stitching": {"rank": 2},
}
Value = str | list[str]


def items() -> Iterator[tuple[str, Callable[[], Value]]]:
    """What is asked, by name; each is computed on its own."""
    for name in searchers.names():
        count = PROPOSALS if LONG in sys.argv else DEAR.get(name, PROPOSALS)
        for space in SPACES:
            for seed in SEEDS:
                yield f"proposals {name} {space} {seed}", partial(proposals, name, space, seed, count)
    for space in (*SPACES, "autoformer", "turbovit", "sn_net_deit_ti_s_b"):
        yield f"features {space}", partial(latency_features, space)
    for module in (roofline, additive, flops, gbm, gp, mlp, auto):
        yield f"predictor {module.__name__.rpartition('.')[2]}", partial(predicted, module)
    yield f"weights after {STEPS} steps", trained_weights
    for space, options in EXPORTED.items():
        yield f"export {space}", partial(exported, space, options)


def proposals(name: str, space_name: str, seed: int, count: int) -> Value:
    """Keys of what a searcher proposes, told from a fixed function, a batch at a time."""
    space = search_spaces.get(space_name)
    limits = tuple(map(Limit.parse, SPACES[space_name]))
    costs = partial(exact_metrics, space)
    problem = SearchProblem(
        space,
        OBJECTIVES,
        costs,
        costs,
        limits=limits,
        start=tuple(space.uniform(8)),
        seed=seed,
        budget=PROPOSALS,
        population=12,
        batch=BATCH,
    )
    try:
        searcher = searchers.build(name, problem)
    except NASError as error:
        return f"refused: {type(error).__name__}"
    keys = list[str]()
    while len(keys) < count:
        codes = searcher.ask(min(BATCH, count - len(keys)))
        if not len(codes):
            break
        values = np.stack([fixed_quality(space, codes), costs(codes)["macs"]], axis=1)
        searcher.tell(codes, values.astype(np.float64))
        keys += [arch.key for arch in space.decode(codes)]
    return keys


def fixed_quality(space: SearchSpace, codes: Codes) -> Any:
    """A share in (0, 1) to which each choice adds with its own weight, and a ripple of all of them."""
    counts = np.array([len(choice.options) for choice in space.choices])
    levels = np.where(codes == INACTIVE, 0.0, (codes + 1) / counts)
    weights = 1 + np.sin(7.0 * np.arange(codes.shape[1])) / 2
    ripple = np.sin(97.0 * (levels @ np.sqrt(1.0 + np.arange(codes.shape[1]))))
    return 0.9 * np.sqrt(levels) @ weights / weights.sum() + 0.02 * ripple


def latency_features(name: str) -> Value:
    """A hash of each architecture's features, by tables of the space and by its list of layers."""
    space = search_spaces.get(name)
    codes = space.sample_choices(np.random.default_rng(3), 20)
    workload = features.Workload(batch=8)
    table = features.space_features(space, codes, workload)
    listed = [features.network_features(space.layers(arch), workload) for arch in space.decode(codes)]
    return [digest(np.asarray(row)) for row in (*table, *listed)]


def predicted(module: Any) -> Value:
    """Hashes of what a predictor tells that was fitted to made-up times."""
    space = search_spaces.get("matformer")
    rng = np.random.default_rng(5)
    codes = space.sample_choices(rng, 40)
    times = (0.5 + exact_metrics(space, codes)["macs"] / 1e6) * rng.uniform(0.9, 1.1, size=len(codes))
    predictor = module.build(space, batch=8).fit(codes[:24], times[:24])
    mean, std = predictor.predict(codes)
    return [digest(mean), digest(std), text_digest(json.dumps(predictor.to_json(), sort_keys=True))]


def trained_weights() -> Value:
    """Hashes of the tensors of the searched job's supernet; it was the quickstart's once."""
    job = ROOT / "benchmarks" / "searched_job.yaml"
    config = load_config(
        job if job.exists() else ROOT / "examples" / "quickstart.yaml", [f"train.steps={STEPS}"]
    )
    data = datasets.build(config.data.name, **config.data.options)
    net = supernet.build(resolve(config, data), seed=config.seed)
    training = Training(net, strategy(config.train.sampling, net), config.train, seed=config.seed)
    size = config.train.batch_size
    for _ in training.run(lambda step: data.train_batch(config.seed, step, size)):
        pass
    return hashes(finished(training, data))


def exported(name: str, options: Mapping[str, Any]) -> Value:
    """Hashes of the exported weights' file and of the module's outputs, of three subnets."""
    net = supernet.build(search_spaces.get(name, **options), seed=11).eval()
    x = torch.randn(net.example_input(2).shape, generator=torch.Generator().manual_seed(12))
    hashed = []
    for arch in net.space.uniform(3):
        module, info = net.extract(arch), {"subnet": arch.key, "architecture": arch.to_dict()}
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            exporter.export("safetensors", module, Path(folder, "subnet"), example=x, info=info)
            written = Path(folder, "subnet", "model.safetensors").read_bytes()
            hashed += [arch.key, hashlib.sha256(written).hexdigest()[:16], digest(module(x).numpy())]
            hashed.append(digest(net(x, arch).numpy()))
    return hashed


def hashes(tensors: Mapping[str, Tensor]) -> list[str]:
    return [f"{name} {digest(tensor.numpy())}" for name, tensor in sorted(tensors.items())]


def digest(array: Any) -> str:
    array = np.ascontiguousarray(array)
    return text_digest(f"{array.dtype} {array.shape} {array.tobytes().hex()}")


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main() -> None:
    """Prints the items, of words in the command line those that have one in their names."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.disable(logging.WARNING)
    words = [word for word in sys.argv[1:] if word != LONG]
    chosen = [(name, ask) for name, ask in items() if not words or any(word in name for word in words)]
    print(json.dumps({name: ask() for name, ask in chosen}, indent=1))


if __name__ == "__main__":
    main()
