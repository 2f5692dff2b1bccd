"""Networks in onnxruntime on the CPU, in float32 or with dynamically quantised linear layers."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from predictors.devices import JSON, Example, Run, Timing
from predictors.runtimes.energy import PackageEnergy
from predictors.runtimes.host import host_fingerprint, pinned, timed
from predictors.runtimes.onnx import OPSET, Exported, NetworkFile, exported
from predictors.runtimes.outputs import check_outputs
from predictors.runtimes.resident import resident_peak
from predictors.runtimes.sessions.onnxruntime import loaded
from predictors.runtimes.torch import subnormals_flushed
from search_spaces.errors import UsageError

TOLERANCE = 1e-4


@dataclass(frozen=True)
class OnnxRuntimeCPU:
    """A `Device`; one thread is the calling one and timed in its CPU time, more are in wall time."""

    name: str
    threads: int
    batch: int
    precision: str
    energy: PackageEnergy = field(default_factory=PackageEnergy, compare=False)

    def fingerprint(self) -> dict[str, JSON]:
        """See `Device.fingerprint`; exporter and quantiser decide what graph is timed."""
        return {
            "backend": "onnxruntime_cpu",
            "onnxruntime": onnxruntime.__version__,
            "onnx": onnx.__version__,
            "torch": torch.__version__,
            "opset": OPSET,
            **host_fingerprint(),
            "threads": self.threads,
            "batch": self.batch,
            "precision": self.precision,
        }

    @contextmanager
    def session(self) -> Iterator[None]:
        """One core for one thread, subnormal numbers flushed; the rest is for the networks' own sessions."""
        with subnormals_flushed(), pinned(self.threads):
            yield

    @contextmanager
    def prepare(self, module: nn.Module, example: Example) -> Iterator[Run]:
        """See `Device.prepare`; checked against torch: numbers in fp32, shapes in int8.

        Of a `NetworkFile` the outputs have to be finite.
        """
        with self._file(module, example) as network:
            try:
                run = loaded(network.file, network.inputs, threads=self.threads)
            except Exception as error:  # onnxruntime's own classes are private
                raise UsageError(f"onnxruntime cannot load the network: {error}") from error
        outputs = [torch.from_numpy(output) for output in run.outputs()]
        tolerance = TOLERANCE if self.precision == "fp32" else None
        check_outputs("onnxruntime", outputs, network.expected or outputs, tolerance=tolerance)
        yield run

    def time(self, run: Run) -> Timing:
        """One timing with the garbage collector off."""
        return timed(run, self.threads)

    def peak_memory(self, module: nn.Module, example: Example) -> int | None:
        """By a process of its own that loads the file with onnxruntime; see `resident_peak`."""
        with self._file(module, example) as network:
            options: dict[str, JSON] = {"threads": self.threads}
            return resident_peak(loaded.__module__, network.file, network.inputs, options)

    def joules(self) -> float | None:
        """Of all CPU packages; see `PackageEnergy`."""
        return self.energy.joules()

    @contextmanager
    def _file(self, module: nn.Module, example: Example) -> Iterator[Exported]:
        with exported(module, example) as network:
            if self.precision == "int8" and not isinstance(module, NetworkFile):
                _quantise(network.file)
            yield network


def _quantise(file: Path) -> None:
    """Linear layers in place to 8 bits: weights beforehand, their inputs in every forward pass."""
    root = logging.getLogger()
    # The quantiser advises on the root logger to optimise the graph first, which its runtime does anyway.
    root.addFilter(_is_serious)
    try:
        quantize_dynamic(file, file, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    finally:
        root.removeFilter(_is_serious)


def _is_serious(record: logging.LogRecord) -> bool:
    return record.levelno > logging.WARNING
