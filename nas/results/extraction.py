"""From a job and a subnet to a stand-alone module, and to files."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import checkpoints, datasets
from nas.config.components import stored_config
from nas.config.quantities import named
from nas.datasets import DataSet, task_of
from nas.evaluation.qualities import qualities_of
from nas.evaluation.tasks import batch_of
from nas.exported.card import device_line
from nas.exported.elastic import ElasticMember, export_elastic
from nas.exported.folder import appearing
from nas.exported.folder import export as write_folder
from nas.exported.forms import Form, Packing, Run
from nas.images.preprocessing import DEFAULTS
from nas.limits import kind_of
from nas.results import frames, job_devices
from nas.results.columns import is_known
from nas.results.frames import INHERITED, SPECIALISE, SPECIALISED
from nas.results.front import each_once
from nas.results.members import Member
from nas.spaces.job_space import space_of
from nas.store import Artifact, Job, MeasurementRow, Store, Subnet
from nas.store.files.folder import Folder
from nas.text.tokens import BYTES, tokenizer_of
from predictors.measurement.labels import Measurement
from search_spaces import Architecture
from search_spaces.errors import NASError, NotFoundError, UsageError, did_you_mean
from supernet import build

if TYPE_CHECKING:
    from torch import Tensor, nn

    from supernet.supernet import Supernet

LANGUAGE = "language"
CHECKED = 3  # examples
JUDGED = 64  # at once


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


def weights_file(store: Store, job: Job, subnet: Subnet, weights: str) -> Artifact:
    """The file with the weights of a subnet: its supernet's, or what the job trained finalists to.

    weights: inherited or specialised.  Raises NotFoundError where there is none.
    """
    if weights == INHERITED:
        return supernet_file(store, job, _own(store, job, subnet)[0])
    specialised = specialised_file(store, job, subnet.key)
    if specialised is None:
        raise _not_specialised(job, subnet)
    return specialised.file


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
    return extracted(store, job, row, weights or reported_weights(store, job, row.key))[1]


def _tokenizer_name(job: Job) -> str:
    """The tokenizer of the job's texts as the job file names it."""
    return str(job.config.get("data", {}).get("tokenizer", BYTES))


def export(
    store: Store,
    job: Job,
    subnet: str | Mapping[str, Any],
    folder: Path,
    *,
    weights: str | None = None,
    packing: Packing = Packing(),  # noqa: B008 - it is frozen
) -> list[Path]:
    """Writes a subnet to `folder`, of several formats each to a folder below it; the written files.

    subnet, weights: as `extract` takes them.
    Each format is checked in a fresh process on examples of the search split, if the data are there.

    Raises NotFoundError for an unknown subnet or format, UsageError for what a format cannot express or does
    not have and for a folder among the store's files, ConflictError for one that is not empty.
    """
    _check_outside(store, folder)
    formats, form = packing.checked()
    row, asked = _subnet(store, job, subnet), weights
    weights = asked or reported_weights(store, job, row.key)
    net, module = extracted(store, job, row, weights)
    data = data_of(store, job)
    example, inputs = _examples(data, net)
    if packing.calibration:
        form = replace(form, calibration=_calibrating(data, packing.calibration))
    info = {**_info(store, job, row, weights), **_facts_of(data), "inputs": inputs}
    form = replace(form, tokenizer=_tokenizer_name(job))
    judge = None if data is None else partial(_judged, data)

    def written(name: str, target: Path) -> list[Path]:
        timed = packing.timer is not None
        described = info | _command(job, row, name, form, weights=asked, timed=timed)
        how: Any = {"info": described, "form": form, "judge": judge, "timer": packing.timer}
        return write_folder(name, module, target, example=example, **how)

    if len(formats) == 1:
        return written(formats[0], folder)
    with appearing(folder) as passing:
        files = [file for name in formats for file in written(name, passing / name)]
    return [folder / file.relative_to(passing) for file in files]


def export_front(store: Store, job: Job, folder: Path) -> list[Path]:
    """Writes the subnets of a job's front to `folder` as one elastic checkpoint; the written files.

    Raises NotFoundError for a job without a front, UsageError where its subnets do not share their weights
    and for a folder among the store's files, ConflictError for one that is not empty.
    """
    _check_outside(store, folder)
    pareto = each_once(store, job)
    if not pareto.members:
        raise NotFoundError(f"There is no front of '{job.name}' yet.", "`nas show JOB` tells how far it is.")
    net = _shared_by(store, job, pareto.members)
    data = data_of(store, job)
    example, inputs = _examples(data, net)
    members = [
        ElasticMember(net.space.architecture(member.architecture), _facts(member))
        for member in pareto.members
    ]
    goal = kind_of(pareto.metric).goal
    info = {"job": job.name, "metric": pareto.metric, "goal": goal, "inputs": inputs}
    info |= _data_facts(store, job) | _facts_of(data) | _tokenizer(job)
    return export_elastic(net, members, folder, example=example, info=info)


