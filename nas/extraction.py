"""From a job and a subnet to a stand-alone module, and to files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import search_spaces
import supernet
from nas import checkpoints
from nas._quantities import named
from nas.datasets._preprocessing import DEFAULTS
from nas.store import Job, Measurement, Store, Subnet, frames, job_devices
from search_spaces import SearchSpace
from search_spaces._errors import NotFoundError, did_you_mean
from search_spaces._registry import load
from supernet._plain_hiera import Hiera
from supernet._plain_swin import Swin
from supernet._plain_vit import ViT
from supernet._timm import timm_kwargs
from supernet._timm_hiera import hiera_kwargs
from supernet._timm_swin import swin_kwargs

if TYPE_CHECKING:
    from torch import nn

    from supernet._base import Supernet

INHERITED = "inherited"
# Plain module -> what makes timm's arguments of one, or None if timm cannot express it.
TIMM_ARGUMENTS: "dict[type[nn.Module], Callable[[Any], dict[str, Any] | None]]" = {
    Hiera: hiera_kwargs,
    Swin: swin_kwargs,
    ViT: timm_kwargs,
}


def space_of(store: Store, job: Job) -> SearchSpace:
    """The space in which the job searches. Raises NotFoundError for a job that has not begun."""
    stage = store.stage(job, "space")
    if stage is None or stage.result is None:
        raise NotFoundError(f"Job '{job.name}' has not begun.", f"Start it with `nas resume {job.id}`.")
    return search_spaces.described(stage.result.get("space"))


def load_supernet(store: Store, job: Job) -> "Supernet":
    """The trained supernet. Raises NotFoundError before it is trained, JobFailedError for a damaged file."""
    artifacts = store.artifacts(job, "supernet")
    if not artifacts:
        raise NotFoundError(
            f"The supernet of job '{job.name}' is not trained yet.", f"`nas show {job.id}` tells more."
        )
    net = supernet.build(space_of(store, job))
    net.shared.load_state_dict(checkpoints.load(store, artifacts[-1]), strict=True)
    return net.eval()


def extract(
    store: Store, job: Job, subnet: str | Mapping[str, Any], *, weights: str = INHERITED
) -> "nn.Module":
    """The stand-alone module of a subnet, in evaluation mode.

    subnet: the beginning of the key of one that the job has looked at, or any architecture as plain data.
    weights: those that it has in the supernet, or what `nas finetune` made of them: `finetuned`, `scratch`.
    Raises NotFoundError for a subnet that there is not with these weights.
    """
    return _extracted(store, job, _subnet(store, job, subnet), weights)[1]


def export(
    store: Store,
    job: Job,
    subnet: str | Mapping[str, Any],
    folder: Path,
    *,
    format: str = "safetensors",
    weights: str = INHERITED,
) -> list[Path]:
    """Writes a subnet to `folder` in the given format; the written files.

    subnet, weights: as `extract` takes them.

    Raises NotFoundError for an unknown subnet or format, ConflictError for a folder that is not empty.
    """
    exporter = load("nas.exporters", format)
    found = _subnet(store, job, subnet)
    net, module = _extracted(store, job, found, weights)
    files: list[Path] = exporter.export(
        module,
        folder,
        example=net.example_input(2),
        info=_info(store, job, found, weights),
        timm=_timm_config(module, _told(store, job)),
    )
    return files


def _subnet(store: Store, job: Job, subnet: str | Mapping[str, Any]) -> Subnet:
    """The row of a subnet; for an architecture that the job has not looked at one that is not stored."""
    if isinstance(subnet, str):
        return store.subnet(job, subnet)
    space = space_of(store, job)
    arch = space.architecture(subnet)
    known = next((found for found in store.subnets(job) if found.key == arch.key), None)
    cost = space.cost(arch)
    return known or Subnet(0, job.id, arch.key, arch.to_dict(), cost.params, cost.macs)


def _extracted(store: Store, job: Job, subnet: Subnet, weights: str) -> "tuple[Supernet, nn.Module]":
    if weights == INHERITED:
        net = load_supernet(store, job)
        return net, net.extract(net.space.architecture(subnet.architecture))
    if weights not in frames.RETRAINED:
        raise NotFoundError(
            f"There are no weights '{weights}'.", did_you_mean(weights, (INHERITED, *frames.RETRAINED))
        )
    stage = store.stage(job, f"{weights}-{subnet.key}")
    if stage is None or stage.state != "done" or stage.result is None:
        option = " --from-scratch" if weights == "scratch" else ""
        raise NotFoundError(
            f"Subnet '{subnet.key}' of job '{job.name}' has no weights '{weights}'.",
            f"`nas finetune {job.id} --subnet {subnet.key}{option}` trains them.",
        )
    net = supernet.build(space_of(store, job))
    module = net.plain(net.space.architecture(subnet.architecture))
    module.load_state_dict(checkpoints.load(store, store.artifact(stage.told("artifact"))), strict=True)
    return net, module.eval()


def _info(store: Store, job: Job, subnet: Subnet, weights: str) -> dict[str, Any]:
    """What the model card tells beside the architecture."""
    info: dict[str, Any] = {
        "subnet": subnet.key,
        "job": job.name,
        "data": job.config.get("data", {}).get("name"),
        "params": subnet.params,
        "macs": subnet.macs,
        "weights": weights,
        "architecture": subnet.architecture,
    }
    info |= _told(store, job)
    for evaluation in store.evaluations(job, "report", weights=weights):
        if evaluation.subnet.key == subnet.key and evaluation.value is not None:
            info[evaluation.metric] = evaluation.value
            info[f"{evaluation.metric}_stderr"] = evaluation.stderr
    for measurement in store.measurements(job, "finalist"):
        if measurement.subnet.key == subnet.key:
            info |= _timed(store, job, measurement)
    return info


def _timed(store: Store, job: Job, measurement: Measurement) -> dict[str, Any]:
    """The latency and its batch on a device that was searched for, named as in the job's constraints."""
    names = job.config.get("devices") or {}
    device = job_devices.searched_name(store, job, measurement.device_id)
    if device is None:
        return {}
    return {
        named("latency_ms", device, names): measurement.latency_ms,
        named("batch", device, names): names[device].get("batch"),
    }


