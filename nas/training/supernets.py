"""How the shared weights of a job are trained."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

import supernet
from nas import checkpoints
from nas.config import AnchorsInit, JobConfig
from nas.datasets import DataSet, task_of
from nas.job_run import Run
from nas.spaces.initial import first_network, initialise
from nas.spaces.job_space import data_sizes
from nas.spaces.preprocessing import given_normalisation
from nas.spaces.pretrained import load_anchors
from nas.store import Artifact
from nas.training.fit import Fit, device_of
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from supernet.initialisation import init_weights
from supernet.nested import Nested
from supernet.supernet import Joined, Supernet
from supernet.training.recipe import InitTeacher, Sampling
from supernet.training.resource_groups import GIGA, bin_groups, collapsed, gap_groups, level_groups
from supernet.training.strategies import (
    Joint,
    MultiArchitectural,
    ResourceConstrained,
    Sandwich,
    SinglePath,
    Strategy,
    Weighted,
)
from supernet.training.teachers import load_teacher
from supernet.training.trainer import Training

WEIGHTS = "supernet"  # the kind of the file with the trained weights
IMPORTANCE_BATCHES = 8
IMPORTANCE_TOKENS = 4096  # of text, about
CLEAN_BATCH = 64
CALIBRATION_BATCHES = 16


def training_of(run: Run, space: SearchSpace, data: DataSet, anchors: Mapping[int, Artifact]) -> Fit:
    """The training of the job's supernet; `anchors`: weights of those that the job trained before."""
    config = run.config
    return Fit(
        stage=run.stage("train"),
        kind=WEIGHTS,
        steps=config.train.steps,
        batch_size=config.train.batch_size,
        seed=config.seed,
        begin=lambda: begin_training(run, space, data),
        start=lambda training: _start(run, training.supernet, data, anchors),
        finish=lambda training: finished(training, data),
    )


def torch_device(config: JobConfig) -> torch.device:
    """Where the job trains and evaluates. Raises UsageError for a GPU that is not there."""
    wanted = config.train.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "train.device is 'cuda', but torch finds no GPU here.", "Use `device: auto` or `cpu`."
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def strategy(sampling: Sampling, net: Supernet) -> Strategy:
    """The sampling strategy that a job file names, for the job's supernet."""
    space, left_out = net.space, net.frozen
    if sampling.strategy == "resource_constrained":
        if sampling.gap_gmacs is not None:
            groups = gap_groups(space, sampling.gap_gmacs * GIGA, leave_out=left_out)
        elif sampling.bins is not None:
            groups = bin_groups(space, sampling.bins, leave_out=left_out)
        else:
            groups = level_groups(space, leave_out=left_out)
        return ResourceConstrained(groups, sampling.paths)
    if left_out:
        raise UsageError(
            f"train.sampling.strategy = '{sampling.strategy}' would train the original anchors.",
            "Use resource_constrained, or set supernet.space.originals: false.",
        )
    if sampling.strategy == "multi_architectural":
        return MultiArchitectural(sampling.paths, sampling.at_once)
    if sampling.strategy == "single_path":
        return SinglePath(sampling.smallest, sampling.largest)
    if sampling.strategy == "sandwich":
        return Sandwich(sampling.random)
    if sampling.strategy == "weighted":
        return Weighted(sampling.weights) if sampling.weights else Weighted()
    return Joint(weights=sampling.weights)


def begin_training(run: Run, space: SearchSpace, data: DataSet) -> Training:
    """The training of the job's supernet before its first step."""
    config = run.config
    torch.set_num_threads(config.train.threads or torch.get_num_threads())
    net = _fresh(space, config).to(torch_device(config))
    gap = config.train.sampling.gap_gmacs
    if gap is not None and (warning := collapsed(space, gap * GIGA, leave_out=net.frozen)):
        run.warn(warning)
    return Training(
        net,
        strategy(config.train.sampling, net),
        config.train,
        seed=config.seed,
        teacher=teacher_of(config, data, space, torch_device(config)) if config.train.steps else None,
        task=task_of(data),
    )


