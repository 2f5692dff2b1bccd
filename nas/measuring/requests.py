"""What is measured: a device from its options, and subnets of a space, also as a request for an agent.

Only what goes to another host is turned into plain data: requests here, answers in `nas.measuring.answers`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import search_spaces
import supernet
from predictors.devices import JSON, Compute, Device, Example, Timing, own_calibrator
from predictors.devices import Run as RunOnce
from predictors.measurement.rounds import Failure, Measurement, measure
from predictors.measurement.session import Within, unlimited
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.registry import call
from search_spaces.workloads import Workload, tokens_of

if TYPE_CHECKING:
    from torch import Tensor, nn

MOST_OF_SHAPE = (1_024, 8_192, 8_192)  # channels, height, width
TRIES = 3  # processes that may hang over a subnet so that they have to be ended
WORN_OUT = f"{TRIES} processes that measured it did not come back and could not be interrupted"

Results = dict[str, Measurement | Failure]


@dataclass(frozen=True)
class Plan:
    """The architectures to be measured, by their keys, and how they are timed (as `measure` takes it)."""

    space: SearchSpace
    archs: Mapping[str, Architecture]
    seed: int
    rounds: int
    max_rounds: int
    reference_ms: float | None


@dataclass(frozen=True)
class NetworkPlan:
    """Networks of no space to be measured, by their keys, each as `nas.spaces.described_networks` tells one;
    how they are timed is said as in a `Plan`.
    """

    networks: Mapping[str, Mapping[str, Any]]
    input_shape: tuple[int, ...]
    seed: int
    rounds: int
    max_rounds: int
    reference_ms: float | None


@dataclass(frozen=True)
class WorkingDevice:
    """A device that runs networks on a workload; what it times compares with no other workload's."""

    device: Device
    workload: Workload

    @property
    def name(self) -> str:
        """See `Device`."""
        return self.device.name

    @property
    def batch(self) -> int:
        """See `Device`: texts, of which each gets a token in a step of decoding."""
        return self.device.batch

    def fingerprint(self) -> dict[str, JSON]:
        """See `Device`."""
        return self.device.fingerprint() | {"workload": dict(self.workload)}

    def session(self) -> AbstractContextManager[None]:
        """See `Device`."""
        return self.device.session()

    def prepare(self, module: "nn.Module", example: Example) -> AbstractContextManager[RunOnce]:
        """See `Device`."""
        return self.device.prepare(module, example)

    def computing(self, module: "nn.Module", example: "Tensor") -> AbstractContextManager[Compute]:
        """See `Device`."""
        return self.device.computing(module, example)

    def calibrator(self, batch: int) -> "tuple[nn.Module, Tensor] | None":
        """See `own_calibrator`."""
        return own_calibrator(self.device, batch)

    def time(self, run: RunOnce) -> Timing:
        """See `Device`."""
        return self.device.time(run)

    def peak_memory(self, module: "nn.Module", example: Example) -> int | None:
        """See `Device`."""
        return self.device.peak_memory(module, example)

    def joules(self) -> float | None:
        """See `Device`."""
        return self.device.joules()


def build_device(name: str, options: Mapping[str, Any]) -> Device:
    """A device of this host; options: `backend`, what its `build` takes, and perhaps a `workload`.

    Raises NotFoundError for an unknown backend, UsageError for options that it does not have and for what is
    no workload.
    """
    rest = dict(options)
    workload = rest.pop("workload", None)
    device: Device = call("predictors.devices", rest.pop("backend"), name=name, **rest)
    if workload is None:
        return device
    tokens_of(workload)
    return WorkingDevice(device, workload)


def running(module: Any, device: Device) -> "tuple[nn.Module, Tensor]":
    """A network as the device runs it, and its input.

    Raises UsageError for one that cannot run the device's workload.
    """
    if not isinstance(device, WorkingDevice):
        return module, module.example_input(device.batch)
    tokens, is_step = tokens_of(device.workload)
    if not hasattr(module, "as_run"):
        raise UsageError("A device's workload is for language models, and this one takes images.")
    if tokens > module.input_shape[0]:
        raise UsageError(
            f"A device's workload has {tokens:,} tokens, and the network takes {module.input_shape[0]:,}."
        )
    texts = module.some_input(device.batch, tokens)
    return module.as_run(device.batch, tokens, is_step=is_step), texts[:, -1:] if is_step else texts