def _told(store: Store, job: Job) -> dict[str, Any]:
    """`classes`, their names, and `preprocessing`, how images become inputs, as far as they are known."""
    stage = store.stage(job, "space")
    data = stage.result.get("data", {}) if stage is not None and stage.result else {}
    known = {key: data[key] for key in ("classes", "preprocessing") if key in data}
    options = job.config.get("data", {})
    if "preprocessing" not in known and options.get("name") == "image_folder":
        # A job that is older than the record: it had no choice but of these two.
        normal = {name: options[name] for name in ("mean", "std") if name in options}
        known["preprocessing"] = DEFAULTS.to_dict() | normal
    return known


def _timm_config(module: "nn.Module", told: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What timm reads from config.json, if timm can express the subnet; `told`: as `_told` gives it."""
    told = told or {}
    writes = TIMM_ARGUMENTS.get(type(module))
    kwargs = None if writes is None else writes(module)
    if kwargs is None:
        return None
    size = (kwargs["in_chans"], *module.config["image_size"])  # type: ignore[index]
    return {
        "architecture": kwargs.pop("model_name"),
        "num_classes": kwargs["num_classes"],
        "model_args": kwargs,
        **({"label_names": told["classes"]} if "classes" in told else {}),
        "pretrained_cfg": {
            "num_classes": kwargs["num_classes"],
            "input_size": size,
            "fixed_input_size": True,
            **told.get("preprocessing", {}),
            "first_conv": "patch_embed.proj",
            "classifier": "head" if isinstance(module, ViT) else "head.fc",
        },
    }
