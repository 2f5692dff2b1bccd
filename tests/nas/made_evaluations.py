"""A job whose qualities and latencies are known functions of the choices, with a latency predictor."""

import numpy as np
from numpy.typing import NDArray

import search_spaces
from nas.job_run import subnet_row
from nas.store import Job, NewEvaluation, Store
from predictors.latency import flops
from search_spaces import SearchSpace
from search_spaces.space import Codes

STDERR = 0.005
SPACE: SearchSpace = search_spaces.get("matformer", embed_dim=(16, 32, 64), num_heads=(2, 4), depth=(1, 2, 3))


def truth(codes: Codes) -> NDArray[np.float64]:
    """0.3, and 0.1 for each step of width, 0.05 for each of depth; nothing else counts."""
    names = [choice.name for choice in SPACE.choices]
    quality: NDArray[np.float64] = 0.3 + codes[:, names.index("embed_dim")] * 0.1
    return quality + codes[:, names.index("depth")] * 0.05


def evaluated_job(
    store: Store, name: str, *, count: int = 80, predictor: bool = True, space: bool = True
) -> Job:
    """Its subnets are drawn; latencies are proportional to MACs, 1 ms a million and 1 ms besides."""
    codes = np.unique(SPACE.sample_choices(np.random.default_rng(0), 2 * count), axis=0)
    codes = np.random.default_rng(1).permutation(codes)[:count]
    qualities = truth(codes) + STDERR * np.random.default_rng(2).normal(size=len(codes))
    job = store.create_job(name, config={}, seed=0, provenance={})
    with store.acquire(job) as lease:
        if space:
            store.begin_stage(lease, "space", "key")
            described = {"family": SPACE.family, "options": dict(SPACE.options)}
            store.finish_stage(lease, "space", {"space": described})
        pairs = zip(SPACE.decode(codes), qualities.tolist(), strict=True)
        store.add_evaluations(
            lease,
            [
                NewEvaluation(subnet_row(SPACE, arch), quality, stderr=STDERR, position=i)
                for i, (arch, quality) in enumerate(pairs)
            ],
        )
        if predictor:
            device = store.register_device("cpu", {"host": "here", "threads": 1})
            fitted = flops.build(SPACE).fit(codes, milliseconds(codes))
            store.put_predictor(lease, device_id=device.id, kind="flops", state=fitted.to_json(), score={})
        lease.finish("succeeded")
    return store.job(name)


def milliseconds(codes: Codes) -> NDArray[np.float64]:
    """Of architectures (n,)."""
    macs: NDArray[np.float64] = 1 + SPACE.costs(codes)["macs"] / 1e6
    return macs
