"""How a job's images are prepared: as its pretrained model was trained, unless the job file says otherwise.

Options of a data set that are `auto` get their values when the job is created, so that it goes on with the
same ones when the model's folder has gone. Jobs that are older have none, and keep what they had.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nas.config import AnchorsInit, CheckpointInit, DataConfig, JobConfig, TimmInit, TrainedAnchor
from nas.images.preprocessing import AUTO, DEFAULTS, Preprocessing, from_mapping
from search_spaces.errors import UsageError
from search_spaces.registry import load
from supernet.normalisation import CLOSE, Normalisation
from supernet.pretrained.subnet_folders import folder_preprocessing, is_timms
from supernet.pretrained.timm_models import FOLDER, preprocessing, shown
from supernet.training.recipe import Teacher

OPTIONS = {
    "mean": "mean",
    "std": "std",
    "interpolation": "interpolation",
    "crop": "crop_pct",
    "crop_mode": "crop_mode",
}  # of a data set -> timm's word


@dataclass(frozen=True)
class ModelImages:
    """The images that a pretrained model knows; `model` is how a user names it."""

    model: str
    needs: Preprocessing


def as_timm(init: TimmInit | CheckpointInit | TrainedAnchor) -> TimmInit | None:
    """Weights as those of a model of timm, which reads the folders that it wrote itself."""
    if isinstance(init, TimmInit):
        return init
    if isinstance(init, CheckpointInit) and is_timms(init.checkpoint):
        return TimmInit(timm=f"{FOLDER}{init.folder}")
    return None


def images_of(init: TimmInit | CheckpointInit | TrainedAnchor) -> ModelImages | None:
    """The images that a model to begin with knows; None for one that knows none or does not say.

    Raises UsageError for a model that there is not, or that says what cannot be read.
    """
    timm = as_timm(init)
    if timm is not None:
        return ModelImages(shown(timm.timm), _read(shown(timm.timm), preprocessing(timm.timm)))
    if isinstance(init, CheckpointInit) and (values := folder_preprocessing(init.checkpoint)):
        return ModelImages(init.checkpoint, _read(init.checkpoint, values))
    return None


def prepared(config: JobConfig) -> JobConfig:
    """The job with a value for every option of its data set that says how images are prepared.

    Raises UsageError as `images_of` does.
    """
    automatic = _automatic(config)
    if not automatic:
        return config
    first = next(_models(config), None)
    values = (DEFAULTS if first is None else first.needs).to_dict()
    chosen = {name: values[OPTIONS[name]] for name in automatic}
    data = DataConfig(name=config.data.name, **config.data.options | chosen)
    return config.model_copy(update={"data": data})


def given_normalisation(config: JobConfig) -> Normalisation | None:
    """How a job's images are normalised; None for older jobs and for data that have a way of their own."""
    options = config.data.options
    if set(_offered(config)) < {"mean", "std"} or _automatic(config):
        return None
    mean, std = (tuple(map(float, options[name])) for name in ("mean", "std"))
    return Normalisation(mean, std)


def remarks(config: JobConfig) -> list[str]:
    """What a user should know of images that are prepared otherwise than a pretrained model's; sentences."""
    sentences = [line for images in _models(config, pretrained=True) for line in _differences(config, images)]
    for alone in config.each.values():
        if not isinstance(alone.train.teacher, Teacher) or _offered(config):
            continue
        teacher = alone.train.teacher.timm
        images = ModelImages(shown(teacher), _read(shown(teacher), preprocessing(teacher)))
        sentences += [f"train.teacher: {line}" for line in _differences(config, images)]
    return sentences


def _differences(config: JobConfig, images: ModelImages) -> Iterator[str]:
    offered = _offered(config)
    if not offered:
        needs = images.needs.to_dict()
        yield (
            f"The data set '{config.data.name}' prepares images in its own way; '{images.model}' was trained "
            f"with mean {needs['mean']} and std {needs['std']}."
        )
        return
    used = prepared(config).data.options
    needs = images.needs.for_channels(
        len(used["mean"]) if "mean" in used else len(images.needs.mean)
    ).to_dict()
    for name in offered:
        wanted = needs[OPTIONS[name]]
        if _differs(used[name], wanted) and not _is_folded(config, name):
            yield (
                f"data.{name} is {_plain(used[name])}, and '{images.model}' was trained with {wanted}: "
                f"its weights know other images."
            )


def _is_folded(config: JobConfig, name: str) -> bool:
    """Whether each anchor sees its own images although the job's are others'."""
    automatic = not {"mean", "std"} - set(_automatic(config))
    anchors = all(isinstance(alone.supernet.init, AnchorsInit) for alone in config.each.values())
    return name in ("mean", "std") and automatic and anchors


def _models(config: JobConfig, *, pretrained: bool = False) -> Iterator[ModelImages]:
    """The models that the job begins with and that know images; with `pretrained` those with weights."""
    inits = [one for alone in config.each.values() for one in _inits(alone)]
    for one in inits:
        if pretrained and isinstance(one, TimmInit) and not one.pretrained:
            continue
        images = images_of(one)
        if images is not None:
            yield images


def _inits(config: JobConfig) -> Sequence[TimmInit | CheckpointInit | TrainedAnchor]:
    init = config.supernet.init
    if isinstance(init, AnchorsInit):
        return init.anchors
    return [init] if isinstance(init, TimmInit | CheckpointInit) else []


def _offered(config: JobConfig) -> list[str]:
    """The options of the data set that follow the model unless given: those whose default is `auto`."""
    build = getattr(load("nas.datasets", config.data.name), "build", None)
    parameters = inspect.signature(build).parameters if callable(build) else {}
    return [name for name in OPTIONS if name in parameters and parameters[name].default == AUTO]


def _automatic(config: JobConfig) -> list[str]:
    """Those of them that have no value yet."""
    return [name for name in _offered(config) if config.data.options.get(name, AUTO) == AUTO]


def _differs(used: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return len(used) != len(wanted) or any(abs(a - b) > CLOSE for a, b in zip(used, wanted, strict=True))
    return bool(used != wanted)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read(model: str, values: dict[str, Any]) -> Preprocessing:
    try:
        return from_mapping(values)
    except UsageError as error:
        raise UsageError(f"The images that '{model}' knows: {error.message}", error.hint) from error
