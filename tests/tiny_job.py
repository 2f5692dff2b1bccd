"""A job that is as small as a job can be, and one that was never trained, for tests of what comes after."""

from dataclasses import dataclass
from typing import Any

import nas
import search_spaces
import supernet
from nas import checkpoints
from nas.stages._run import subnet_row
from nas.store import Job, Store
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
    "search": {"evaluations": 24, "batch": 6, "population": 6, "finalists": 6},
    "execution": {"workers": 1},
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


@dataclass(frozen=True)
class Untrained:
    """A job with the random weights of its supernet as the trained ones."""

    store: Store
    job: Job
    space: SearchSpace

    def looked_at(self, *archs: Architecture) -> list[str]:
        """The keys of the architectures, which the job's search has then looked at."""
        with self.store.acquire(self.job) as lease:
            self.store.add_subnets(lease, [subnet_row(self.space, arch) for arch in archs])
            lease.finish("succeeded")
        return [arch.key for arch in archs]


def untrained_job(url: str, **options: Any) -> Untrained:
    """A job over the `matformer` space of these options, by default one with a stem that timm has, too."""
    space = search_spaces.get("matformer", **(PATCHES | options))
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
