"""Networks compiled by TorchInductor, each on its own, so that none is slowed by those before it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType

import torch
from torch import Tensor, nn
from torch._dynamo.eval_frame import remove_from_cache
from torch._inductor import config
from torch._inductor.cpp_builder import get_cpp_compiler

from predictors.runtimes.outputs import check_outputs, tensors_of
from predictors.runtimes.torch import Forward
from search_spaces.errors import UsageError

# Fused kernels add up in another order; relative to the largest output.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1}


def compiler(name: str) -> str:
    """Version of the C++ compiler that TorchInductor calls; raises UsageError where there is none."""
    try:
        said = subprocess.run([get_cpp_compiler(), "--version"], capture_output=True, text=True, check=True)
    except Exception as error:  # torch's own class for a missing compiler is private
        raise UsageError(
            f"Device '{name}' needs a C++ compiler.", "Install g++ or clang++, or set CXX to one."
        ) from error
    return said.stdout.splitlines()[0]


@contextmanager
def compiled(module: nn.Module, arguments: tuple[Tensor, ...]) -> Iterator[Forward]:
    """The module as one compiled graph for these shapes, checked against the module itself.

    Raises UsageError for a module that cannot be one graph, or whose outputs change.
    """
    function = _own_function(module)
    try:
        with torch.inference_mode():
            expected = tensors_of(module(*arguments))
            forward = torch.compile(function, dynamic=False, fullgraph=True)
            outputs = _first_call(forward, arguments)
        check_outputs("compiled", outputs, expected, tolerance=TOLERANCES[_dtype(expected)])
        yield forward
    finally:
        remove_from_cache(function)


def _own_function(module: nn.Module) -> FunctionType:
    """A function with a code object of its own, which is what compiled graphs are kept with.

    Networks of one class share the code of their `forward`: its few entries would be looked through at every
    call, and after eight of them nothing would be compiled any more.
    """

    def forward(*arguments: Tensor) -> object:
        return module(*arguments)

    code = forward.__code__.replace()
    return FunctionType(code, forward.__globals__, "forward", None, forward.__closure__)


def _first_call(forward: Forward, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # Compiling in this process: helper processes would outlive the session and take cores from it.
    with config.patch(compile_threads=1):
        try:
            return tensors_of(forward(*arguments))
        except Exception as error:  # the module itself ran a moment ago, so this is the compiler's
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(f"TorchInductor cannot compile the network: {reason}") from error


def _dtype(tensors: tuple[Tensor, ...]) -> torch.dtype:
    return torch.bfloat16 if any(t.dtype is torch.bfloat16 for t in tensors) else torch.float32
