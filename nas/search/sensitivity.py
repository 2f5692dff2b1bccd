"""Stage `sensitivity`: what each choice of a trained network is worth, told on the training split.

Searches with `search.start: sensitivity` begin with what is made of it (`nas/proposals/sensitivity.py`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import supernet
from nas.datasets import DataSet, task_of
from nas.job_run import Run
from nas.proposals.problem import SearchProblem
from nas.proposals.sensitivity import Design, Sensitivities
from nas.results.running.time_left import SENSITIVITY
from nas.training.supernets import torch_device
from supernet.evaluation.scores import losses

SAMPLES, TOKENS, IMAGES = 16, 2048, 512  # of training examples; tokens of text in all of them, or images
FIRST = -1_000_000  # the number of the first sample, far from those of steps and of the order of layers


def with_sensitivities(
    run: Run, searched: SearchProblem, data: DataSet, weights: Mapping[str, Path]
) -> SearchProblem:
    """The problem, with what is told of the choices of the job's one supernet, if the job asks for it.

    weights: of the job's supernets, by their names.
    """
    space = searched.space
    if run.config.search.start != SENSITIVITY or list(weights) != [""]:
        return searched

    def measured() -> dict[str, Any]:
        design = Design.of(space)
        net = supernet.build(space)
        net.shared.load_state_dict(load_file(weights[""]), strict=True)
        torch.set_num_threads(run.config.train.threads or torch.get_num_threads())
        place = torch_device(run.config)
        samples = ((x.to(place), targets.to(place)) for x, targets in _samples(run, data))
        table = losses(net.to(place).eval(), space.decode(design.codes), samples, task=task_of(data))
        return Sensitivities.of(space, design, table.numpy()).to_dict()

    stored = run.once(SENSITIVITY, {"start": SENSITIVITY}, measured)
    return Sensitivities.from_dict(space, stored).guiding(searched)


def _samples(run: Run, data: DataSet) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the training split, which neither search nor report see."""
    text = len(data.input_shape) == 1
    size = TOKENS // (SAMPLES * data.input_shape[0]) if text else IMAGES // SAMPLES
    for number in range(SAMPLES):
        run.progress.update(number, SAMPLES)
        yield data.train_batch(run.config.seed, FIRST + number, max(1, size))
