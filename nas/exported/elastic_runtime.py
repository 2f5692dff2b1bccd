"""One set of shared weights that serves many budgets: `Elastic.load(FOLDER).use(latency_ms=5)`.

Needs torch and safetensors only, and nothing of Elastiform. Switching gives a module whose weights are views
of the shared ones; what cannot be a view (parts of fused projections) is copied once, when a subnet is first
used.
"""

import argparse
import importlib
import json
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

DESCRIPTION, WEIGHTS = "elastic.json", "model.safetensors"
SURE = 3  # calls in a row that must allow a dearer subnet before it is taken
MARGIN = 0.9  # of the deadline, within which a dearer one has to stay
SHARE = 0.2  # of a new measurement in what is believed of the slowness of this moment


class Elastic:
    """The subnets of a front on one set of weights.

    members: as the front has them, each with key, quality, params, macs and latency_ms by device; the best
    quality last.  goal: `max` or `min`, which way the quality goes.
    """

    def __init__(self, description: Mapping[str, Any], weights: Mapping[str, Tensor], classes: Any) -> None:
        self.goal: str = description["goal"]
        sign = 1 if self.goal == "max" else -1
        self.members: list[dict[str, Any]] = sorted(
            description["members"], key=lambda member: sign * float(member["quality"])
        )
        self._weights, self._classes = weights, classes
        self._modules: dict[tuple[str, bool], nn.Module] = {}

    @classmethod
    def load(cls, folder: str | Path = Path(__file__).parent) -> "Elastic":
        """What `nas extract --elastic` wrote. Its `modeling.py` is imported: trust who made the folder."""
        folder = Path(folder).resolve()
        sys.path.insert(0, str(folder))
        try:
            classes = importlib.import_module("modeling")
        finally:
            sys.path.remove(str(folder))
        description = json.loads((folder / DESCRIPTION).read_text())
        return cls(description, load_file(folder / WEIGHTS), classes)

    def choose(
        self,
        key: str | None = None,
        *,
        latency_ms: float | None = None,
        device: str | None = None,
        params: float | None = None,
        macs: float | None = None,
        strict: bool = False,
    ) -> dict[str, Any]:
        """The member with the best quality within the limits, or that whose key begins so.

        device: on which latencies were measured; may be left out where there is one.  strict: where nothing
        is within the limits ValueError is raised, instead of a warning and the cheapest.
        Raises KeyError for a key or a device that there is not.
        """
        if key is not None:
            named = [member for member in self.members if member["key"].startswith(key)]
            if len(named) != 1:
                raise KeyError(f"{len(named)} subnets have a key that begins with '{key}'")
            return named[0]
        limits = {"params": params, "macs": macs}
        costs = {name: limit for name, limit in limits.items() if limit is not None}
        within = [
            member
            for member in self.members
            if all(member[name] <= limit for name, limit in costs.items())
            and (latency_ms is None or self._latency(member, device) <= latency_ms)
        ]
        if within:
            return within[-1]
        if strict:
            raise ValueError("no subnet is within these limits")
        warnings.warn("no subnet is within these limits: the cheapest is taken", stacklevel=3)
        if latency_ms is not None:
            return min(self.members, key=lambda member: self._latency(member, device))
        return min(self.members, key=lambda member: [member[name] for name in costs] or [member["params"]])

    def use(self, key: str | None = None, *, exact: bool = False, **limits: Any) -> nn.Module:
        """The subnet that `choose` gives for the same arguments, as a module in evaluation mode.

        exact: with copies in the layout of the extracted subnet, whose outputs it has to the last bit; views
        may round otherwise.
        """
        member = self.choose(key, **limits)
        made = self._modules.get((member["key"], exact))
        if made is None:
            made = self._modules[member["key"], exact] = self._built(member, exact=exact)
        return made

    def adapt(self, deadline_ms: float, *, device: str | None = None) -> "Adaptive":
        """A function of inputs that keeps a deadline, with the best subnet that does at this moment."""
        return Adaptive(self, deadline_ms, device)

    def copied_bytes(self) -> int:
        """What the subnets that are in use hold beside the shared weights."""
        shared = {tensor.untyped_storage().data_ptr() for tensor in self._weights.values()}
        sizes = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for module in self._modules.values()
            for tensor in module.state_dict().values()
        }
        return sum(size for place, size in sizes.items() if place not in shared)

    def _latency(self, member: Mapping[str, Any], device: str | None) -> float:
        latencies: dict[str, float] = member["latency_ms"]
        if device is None:
            if len(latencies) != 1:
                raise KeyError(f"name a device: {', '.join(latencies) or 'none was measured on'}")
            return next(iter(latencies.values()))
        if device not in latencies:
            raise KeyError(f"there is no device '{device}', but {', '.join(latencies)}")
        return latencies[device]

    def _built(self, member: Mapping[str, Any], *, exact: bool) -> nn.Module:
        with torch.device("meta"):
            module: nn.Module = getattr(self._classes, member["class"])(**member["arguments"])
        tensors = {
            name: _part(self._weights[shared], shape, segments)
            for name, (shared, shape, segments) in member["tensors"].items()
        }
        if exact:
            tensors = {
                name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
            }
        module.load_state_dict(tensors, strict=True, assign=True)
        return module.requires_grad_(False).eval()


