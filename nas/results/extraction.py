"""From a job and a subnet to a stand-alone module, and to files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import checkpoints
from nas.config.quantities import named
from nas.images.preprocessing import DEFAULTS
from nas.results import frames, job_devices
from nas.results.frames import INHERITED, SPECIALISE, SPECIALISED
from nas.spaces.job_space import space_of
from nas.store import Artifact, Job, MeasurementRow, Store, Subnet
from predictors.measurement.labels import Measurement
from search_spaces import Architecture
from search_spaces.errors import NotFoundError, did_you_mean
from search_spaces.registry import load
from supernet import build
from supernet.plain.layers import Network

if TYPE_CHECKING:
    from torch import nn

    from supernet.supernet import Supernet


def supernet_file(store: Store, job: Job, supernet: str = "") -> Artifact:
    """The trained supernet's weights. Raises NotFoundError before it is trained.

    supernet: which of a job with several.
    """
    artifacts = store.artifacts(job, "supernet")
    if supernet:
        use = store.supernet_of(job, supernet)
        artifacts = [one for one in artifacts if use is not None and one.supernet_id == use.supernet.id]
    if not artifacts:
        raise NotFoundError(
            f"The supernet of job '{job.name}' is not trained yet.", f"`nas show {job.id}` tells more."
        )
    return artifacts[-1]


def load_supernet(store: Store, job: Job, file: Artifact | None = None, *, supernet: str = "") -> "Supernet":
    """The trained supernet, or the one whose weights a file of the job holds.

    supernet: which of a job with several.
    Raises NotFoundError before it is trained, JobFailedError for a damaged file.
    """
    file = supernet_file(store, job, supernet) if file is None else file
    net = build(space_of(store, job).members[supernet])
    net.shared.load_state_dict(checkpoints.load(store, file), strict=True)
    return net.eval()


@dataclass(frozen=True)
class SpecialisedFile:
    """Where specialised weights are: in a supernet that finalists share, or in a file of one's own."""

    file: Artifact
    shared: bool


def specialised_file(store: Store, job: Job, key: str) -> SpecialisedFile | None:
    """Where those of the finalist with this key are; None for a subnet that the job did not train further."""
    stage = store.stage(job, SPECIALISE)
    if stage is None or stage.state != "done" or key not in (files := stage.told("artifacts")):
        return None
    return SpecialisedFile(store.artifact(files[key]), shared=stage.told("how") == "together")


def reported_weights(store: Store, job: Job, key: str) -> str:
    """Those with which the front reports the subnet with this key; of any other subnet inherited ones."""
    reported = (e.weights for e in frames.reported(store, job) if e.subnet.key == key)
    return next(reported, INHERITED)


def extract(
    store: Store, job: Job, subnet: str | Mapping[str, Any], *, weights: str | None = None
) -> "nn.Module":
    """The stand-alone module of a subnet, in evaluation mode.

    subnet: the beginning of the key of one that the job has looked at, or any architecture as plain data.
    weights: those that it has in the supernet (`inherited`), what the job's training of its finalists made of
    them (`specialised`), or what `nas finetune` did (`finetuned`, `scratch`); by default those with which the
    front reports it, and of a subnet that is not on the front inherited ones.
    Raises NotFoundError for a subnet that there is not with these weights.
    """
    row = _subnet(store, job, subnet)
    return _extracted(store, job, row, weights or reported_weights(store, job, row.key))[1]


def export(
    store: Store,
    job: Job,
    subnet: str | Mapping[str, Any],
    folder: Path,
    *,
    format: str = "safetensors",
    weights: str | None = None,
) -> list[Path]:
    """Writes a subnet to `folder` in the given format; the written files.

    subnet, weights: as `extract` takes them.

    Raises NotFoundError for an unknown subnet or format, ConflictError for a folder that is not empty.
    """
    exporter = load("nas.exporters", format)
    row = _subnet(store, job, subnet)
    weights = weights or reported_weights(store, job, row.key)
    net, module = _extracted(store, job, row, weights)
    files: list[Path] = exporter.export(
        module,
        folder,
        example=net.example_input(2),
        info=_info(store, job, row, weights),
        timm=timm_config(module, _data_facts(store, job)),
    )
    return files


def _subnet(store: Store, job: Job, subnet: str | Mapping[str, Any]) -> Subnet:
    """The row of a subnet; for an architecture that the job has not looked at one that is not stored."""
    if isinstance(subnet, str):
        return store.subnet(job, subnet)
    space = space_of(store, job)
    arch = space.architecture(subnet)
    stored = next((row for row in store.subnets(job) if row.key == arch.key), None)
    cost = space.cost(arch)
    return stored or Subnet(0, job.id, arch.key, arch.to_dict(), cost.params, cost.macs)


