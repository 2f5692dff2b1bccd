"""Trainings that processes share: what the job's process makes of what they tell, and of their deaths."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from image_trees import make_tree
from safetensors.torch import load, save
from torch import Tensor

from nas import checkpoints, datasets, jobs, pipeline
from nas.config import JobConfig, checked_config
from nas.errors import JobFailedError, NoSpaceError, StoreError
from nas.pipeline import TRAINED
from nas.progress import Silent
from nas.results.running.replaced_images import sentence
from nas.spaces.job_space import resolve
from nas.store import Store
from nas.training.ranks import processes as module
from nas.training.ranks import torchrun, work
from nas.training.ranks.group import Listener, Message, RankLostError, State, raise_for, trained_by_ranks
from nas.training.ranks.meeting import Meeting
from nas.training.ranks.processes import Processes, started
from nas.training.ranks.work import on_cpu, work_of
from nas.training.supernets import fresh_training
from search_spaces.errors import NotFoundError, UsageError
from supernet.training.trainer import DivergedError

STEPS, EVERY = 40, 10
TREE: dict[str, Any] = {
    "data": "digits",
    "supernet": {
        "space": {"embed_dim": [8, 16], "depth": [1, 2], "num_heads": [1, 2], "mlp_ratio": [0.5, 1, 2, 4]}
    },
    # In as many parts as there are workers, with one subnet a step: the sums are the same to the last bit.
    "train": {
        **{"steps": STEPS, "batch_size": 32, "warmup": 10, "threads": 1, "checkpoint_every": EVERY},
        "accumulate": 2,
    },
}


def config(data: Any = "digits", **train: Any) -> JobConfig:
    return checked_config(TREE | {"data": data, "train": TREE["train"] | train}, where="here")


class Ranks:
    """A `Group` that tells what it is given."""

    def __init__(self, told: Sequence[list[Message] | Exception], *, joined: bool = True) -> None:
        self._told, self._joined, self.stopped = list(told), joined, False

    def receive(self, seconds: float) -> list[Message]:
        told = self._told.pop(0)
        if isinstance(told, Exception):
            raise told
        return told

    def stop(self) -> bool:
        self.stopped = True
        return self._joined


class Heard:
    """A listener's notes, and the steps with which groups were started."""

    def __init__(self, *groups: Ranks, stops: bool = False) -> None:
        self.saved, self.begun, self.warnings = list[int](), list[int](), list[str]()
        self._groups, self.stops = list(groups), stops
        self.listener = Listener(
            metrics=lambda told: None,
            warn=self.warnings.append,
            stops=lambda: self.stops,
            save=lambda state: self.saved.append(int(state["step"])),
        )

    @contextmanager
    def start(self, state: bytes) -> Iterator[Ranks]:

        self.begun.append(int(load(state)["step"]))
        yield self._groups.pop(0)

    def trained(self, steps: int = STEPS) -> int:
        return int(trained_by_ranks(self.start, at(0), steps, self.listener)["step"])


def at(step: int) -> State:
    return {"step": torch.tensor(step)}


def saved(step: int) -> list[Message]:
    return [Message(0, "state", {"step": step}, save(at(step)))]


DONE = [Message(0, "done")]
LOST = RankLostError("worker 2 of 2 was killed by signal 9")


def test_a_training_goes_on_from_the_last_state_of_the_lost_ranks() -> None:
    heard = Heard(Ranks([saved(10), saved(20), LOST]), Ranks([saved(30), saved(40), DONE]))
    assert heard.trained() == STEPS
    assert (heard.saved, heard.begun) == ([10, 20, 30, 40], [0, 20])
    assert heard.warnings == ["The training goes on from step 20: worker 2 of 2 was killed by signal 9."]


def test_ranks_that_are_lost_again_and_again_end_the_job() -> None:
    heard = Heard(
        Ranks([saved(10), LOST]), Ranks([LOST]), Ranks([saved(20), LOST]), Ranks([LOST]), Ranks([LOST])
    )
    with pytest.raises(JobFailedError, match="were lost 3 times in a row: worker 2 of 2 was killed") as error:
        heard.trained()
    assert "nas resume" in error.value.hint
    assert heard.begun == [0, 10, 10, 20, 20]


