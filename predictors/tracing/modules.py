"""A module traced on the meta device: a copy without weights is run once, and every operator is seen.

A dispatch mode sees what ATen computes, whoever calls it, also below composed functions; a function mode sees
linear layers, attention and root-mean-square norms before ATen takes them apart. Compared on timm's models
with `torch.export`, which knows the same operators: seconds a model there, tenths of a second here.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from predictors.devices import Example
from predictors.tracing.operators import (
    Trace,
    attended,
    matrix_product,
    root_mean_square,
    storage,
)
from search_spaces.errors import UsageError
from search_spaces.layers import Layer

DATA_DEPENDENT = ("meta tensor", "data-dependent", "_local_scalar_dense", "cannot be called on meta")


def traced(module: nn.Module, example: Example) -> list[Layer]:
    """See `predictors.layers_of`."""
    inputs = example if isinstance(example, tuple) else (example,)
    if not inputs or not all(isinstance(one, Tensor) and one.dim() > 0 for one in inputs):
        raise UsageError("The example input is no batch of samples.", "Give a tensor, or a tuple of them.")
    if not isinstance(module, nn.Module):
        raise UsageError(f"A {type(module).__name__} cannot be traced: it is no torch module.")
    network, trace = _without_weights(module), Trace()
    for parameter in network.parameters():
        trace.uncounted[storage(parameter)] = parameter.numel()
        trace.parameters.add(storage(parameter))
    samples = tuple(one[:1].to("meta") for one in inputs)
    trace.dependent.update(map(storage, samples))
    trace.alive.append(samples)
    shapes = " and ".join(str(tuple(one.shape[1:])) for one in inputs)
    with torch.no_grad(), _named(network, trace), _slow_paths(), _Operators(trace), _Functions(trace):
        try:
            network(*samples)
        except Exception as error:
            raise _failed(module, error, shapes) from error
    if not trace.layers:
        raise UsageError(f"Nothing was seen of {type(module).__name__}: it computes nothing of its input.")
    return trace.layers


def _without_weights(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose parameters and buffers are on the meta device."""
    memory: dict[int, Any] = {}
    for parameter in module.parameters():
        memory[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in module.buffers():
        memory[id(buffer)] = buffer.detach().to("meta")
    try:
        return copy.deepcopy(module, memory).eval()
    except Exception as error:
        raise UsageError(
            f"{type(module).__name__} cannot be traced: it cannot be copied ({_line(error)})."
        ) from error


@contextmanager
def _named(network: nn.Module, trace: Trace) -> Iterator[None]:
    """Inside, the trace knows which module runs."""
    running: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            running.append(trace.module)
            trace.module = name

        return hook

    def leave(*_: object) -> None:
        trace.module = running.pop()

    for name, module in network.named_modules():
        if name:
            module.register_forward_pre_hook(enter(name))
            module.register_forward_hook(leave)
    yield


@contextmanager
def _slow_paths() -> Iterator[None]:
    """Inside, torch's attention modules are run operator by operator."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Operators(TorchDispatchMode):
    """Sees every operator; all tensors are on the meta device in here, also those that a module makes."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.partition("::")[2]
        if _has_meta(args):
            args = tree_map(_on_meta, args)
            kwargs = tree_map(_on_meta, dict(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, list | tuple) else (result,)
        tensors = tuple(one for one in outputs if isinstance(one, Tensor))
        if all(one.is_meta for one in tensors):
            self.trace.see(name.rstrip("_"), args, tensors, writes=func._schema.is_mutable)
        return result


class _Functions(TorchFunctionMode):
    """Sees functions that ATen would take apart; they compute nothing on the meta device but a shape."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        seen = WHOLE.get(func)
        return func(*args, **given) if seen is None else seen(self.trace, *args, **given)


def _linear(trace: Trace, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not trace.is_parameter(weight):
        return F.linear(input, weight, bias)
    _check_width(input, weight)
    matrix_product(trace, trace.module or "linear", input, weight, bias)
    return _made(trace, input, (*input.shape[:-1], weight.shape[0]))


def _check_width(x: Tensor, weight: Tensor) -> None:
    if x.shape[-1] != weight.shape[1]:
        raise RuntimeError(f"a linear layer takes {weight.shape[1]} channels, not {x.shape[-1]}")


def _attention(
    trace: Trace,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **more: Any,
) -> Tensor:
    name = trace.module or "attention"
    attended(trace, name, query, key, causal=is_causal, grouped=bool(more.get("enable_gqa")))
    return _made(trace, query, (*query.shape[:-1], value.shape[-1]))


def _rms_norm(
    trace: Trace, input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    root_mean_square(trace, trace.module or "norm", input, weight)
    return _made(trace, input, tuple(input.shape))


WHOLE: Mapping[Any, Callable[..., Tensor]] = {
    F.linear: _linear,
    F.scaled_dot_product_attention: _attention,
    F.rms_norm: _rms_norm,
}


def _made(trace: Trace, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A new tensor that depends on the input."""
    made = torch.empty(shape, dtype=like.dtype, device="meta")
    trace.alive.append(made)
    trace.dependent.add(storage(made))
    return made


def _has_meta(values: Any) -> bool:
    if isinstance(values, list | tuple):
        return any(map(_has_meta, values))
    return isinstance(values, Tensor) and values.is_meta


def _on_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) and not value.is_meta else value


def _failed(module: nn.Module, error: Exception, shapes: str) -> UsageError:
    kind, reason = type(module).__name__, _line(error)
    if any(word in reason for word in DATA_DEPENDENT):
        return UsageError(
            f"{kind} cannot be traced: what it does depends on the numbers of its input ({reason}).",
            "Only networks that do the same for every input of a shape have layers.",
        )
    return UsageError(f"{kind} does not take an input of shape {shapes}: {reason}.", "Check the example.")


def _line(error: Exception) -> str:
    with suppress(IndexError):
        return str(error).splitlines()[0].rstrip(".")[:200]
    return type(error).__name__
