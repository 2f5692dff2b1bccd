"""Batches that processes prepare: the same as without, whatever becomes of the processes."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
import torch
from image_trees import make_tree
from torch import Tensor

from nas import checkpoints
from nas.cli import main
from nas.datasets import build
from nas.errors import JobFailedError
from nas.results.running.replaced_images import replaced
from nas.store import Store
from nas.training import loading as module
from nas.training.loading import AHEAD, Loading, Numbered, loading
from search_spaces.errors import UsageError

SIZE = 4
CPU = torch.device("cpu")


class Numbers:
    """Data whose batch tells its number, and what befalls the process that makes one."""

    def __init__(
        self,
        *,
        dies: int = -1,
        folder: Path | None = None,
        fails: int = -1,
        breaks: int = -1,
        slow: int = -1,
    ) -> None:
        self.dies, self.fails, self.breaks, self.slow, self.folder = dies, fails, breaks, slow, folder

    def train_batch(self, seed: int, number: int, size: int) -> tuple[Tensor, Tensor]:
        if number == self.dies and self._is_first():
            os._exit(1)
        if number == self.fails:
            raise JobFailedError("The image 'a.png' cannot be read: it is cut off.", "Repair the file.")
        if number == self.breaks:
            raise OSError("no such device")
        if number == self.slow:
            time.sleep(8)
        return torch.full((size,), seed * 1000 + number), torch.arange(size)

    def _is_first(self) -> bool:
        if self.folder is None:
            return True  # every time
        try:
            (self.folder / "died").mkdir()
        except FileExistsError:
            return False
        return True


def told(data: Numbers, *, processes: int, numbers: range) -> tuple[list[int], list[str]]:
    """The batches' numbers, and the warnings."""
    with loading(data, 1, SIZE, CPU, processes=processes) as batches:  # type: ignore[arg-type]
        return [int(batches(number)[0][0]) - 1000 for number in numbers], list(batches.warnings)


def test_processes_make_the_batches_that_a_thread_makes() -> None:
    data = build("digits")
    with loading(data, 3, SIZE, CPU) as thread, loading(data, 3, SIZE, CPU, processes=2) as processes:
        for number in (5, 6, 7, 8, 9, 2, 3):  # as a training that goes on from a checkpoint, and another one
            for one, other in zip(thread(number), processes(number), strict=True):
                assert torch.equal(one, other)
        assert thread.waited >= 0
        assert processes.waited > 0


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_parts_of_batches_are_made_where_parts_are_wanted(tmp_path: Path, processes: int) -> None:
    data = build("image_folder", root=str(make_tree(tmp_path / "images")), image_size=8)
    with loading(data, 1, SIZE, CPU, processes=processes, places=lambda number: [number % 3, 3]) as batches:
        for number in (4, 5, 6, 0, 1):
            for one, whole in zip(batches(number), data.train_batch(1, number, SIZE), strict=True):
                assert torch.equal(one, whole[[number % 3, 3]])


def test_what_fails_while_a_part_is_chosen_is_raised_by_whoever_asks() -> None:
    def places(number: int) -> range:
        if number == 2:
            raise UsageError("A subnet sees 1 of the 4 examples of a batch.", "Raise train.batch_size.")
        return range(SIZE)

    with loading(build("digits"), 1, SIZE, CPU, places=places) as batches:
        batches(1)
        with pytest.raises(UsageError, match="A subnet sees 1"):
            batches(2)


def test_one_that_dies_is_replaced_and_no_batch_is_lost(tmp_path: Path) -> None:
    numbers, warnings = told(Numbers(dies=3, folder=tmp_path), processes=2, numbers=range(7))
    assert numbers == list(range(7))
    assert warnings == ["A process that prepares training batches died: others are started."]


