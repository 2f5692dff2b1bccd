"""Ray Train's workers train what processes of this machine train, and the loss of one costs time alone."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

pytest.importorskip("ray.train")

from nas import checkpoints, jobs, pipeline
from nas.config import checked_config
from nas.errors import JobFailedError
from nas.pipeline import TRAINED
from nas.progress import Silent
from nas.store import Store
from nas.training.ranks import ray_train as module
from nas.training.ranks.group import Message

TREE: dict[str, Any] = {
    "data": "digits",
    "supernet": {
        "space": {"embed_dim": [8, 16], "depth": [1, 2], "num_heads": [1, 2], "mlp_ratio": [0.5, 1, 2, 4]}
    },
    "train": {
        # So many steps that it is not over when one of its workers is killed behind the first checkpoint.
        **{"steps": 100, "batch_size": 32, "warmup": 5, "threads": 1, "checkpoint_every": 5, "workers": 2},
    },
}


def trained(folder: Path, engine: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    folder.mkdir()
    with Store.open(f"sqlite:///{folder / 'nas.db'}") as store:
        job_file = TREE | {"execution": {"engine": engine}}
        job = jobs.create(store, checked_config(job_file, where="here"), name=None, goal=TRAINED)
        pipeline.run(store, job, progress=Silent())
        (weights,) = store.artifacts(job, "supernet")
        warnings = [e.data["message"] for e in store.events(job) if e.kind == "log"]
        return checkpoints.load(store, weights), warnings


class Killing(module._Workers):
    """Kills one of Ray's workers behind the first checkpoint, once."""

    killed: list[int] = []  # noqa: RUF012 - of the test

    def receive(self, seconds: float) -> list[Message]:
        messages = super().receive(seconds)
        if not self.killed and any(message.kind == "state" for message in messages):
            workers = [
                process
                for process in psutil.Process().children(recursive=True)
                if "RayTrainWorker" in " ".join(process.cmdline())
            ]
            if len(workers) == 2:  # else with the next state
                self.killed.append(workers[-1].pid)
                os.kill(workers[-1].pid, signal.SIGKILL)
        return messages


@pytest.mark.long
@pytest.mark.timeout(1800)  # Ray starts twice: seven minutes where ten others want the two cores
@pytest.mark.filterwarnings("ignore")  # Ray warns of its own settings
def test_workers_of_ray_train_the_same_though_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = trained(tmp_path / "here", "local")
    monkeypatch.setattr(module, "OBJECT_STORE_BYTES", 80 * 2**20)
    monkeypatch.setattr(module, "_Workers", Killing)
    monkeypatch.setattr(Killing, "killed", [])
    there, warnings = trained(tmp_path / "there", "ray")
    assert Killing.killed
    assert all(torch.equal(there[name], tensor) for name, tensor in here.items())
    assert any(warning.startswith("The training goes on from step") for warning in warnings)


def test_a_cluster_that_is_too_small_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.ray, "cluster_resources", lambda: {"CPU": 6.0, "GPU": 1.0})
    work = module.Work({}, {}, "", device="cuda", workers=3, threads=2)
    with pytest.raises(JobFailedError, match=r"Ray has 1 GPUs; 3 workers of the training need 3\."):
        module._check_room(work)
    module._check_room(replace(work, device="cpu"))
    with pytest.raises(JobFailedError, match=r"Ray has 6 CPUs; 3 workers of the training need 9\."):
        module._check_room(replace(work, threads=3))