def test_a_stop_saves_what_the_ranks_have_learnt() -> None:
    ranks = Ranks([saved(7), DONE])
    heard = Heard(ranks, stops=False)
    original = heard.start

    @contextmanager
    def start(state: bytes) -> Iterator[Ranks]:
        with original(state) as group:
            heard.stops = True
            yield group

    assert int(trained_by_ranks(start, at(0), STEPS, heard.listener)["step"]) == 7
    assert ranks.stopped
    assert heard.saved == [7]


def test_nobody_waits_for_ranks_that_have_not_begun() -> None:
    heard = Heard(Ranks([], joined=False))
    heard.listener = Listener(
        metrics=print, warn=print, stops=iter([False, True, True]).__next__, save=lambda state: None
    )
    assert heard.trained() == 0


def test_what_a_rank_says_of_itself_goes_before_what_others_make_of_it() -> None:
    broken = Message(0, "broken", {"message": "Connection closed by peer"})
    told = {"error": "DivergedError", "message": "The loss is nan.", "hint": "Lower it."}
    with pytest.raises(DivergedError, match="The loss is nan"):
        raise_for([broken, Message(1, "failed", told)], lost=["worker 2 ended"])
    with pytest.raises(RankLostError, match="worker 2 was killed"):
        raise_for([broken], lost=["worker 2 was killed"])
    with pytest.raises(RankLostError, match=r"worker 1 broke down \(Connection closed by peer\)"):
        raise_for([broken])


def test_more_workers_than_examples_are_refused() -> None:
    with pytest.raises(UsageError, match=r"workers \(33\) must not be more than batch_size \(32\)"):
        config(workers=33)


def test_a_budget_and_statistics_of_batches_are_refused_before_the_job_begins() -> None:
    with pytest.raises(UsageError, match="budget times the training in one process"):
        checked_config({"data": "digits", "budget": "30min", "train": {"workers": 2}}, where="here")
    section = {"family": "vit_resnas", "space": {"stem_norm": "batch"}}
    normed = {"data": "digit_pairs", "supernet": section, "train": {"steps": 8, "workers": 2}}
    with pytest.raises(UsageError, match="have statistics of batches") as error:
        jobs.check(checked_config(normed, where="here"))
    assert "train.accumulate to a multiple of train.workers (2)" in error.value.hint


def test_what_several_ranks_say_is_told_once() -> None:
    cat, bee = sentence("'cat/1.png'", "it is empty"), sentence("'bee/2.png'", "it is not there")
    told = set[str]()
    assert work._news([(0.1, ["slow", cat]), (0.2, ["slow", bee]), (0.0, [cat])], told) == ["slow", cat, bee]
    assert work._news([(0.1, [bee]), (0.2, ["slow"])], told) == ["slow"]


PLACE = torchrun.Place(1, 1, 2, attempt=0, address="", port=0, serves=False)


