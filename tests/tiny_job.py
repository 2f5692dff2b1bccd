"""A job that is as small as a job can be, and one that was never trained, for tests of what comes after."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas
import search_spaces
import supernet
from nas import checkpoints, jobs, pipeline
from nas.config import checked_config
from nas.job_run import subnet_row
from nas.progress import Silent
from nas.results import extraction
from nas.search import stage as search_stage
from nas.spaces.job_space import exact_metrics
from nas.store import Job, Store
from nas.store.subnets import subnet_ids
from predictors.latency import roofline
from search_spaces import Architecture, SearchSpace

LIMIT = 6_000
CONFIG: dict[str, Any] = {
    "name": "tiny",
    "data": "digits",
    "supernet": {
        "space": {"embed_dim": [8, 16], "depth": [1, 2], "num_heads": [1, 2], "mlp_ratio": [0.5, 1, 2, 4]}
    },
    "train": {"steps": 60, "batch_size": 32, "warmup": 10, "threads": 1},
    "devices": {"cpu": {"batch": 8}},
    "constraints": [f"params<={LIMIT}"],
    "predictor": {"samples": 14, "rounds": 2, "max_rounds": 3},
    "search": {"evaluations": 24, "batch": 6, "population": 6, "finalists": 6, "measure_above": None},
    "execution": {"workers": 1},
}
GENERATIVE: dict[str, Any] = CONFIG | {
    "name": "generative",
    "supernet": {
        "space": {"embed_dim": [8, 16], "depth": [1, 2, 3], "num_heads": [1, 2], "mlp_ratio": [0.5, 1, 2, 4]}
    },
    "constraints": ["params<=10000"],
    "search": {
        "searcher": "generative",
        "measure_above": None,
        "evaluations": 32,
        "batch": 8,
        "finalists": 4,
        "options": {"initial": 16, "round": 8, "steps": 10},
    },
}
PATCHES: dict[str, Any] = {
    "image_size": (8, 8),
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 10,
    "stem": "patch",
    "head_dim": 8,
    "embed_dim": (8, 16),
    "depth": (1, 2),
    "num_heads": (1, 2),
}


def run_tiny(url: str) -> nas.JobHandle:
    """Runs the tiny job in a store of this URL."""
    return nas.run(CONFIG, store=url)


def begin_generative(url: str) -> None:
    """A job with a generative searcher that is stopped when its search begins.

    Its latency predictor is then fitted on made-up timings, so that the search is the same on every machine.
    """
    with Store.open(url) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_stage, "_search", _interrupted)
        job = jobs.create(store, checked_config(GENERATIVE, where="The config"), name=None)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(store, job, progress=Silent())
        space, device = extraction.space_of(store, job), store.devices()[0]
        codes = space.sample_choices(np.random.default_rng(0), 40)
        noise = np.random.default_rng(1).uniform(0.9, 1.1, size=len(codes))
        milliseconds = (1 + exact_metrics(space, codes)["macs"] / 1e5) * noise
        state = roofline.build(space, batch=8).fit(codes, milliseconds).to_json()
        with store.acquire(job) as lease:
            store.put_predictor(lease, device_id=device.id, kind="roofline", state=state, score={})
            lease.finish("stopped")


def copied(url: str, folder: Path) -> str:
    """The URL of a copy of a closed store, files included, in a folder that does not exist yet."""
    file = Path(url.removeprefix("sqlite:///"))
    return f"sqlite:///{shutil.copytree(file.parent, folder) / file.name}"


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@dataclass(frozen=True)
class Untrained:
    """A job with the random weights of its supernet as the trained ones."""

    store: Store
    job: Job
    space: SearchSpace

    def looked_at(self, *archs: Architecture) -> list[str]:
        """The keys of the architectures, which the job's search has then looked at."""
        with self.store.acquire(self.job) as lease:
            with lease.write() as connection:
                subnet_ids(connection, self.job.id, [subnet_row(self.space, arch) for arch in archs])
            lease.finish("succeeded")
        return [arch.key for arch in archs]


def untrained_job(url: str, **options: Any) -> Untrained:
    """A job over the `matformer` space of these options, by default one with a stem that timm has, too."""
    return untrained_in(url, search_spaces.get("matformer", **(PATCHES | options)))


def untrained_in(url: str, space: SearchSpace) -> Untrained:
    """A job over any space of networks for 8x8 images of ten digits."""
    store = Store.open(url)
    config = {"data": {"name": "digits"}, "devices": {"cpu": {"batch": 8}}}
    job = store.create_job("untrained", config=config, seed=0, provenance={})
    with store.acquire(job) as lease:
        store.begin_stage(lease, "space", "key")
        described = {"family": space.family, "options": dict(space.options), "size": str(space.size)}
        store.finish_stage(lease, "space", {"space": described})
        net = supernet.build(space, seed=1)
        checkpoints.save(store, lease, "supernet", net.shared.state_dict(), step=0)
        lease.finish("succeeded")
    return Untrained(store, store.job(job.id), space)
