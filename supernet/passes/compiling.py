"""Blocks compiled by TorchInductor, each shape of them once, whichever architectures it is in.

A block is compiled as a function of its input and its tensors, so that all blocks of one shape, in all
architectures, run the same code. A block with something to be left out inside is compiled in two parts,
around which that is done.
"""

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from search_spaces.errors import UsageError
from supernet.passes.blocks import named_blocks, replaced_forward

MOST = 128  # shapes that are compiled; each takes seconds, and memory for good
Tensors = Mapping[str, Tensor]
Compiled = Callable[[Tensor, Tensors], Tensor]


class Compiler:
    """Compiles what networks run, as far as it pays.

    backend: torch's word for who does it.
    shapes: how many are compiled.  left: calls that ran as they are, since there were MOST shapes already.
    broken: kinds of modules that cannot be compiled, with the reason; they run as they are.
    """

    def __init__(self, backend: Any = "inductor", most: int = MOST) -> None:
        self._backend, self._most = backend, most
        self._models: dict[Hashable, nn.Module] = {}
        self._functions: dict[Hashable, Compiled] = {}
        self.left, self.broken = 0, dict[str, str]()
        self._named = set[str]()

    @property
    def shapes(self) -> int:
        return len(self._functions)

    def remarks(self) -> list[str]:
        """A sentence for each kind that was found broken since the last call."""
        new = [name for name in self.broken if name not in self._named]
        self._named.update(new)
        return [
            f"train.compile: a {name} runs as it is, since torch says: {self.broken[name]}" for name in new
        ]

    @contextmanager
    def compiled(self, module: nn.Module) -> Iterator[None]:
        """Inside, the blocks of the module, which has no weights of its own, run compiled.

        To be entered before anything else takes the place of a block's forward function.
        """
        with ExitStack() as parts:
            # In this process: helper processes would outlive the training and take cores from it.
            parts.enter_context(torch._inductor.config.patch(compile_threads=1))
            for block in named_blocks(module).values():
                for part in _parts(block):
                    kind = structure(part)
                    if kind not in self._models:
                        self._models[kind] = _bare(part)
                    parts.enter_context(replaced_forward(part, partial(self._run, part, kind)))
            yield

    def _run(
        self, part: nn.Module, kind: Hashable, function: Callable[[Tensor], Tensor], x: Tensor
    ) -> Tensor:
        name = type(part).__name__
        # What is compiled for a parameter is not for a slice of one: all of them are handed over as tensors.
        tensors = {key: one.view_as(one) for key, one in part.named_parameters()} | dict(part.named_buffers())
        key = (kind, tuple(_layout(tensor) for tensor in (x, *tensors.values())), _mode(x))
        if name in self.broken:
            return function(x)
        if key not in self._functions:
            if self.shapes >= self._most:
                self.left += 1
                return function(x)
            self._functions[key] = torch.compile(
                _function(self._models[kind]), backend=self._backend, fullgraph=True, dynamic=False
            )
        try:
            return self._functions[key](x, tensors)
        except torch._dynamo.exc.Unsupported as error:
            self.broken[name] = str(error).partition("\n")[0]
            del self._functions[key]
            return function(x)


def check_compiler(device: torch.device) -> None:
    """Raises UsageError where TorchInductor cannot compile for the device."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # noqa: PLC0415 - takes seconds

    try:
        if device.type == "cpu":
            get_cpp_compiler()
    except Exception as error:  # torch's own class for a missing compiler is private
        raise UsageError(
            "train.compile needs a C++ compiler, and there is none here.",
            "Install g++ or clang++, or set CXX to one; or leave compile out.",
        ) from error


def structure(module: nn.Module) -> Hashable:
    """Equal for modules that compute the same function of an input and of tensors."""
    parts = tuple((name, type(part), _numbers(part)) for name, part in module.named_modules())
    return parts, tuple((name, tuple(tensor.shape)) for name, tensor in module.named_parameters())


def _numbers(part: nn.Module) -> Hashable:
    """What a module holds beside tensors and modules."""
    return tuple(
        (name, value)
        for name, value in sorted(vars(part).items())
        if not name.startswith("_") and name != "forward" and isinstance(value, Hashable)
    )


def _parts(block: nn.Module) -> Iterator[nn.Module]:
    """The block, or its branches where a hook is to see what they give."""
    inside = (part for part in block.modules() if part is not block)
    if not any(part._forward_hooks or part._forward_pre_hooks for part in inside):
        yield block
        return
    for branch in (block.attn, block.mlp):
        assert isinstance(branch, nn.Module)
        yield branch


def _bare(module: nn.Module) -> nn.Module:
    """A copy without hooks, whose tensors nobody reads."""
    bare = copy.deepcopy(module)
    for part in bare.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return bare


def _function(model: nn.Module) -> Compiled:
    """The module as a function with code of its own: torch counts by code what it compiles, up to 8."""

    def run(x: Tensor, tensors: Tensors) -> Tensor:
        output: Tensor = functional_call(model, dict(tensors), (x,))
        return output

    return FunctionType(run.__code__.replace(), run.__globals__, "run", None, run.__closure__)


def _layout(tensor: Tensor) -> Hashable:
    """What a compiled function takes for granted of a tensor."""
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad


def _mode(x: Tensor) -> Hashable:
    device = x.device.type
    casts = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    return casts, torch.is_grad_enabled(), torch.get_float32_matmul_precision()