def measured(
    device: Device,
    plan: Plan | NetworkPlan,
    progress: Callable[[int, int], None] | None = None,
    within: Within = unlimited,
) -> Results:
    """The latencies of a plan's networks on a device of this host, or why they have none, by their keys.

    progress, within: as `measure` calls them. Raises what `measure` raises.
    """
    modules, example = _networks(plan, device) if isinstance(plan, NetworkPlan) else _subnets(plan, device)
    return measure(
        device,
        modules,
        example,
        seed=plan.seed,
        rounds=plan.rounds,
        max_rounds=plan.max_rounds,
        reference_ms=plan.reference_ms,
        progress=progress,
        within=within,
    )


def _subnets(plan: Plan, device: Device) -> "tuple[dict[str, Callable[[], nn.Module]], Tensor]":
    net = supernet.build(plan.space, seed=plan.seed)
    workload = device.workload if isinstance(device, WorkingDevice) else None
    modules: dict[str, Callable[[], nn.Module]] = {
        key: partial(net.as_run, arch, workload, device.batch) for key, arch in plan.archs.items()
    }
    return modules, net.run_input(workload, device.batch)


def _networks(plan: NetworkPlan, device: Device) -> "tuple[dict[str, Callable[[], nn.Module]], Tensor]":
    """Raises UsageError where the device runs texts: networks of no space are for images."""
    import torch  # noqa: PLC0415 - takes seconds, and who only asks needs none

    from nas.spaces.described_networks import build_network  # noqa: PLC0415 - imports torch

    if isinstance(device, WorkingDevice):
        raise UsageError("A device's workload is for language models, and these networks take images.")
    modules: dict[str, Callable[[], nn.Module]] = {
        key: partial(build_network, network, plan.input_shape) for key, network in plan.networks.items()
    }
    return modules, torch.zeros(device.batch, *plan.input_shape)


def request_for(plan: Plan | NetworkPlan) -> dict[str, Any]:
    """The plan as plain data, for an agent of another host."""
    if isinstance(plan, NetworkPlan):
        what: dict[str, Any] = {"input_shape": list(plan.input_shape)}
        archs = {key: dict(network) for key, network in plan.networks.items()}
    else:
        what = {"space": {"family": plan.space.family, "options": dict(plan.space.options)}}
        archs = {key: arch.to_dict() for key, arch in plan.archs.items()}
    return what | {
        "seed": plan.seed,
        "archs": archs,
        "rounds": plan.rounds,
        "max_rounds": plan.max_rounds,
        "reference_ms": plan.reference_ms,
    }


def plan_of(request: Mapping[str, Any]) -> Plan | NetworkPlan:
    """The plan that was turned into this request. Raises NASError for an impossible space, architecture or
    shape.
    """
    space = search_spaces.described(request["space"]) if "space" in request else None
    how = (request["seed"], request["rounds"], request["max_rounds"], request["reference_ms"])
    if space is None:
        return NetworkPlan(request["archs"], checked_shape(request["input_shape"]), *how)
    archs = {key: space.architecture(values) for key, values in request["archs"].items()}
    return Plan(space, archs, *how)


def checked_shape(shape: object) -> tuple[int, ...]:
    """The shape (channels, height, width) of images in a request. Raises UsageError."""
    numbers = shape if isinstance(shape, list) and len(shape) == len(MOST_OF_SHAPE) else [None] * 3
    pairs = zip(numbers, MOST_OF_SHAPE, strict=True)
    if not all(type(number) is int and 1 <= number <= most for number, most in pairs):
        raise UsageError("The request cannot be read: it tells no shape of images.")
    return tuple(numbers)


def subnets_of(payload: object) -> Mapping[str, Any]:
    """The architectures of a request's payload, which may be anything. Raises UsageError."""
    archs = payload.get("archs") if isinstance(payload, Mapping) else None
    if not isinstance(archs, Mapping):
        raise UsageError("The request cannot be read: it names no subnets.")
    return archs


def worn_out(hung: Iterable[object]) -> set[str]:
    """The subnets with which nobody should begin again. hung: a key for every process that hung over it."""
    counted = Counter(key for key in hung if isinstance(key, str))
    return {key for key, count in counted.items() if count >= TRIES}
