"""From a job and a subnet to a stand-alone module, and to files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import search_spaces
import supernet
from nas import checkpoints
from nas.store import Job, Store, Subnet
from search_spaces import SearchSpace
from search_spaces._errors import NotFoundError
from search_spaces._registry import load
from supernet._plain_swin import Swin
from supernet._plain_vit import ViT
from supernet._timm import timm_kwargs
from supernet._timm_swin import swin_kwargs

if TYPE_CHECKING:
    from torch import nn

    from supernet._base import Supernet


def space_of(store: Store, job: Job) -> SearchSpace:
    """The space in which the job searches. Raises NotFoundError for a job that has not begun."""
    stage = store.stage(job, "space")
    if stage is None or stage.result is None:
        raise NotFoundError(f"Job '{job.name}' has not begun.", f"Start it with `nas resume {job.name}`.")
    described = stage.result["space"]
    return search_spaces.get(described["family"], **described["options"])


def load_supernet(store: Store, job: Job) -> "Supernet":
    """The trained supernet. Raises NotFoundError before it is trained, JobFailedError for a damaged file."""
    artifacts = store.artifacts(job, "supernet")
    if not artifacts:
        raise NotFoundError(
            f"The supernet of job '{job.name}' is not trained yet.", f"`nas show {job.name}` tells more."
        )
    net = supernet.build(space_of(store, job))
    net.shared.load_state_dict(checkpoints.load(store, artifacts[-1]), strict=True)
    return net.eval()


def extract(store: Store, job: Job, subnet_key: str) -> "nn.Module":
    """The stand-alone module of a subnet that the job has looked at, in evaluation mode."""
    subnet = store.subnet(job, subnet_key)
    net = load_supernet(store, job)
    return net.extract(net.space.architecture(subnet.architecture))


def export(
    store: Store, job: Job, subnet_key: str, folder: Path, *, format: str = "safetensors"
) -> list[Path]:
    """Writes a subnet to `folder` in the given format; the written files.

    Raises NotFoundError for an unknown subnet or format, ConflictError for a folder that is not empty.
    """
    exporter = load("nas.exporters", format)
    subnet = store.subnet(job, subnet_key)
    net = load_supernet(store, job)
    module = net.extract(net.space.architecture(subnet.architecture))
    files: list[Path] = exporter.export(
        module,
        folder,
        example=net.example_input(2),
        info=_info(store, job, subnet),
        timm=_timm_config(module),
    )
    return files


def _info(store: Store, job: Job, subnet: Subnet) -> dict[str, Any]:
    """What the model card tells beside the architecture."""
    info: dict[str, Any] = {
        "subnet": subnet.key,
        "job": job.name,
        "data": job.config["data"]["name"],
        "params": subnet.params,
        "macs": subnet.macs,
        "architecture": subnet.architecture,
    }
    for evaluation in store.evaluations(job, "report"):
        if evaluation.subnet.key == subnet.key and evaluation.value is not None:
            info[evaluation.metric] = evaluation.value
            info[f"{evaluation.metric}_stderr"] = evaluation.stderr
    for measurement in store.measurements(job, "finalist"):
        if measurement.subnet.key == subnet.key:
            info["latency_ms"] = measurement.latency_ms
            info["batch"] = next(iter(job.config["devices"].values()))["batch"]
    return info


def _timm_config(module: "nn.Module") -> dict[str, Any] | None:
    """What timm reads from config.json, if timm can express the subnet."""
    kwargs = None
    if isinstance(module, ViT):
        kwargs = timm_kwargs(module)
    elif isinstance(module, Swin):
        kwargs = swin_kwargs(module)
    if kwargs is None:
        return None
    size = (kwargs["in_chans"], *module.config["image_size"])  # type: ignore[index]
    return {
        "architecture": kwargs.pop("model_name"),
        "num_classes": kwargs["num_classes"],
        "model_args": kwargs,
        "pretrained_cfg": {
            "num_classes": kwargs["num_classes"],
            "input_size": size,
            "first_conv": "patch_embed.proj",
            "classifier": "head" if isinstance(module, ViT) else "head.fc",
        },
    }