def _part(tensor: Tensor, shape: list[int], segments: int) -> Tensor:
    """The leading `shape`, a view where it can be one; dim 0 consists of `segments`, each cut alike."""
    parts = tensor.unflatten(0, (segments, -1)) if shape else tensor
    if list(tensor.shape) == shape:
        return tensor
    index = (slice(None), slice(shape[0] // segments), *(slice(n) for n in shape[1:]))
    return parts[index].flatten(0, 1)


class Adaptive:
    """Runs inputs with the best subnet that meets the deadline, however slow this moment is.

    slowness: by how much runs take longer than was measured, a moving mean.  A cheaper subnet is taken at
    once, a dearer one after SURE calls that would have allowed it, so that nothing flaps.
    """

    def __init__(self, elastic: Elastic, deadline_ms: float, device: str | None) -> None:
        self._elastic, self._deadline, self._device = elastic, deadline_ms, device
        self.slowness, self._allowed = 1.0, 0
        self.member = self._best(deadline_ms)

    def __call__(self, x: Tensor) -> Tensor:
        module = self._elastic.use(self.member["key"])
        began = time.perf_counter()
        with torch.inference_mode():
            outputs: Tensor = module(x)
        self.told(1e3 * (time.perf_counter() - began))
        return outputs

    def told(self, took_ms: float) -> None:
        """Learns from the time that the current subnet took, and chooses the next one."""
        seen = took_ms / self._elastic._latency(self.member, self._device)
        # Slower is believed at once, faster by and by.
        self.slowness = seen if seen > self.slowness else (1 - SHARE) * self.slowness + SHARE * seen
        now = self._elastic._latency(self.member, self._device)
        best = self._best(self._deadline / self.slowness)
        dearer = self._best(MARGIN * self._deadline / self.slowness)
        if self._elastic._latency(best, self._device) < now:
            self.member, self._allowed = best, 0
        elif self._elastic._latency(dearer, self._device) > now:
            self._allowed += 1
            if self._allowed >= SURE:
                self.member, self._allowed = dearer, 0
        else:
            self._allowed = 0

    def _best(self, latency_ms: float) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the cheapest is what is wanted then
            return self._elastic.choose(latency_ms=latency_ms, device=self._device)


def main() -> None:
    """Lists the subnets; `--arrays IN OUT` runs all of them on inputs that are in a file."""
    parser = argparse.ArgumentParser(description="The subnets of this folder.")
    parser.add_argument("--arrays", nargs=2, metavar=("IN", "OUT"), help="inputs and outputs, safetensors")
    parser.add_argument("--exact", action="store_true", help="with copies, equal to the last bit")
    given = parser.parse_args()
    elastic = Elastic.load()
    if not given.arrays:
        for member in elastic.members:
            times = ", ".join(f"{ms:.3g} ms on {name}" for name, ms in member["latency_ms"].items())
            print(f"{member['key']}  {member['quality']:.4g}  {member['params']:,} params  {times}")
        return
    outputs = {}
    with torch.inference_mode():
        for name, x in load_file(given.arrays[0]).items():
            for member in elastic.members:
                module = elastic.use(member["key"], exact=given.exact)
                outputs[f"{member['key']} {name}"] = module(x)
    save_file(outputs, given.arrays[1])


if __name__ == "__main__":
    main()
