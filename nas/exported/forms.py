"""What is asked of an export beside its format, and what a format's file has to offer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor, nn

from search_spaces import registry
from search_spaces.errors import UsageError

EXPORTERS = "nas.exporters"
OPSET = 18  # the first of torch's exporter
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # torch's and NumPy's words

Run = Callable[[Any], Any]
Timer = Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Form:
    """How a network is written.

    precision: of weights and arithmetic, by the format's names.  opset: of ONNX.
    calibration: inputs (N, *input shape) with which ranges are found for int8; None: they are found anew in
    every forward pass.
    tokenizer: of what a language model reads: `bytes`, or where it is, as job files name it.
    """

    precision: str = "fp32"
    opset: int = OPSET
    calibration: Tensor | None = None
    tokenizer: str | None = None


class Exporter(Protocol):
    """A file of `nas/exporters/`.

    MODULES: what has to be installed to write and to check it.  EXTRA: the extra of ours that brings them.
    TOLERANCES: precisions, and what outputs may differ, as a share of the largest; None:
    outputs are not compared, since the network's quality is what such a precision is judged by.
    LAST_ONLY: whether `load` gives of a text the logarithms of the probabilities of what follows
    it, (n, 1, vocabulary), and not all logits. Then greedy tokens are compared, too.
    STEPS: True where what `network` gives has a `behind(texts)`, which is a step of decoding; may be missing.
    LOADING: of the model card, how the folder is used; fields {name}, {timm}, {auto}, {trust}.
    DEVICES: backends that time what was written, the usual one first; without any there is no `network`.
    RISK: why nobody loads a file of somebody else's; None for one that is data.
    """

    MODULES: Sequence[str]
    EXTRA: str | None
    TOLERANCES: Mapping[str, float | None]
    LOADING: str
    LAST_ONLY: bool
    DEVICES: Sequence[str]
    RISK: str | None

    def write(self, module: nn.Module, folder: Path, *, example: Tensor, form: Form) -> Mapping[str, Any]:
        """Writes the format's own files; the keys that it needs in config.json.

        Raises UsageError for a network that it cannot express.
        """

    def load(self, folder: Path) -> Run:
        """From a batch of inputs to outputs, both of NumPy. Its source goes into `infer.py` as it is."""

    def whole(self, folder: Path) -> AbstractContextManager[Run]:
        """From texts (n, tokens) to the logits of all their tokens; only formats with LAST_ONLY have it."""

    def network(self, folder: Path) -> nn.Module:
        """What was written, as DEVICES take it: from float32 images or token ids, in its own precision.

        No source out of the folder is run. Raises UsageError for files that do not belong together.
        """


def exporter(name: str) -> Exporter:
    """The format of that name, ready for use.

    Raises NotFoundError for a format that there is not, UsageError where something is not installed.
    """
    made = registry.load(EXPORTERS, name)
    lacking = [module for module in getattr(made, "MODULES", ()) if find_spec(module) is None]
    if lacking:
        extra = getattr(made, "EXTRA", None)
        raise UsageError(
            f"The format '{name}' needs {' and '.join(lacking)}, which is not installed.",
            f"`pip install 'elastiform[{extra}]'`." if extra else f"`pip install {' '.join(lacking)}`.",
        )
    return cast(Exporter, made)


def check_timed(name: str) -> None:
    """Raises UsageError for a format whose files no device of ours runs."""
    if not registry.load(EXPORTERS, name).DEVICES:
        timed = [other for other in registry.names(EXPORTERS) if registry.load(EXPORTERS, other).DEVICES]
        raise UsageError(
            f"A file in the format '{name}' is timed by no device of `nas devices`.",
            f"Those in {', '.join(timed)} are.",
        )


def check_form(name: str, form: Form, *, calibrated: bool) -> None:
    """Raises UsageError for a precision or a calibration that the format does not have."""
    precisions = registry.load(EXPORTERS, name).TOLERANCES
    if form.precision not in precisions:
        others = [
            n for n in registry.names(EXPORTERS) if form.precision in registry.load(EXPORTERS, n).TOLERANCES
        ]
        elsewhere = f" '{form.precision}' is one of {', '.join(others)}." if others else ""
        raise UsageError(
            f"The format '{name}' has no precision '{form.precision}'.",
            f"It has {', '.join(precisions)}.{elsewhere}",
        )
    if calibrated and form.precision != "int8":
        raise UsageError(
            f"Precision '{form.precision}' has nothing to calibrate.", "Only int8 has: --precision int8."
        )


@dataclass(frozen=True)
class Packing:
    """In which formats a subnet is written, of several each in a folder of its own, and how.

    calibration: with how many training examples ranges are found for int8; 0: with none.
    timer: from a folder that was written to figures for its card.
    """

    formats: Sequence[str] = ("safetensors",)
    precision: str = "fp32"
    opset: int = OPSET
    calibration: int = 0
    timer: Timer | None = None

    def checked(self) -> tuple[list[str], Form]:
        """Each format once, and the form without calibration.

        Raises NotFoundError for a format that there is not, UsageError where it has no such form, for none at
        all, and where something is not installed.
        """
        formats, form = list(dict.fromkeys(self.formats)), Form(self.precision, self.opset)
        if not formats:
            raise UsageError("The list of formats names no format.", "Try safetensors, or onnx,hf for both.")
        for name in formats:
            exporter(name)
            check_form(name, form, calibrated=self.calibration > 0)
            if self.timer is not None:
                check_timed(name)
        return formats, form


def listed_formats(text: str) -> list[str]:
    """The names in a list with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]