def test_torchruns_first_process_hears_by_what_error_another_one_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has an example that cannot be decoded is not always the one that runs the job."""
    written, given = dist.HashStore(), started_here(config(workers=2))[0]
    monkeypatch.setattr(torchrun, "board", lambda here: written)
    monkeypatch.setattr(torchrun, "join", lambda *args, **local: None)
    monkeypatch.setattr(torchrun, "ENDED_SECONDS", 0.0)

    def train_rank(*args: object) -> None:
        raise JobFailedError("The image 'a.png' cannot be read: it is cut off.", "Repair the file.")

    monkeypatch.setattr(torchrun, "train_rank", train_rank)
    monkeypatch.setattr(torchrun, "started", lambda *args, **ranks: nullcontext(Ranks([[], LOST])))
    with torchrun.torchrun_ranks(given, PLACE, b"") as group:
        assert group.receive(0.0) == []
        with pytest.raises(JobFailedError, match=r"The image 'a\.png' cannot be read"):
            torchrun.follow(PLACE)
        with pytest.raises(JobFailedError, match=r"The image 'a\.png' cannot be read") as error:
            group.receive(0.0)
        assert error.value.hint == "Repair the file."


def started_here(settings: JobConfig) -> Any:
    data = datasets.build("digits")
    space = resolve(settings, data)
    work = work_of(settings, space, data, torch.device("cpu"))
    return work, save(on_cpu(fresh_training(settings, space, data).state()))


@pytest.mark.slow
def test_a_rank_that_never_joins_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, state = started_here(config(workers=2))
    with started(work, state, Meeting(file=str(tmp_path / "meeting"))) as group:
        first, second = group.ids
        os.kill(second, signal.SIGSTOP)
        while not group._present:
            group.receive(1.0)
        monkeypatch.setattr(group, "_patience", 0.0)
        with pytest.raises(
            JobFailedError, match="Worker 2 of 2 has not joined the training within 0 s"
        ) as error:
            group.receive(0.0)
        assert "train.workers" in error.value.hint
    assert not any(psutil.pid_exists(number) for number in (first, second))


def trained(
    folder: Path, workers: int, data: Any = "digits", **train: Any
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of a job, and what it warned of."""
    folder.mkdir()
    with Store.open(f"sqlite:///{folder / 'nas.db'}") as store:
        settings = config(data=data, workers=workers, **train)
        job = jobs.create(store, settings, name=None, goal=TRAINED)
        pipeline.run(store, job, progress=Silent())
        kinds = [artifact.kind for artifact in store.artifacts(job)]
        assert "checkpoint" not in kinds, "they are gone when there are weights"
        warnings = [e.data["message"] for e in store.events(job) if e.kind == "log"]
        (weights,) = store.artifacts(job, "supernet")
        return checkpoints.load(store, weights), warnings


