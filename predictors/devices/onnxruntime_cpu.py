"""onnxruntime on the CPU, fp32 or with linear layers in 8 bits."""

from predictors.devices import Device, check_options, required

PRECISIONS = ("fp32", "int8")


def build(*, name: str = "onnxruntime", threads: int = 1, batch: int = 64, precision: str = "fp32") -> Device:
    """This machine's CPU; int8 quantises dynamically: weights once, inputs of linear layers in every pass.

    Raises UsageError for values that it cannot have, and where onnx or onnxruntime is not installed.
    """
    check_options(name, threads=threads, batch=batch, precision=precision, precisions=PRECISIONS)
    for package in ("onnx", "onnxruntime"):
        required(name, package, extra="onnxruntime")
    from predictors.runtimes.onnxruntime import OnnxRuntimeCPU  # noqa: PLC0415 - imports torch

    return OnnxRuntimeCPU(name, threads, batch, precision)
