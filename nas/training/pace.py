"""How long a step of a job's training takes, by steps from all over it; what they learn is thrown away."""

import time
from collections.abc import Iterator
from dataclasses import replace

from nas.datasets import DataSet
from nas.job_run import Run
from nas.training.fit import device_of
from nas.training.loading import loading
from nas.training.supernets import begin_training
from search_spaces import SearchSpace
from supernet.training.trainer import Batches, Training

PLACES = 8  # of the training: at its start the largest subnet may be trained alone, later smaller ones
TOGETHER = 3  # steps, so that the next batch is prepared meanwhile, as in the training
MOST_ROUNDS = 50
CALM = 1e-12  # a learning rate with which nothing diverges in the middle of a training


def seconds_per_step(run: Run, space: SearchSpace, data: DataSet, *, seconds: float) -> float:
    """Of the training that the job file asks for, timed for about so many seconds."""
    training = begin_training(_calm(run), space, data)
    device = device_of(training.supernet)

    with loading(data, run.config.seed, run.config.train.batch_size, device) as batches:
        first = sum(_timed(run, training, batches, count=1)) / PLACES  # slower: everything is made anew
        rounds = [first]
        began = time.monotonic()
        while len(rounds) <= MOST_ROUNDS and (len(rounds) == 1 or time.monotonic() - began < seconds):
            if first * PLACES * TOGETHER > 2 * seconds:
                break
            rounds.append(sum(_timed(run, training, batches, count=TOGETHER)) / PLACES)
    return sum(rounds[1:]) / (len(rounds) - 1) if len(rounds) > 1 else first


def _calm(run: Run) -> Run:
    train = run.config.train
    muon = train.muon and train.muon.model_copy(update={"lr": CALM})
    return replace(
        run,
        config=run.config.model_copy(update={"train": train.model_copy(update={"lr": CALM, "muon": muon})}),
    )


def _timed(run: Run, training: Training, batches: Batches, *, count: int) -> Iterator[float]:
    """Seconds a step, of `count` steps at each of the places."""
    for place in range(PLACES):
        run.check_stop()
        training.step = max(
            0, min(int((place + 0.5) / PLACES * training.recipe.steps), training.recipe.steps - count)
        )
        began = time.perf_counter()
        until = training.step + count
        for _ in training.run(batches, until=until):
            pass
        yield (time.perf_counter() - began) / count
