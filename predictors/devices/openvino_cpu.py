"""OpenVINO on the CPU."""

from predictors.devices import Device, check_options, required

PRECISIONS = ("fp32", "bf16")
SESSION = "predictors.runtimes.sessions.openvino"


def build(*, name: str = "openvino", threads: int = 1, batch: int = 64, precision: str = "fp32") -> Device:
    """This machine's CPU; bf16 only where the CPU computes in it. OpenVINO's telemetry stays off.

    Raises UsageError for values that it cannot have, and where openvino is not installed.
    """
    check_options(name, threads=threads, batch=batch, precision=precision, precisions=PRECISIONS)
    # Its first import must be that one: it leaves the telemetry out.
    required(name, "openvino", importing=SESSION, extra="openvino")
    from predictors.runtimes.openvino import OpenVINOCPU, check_precision  # noqa: PLC0415 - imports torch

    check_precision(name, precision)
    return OpenVINOCPU(name, threads, batch, precision)
