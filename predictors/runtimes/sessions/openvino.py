"""A file loaded by OpenVINO; imports no torch, so that memory can be measured without it.

The import of openvino reports itself over the network where openvino_telemetry is found; OpenVINO has a
stand-in for where it is not.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.runtimes.resident import Arrays

TELEMETRY = "openvino_telemetry"

if "openvino" not in sys.modules:
    _hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == TELEMETRY}
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules[TELEMETRY]
        sys.modules |= _hidden
else:
    import openvino

TYPES = {"fp32": "f32", "bf16": "bf16"}


class OpenVINORun:
    """One forward pass on fixed inputs."""

    def __init__(self, compiled: openvino.CompiledModel, inputs: Arrays) -> None:
        self.request = compiled.create_infer_request()
        self.inputs = {port.any_name: inputs[port.any_name] for port in compiled.inputs}

    def __call__(self) -> None:
        self.request.infer(self.inputs, share_inputs=True, share_outputs=True)

    def outputs(self) -> list[NDArray[Any]]:
        """What a forward pass computes."""
        return self.computed(list(self.inputs.values()))

    def computed(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """What a forward pass computes of other inputs of the same shapes, in their order."""
        self.request.infer(dict(zip(self.inputs, inputs, strict=True)), share_inputs=True, share_outputs=True)
        return [
            np.array(self.request.get_output_tensor(i).data) for i in range(len(self.request.model_outputs))
        ]


def loaded(file: Path, inputs: Arrays, *, threads: int, precision: str) -> OpenVINORun:
    """The network compiled for one stream of `threads` threads; they are pinned by the session, if at all."""
    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": TYPES[precision],
        "ENABLE_CPU_PINNING": False,
        "CPU_DENORMALS_OPTIMIZATION": True,
    }
    return OpenVINORun(core.compile_model(core.read_model(file), "CPU", settings), inputs)


def version() -> str:
    """Release and build of OpenVINO."""
    return str(openvino.get_version())


def has_bf16() -> bool:
    """Whether this CPU computes in bfloat16 under OpenVINO."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