def teacher_of(
    config: JobConfig, data: DataSet, space: SearchSpace, device: torch.device
) -> nn.Module | None:
    """The network that the recipe names, on the device; None without one.

    It is a model of timm, or the network that the job begins with, as it was.
    """
    teacher = config.train.teacher
    if teacher is None:
        return None
    if isinstance(teacher, InitTeacher):
        return first_network(config.supernet, space).to(device)
    return load_teacher(teacher.timm, **data_sizes(data), given=given_normalisation(config)).to(device)


def _fresh(space: SearchSpace, config: JobConfig) -> Supernet:
    """The supernet before any training or loading of weights."""
    net = supernet.build(space, seed=config.seed)
    if (std := config.train.init_std) is not None:
        if not isinstance(net, Nested):
            raise UsageError(
                f"Networks of family '{space.family}' do not begin with fresh weights.",
                "Set train.init_std: null.",
            )
        init_weights(net.shared, torch.Generator().manual_seed(config.seed), std=std)
    return net


def _start(run: Run, net: Supernet, data: DataSet, anchors: Mapping[int, Artifact]) -> None:
    """Pretrained weights, made ready for the training by images of the training split."""
    config = run.config
    init = config.supernet.init
    if isinstance(init, AnchorsInit):
        assert isinstance(net, Joined), "only a space that joins models has anchors"
        trained = {i: checkpoints.load(run.store, artifact) for i, artifact in anchors.items()}
        normal = given_normalisation(config)
        load_anchors(net, init, data_sizes(data), trained, seed=config.seed, given=normal)
        net.adapt(clean_images(run, net, data, init.images))
    elif initialise(net, config.supernet, seed=config.seed):
        net.adapt(_examples(run, net, data))


def _examples(run: Run, net: Supernet, data: DataSet) -> Iterator[Tensor]:
    """Batches of the training split by which what is important is told; the training draws others."""
    size = run.config.train.batch_size
    if len(data.input_shape) == 1:
        size = min(size, max(1, IMPORTANCE_TOKENS // (IMPORTANCE_BATCHES * data.input_shape[0])))
    for number in range(IMPORTANCE_BATCHES):
        run.check_stop()
        run.progress.update(number, IMPORTANCE_BATCHES)
        yield data.train_batch(run.config.seed, -1 - number, size)[0].to(device_of(net))


def finished(training: Training, data: DataSet) -> dict[str, Tensor]:
    """The trained weights; statistics of batches, where a family has them, are those of training images.

    Clean images would make them worse: the weights have learnt to live with the others
    (`benchmarks/vit_resnas_recipe.py`).
    """
    net = training.supernet
    net.shared.load_state_dict(training.weights())
    if (
        training.recipe.steps and training.recipe.recalibrate
    ):  # without a step what came with the weights is theirs
        net.recalibrate(_calibration(training, data))
    return {name: tensor.detach().clone() for name, tensor in net.shared.state_dict().items()}


def _calibration(training: Training, data: DataSet) -> Iterator[Tensor]:
    """Images as in the training, from batches that it has not seen."""
    device = device_of(training.supernet)
    for step in range(-1, -1 - CALIBRATION_BATCHES, -1):
        x, targets = data.train_batch(training.seed, step, training.recipe.batch_size)
        yield training.mixed(x.to(device), targets.to(device), step).inputs


def clean_images(run: Run, net: Supernet, data: DataSet, count: int) -> Iterator[Tensor]:
    """Batches of `count` training images in all, prepared as those of the search split."""
    if count > data.sizes["train"]:
        count = data.sizes["train"]
        run.warn(f"supernet.init.images is more than there are: the {count} training images are used.")
    for step, start in enumerate(range(0, count, CLEAN_BATCH)):
        run.check_stop()
        run.progress.update(start, count)
        yield data.clean_batch(run.config.seed, step, CLEAN_BATCH)[: count - start].to(device_of(net))
