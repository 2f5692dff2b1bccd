"""ONNX by torch's exporter, for onnxruntime and whatever else reads it; any batch."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.exported.forms import Form
from nas.exported.graphs import dynamic_shapes
from search_spaces.errors import UsageError

MODULES = ("onnx", "onnxruntime", "onnxscript")
EXTRA = "onnxruntime"
TOLERANCES = {"fp32": 1e-4, "fp16": 0.02, "int8": None}
LAST_ONLY = False
DEVICES, RISK = ("onnxruntime_cpu", "openvino_cpu"), None
FILE, INPUT, OUTPUT = "model.onnx", "inputs", "logits"
LOWEST, HIGHEST = 18, 23  # opsets that torch's exporter writes

LOADING = """With onnxruntime and NumPy only:

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
(logits,) = session.run(None, {{"inputs": batch}})  # of any size
```
"""


def write(module: nn.Module, folder: Path, *, example: Tensor, form: Form) -> Mapping[str, Any]:
    """See `Exporter`."""
    write_graph(module, folder / FILE, example=example, opset=form.opset)
    if form.precision == "fp16":
        _halve(folder / FILE)
    elif form.precision == "int8":
        _quantise(folder / FILE, form.calibration)
    return {}


def write_graph(module: nn.Module, file: Path, *, example: Tensor, opset: int) -> None:
    """The network in float32. Raises UsageError that names what ONNX cannot express."""
    if not LOWEST <= opset <= HIGHEST:
        raise UsageError(f"--opset {opset} cannot be written.", f"From {LOWEST} to {HIGHEST} can.")
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript"), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(dynamic_shapes(example),),
                opset_version=opset,
            )
        except Exception as error:  # the exporter's own classes, of several modules
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(f"The network cannot be exported to ONNX: {reason}") from error
        assert program is not None
        program.save(file)


def _halve(file: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # Inputs and outputs stay float32, as of every other precision.
    onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=True), file)


def _quantise(file: Path, calibration: Tensor | None) -> None:
    """Linear layers to 8 bits: ranges of their inputs in every forward pass, or fixed by calibration."""
    from onnxruntime import quantization

    whole = file.with_suffix(".fp32")
    file.replace(whole)
    kinds = ["MatMul", "Gemm"]
    with _quiet(None):
        if calibration is None:
            quantization.quantize_dynamic(
                whole, file, weight_type=quantization.QuantType.QInt8, op_types_to_quantize=kinds
            )
        else:
            quantization.quantize_static(
                whole,
                file,
                _Readings(calibration),
                weight_type=quantization.QuantType.QInt8,
                activation_type=quantization.QuantType.QUInt8,
                op_types_to_quantize=kinds,
                per_channel=True,
            )
    whole.unlink()


class _Readings:
    """Inputs for the quantiser, a few at a time."""

    def __init__(self, inputs: Tensor) -> None:
        self._parts = iter(inputs.split(8))

    def get_next(self) -> dict[str, Any] | None:
        part = next(self._parts, None)
        return None if part is None else {INPUT: part.numpy()}


@contextmanager
def _quiet(*names: str | None) -> Iterator[None]:
    """These loggers say errors only: what they advise is of no use to who exports."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def network(folder: Path) -> nn.Module:
    """See `Exporter`."""
    from predictors.runtimes.onnx import NetworkFile

    return NetworkFile(folder / FILE, INPUT)


def load(folder: Path) -> Callable[[Any], Any]:
    """A function of a batch of inputs, with onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: session.run(None, {"inputs": x})[0]
