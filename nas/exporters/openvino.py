"""OpenVINO's representation (model.xml, model.bin), by way of ONNX; any batch."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nas.exported.forms import Form
from nas.exporters.onnx import INPUT, write_graph

MODULES = ("onnx", "onnxscript", "openvino")
EXTRA = "openvino"
TOLERANCES = {"fp32": 1e-4, "fp16": 0.02}
LAST_ONLY = False
DEVICES, RISK = ("openvino_cpu",), None
FILE = "model.xml"

LOADING = """With openvino and NumPy only:

```python
import openvino

model = openvino.compile_model("model.xml", "CPU")
logits = model(batch)[0]  # of any size
```
"""


def write(module: nn.Module, folder: Path, *, example: Tensor, form: Form) -> Mapping[str, Any]:
    """See `Exporter`; in fp16 the weights are stored so, and the runtime decides how it computes."""
    import_module("predictors.runtimes.sessions.openvino")  # which imports openvino without its telemetry
    import openvino

    graph = folder / "graph.onnx"
    write_graph(module, graph, example=example, opset=form.opset)
    openvino.save_model(
        openvino.convert_model(graph), folder / FILE, compress_to_fp16=form.precision == "fp16"
    )
    graph.unlink()
    return {}


def network(folder: Path) -> nn.Module:
    """See `Exporter`."""
    from predictors.runtimes.onnx import NetworkFile

    return NetworkFile(folder / FILE, INPUT)


def load(folder: Path) -> Callable[[Any], Any]:
    """A function of a batch of inputs, with openvino."""
    import sys

    modules: Any = sys.modules
    modules.setdefault("openvino_telemetry", None)  # else the import reports itself over the network
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.compile_model(str(folder / "model.xml"), "CPU", hints)
    return lambda x: model(x)[0]
