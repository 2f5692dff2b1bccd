"""A front as one folder: the union of its weights, and `elastic.py`, which makes subnets of them."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nas.errors import JobFailedError
from nas.exported.card import CARD, escaped
from nas.exported.folder import BATCHES, appearing, preprocessor, run_fresh, save_tensors, whole
from nas.exported.images import PREPROCESSOR
from nas.exported.source import module_alone, one_file, path_of_class, path_of_module
from nas.exported.sums import write_sums
from search_spaces import Architecture
from supernet.nested import Nested, prefix_slice
from supernet.supernet import Supernet

RUNTIME = "nas.exported.elastic_runtime"  # which stands alone, as elastic.py
IMAGES = "nas.exported.images"  # which needs NumPy and Pillow
DESCRIPTION, WEIGHTS, SOURCE, MODELING = "elastic.json", "model.safetensors", "elastic.py", "modeling.py"
TOKENIZER, TOKENIZER_JSON = "tokenizer.json", "tokenizer_json"
TOLERANCE = 1e-4  # of the largest output: views may round otherwise than copies

_CARD = """# {count} subnets on one set of weights

Job {job}: {quality} on the report split, latencies in milliseconds as they were measured.

{table}

## Use

With torch and safetensors only, in this folder:

```python
from elastic import Elastic

elastic = Elastic.load()
model = elastic.use(latency_ms=5)  # device="..." where there are several; params=, macs=, or a key
run = elastic.adapt(deadline_ms=5)  # run(batch) keeps the deadline, whatever else the machine does
```

