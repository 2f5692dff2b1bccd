"""What a user names a model by: `timm:NAME`, a folder, or `FILE.py:build`, which is code and is run."""

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.errors import NotFoundError, UsageError, did_you_mean
from supernet.pretrained.subnet_folders import is_timms, network_classes
from supernet.pretrained.timm_models import FOLDER, create
from supernet.pretrained.weight_files import FAILURES, read_config

TIMM = "timm:"
SEED = 0  # of weights that nothing was learnt with: latency does not depend on them
_CODE = re.compile(r"(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)")
_FORMS = "Name it timm:MODEL, a folder that `nas extract` or timm wrote, or FILE.py:build."


@dataclass(frozen=True)
class Named:
    """A model by its name. `build` makes it; on the meta device it has no weights there.

    input_shape: of one sample.  example: some input of so many samples.
    """

    name: str
    input_shape: tuple[int, ...]
    build: Callable[[], nn.Module]
    example: Callable[[int], Tensor]


def named(text: str) -> Named:
    """The model of that name.

    Raises NotFoundError for a model or file that there is not, UsageError for what is no such name and for a
    model that cannot be built.
    """
    if text.startswith(TIMM):
        return _of_timm(text, text.removeprefix(TIMM))
    if (code := _CODE.fullmatch(text)) is not None:
        return _of_code(text, Path(code["file"]).expanduser(), code["function"])
    folder = Path(text).expanduser()
    if folder.is_dir():
        return _of_timm(text, f"{FOLDER}{folder}") if is_timms(folder) else _of_folder(text, folder)
    raise NotFoundError(f"There is no model '{text[:80]}'.", _FORMS)


def listed(texts: Sequence[str]) -> list[str]:
    """The models of an option that is given several times: names behind `timm:` may be several, with commas.

    A pattern with * stands for all models of timm whose names are so. Raises UsageError for one that there is
    none for.
    """
    names: list[str] = []
    for text in texts:
        if not text.startswith(TIMM):
            names.append(text)
            continue
        for part in text.removeprefix(TIMM).split(","):
            names += [f"{TIMM}{name}" for name in _matching(part.strip().removeprefix(TIMM))]
    return list(dict.fromkeys(names))


def _matching(pattern: str) -> list[str]:
    import timm  # noqa: PLC0415

    if "*" not in pattern:
        return [pattern]
    if not (names := timm.list_models(pattern)):
        raise UsageError(f"timm has no model '{pattern[:80]}'.", "timm.list_models('*vit*') lists some.")
    return list(names)


def _of_timm(text: str, name: str) -> Named:
    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return create(name, pretrained=False).eval()

    with torch.device("meta"):
        model: Any = build()
    shape = tuple(int(side) for side in model.pretrained_cfg["input_size"])
    return Named(text, shape, build, lambda batch: torch.zeros(batch, *shape))


def _of_folder(text: str, folder: Path) -> Named:
    """The network that the folder's config.json names; its file may be in any format, and is not read."""
    inner = [folder, *sorted(one for one in folder.iterdir() if one.is_dir())]
    place = next((one for one in inner if (one / "config.json").exists()), None)
    try:
        if place is None:
            raise ValueError("it has no config.json")
        section = read_config(place)["elastiform"]
        kind, arguments = network_classes()[section["class"]], section["arguments"]
        with torch.device("meta"):
            sketch = kind(**arguments)
    except FAILURES as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"'{folder}' holds no network that can be built: {reason}.", _FORMS) from error

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return kind(**arguments).eval()

    return Named(text, tuple(sketch.input_shape), build, sketch.example_input)


def _of_code(text: str, file: Path, function: str) -> Named:
    """The module that a function of a user's file returns, alone or with an example input."""
    if not file.is_file():
        raise NotFoundError(f"There is no file '{file}'.", _FORMS)
    specification = importlib.util.spec_from_file_location(f"_model_{file.stem}", file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
        made = getattr(module, function)
    except AttributeError:
        raise NotFoundError(
            f"'{file}' has no function '{function}'.", did_you_mean(function, set(vars(module)))
        ) from None
    except Exception as error:
        raise UsageError(f"'{file}' cannot be run: {type(error).__name__}: {_line(error)}.") from error

    def both() -> tuple[nn.Module, Tensor]:
        try:
            result = made()
        except Exception as error:
            raise UsageError(f"'{text}' failed: {type(error).__name__}: {_line(error)}.") from error
        network, example = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        if example is None and hasattr(network, "input_shape"):
            example = torch.zeros(1, *network.input_shape)
        if not isinstance(network, nn.Module) or not isinstance(example, Tensor) or example.dim() < 1:
            raise UsageError(
                f"'{text}' returns neither a module with an input_shape nor a module and an example input.",
                "Return (module, torch.zeros(1, 3, 224, 224)), for example.",
            )
        return network.eval(), example[:1]

    example = both()[1]
    return Named(
        text,
        tuple(example.shape[1:]),
        lambda: both()[0],
        lambda batch: example.expand(batch, *example.shape[1:]).contiguous(),
    )


def _line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".")[:200] if lines else "no reason is told"