def _check_outside(store: Store, folder: Path) -> None:
    """Raises UsageError for a folder among the store's files, where `nas db gc` clears away."""
    root = store.artifact_root
    if isinstance(root, Folder) and folder.resolve().is_relative_to(root.path.resolve()):
        raise UsageError(
            f"'{folder}' lies in the {root.called}, where the store keeps its files.",
            "Choose another one with -o.",
        )


def _shared_by(store: Store, job: Job, members: Sequence[Member]) -> "Supernet":
    """The supernet of all of them. Raises UsageError where there is none."""
    if len(space_of(store, job).members) > 1:
        raise UsageError(
            f"Job '{job.name}' has several supernets, whose subnets share no weights.",
            "Extract them one by one.",
        )
    alone = UsageError(
        f"The subnets on the front of job '{job.name}' have weights of their own: they share none.",
        "Extract them one by one.",
    )
    files: dict[int | None, Artifact | None] = {}
    for member in members:
        if member.weights == INHERITED:
            files[None] = None
            continue
        trained = specialised_file(store, job, member.subnet)
        if trained is None or not trained.shared:
            raise alone
        files[trained.file.id] = trained.file
    if len(files) > 1:
        raise alone
    return load_supernet(store, job, next(iter(files.values())))


def _facts(member: Member) -> dict[str, Any]:
    """What `elastic.py` chooses by."""
    devices = [one for one in (member, *member.on_devices) if one.device is not None]
    times = {
        str(one.device): one.predicted_ms if one.measured_ms is None else one.measured_ms for one in devices
    }
    return {
        "key": member.subnet,
        "quality": member.quality,
        "stderr": member.stderr,
        "params": member.params,
        "macs": member.macs,
        "latency_ms": {name: ms for name, ms in times.items() if ms is not None},
    }


def _command(
    job: Job, subnet: Subnet, name: str, form: Form, *, weights: str | None, timed: bool
) -> dict[str, str]:
    """What makes the same folder again; weights: as they were asked for."""
    # The job knows no subnet by its key that it has not looked at.
    which = ["--subnet", subnet.key] if subnet.id else ["--arch", json.dumps(subnet.architecture)]
    words = ["nas", "extract", job.name, *which, "--format", name]
    options = {
        "--weights": weights,
        "--precision": None if form.precision == Form.precision else form.precision,
        "--calibration": None if form.calibration is None else str(len(form.calibration)),
        "--opset": None if form.opset == Form.opset else str(form.opset),
    }
    words += [word for option, value in options.items() if value is not None for word in (option, value)]
    return {"command": shlex.join([*words, *(["--measure"] if timed else []), "-o", "DIR"])}


def data_of(store: Store, job: Job) -> DataSet | None:
    """The job's data; None where they are not on this machine, or are no longer what they were."""
    stage = store.stage(job, "space")
    try:
        config = stored_config(job)
        data = datasets.build(config.data.name, **config.data.options)
    except (NASError, OSError):
        return None
    digest = stage.result.get("data", {}).get("digest") if stage is not None and stage.result else None
    return data if digest in (data.digest, getattr(data, "former_digest", None)) else None


def _facts_of(data: DataSet | None) -> dict[str, Any]:
    """What the data themselves say of inputs and outputs, which an older job has not written down."""
    described = {} if data is None else datasets.described(data)
    return {name: described[name] for name in ("classes", "preprocessing") if name in described}


def _examples(data: DataSet | None, net: "Supernet") -> "tuple[Tensor, str]":
    """Inputs on which files are checked, and what they are in words."""
    if data is not None:
        inputs, _ = next(iter(data.batches("search", CHECKED)))
        return inputs, f"{len(inputs)} examples of the search split"
    import torch  # noqa: PLC0415 - heavy

    shaped = net.example_input(CHECKED)
    if shaped.is_floating_point():
        shaped = torch.randn(shaped.shape, generator=torch.Generator().manual_seed(0))
    return shaped, "made inputs, since the job's data are not here as they were"


def _calibrating(data: DataSet | None, count: int) -> "Tensor":
    """Training examples. Raises UsageError without data."""
    if data is None:
        raise UsageError(
            "Without the job's data nothing can be calibrated.",
            "Extract where they are, or leave --calibration out.",
        )
    return data.clean_batch(0, 0, min(count, data.sizes["train"]))


