"""A file loaded by onnxruntime; imports no torch, so that memory can be measured without it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from predictors.runtimes.resident import Arrays

ERRORS_ONLY = 3


class OnnxRuntimeRun:
    """One forward pass on fixed inputs."""

    def __init__(self, session: onnxruntime.InferenceSession, inputs: Arrays) -> None:
        self.session = session
        self.inputs = {node.name: inputs[node.name] for node in session.get_inputs()}

    def __call__(self) -> None:
        self.session.run(None, self.inputs)

    def outputs(self) -> list[NDArray[Any]]:
        """What a forward pass computes."""
        return self.computed(list(self.inputs.values()))

    def computed(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """What a forward pass computes of other inputs of the same shapes, in their order."""
        return list(self.session.run(None, dict(zip(self.inputs, inputs, strict=True))))


def loaded(file: Path, inputs: Arrays, *, threads: int) -> OnnxRuntimeRun:
    """The network with all graph optimisations, on `threads` threads that sleep when they wait."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return OnnxRuntimeRun(session, inputs)