class Killing(Processes):
    """Kills one of its ranks at a random moment behind the first checkpoint, once."""

    killed: list[int] = []  # noqa: RUF012 - of the test

    def receive(self, seconds: float) -> list[Message]:
        messages = super().receive(seconds)
        if not self.killed and any(message.kind == "state" for message in messages):
            time.sleep(random.random() * 0.05)
            self.killed.append(random.choice(self.ids))
            os.kill(self.killed[0], signal.SIGKILL)
        return messages


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, _session_home: None
) -> dict[int, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return {workers: trained(folder / str(workers), workers)[0] for workers in (1, 2)}


@pytest.mark.slow
def test_workers_train_the_weights_of_one_process(undisturbed: dict[int, dict[str, Tensor]]) -> None:
    alone, together = undisturbed[1], undisturbed[2]
    assert alone.keys() == together.keys()
    assert all(torch.equal(together[name], tensor) for name, tensor in alone.items())


@pytest.mark.slow
def test_a_killed_rank_costs_no_more_than_time(
    undisturbed: dict[int, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Processes", Killing)
    monkeypatch.setattr(Killing, "killed", [])
    weights, warnings = trained(tmp_path / "killed", 2, loaders=1)
    assert Killing.killed
    assert all(torch.equal(weights[name], tensor) for name, tensor in undisturbed[2].items())
    assert any("The training goes on from step" in w and "killed by signal 9" in w for w in warnings)


@pytest.mark.slow
def test_a_full_disk_loses_no_checkpoint(
    undisturbed: dict[int, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second checkpoint cannot be written; the job goes on from the first one, when there is room."""
    save_checkpoint, written = checkpoints.save, []

    def full(*given: Any, **step: Any) -> Any:
        if written:
            raise NoSpaceError("The checkpoint cannot be written.", "Make room there.")
        written.append(step["step"])
        return save_checkpoint(*given, **step)

    monkeypatch.setattr(checkpoints, "save", full)
    with Store.open(f"sqlite:///{tmp_path / 'nas.db'}") as store:
        job = jobs.create(store, config(workers=2), name=None, goal=TRAINED)
        before = set(psutil.Process().children(recursive=True))
        with pytest.raises(NoSpaceError):
            pipeline.run(store, job, progress=Silent())
        after = set(psutil.Process().children(recursive=True)) - before
        left = [" ".join(process.cmdline()) for process in after]
        assert not any("spawn_main" in command for command in left), "no rank is left behind"
        monkeypatch.undo()
        (kept,) = store.artifacts(job, "checkpoint")
        assert kept.step == written[0] == EVERY
        pipeline.run(store, job, progress=Silent())
        (weights,) = store.artifacts(job, "supernet")
        again = checkpoints.load(store, weights)
    assert all(torch.equal(again[name], tensor) for name, tensor in undisturbed[2].items())


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [4])
def test_four_workers_and_all_that_a_recipe_can_say(
    ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One subnet a step, and as many parts as workers: the bits of one process, though one is killed."""
    recipe: dict[str, Any] = {"ema": 0.9, "mixup": 0.8, "drop_path": 0.2, "optimizer": "muon"}
    recipe |= {"steps": 20, "accumulate": ranks}
    alone, _ = trained(tmp_path / "alone", 1, **recipe)
    monkeypatch.setattr(module, "Processes", Killing)
    monkeypatch.setattr(Killing, "killed", [])
    together, _ = trained(tmp_path / "together", ranks, **recipe)
    assert Killing.killed
    assert all(torch.equal(together[name], tensor) for name, tensor in alone.items())


@pytest.mark.slow
def test_workers_that_decode_their_part_of_the_images_train_the_same(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "images")
    data = {"name": "image_folder", "root": str(tree), "image_size": 8, "augmentation": {"re_prob": 0.5}}
    recipe: dict[str, Any] = {"steps": 8, "batch_size": 6, "checkpoint_every": 4, "warmup": 2, "mixup": 0.8}
    alone, _ = trained(tmp_path / "alone", 1, data=data, **recipe)
    together, _ = trained(tmp_path / "together", 2, data=data, loaders=1, **recipe)
    assert all(torch.equal(together[name], tensor) for name, tensor in alone.items())


@pytest.mark.gpu
def test_gpus_train_the_weights_of_one(tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    alone, _ = trained(tmp_path / "alone", 1, precision="fp32", device="cuda")
    together, _ = trained(tmp_path / "together", 2, precision="fp32", device="cuda")
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-3, atol=1e-4)


TORCHRUN = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "2", "--monitor-interval", "0.1")
NAS = "import sys; from nas.cli import main; sys.exit(main())"


def by_torchrun(folder: Path, *command: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "job.yaml").write_text(json.dumps(TREE))
    start = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        *TORCHRUN,
        "--no-python",
        sys.executable,
        "-c",
        NAS,
    )
    return subprocess.Popen(
        [*start, *command, str(folder / "job.yaml"), "--store", f"sqlite:///{folder / 'nas.db'}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def killed_behind_a_checkpoint(process: "subprocess.Popen[str]", url: str, rank: str) -> None:
    """Ends one of the processes that torchrun has started, once a checkpoint is there."""
    while process.poll() is None:
        time.sleep(0.1)
        with suppress(StoreError, NotFoundError), Store.open(url, read_only=True) as store:
            if store.artifacts(store.job("job"), "checkpoint"):
                break
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.Error):
            if child.environ().get("RANK") == rank:
                child.kill()


@pytest.mark.slow
def test_torchrun_trains_the_same_though_a_process_is_killed(
    undisturbed: dict[int, dict[str, Tensor]], tmp_path: Path
) -> None:
    process, url = by_torchrun(tmp_path / "together", "train"), f"sqlite:///{tmp_path}/together/nas.db"
    killed_behind_a_checkpoint(process, url, "1")
    told, _ = process.communicate()
    assert process.returncode == 0, told
    with Store.open(url) as store:
        (job,) = store.jobs()
        assert job.state == "succeeded"
        (weights,) = store.artifacts(job, "supernet")
        together = checkpoints.load(store, weights)
    assert all(torch.equal(together[name], tensor) for name, tensor in undisturbed[2].items())


@pytest.mark.slow
def test_torchrun_is_for_trainings(tmp_path: Path) -> None:
    process = by_torchrun(tmp_path, "run")
    told, _ = process.communicate()
    assert process.returncode != 0
    assert "torchrun starts several processes, and each would run the job." in told
    assert not (tmp_path / "nas.db").exists()