def _judged(data: DataSet, run: Run) -> dict[str, Any]:
    """The qualities of a network as it was written, on the report split."""
    import torch  # noqa: PLC0415 - heavy

    task, scores = task_of(data), []
    for x, targets in data.batches("report", min(JUDGED, batch_of(data))):
        scores.append(task.scores(torch.from_numpy(run(x.numpy())), targets))
    figures: dict[str, Any] = {}
    for name, quality in qualities_of(torch.cat(scores), data, "report").items():
        figures |= {f"{name}_of_the_file": quality.value, f"{name}_of_the_file_stderr": quality.stderr}
    return figures


def _subnet(store: Store, job: Job, subnet: str | Mapping[str, Any]) -> Subnet:
    """The row of a subnet; for an architecture that the job has not looked at one that is not stored."""
    if isinstance(subnet, str):
        return store.subnet(job, subnet)
    space = space_of(store, job)
    arch = space.architecture(subnet)
    stored = next((row for row in store.subnets(job) if row.key == arch.key), None)
    cost = space.cost(arch)
    return stored or Subnet(0, job.id, arch.key, arch.to_dict(), cost.params, cost.macs)


def extracted(store: Store, job: Job, subnet: Subnet, weights: str) -> "tuple[Supernet, nn.Module]":
    """The subnet of a row as `extract` gives it, and the supernet whose plain module it is."""
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
        raise _not_specialised(job, subnet)
    if not weights.shared:
        return _from_file(store, job, subnet, weights.file)
    net = load_supernet(store, job, weights.file)
    return net, net.extract(net.space.architecture(subnet.architecture))


def _not_specialised(job: Job, subnet: Subnet) -> NotFoundError:
    return NotFoundError(
        f"Subnet '{subnet.key}' of job '{job.name}' has no weights '{SPECIALISED}'.",
        "Finalists have them, of a job whose job file says `finalists: {train: true}`.",
    )


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
    rows = [row for row in store.measurements(job, "finalist") if row.subnet.key == subnet.key]
    for row in rows:
        info |= _timed(store, job, row)
    return info | {"measured": [_measured(store, job, row) for row in rows]}


def _measured(store: Store, job: Job, row: MeasurementRow[Measurement]) -> dict[str, Any]:
    """A latency of the front, measured and predicted, with all that another one is compared by."""
    finalists = frames.finalists(store, job, row.device_id)
    predicted = finalists.loc[finalists["subnet"] == row.subnet.key, list(job_devices.PREDICTED)]
    return {
        **{name: ms for name, ms in next(iter(predicted.to_dict("records")), {}).items() if is_known(ms)},
        "device": job_devices.device_names(store, job)[row.device_id],
        "measured_ms": row.result.latency_ms,
        "spread_ms": row.result.spread_ms,
        "reference_ms": row.result.reference_ms,
        "fingerprint": next(one for one in store.devices() if one.id == row.device_id).fingerprint,
    }


def _tokenizer(job: Job) -> dict[str, Any]:
    """Of texts in other tokens than bytes: `tokenizer_json`, and `begin`, which stands before a text.

    Neither where the tokenizer is not on this machine.
    """
    name = _tokenizer_name(job)
    if name == BYTES:
        return {}
    try:
        read = tokenizer_of(name)
    except UsageError:
        return {}
    return {} if read.as_json is None else {"tokenizer_json": read.as_json(), "begin": read.begin}


def _timed(store: Store, job: Job, row: MeasurementRow[Measurement]) -> dict[str, Any]:
    """The latency, its batch, and what a device that was searched for is; named as in the job's limits."""
    names = job.config.get("devices") or {}
    device = job_devices.searched_name(store, job, row.device_id)
    if device is None:
        return {}
    measured_on = next(one for one in store.devices() if one.id == row.device_id).fingerprint
    return {
        named("latency_ms", device, names): row.result.latency_ms,
        named("batch", device, names): names[device].get("batch"),
        named("device", device, names): device_line(measured_on),
    }


def _data_facts(store: Store, job: Job) -> dict[str, Any]:
    """What is known of inputs and outputs, by these names.

    `classes`, their names; `preprocessing`, how images become inputs; `tokenizer`, where it is bytes.
    """
    stage = store.stage(job, "space")
    data = stage.result.get("data", {}) if stage is not None and stage.result else {}
    facts = {key: data[key] for key in ("classes", "preprocessing") if key in data}
    options = job.config.get("data", {})
    if data.get("task") == LANGUAGE and _tokenizer_name(job) == BYTES:
        facts["tokenizer"] = BYTES
    if "preprocessing" not in facts and options.get("name") == "image_folder":
        # A job that is older than the record: it had no choice but of these two.
        normal = {name: options[name] for name in ("mean", "std") if name in options}
        facts["preprocessing"] = DEFAULTS.to_dict() | normal
    return facts
