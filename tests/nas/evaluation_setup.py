"""A supernet with random weights, and what the processes need that evaluate its subnets on `digits`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

import search_spaces
import supernet
from nas import datasets
from nas.evaluation import EvaluationSetup, SharedWeights
from nas.evaluation.workers import Workers
from supernet.supernet import Supernet

SPACE = {
    "embed_dim": [8, 16], "depth": [1, 2], "num_heads": [1, 2],
    "image_size": 8, "in_chans": 1, "num_classes": 10, "patch_size": 4,
}  # fmt: skip


def made(folder: Path, **changed: Any) -> tuple[Supernet, EvaluationSetup]:
    net = supernet.build(search_spaces.get("matformer", **SPACE), seed=1)
    file = folder / "supernet.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in net.shared.state_dict().items()}, file)
    data = datasets.build("digits")
    setup = EvaluationSetup(
        supernets={"": SharedWeights("matformer", dict(net.space.options), file)},
        data_name="digits",
        data_options={},
        data_digest=data.digest,
        data_sizes=data.sizes,
        torch_device="cpu",
        threads=1,
        cache_mib=8,
        siblings=False,
    )
    return net, replace(setup, **changed)


def wait_for_all(pool: Workers) -> None:
    """Until every process works: one may do everything while the others still begin."""
    while len(pool._ready) < pool._count:
        pool._first({})
