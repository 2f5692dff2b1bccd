"""For PyTorch without a source file: a graph with any batch, by `torch.export`."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.exported.forms import DTYPES, Form
from nas.exported.graphs import InPrecision, dynamic_shapes

MODULES = ("torch",)
EXTRA = None
TOLERANCES = {"fp32": 1e-5, "fp16": 0.02, "bf16": 0.1}
LAST_ONLY = False
DEVICES = ("torch_cpu",)
RISK = "torch does not promise that loading such a file of somebody else's is harmless"
FILE = "model.pt2"

LOADING = """With torch only, which does not promise that such a file of somebody else's is harmless:

```python
import torch

model = torch.export.load("model.pt2").module()  # of a batch of any size
```
"""


def write(module: nn.Module, folder: Path, *, example: Tensor, form: Form) -> Mapping[str, Any]:
    """See `Exporter`."""
    in_precision = InPrecision(module, getattr(torch, DTYPES[form.precision])).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch, about itself
        program = torch.export.export(in_precision, (example,), dynamic_shapes=(dynamic_shapes(example),))
        torch.export.save(program, folder / FILE)
    return {}


class Program(nn.Module):
    """A graph that torch has read, which knows neither training nor other numbers: it is no submodule."""

    def __init__(self, program: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._run = program

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x)


def network(folder: Path) -> nn.Module:
    """See `Exporter`."""
    return Program(torch.export.load(folder / FILE).module().forward)


def load(folder: Path) -> Callable[[Any], Any]:
    """A function of a batch of inputs, with torch."""
    import torch

    model = torch.export.load(folder / "model.pt2").module()

    def run(x: Any) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(x)).numpy()

    return run
