"""Stage `train`: the shared weights."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

import supernet
from nas import checkpoints
from nas.anchors import load_anchors
from nas.config import AnchorsInit, JobConfig, SamplingConfig
from nas.datasets import DataSet
from nas.initial import initialise
from nas.preprocessing import given_normalisation
from nas.spaces import data_sizes
from nas.stages._fit import Fit, device_of, fit
from nas.stages._run import Run
from nas.store import Artifact
from search_spaces import SearchSpace
from search_spaces._errors import UsageError
from supernet._base import Supernet
from supernet._init import init_weights
from supernet._nested import Nested
from supernet._recipe import Recipe
from supernet._resource_groups import GIGA, bin_groups, collapsed, gap_groups, level_groups
from supernet._sampling import (
    Joint,
    MultiArchitectural,
    ResourceConstrained,
    Sandwich,
    SinglePath,
    Strategy,
    Weighted,
)
from supernet._teacher import load_teacher
from supernet._train import Training
from supernet.stitching import Stitching

IMPORTANCE_BATCHES = 8
CLEAN_BATCH = 64
CALIBRATION_BATCHES = 16


def train(run: Run, space: SearchSpace, data: DataSet, anchors: Mapping[int, Artifact]) -> Artifact:
    """Trains the supernet, or finds it trained; `anchors`: weights of those that the job trained before."""
    config = run.config
    sections = {
        "train": config.train.inputs(),
        "init": str(config.supernet.init),
        "seed": config.seed,
    }
    job = Fit(
        stage="train",
        kind="supernet",
        steps=config.train.steps,
        batch_size=config.train.batch_size,
        seed=config.seed,
        begin=lambda: _begin(run, space, data),
        start=lambda training: _start(run, training.supernet, data, anchors),
        finish=lambda training: finished(training, data),
    )
    result = run.once("train", sections, lambda: fit(run, data, job))
    return run.store.artifact(result["artifact"])


def torch_device(config: JobConfig) -> torch.device:
    """Where the job trains and evaluates. Raises UsageError for a GPU that is not there."""
    wanted = config.train.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "train.device is 'cuda', but torch finds no GPU here.", "Use `device: auto` or `cpu`."
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def strategy(config: SamplingConfig, net: Supernet) -> Strategy:
    """The sampling strategy that a job file names, for the job's supernet."""
    space, left_out = net.space, net.frozen
    if config.strategy == "resource_constrained":
        if config.gap_gmacs is not None:
            groups = gap_groups(space, config.gap_gmacs * GIGA, leave_out=left_out)
        elif config.bins is not None:
            groups = bin_groups(space, config.bins, leave_out=left_out)
        else:
            groups = level_groups(space, leave_out=left_out)
        return ResourceConstrained(groups, config.paths)
    if left_out:
        raise UsageError(
            f"train.sampling.strategy = '{config.strategy}' would train the original anchors.",
            "Use resource_constrained, or set supernet.space.originals: false.",
        )
    if config.strategy == "multi_architectural":
        return MultiArchitectural(config.paths, config.at_once)
    if config.strategy == "single_path":
        return SinglePath(config.smallest, config.largest)
    if config.strategy == "sandwich":
        return Sandwich(config.random)
    if config.strategy == "weighted":
        return Weighted(config.weights) if config.weights else Weighted()
    return Joint()


def recipe(config: JobConfig) -> Recipe:
    """The trainer's recipe of a job file."""
    train = config.train
    taught = {} if train.teacher is None else train.teacher.model_dump(include={"weight", "hard"})
    return Recipe(
        steps=train.steps,
        batch_size=train.batch_size,
        lr=train.lr,
        weight_decay=train.weight_decay,
        betas=train.betas,
        warmup=train.warmup,
        clip=train.clip,
        label_smoothing=train.label_smoothing,
        largest_first=train.largest_first,
        ema=train.ema,
        distill=train.sampling.distill,
        distill_after=train.sampling.distill_after,
        precision=train.precision,
        lr_scale=train.lr_scale,
        widening=train.widening,
        sort_every=train.sort_every,
        patch_mixup=train.patch_mixup,
        decay_also=train.decay_also,
        blocks_twice=train.sampling.blocks_twice,
        init_std=train.init_std,
        **{f"teacher_{name}": value for name, value in taught.items()},
    )


def _begin(run: Run, space: SearchSpace, data: DataSet) -> Training:
    config = run.config
    torch.set_num_threads(config.train.threads or torch.get_num_threads())
    net = _fresh(space, config).to(torch_device(config))
    gap = config.train.sampling.gap_gmacs
    if gap is not None and (warning := collapsed(space, gap * GIGA, leave_out=net.frozen)):
        run.warn(warning)
    teacher = config.train.teacher and load_teacher(
        config.train.teacher.timm, **data_sizes(data), given=given_normalisation(config)
    )
    return Training(
        net,
        strategy(config.train.sampling, net),
        recipe(config),
        seed=config.seed,
        teacher=teacher.to(torch_device(config)) if teacher else None,
    )


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
        assert isinstance(net, Stitching), "only a space of stitches has anchors"
        trained = {i: checkpoints.load(run.store, artifact) for i, artifact in anchors.items()}
        normal = given_normalisation(config)
        load_anchors(net, init, data_sizes(data), trained, seed=config.seed, given=normal)
        net.adapt(_clean_images(run, net, data, init.images))
    elif initialise(net, config.supernet, seed=config.seed):
        steps = range(-1, -1 - IMPORTANCE_BATCHES, -1)
        images = (data.train_batch(config.seed, step, config.train.batch_size)[0] for step in steps)
        net.adapt([x.to(device_of(net)) for x in images])


def finished(training: Training, data: DataSet) -> dict[str, Tensor]:
    """The trained weights; statistics of batches, where a family has them, are those of training images.

    Clean images would make them worse: the weights have learnt to live with the others
    (`benchmarks/vit_resnas_recipe.py`).
    """
    net = training.supernet
    net.shared.load_state_dict(training.weights())
    net.recalibrate(_calibration(training, data))
    return {name: tensor.detach().clone() for name, tensor in net.shared.state_dict().items()}


def _calibration(training: Training, data: DataSet) -> Iterator[Tensor]:
    """Images as in the training, from batches that it has not seen."""
    device = device_of(training.supernet)
    for step in range(-1, -1 - CALIBRATION_BATCHES, -1):
        x, labels = data.train_batch(training.seed, step, training.recipe.batch_size)
        yield training.mixed(x.to(device), labels.to(device), step).images


def _clean_images(run: Run, net: Supernet, data: DataSet, count: int) -> Iterator[Tensor]:
    """Batches of `count` training images in all, prepared as those of the search split."""
    if count > data.sizes["train"]:
        count = data.sizes["train"]
        run.warn(f"supernet.init.images is more than there are: the {count} training images are used.")
    for step, start in enumerate(range(0, count, CLEAN_BATCH)):
        run.check_stop()
        run.progress.update(start, count)
        yield data.clean_batch(run.config.seed, step, CLEAN_BATCH)[: count - start].to(device_of(net))
