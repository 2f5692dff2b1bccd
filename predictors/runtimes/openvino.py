"""Networks in OpenVINO on the CPU, from the ONNX file that onnxruntime takes too."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from predictors.devices import JSON, Example, Run, Timing
from predictors.runtimes.energy import PackageEnergy
from predictors.runtimes.host import host_fingerprint, pinned, timed
from predictors.runtimes.onnx import OPSET, exported
from predictors.runtimes.outputs import check_outputs
from predictors.runtimes.resident import resident_peak
from predictors.runtimes.sessions.openvino import has_bf16, loaded, version
from predictors.runtimes.torch import subnormals_flushed
from search_spaces.errors import UsageError

# Relative to the largest output.
TOLERANCES = {"fp32": 1e-4, "bf16": 0.1}


def check_precision(name: str, precision: str) -> None:
    """Raises UsageError for bf16 on a CPU that lacks it, where it would quietly be float32."""
    if precision == "bf16" and not has_bf16():
        raise UsageError(f"Device '{name}' has no precision 'bf16' on this CPU.", "Options: fp32.")


@dataclass(frozen=True)
class OpenVINOCPU:
    """A `Device`; one thread is the calling one and timed in its CPU time, more are in wall time."""

    name: str
    threads: int
    batch: int
    precision: str
    energy: PackageEnergy = field(default_factory=PackageEnergy, compare=False)

    def fingerprint(self) -> dict[str, JSON]:
        """See `Device.fingerprint`; the exporter decides what graph is timed."""
        return {
            "backend": "openvino_cpu",
            "openvino": version(),
            "torch": torch.__version__,
            "opset": OPSET,
            **host_fingerprint(),
            "threads": self.threads,
            "batch": self.batch,
            "precision": self.precision,
        }

    @contextmanager
    def session(self) -> Iterator[None]:
        """One core for one thread, subnormal numbers flushed; all else belongs to the compiled networks."""
        with subnormals_flushed(), pinned(self.threads):
            yield

    @contextmanager
    def prepare(self, module: nn.Module, example: Example) -> Iterator[Run]:
        """See `Device.prepare`; checked against torch. Of a `NetworkFile` the outputs have to be finite."""
        with exported(module, example) as network:
            try:
                run = loaded(network.file, network.inputs, threads=self.threads, precision=self.precision)
            except RuntimeError as error:
                raise UsageError(f"OpenVINO cannot compile the network: {error}") from error
        outputs = [torch.from_numpy(output) for output in run.outputs()]
        expected = network.expected or outputs
        check_outputs("OpenVINO", outputs, expected, tolerance=TOLERANCES[self.precision])
        yield run

    def time(self, run: Run) -> Timing:
        """One timing with the garbage collector off."""
        return timed(run, self.threads)

    def peak_memory(self, module: nn.Module, example: Example) -> int | None:
        """By a process of its own that loads the file with OpenVINO; see `resident_peak`."""
        with exported(module, example) as network:
            options: dict[str, JSON] = {"threads": self.threads, "precision": self.precision}
            return resident_peak(loaded.__module__, network.file, network.inputs, options)

    def joules(self) -> float | None:
        """Of all CPU packages; see `PackageEnergy`."""
        return self.energy.joules()