def _extracted(store: Store, job: Job, subnet: Subnet, weights: str) -> "tuple[Supernet, nn.Module]":
    if weights == INHERITED:
        supernet, arch = _own(store, job, subnet)
        net = load_supernet(store, job, supernet=supernet)
        return net, net.extract(arch)
    if weights == SPECIALISED:
        return _specialised(store, job, subnet)
    if weights not in frames.RETRAINED:
        known_names = (INHERITED, *frames.TRAINED)
        raise NotFoundError(f"There are no weights '{weights}'.", did_you_mean(weights, known_names))
    stage = store.stage(job, f"{weights}-{subnet.key}")
    if stage is None or stage.state != "done" or stage.result is None:
        option = " --from-scratch" if weights == "scratch" else ""
        raise NotFoundError(
            f"Subnet '{subnet.key}' of job '{job.name}' has no weights '{weights}'.",
            f"`nas finetune {job.id} --subnet {subnet.key}{option}` trains them.",
        )
    return _from_file(store, job, subnet, store.artifact(stage.told("artifact")))


def _own(store: Store, job: Job, subnet: Subnet) -> tuple[str, Architecture]:
    """Of a job with several supernets which one's a subnet is; its architecture in the space of that one."""
    space = space_of(store, job)
    return space.own(space.architecture(subnet.architecture))


def _specialised(store: Store, job: Job, subnet: Subnet) -> "tuple[Supernet, nn.Module]":
    weights = specialised_file(store, job, subnet.key)
    if weights is None:
        raise NotFoundError(
            f"Subnet '{subnet.key}' of job '{job.name}' has no weights '{SPECIALISED}'.",
            "Finalists have them, of a job whose job file says `finalists: {train: true}`.",
        )
    if not weights.shared:
        return _from_file(store, job, subnet, weights.file)
    net = load_supernet(store, job, weights.file)
    return net, net.extract(net.space.architecture(subnet.architecture))


def _from_file(store: Store, job: Job, subnet: Subnet, file: Artifact) -> "tuple[Supernet, nn.Module]":
    """The subnet with the weights of its own that a file holds."""
    supernet, arch = _own(store, job, subnet)
    net = build(space_of(store, job).members[supernet])
    module = net.plain(arch)
    module.load_state_dict(checkpoints.load(store, file), strict=True)
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
    info |= _data_facts(store, job)
    for evaluation in store.evaluations(job, "report", weights=weights):
        if evaluation.subnet.key == subnet.key and evaluation.value is not None:
            info[evaluation.metric] = evaluation.value
            info[f"{evaluation.metric}_stderr"] = evaluation.stderr
    for row in store.measurements(job, "finalist"):
        if row.subnet.key == subnet.key:
            info |= _timed(store, job, row)
    return info


def _timed(store: Store, job: Job, row: MeasurementRow[Measurement]) -> dict[str, Any]:
    """The latency and its batch on a device that was searched for, named as in the job's limits."""
    names = job.config.get("devices") or {}
    device = job_devices.searched_name(store, job, row.device_id)
    if device is None:
        return {}
    return {
        named("latency_ms", device, names): row.result.latency_ms,
        named("batch", device, names): names[device].get("batch"),
    }


def _data_facts(store: Store, job: Job) -> dict[str, Any]:
    """`classes`, their names, and `preprocessing`, how images become inputs, as far as they are known."""
    stage = store.stage(job, "space")
    data = stage.result.get("data", {}) if stage is not None and stage.result else {}
    facts = {key: data[key] for key in ("classes", "preprocessing") if key in data}
    options = job.config.get("data", {})
    if "preprocessing" not in facts and options.get("name") == "image_folder":
        # A job that is older than the record: it had no choice but of these two.
        normal = {name: options[name] for name in ("mean", "std") if name in options}
        facts["preprocessing"] = DEFAULTS.to_dict() | normal
    return facts


def timm_config(module: "nn.Module", facts: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What timm reads from config.json, if timm can express the subnet; `facts`: what `_data_facts` gives."""
    facts = facts or {}
    if not isinstance(module, Network) or (kwargs := module.timm_arguments()) is None:
        return None
    return {
        "architecture": kwargs.pop("model_name"),
        "num_classes": kwargs["num_classes"],
        "model_args": kwargs,
        **({"label_names": facts["classes"]} if "classes" in facts else {}),
        "pretrained_cfg": {
            "num_classes": kwargs["num_classes"],
            "input_size": module.input_shape,
            "fixed_input_size": True,
            **facts.get("preprocessing", {}),
            "first_conv": module.first_conv,
            "classifier": module.classifier,
        },
    }
