"""Reference networks of a job file: models of timm and folders, as classifiers of the job's images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nas.config import BaselineInit, CheckpointInit, JobConfig
from nas.datasets import DataSet
from nas.images.preprocessing import from_mapping
from nas.spaces.described_networks import described
from nas.spaces.job_space import data_sizes
from nas.spaces.preprocessing import as_timm, given_normalisation
from search_spaces.errors import UsageError
from supernet.normalisation import Normalisation, Renormalised
from supernet.pretrained.subnet_folders import folder_preprocessing, load_folder
from supernet.pretrained.timm_models import FOLDER, check_runs, create, preprocessing, shown, sketch

SEED = 0  # of weights that nothing was learnt with: they are measured only


@dataclass(frozen=True)
class Baseline:
    """A reference network, ready for the images of a job.

    module: as it is measured.  classifier: the same, given images as the job normalises them.
    unfit: why it is not evaluated; None: it is.  described: as another host can build it, if it can.
    """

    name: str
    module: nn.Module
    classifier: nn.Module
    unfit: str | None = None
    described: dict[str, Any] | None = None


def load_baselines(config: JobConfig, data: DataSet) -> list[Baseline]:
    """Those of the job file, with names of their own.

    Raises UsageError for one that there is not, whose weights cannot be had, or that does not take the job's
    images, and for any on other data than images.
    """
    if config.baselines and "in_chans" not in data_sizes(data):
        raise UsageError(
            f"baselines are classifiers of images, and data set '{data.name}' has none.",
            "Leave baselines out; `nas front A B` compares jobs on the same text.",
        )
    loaded: list[Baseline] = []
    for place, section in enumerate(config.baselines):
        try:
            module, images, network = _loaded(section, data)
            unfit = _unfit(section, module, data)
        except UsageError as error:
            raise UsageError(f"baselines.{place}: {error.message}", error.hint) from error
        name = _name(section, {one.name for one in loaded})
        loaded.append(Baseline(name, module, _seeing(module, images, config, data), unfit, network))
    return loaded


def costs(module: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Parameters, and the MACs of one image: of convolutions, linear layers and the products of attention."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *shape))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return {"params": parameters, "macs": counter.get_total_flops() // 2}


def _loaded(
    section: BaselineInit, data: DataSet
) -> tuple[nn.Module, Normalisation | None, dict[str, Any] | None]:
    """The network, how the images were normalised that it knows (None where that is not said), and the
    network as plain data.
    """
    sizes, timm = data_sizes(data), as_timm(section)
    channels = sizes["in_chans"]
    if timm is None:
        assert isinstance(section, CheckpointInit), "all others are timm's"
        module = load_folder(section.folder)
        takes: Any = module.input_shape
        if tuple(takes) != tuple(data.input_shape):
            raise UsageError(
                f"The subnet in '{section.folder}' takes images of {tuple(takes)}, and the data has "
                f"{tuple(data.input_shape)} (channels, height, width)."
            )
        images = folder_preprocessing(section.folder)
        learnt = None if images is None else _normalisation(images, channels)
        return module, learnt, described(module, None, {})
    with torch.device("meta"):
        model, given = sketch(timm.timm, channels, sizes["image_size"])
        check_runs(timm.timm, model.eval(), tuple(data.input_shape))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        made = create(timm.timm, pretrained=timm.pretrained, **given).eval()
    learnt = _normalisation(preprocessing(timm.timm), channels)
    return made, learnt, described(made, timm.timm, given)


def _normalisation(values: dict[str, Any], channels: int) -> Normalisation:
    return from_mapping(values).for_channels(channels).normalisation


def _seeing(module: nn.Module, learnt: Normalisation | None, config: JobConfig, data: DataSet) -> nn.Module:
    given = given_normalisation(config)
    if given is None or learnt is None or learnt.is_close(given):
        return module
    return Renormalised(module, given, learnt).eval()


def _unfit(section: BaselineInit, module: nn.Module, data: DataSet) -> str | None:
    """Why the network's quality says nothing of these data."""
    timm = as_timm(section)
    if timm is not None and not timm.pretrained:
        return "its weights are not pretrained"
    with torch.no_grad():
        classes = module(torch.zeros(1, *data.input_shape)).shape[-1]
    if classes != data.num_classes:
        return f"it knows {classes} classes, and the data has {data.num_classes}"
    return None


def _name(section: BaselineInit, taken: set[str]) -> str:
    """That of timm, or of the folder; with a number where another one has it."""
    text = section.checkpoint if isinstance(section, CheckpointInit) else shown(section.timm)
    is_folder = isinstance(section, CheckpointInit) or section.timm.startswith(FOLDER)
    base = (Path(text).name or text) if is_folder else text
    return next(
        name for n in range(1, len(taken) + 2) if (name := base if n == 1 else f"{base}-{n}") not in taken
    )
