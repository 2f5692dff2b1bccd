"""A module as an ONNX file with the shapes of one example; or a file that stands for a network already.

The exporter is torch's TorchScript one: it is deprecated, but takes a seventh of the time of its successor
(0.9 against 7 CPU seconds for a ViT-Tiny), which hundreds of subnets notice, and needs no further package.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.onnx.errors import OnnxExporterError

from predictors.devices import Example
from predictors.runtimes.outputs import tensors_of
from predictors.runtimes.resident import Arrays
from predictors.runtimes.torch import as_arguments, evaluating
from predictors.temporary_folders import passing_folder
from search_spaces.errors import UsageError

# The first with layer norm as one operator.
OPSET = 17


@dataclass(frozen=True)
class Exported:
    """The file lives as long as the context that gave it; inputs by name.

    expected: what the module itself computes; None of a file that was there before.
    """

    file: Path
    inputs: Arrays
    expected: tuple[Tensor, ...] | None


class NetworkFile(nn.Module):
    """A network that is a file already, with one input of that name: a runtime loads it as it stands."""

    def __init__(self, file: Path, input_name: str) -> None:
        super().__init__()
        self.file, self.input_name = file, input_name


@contextmanager
def exported(module: nn.Module, example: Example) -> Iterator[Exported]:
    """The module in evaluation mode, in float32; raises UsageError that names what ONNX cannot express.

    A `NetworkFile` is given as it is.
    """
    if isinstance(module, NetworkFile):
        (argument,) = as_arguments(example)
        yield Exported(module.file, {module.input_name: argument.numpy()}, None)
        return
    with passing_folder("elastiform-") as folder:
        file = folder / "network.onnx"
        with evaluating(module, example) as (ready, arguments), torch.no_grad():
            expected = tensors_of(ready(*arguments))
            names = [f"input_{i}" for i in range(len(arguments))]
            _export(ready, arguments, file, names)
        inputs = {name: a.detach().cpu().numpy() for name, a in zip(names, arguments, strict=True)}
        yield Exported(file, inputs, expected)


def _export(module: nn.Module, arguments: tuple[Tensor, ...], file: Path, names: list[str]) -> None:
    with warnings.catch_warnings():
        # Of the exporter's deprecation, and that shapes become constants, which is what is wanted here.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(module, arguments, file, input_names=names, opset_version=OPSET, dynamo=False)
        except (OnnxExporterError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(f"The network cannot be exported to ONNX: {reason}") from error
