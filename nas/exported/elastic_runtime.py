"""One set of shared weights that serves many budgets: `Elastic.load(FOLDER).use(latency_ms=5)`.

Needs torch and safetensors only, and nothing of Elastiform. Switching gives a module whose weights are views
of the shared ones; what cannot be a view (parts of fused projections) is copied once, when a subnet is first
used.
"""

import argparse
import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nas.exported.sums import check_data

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
        """What `nas extract --elastic` wrote. Its `modeling.py` is imported: trust who made the folder.

        Raises ValueError where the weights or their description are damaged.
        """
        folder = Path(folder).resolve()
        check_data(folder)
        name = f"modeling of {folder}"  # another folder in the same process has another one
        spec = importlib.util.spec_from_file_location(name, folder / "modeling.py")
        assert spec is not None
        assert spec.loader is not None
        classes = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(classes)
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
        Raises KeyError for a key or a device that there is not, ValueError for a key beside limits.
        """
        if key is not None:
            if (latency_ms, params, macs) != (None, None, None):
                raise ValueError("give a key, or limits: the subnet with this key is what it is")
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
        """A function of inputs that keeps a deadline, with the best subnet that does at this moment.

        All subnets are made ready first, so that no run waits for that.
        """
        for member in self.members:
            self.use(member["key"])
        return Adaptive(self, deadline_ms, device)

    def decode(self, key: str | None = None, **limits: Any) -> "Decoding":
        """Texts to be continued token by token, at first by the subnet that `choose` gives.

        Raises ValueError for networks that take images.
        """
        member = self.choose(key, **limits)
        if not hasattr(self.use(member["key"]), "continued"):
            raise ValueError("these networks take images: they continue no text")
        return Decoding(self, member)

    def shared_bytes(self) -> int:
        """What the shared weights take."""
        return sum(tensor.nbytes for tensor in self._weights.values())

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
        with torch.device("meta"), _Undrawn():
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


class _Undrawn(TorchFunctionMode):
    """Nothing is drawn for new weights, which come from the file; on `meta` it would cost seconds once."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _part(tensor: Tensor, shape: list[int], segments: int) -> Tensor:
    """The leading `shape`, a view where it can be one; dim 0 consists of `segments`, each cut alike."""
    parts = tensor.unflatten(0, (segments, -1)) if shape else tensor
    if list(tensor.shape) == shape:
        return tensor
    index = (slice(None), slice(shape[0] // segments), *(slice(n) for n in shape[1:]))
    return parts[index].flatten(0, 1)


def _attention(member: Mapping[str, Any]) -> dict[str, Any]:
    """Of which shared weights a subnet is made outside of its feed-forward networks."""
    return {name: part for name, part in member["tensors"].items() if ".mlp." not in name}


class Decoding:
    """Texts (B, T) that go on, and the keys and values of all their tokens so far.

    A switch between subnets that differ in feed-forward networks alone keeps these: the next tokens are the
    new subnet's, and attend to what earlier ones have remembered. Subnets with other layers, heads or widths
    remember other things: a switch to them raises ValueError, or has the text read again.
    """

    def __init__(self, elastic: Elastic, member: dict[str, Any]) -> None:
        self._elastic, self.member = elastic, member
        self._cache: list[tuple[Tensor, Tensor]] | None = None
        self._text: Tensor | None = None
        self._read = 0  # tokens of the text that the cache knows

    def use(self, key: str | None = None, *, recompute: bool = False, **limits: Any) -> None:
        """The next tokens are for the subnet that `Elastic.choose` gives for the same arguments.

        recompute: where its attention is another it reads the whole text anew, with the next tokens.
        """
        member = self._elastic.choose(key, **limits)
        if _attention(member) != _attention(self.member):
            if not recompute:
                raise ValueError(
                    f"subnet {member['key']} has other layers, heads or widths than {self.member['key']} "
                    "and cannot go on with what that remembers: recompute=True reads the text again"
                )
            self._cache, self._read = None, 0
        self.member = member

    @torch.inference_mode()
    def __call__(self, tokens: Tensor) -> Tensor:
        """The logits (B, T, vocabulary) of token ids (B, T) that follow the text, which they now belong to.

        Raises ValueError for none at all, and for a text that becomes longer than the context.
        """
        module: Any = self._elastic.use(self.member["key"])
        text = tokens if self._text is None else torch.cat([self._text, tokens], dim=1)
        longest = module.input_shape[0]
        if not 0 < tokens.shape[1] <= text.shape[1] <= longest:
            raise ValueError(f"a text of 1 to {longest} tokens is continued, not of {text.shape[1]}")
        if self._cache is None:
            self._cache = module.empty_cache(len(text))
        logits: Tensor = module.continued(text[:, self._read :], self._cache, self._read)
        self._text, self._read = text, text.shape[1]
        return logits[:, -tokens.shape[1] :]

    def generate(self, tokens: Tensor, count: int) -> Iterator[Tensor]:
        """`count` tokens (B, 1) behind these, each the most probable one; `use` may switch between two.

        tokens: what has not been read yet, such as a prompt, or the last token that was given.
        """
        for _ in range(count):
            tokens = self(tokens)[:, -1:].argmax(dim=-1)
            yield tokens


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

    def member_for(self, deadline_ms: float) -> dict[str, Any]:
        """The best subnet for one run with a deadline of its own, at this moment."""
        return self._best(deadline_ms / self.slowness)

    def told(self, took_ms: float, member: Mapping[str, Any] | None = None) -> None:
        """Learns from the time that a run took, and chooses the next one's subnet.

        member: which subnet ran, by default the current one.
        """
        seen = took_ms / self._elastic._latency(member or self.member, self._device)
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