@pytest.mark.parametrize("augmentation", ["crop", {"re_prob": 0.5}, {"re_prob": 0.5, "re_mode": "pixel"}])
@pytest.mark.parametrize("processes", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_bytes_that_are_normalised_where_they_arrive_are_the_same(
    tmp_path: Path, processes: int, augmentation: Any
) -> None:
    tree = make_tree(tmp_path / "images")
    data: Any = build("image_folder", root=str(tree), image_size=8, augmentation=augmentation)
    numbered = Numbered(data, 1, SIZE, raw=True)
    all_of_them = lambda number: range(SIZE)  # noqa: E731
    if processes:
        made: Any = module._FromProcesses(numbered, all_of_them, 1, print, module._Once(print))
    else:
        made = lambda number: numbered.batch(number, range(SIZE))  # noqa: E731
    batches = Loading(made, CPU, [], patience=None, finish=data.normalised)
    thread = Thread(target=batches.prepare)
    thread.start()
    for number in range(4):
        for one, other in zip(batches(number), data.train_batch(1, number, SIZE), strict=True):
            assert torch.equal(one, other)
    # Noise is laid over what is normalised.
    assert (numbered.batch(0, range(SIZE))[0].dtype == torch.uint8) == ("re_mode" not in augmentation)
    batches.end()
    thread.join()
    if isinstance(made, module._FromProcesses):
        made.end()


@pytest.mark.gpu
@pytest.mark.parametrize("augmentation", ["crop", {"re_prob": 0.5}])
def test_a_gpu_normalises_to_the_same_bits(tmp_path: Path, augmentation: Any) -> None:
    tree = make_tree(tmp_path / "images")
    data = build("image_folder", root=str(tree), image_size=16, augmentation=augmentation)
    with loading(data, 1, SIZE, CPU) as here, loading(data, 1, SIZE, torch.device("cuda")) as there:
        for number in range(6):
            assert torch.equal(here(number)[0], there(number)[0].cpu())


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_images_that_break_are_replaced_and_told_once(tmp_path: Path, processes: int) -> None:
    tree = make_tree(tmp_path / "images")
    data = build("image_folder", root=str(tree), image_size=8, on_bad_image="skip")
    (tree / "bee" / "3.png").write_bytes(b"")
    (tree / "cat" / "5.png").unlink()
    with loading(data, 1, SIZE, CPU, processes=processes) as batches:
        made = [batches(number) for number in range(18)]  # three epochs
    for number, batch in enumerate(made):
        for one, other in zip(batch, data.train_batch(1, number, SIZE), strict=True):
            assert torch.equal(one, other)
    trained = {f"'{file.path}'" for file in data._splits["train"]}
    broken = {f"'{tree / name}'" for name in ("bee/3.png", "cat/5.png")} & trained
    assert broken
    assert set(replaced(batches.warnings)) == broken
    assert len(batches.warnings) == len(broken)


@pytest.mark.slow
def test_batches_of_images_are_the_same_whoever_is_killed(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "images")
    data = build("image_folder", root=str(tree), image_size=8, balance=True, augmentation={"re_prob": 0.5})
    with loading(data, 1, SIZE, CPU, processes=2) as batches:
        made = [batches(number) for number in range(3)]
        for child in psutil.Process().children(recursive=True):
            if "spawn_main" in " ".join(child.cmdline()):
                child.send_signal(signal.SIGKILL)
        made += [batches(number) for number in range(3, 12)]
    for number, batch in enumerate(made):
        for one, other in zip(batch, data.train_batch(1, number, SIZE), strict=True):
            assert torch.equal(one, other)


@pytest.mark.slow
def test_one_that_is_killed_is_replaced() -> None:
    with loading(Numbers(), 1, SIZE, CPU, processes=1) as batches:  # type: ignore[arg-type]
        assert int(batches(0)[0][0]) == 1000
        for child in psutil.Process().children(recursive=True):
            if "spawn_main" in " ".join(child.cmdline()):
                child.send_signal(signal.SIGKILL)
        assert [int(batches(number)[0][0]) - 1000 for number in range(1, 8)] == list(range(1, 8))


@pytest.mark.slow
def test_processes_that_always_die_end_the_job_with_a_sentence() -> None:
    with pytest.raises(JobFailedError, match="died 3 times in a row") as caught:
        told(Numbers(dies=1), processes=1, numbers=range(3))
    assert "train.loaders" in str(caught.value.hint)


@pytest.mark.slow
def test_what_the_data_says_arrives_as_it_was_said() -> None:
    with pytest.raises(JobFailedError, match="cannot be read: it is cut off") as caught:
        told(Numbers(fails=2), processes=2, numbers=range(5))
    assert caught.value.hint == "Repair the file."
    until = time.monotonic() + 60
    while loaders() and time.monotonic() < until:
        time.sleep(0.1)
    assert not loaders(), "they end with the training, and not with what is said of it"


def loaders() -> list[psutil.Process]:
    """The processes that prepare batches."""
    running = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            running += [child] * ("spawn_main" in " ".join(child.cmdline()))
    return running


@pytest.mark.slow
def test_an_error_that_nobody_foresaw_is_raised_as_it_is() -> None:
    with pytest.raises(OSError, match="in DataLoader worker process"):
        told(Numbers(breaks=1), processes=1, numbers=range(3))


@pytest.mark.slow
def test_a_batch_that_does_not_come_ends_the_job_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 6.0)
    with pytest.raises(JobFailedError, match="not there after 6 s"):
        told(Numbers(slow=0), processes=1, numbers=range(2))


def test_a_training_ends_with_the_same_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "{data: digits, train: {steps: 30, batch_size: 8, warmup: 2, threads: 1, checkpoint_every: 20}}"
    )
    weights = []
    for processes in (0, 2):
        url = f"sqlite:///{tmp_path}/{processes}.sqlite"
        assert main(["train", str(file), "--store", url, "--set", f"train.loaders={processes}"]) == 0
        with Store.open(url, read_only=True) as store:
            (job,) = store.jobs()
            (artifact,) = store.artifacts(job, "supernet")
            weights.append(checkpoints.load(store, artifact))
            told = [event.data for event in store.events(job, "train")]
            assert len(told) == 3
            assert all(0 <= event["waited"] <= 1 for event in told)
            assert {event["ahead"] for event in told} == {AHEAD * processes or 1}
        assert main(["show", job.name, "--store", url]) == 0
        assert f", {AHEAD * processes or 1} batch" in capsys.readouterr().out
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())