Switching takes a look-up once a subnet was used. The weights are {size:,} bytes; those of the subnets one by
one would be {apart:,}. Run in a fresh process on {inputs}, outputs equal those of the
supernet within {worst:.1e} of the largest (allowed: {tolerance:g}), and to the last bit with
`use(..., exact=True)`.
"""


@dataclass(frozen=True)
class ElasticMember:
    """A subnet of the front. facts: `key`, `quality`, `stderr`, `params`, `macs`, `latency_ms` by device."""

    arch: Architecture
    facts: Mapping[str, Any]


def export_elastic(
    net: Supernet,
    members: Sequence[ElasticMember],
    folder: Path,
    *,
    example: Tensor,
    info: Mapping[str, Any],
) -> list[Path]:
    """Writes the folder and runs every subnet in a fresh process, as views and exactly.

    info: `job`, `metric`, `goal`, `inputs` (what the example is); perhaps `classes`, `tokenizer`, `begin` and
    `preprocessing`, with which the folder also says how image files become inputs, and `tokenizer_json`, of
    which a file is made.
    Raises ConflictError when `folder` exists and is not empty, JobFailedError where outputs are others.
    """
    modules = [whole(net.extract(member.arch)) for member in members]
    parts = [_parts(net, member.arch) for member in members]
    with appearing(folder) as partial:
        weights = _union(parts)
        save_tensors(weights, partial / WEIGHTS)
        described = [
            {
                **member.facts,
                "architecture": member.arch.to_dict(),
                "class": type(module).__name__,
                "arguments": module.config,
                "tensors": {name: part.to_list() for name, part in of_member.items()},
            }
            for member, module, of_member in zip(members, modules, parts, strict=True)
        ]
        about = {name: value for name, value in info.items() if name != TOKENIZER_JSON}
        description = {**about, "members": described}
        (partial / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
        classes = dict.fromkeys(path_of_class(type(module)) for module in modules)
        (partial / MODELING).write_text(one_file("The networks of this folder", list(classes)))
        (partial / SOURCE).write_text(module_alone(RUNTIME))
        if info.get(TOKENIZER_JSON) is not None:
            (partial / TOKENIZER).write_text(info[TOKENIZER_JSON], encoding="utf-8")
        if info.get("preprocessing") is not None:
            _tell_images(partial, info["preprocessing"], tuple(example.shape[1:]))
        keys = [str(member.facts["key"]) for member in members]
        worst = _checked(partial, dict(zip(keys, modules, strict=True)), example)
        (partial / CARD).write_text(_card(info, members, modules, weights, worst))
        write_sums(partial)
        names = sorted(path.name for path in partial.iterdir())
    return [folder / name for name in names]


def _tell_images(folder: Path, how: Mapping[str, Any], shape: Any) -> None:
    """preprocessor_config.json, and images.py, which makes inputs of image files by it."""
    (folder / PREPROCESSOR).write_text(json.dumps(preprocessor(how, shape), indent=2) + "\n")
    source = one_file("Image files as inputs, and what outputs mean", [path_of_module(IMAGES)])
    (folder / "images.py").write_text(source)


@dataclass(frozen=True)
class _Part:
    """The leading `shape` of a shared tensor, each of `segments` of its dim 0 cut alike."""

    shared: str
    tensor: Tensor
    segments: int
    shape: tuple[int, ...]

    def to_list(self) -> list[Any]:
        return [self.shared, list(self.shape), self.segments]


def _parts(net: Supernet, arch: Architecture) -> dict[str, _Part]:
    """Of which shared tensors a subnet's are made; what is computed is a tensor of the subnet's own."""
    shared = {**dict(net.shared.named_parameters()), **dict(net.shared.named_buffers())}
    names = {tensor.data_ptr(): name for name, tensor in shared.items() if tensor.numel()}
    parts: dict[str, _Part] = {}
    for name, tensor in net.tensors(arch).items():
        shape = tuple(tensor.shape)
        if isinstance(net, Nested):
            source = net.shared_name(arch, name)
            parts[name] = _Part(source, shared[source], net.segments(name), shape)
            continue
        whole_name = names.get(tensor.data_ptr())
        if whole_name is not None and shared[whole_name].shape == tensor.shape:
            parts[name] = _Part(whole_name, tensor, 1, shape)
        else:
            parts[name] = _Part(f"{arch.key}.{name}", tensor, 1, shape)
    return parts


def _union(parts: Sequence[Mapping[str, _Part]]) -> dict[str, Tensor]:
    """The least of the shared tensors of which all parts can be cut."""
    largest: dict[str, _Part] = {}
    for part in (part for of_member in parts for part in of_member.values()):
        before = largest.get(part.shared, part)
        shape = tuple(map(max, zip(before.shape, part.shape, strict=True)))
        largest[part.shared] = _Part(part.shared, part.tensor, part.segments, shape)
    return {
        name: prefix_slice(part.tensor.detach(), part.shape, segments=part.segments).cpu().clone()
        for name, part in largest.items()
    }


@torch.inference_mode()
def _checked(folder: Path, modules: Mapping[str, nn.Module], example: Tensor) -> float:
    """The largest difference of outputs, as a share of the largest. Raises JobFailedError."""
    inputs, worst = {str(count): example[:count].clone() for count in BATCHES}, 0.0
    for exact in (False, True):
        outputs = _run(folder, inputs, exact=exact)
        for key, module in modules.items():
            for name, x in inputs.items():
                expected = module(x)
                difference = (outputs[f"{key} {name}"] - expected).abs().max().item()
                share = difference / max(expected.abs().max().item(), 1e-12)
                if not share <= (0.0 if exact else TOLERANCE):
                    how = "exact" if exact else "usual"
                    raise JobFailedError(
                        f"Subnet {key} has other outputs on the shared weights ({how}): by {share:.3g}."
                    )
                worst = max(worst, share)
    return worst


def _run(folder: Path, inputs: dict[str, Tensor], *, exact: bool) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory(prefix="elastiform-") as place:
        given, made = Path(place, "in"), Path(place, "out")
        save_file(inputs, given)
        words = ["--arrays", str(given), str(made), *(["--exact"] if exact else [])]
        run_fresh(folder, SOURCE, words, home=place)
        return load_file(made)


def _card(
    info: Mapping[str, Any],
    members: Sequence[ElasticMember],
    modules: Sequence[nn.Module],
    weights: Mapping[str, Tensor],
    worst: float,
) -> str:
    devices = list(dict.fromkeys(name for member in members for name in member.facts["latency_ms"]))
    rows = [
        [
            str(member.facts["key"]),
            f"{member.facts['params']:,}",
            f"{member.facts['quality']:.4g}",
            *(f"{member.facts['latency_ms'].get(device, float('nan')):.4g}" for device in devices),
        ]
        for member in members
    ]
    header = [escaped(name) for name in ("subnet", "params", info["metric"], *devices)]
    table = [header, ["---"] * len(header), *rows]
    sizes = [sum(t.nbytes for t in module.state_dict().values()) for module in modules]
    return _CARD.format(
        count=len(members),
        job=escaped(info["job"]),
        quality=escaped(info["metric"]),
        table="\n".join(f"| {' | '.join(row)} |" for row in table),
        size=sum(tensor.nbytes for tensor in weights.values()),
        apart=sum(sizes),
        inputs=info["inputs"],
        worst=worst,
        tolerance=TOLERANCE,
    )
