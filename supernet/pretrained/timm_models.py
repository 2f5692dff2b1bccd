"""timm models by name, with one sentence for everything that can go wrong."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from search_spaces.errors import NotHereError, UsageError
from supernet.pretrained.weight_files import FAILURES, check_finite, check_timm_folder
from supernet.supernet import Supernet

FOLDER, HUB = "local-dir:", "hf-hub:"
WEIGHT_SOURCES = ("url", "hf_hub_id", "file", "state_dict")


def create(name: str, *, pretrained: bool, **sizes: Any) -> nn.Module:
    """timm's model of that name, of a folder (`local-dir:FOLDER`) or of the Hub (`hf-hub:OWNER/NAME`).

    sizes: further arguments of `timm.create_model`, such as img_size, in_chans, num_classes.
    Raises UsageError for an unknown name, sizes that the model does not take, and weights that cannot be had
    or are not all finite.
    """
    import timm  # noqa: PLC0415

    if name.startswith(FOLDER):
        check_timm_folder(Path(name.removeprefix(FOLDER)))
    elif not name.startswith(HUB) and not timm.is_model(name):
        raise UsageError(f"timm has no model '{name}'.", _closest(name, timm.list_models()))
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **sizes)
    except FAILURES as error:
        raise _failed(name, error, pretrained=pretrained) from error
    if pretrained:
        check_finite(f"timm's '{shown(name)}'", model.state_dict())
    return model


def sketch(name: str, in_chans: int, image_size: tuple[int, int]) -> tuple[nn.Module, dict[str, Any]]:
    """The model without weights, and the sizes that it takes: a convolutional one may take no image size.

    To be called where tensors are on the meta device. Raises UsageError as `create` does.
    """
    sizes: dict[str, Any] = {"in_chans": in_chans}
    fixed = sizes | {"img_size": image_size}
    try:
        return create(name, pretrained=False, **fixed), fixed
    except UsageError as error:
        if not isinstance(error.__cause__, TypeError) or "img_size" not in str(error.__cause__):
            raise
    return create(name, pretrained=False, **sizes), sizes


def check_runs(name: str, model: nn.Module, shape: tuple[int, ...]) -> None:
    """Raises UsageError for a model that does not take images of this shape (channels, height, width)."""
    try:
        model(torch.empty(1, *shape))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UsageError(f"timm's '{name}' does not take images of {shape}: {reason}.") from error


def preprocessing(name: str) -> dict[str, Any]:
    """How timm prepares images for its model: mean, std, interpolation, crop_pct, crop_mode and input_size.

    No weights are made or fetched. Raises UsageError as `create` does.
    """
    from timm.data.config import resolve_data_config  # noqa: PLC0415

    with torch.device("meta"):
        model: Any = create(name, pretrained=False)
    card = model.pretrained_cfg
    images: dict[str, Any] = resolve_data_config(pretrained_cfg=card)  # type: ignore[no-untyped-call]
    return images


def check_has_weights(name: str, model: nn.Module) -> None:
    """Raises UsageError for a model of timm that has no weights to fetch; fetches none."""
    card: Any = model.pretrained_cfg
    if not any(card.get(source) for source in WEIGHT_SOURCES):
        hint = "Set pretrained: false, or choose another model."
        raise UsageError(f"timm has no pretrained weights for '{name}'.", hint)


def load_model(supernet: Supernet, name: str, make: Callable[[], nn.Module], *, seed: int) -> None:
    """Copies the weights of the model that `make` makes into the shared weights.

    name: of the model, for messages.  seed: of all weights that it draws.
    Raises UsageError when they are not those of the space's largest architecture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
    try:
        supernet.shared.load_state_dict(model.state_dict(), strict=True)
    except RuntimeError as error:
        raise UsageError(
            f"The weights of timm's '{name}' do not fit the largest net of '{supernet.space.name}'.",
            "Take the space's options from the model; the last of each choice must be the model's own.",
        ) from error


def shown(name: str) -> str:
    """A model's name as a user wrote it."""
    return name.removeprefix(FOLDER)


def _closest(name: str, models: Sequence[str]) -> str:
    """Compared as far as the name goes: timm's names end in what users leave out."""
    if any(character in name for character in "/\\:"):
        return f"Write {FOLDER}FOLDER for a folder that timm wrote, {HUB}OWNER/NAME for a model of the Hub."
    beginnings = {model[: len(name)]: model for model in reversed(models)}
    close = difflib.get_close_matches(name, beginnings, n=1)
    return f"Did you mean '{beginnings[close[0]]}'?" if close else "timm.list_models('*vit*') lists some."


def _failed(name: str, error: Exception, *, pretrained: bool) -> UsageError:
    lines = str(error).splitlines() or [type(error).__name__]
    mismatch = "state_dict" in lines[0] and len(lines) > 1
    reason = lines[-1].strip() if mismatch else lines[0].partition(". ")[0]
    reason = reason.rstrip(".")
    if not pretrained:
        return UsageError(f"timm cannot build '{shown(name)}' for these images and classes: {reason}.")
    hint = "Set pretrained: false, or fetch them once online; timm keeps them below HF_HOME and TORCH_HOME."
    if name.startswith(FOLDER):
        hint = "The config.json and the weights in the folder must belong together."
    # What can neither be fetched nor was fetched before.
    kind = NotHereError if isinstance(error, OSError) and not name.startswith(FOLDER) else UsageError
    return kind(f"timm cannot load the pretrained weights of '{shown(name)}': {reason}.", hint)
