"""The models that a job joins: their numbers for the space, then their weights.

An anchor is a timm model, a folder that `nas extract` or timm wrote, or a ViT that the job trains itself.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.config import AnchorsInit, CheckpointInit, TimmInit, TrainedAnchor
from nas.spaces.preprocessing import as_timm, images_of
from search_spaces.errors import UsageError
from search_spaces.registry import load
from supernet.normalisation import Normalisation, folded
from supernet.pretrained.subnet_folders import load_folder
from supernet.pretrained.timm_anchors import TimmAnchor, anchor_state, read_anchor
from supernet.supernet import Joined

if TYPE_CHECKING:
    from torch import Tensor

Sizes = Mapping[str, Any]  # image_size (height, width), in_chans, num_classes: those of the data


@dataclass(frozen=True)
class _Described:
    """One anchor's numbers; `pretrained` tells for what images and classes timm has weights of it."""

    numbers: dict[str, Any]
    pretrained: TimmAnchor | None = None


def anchor_numbers(
    init: AnchorsInit, sizes: Sizes, *, family: str, patch_size: int, originals: bool
) -> list[dict[str, Any]]:
    """The anchors as the space takes them; no weights are made or fetched.

    family: which joins them.  patch_size: of anchors that the job trains, where they name none.
    originals: whether the anchors are to be used as they come, which a classifier for other classes than the
    data's rules out.
    Raises UsageError for a model that there is not or that cannot be stitched, and for anchors that were
    pretrained on images of different sizes or for different classes.
    """
    described = [_described(anchor, sizes, family=family, patch_size=patch_size) for anchor in init.anchors]
    pretrained = [item.pretrained for item in described if item.pretrained is not None]
    _check_pretraining(pretrained)
    if originals:
        for anchor in pretrained:
            _check_classifier(anchor, sizes["num_classes"])
    return [item.numbers for item in described]


def load_anchors(
    net: Joined,
    init: AnchorsInit,
    sizes: Sizes,
    trained: "Mapping[int, Mapping[str, Tensor]]",
    *,
    seed: int,
    given: Normalisation | None = None,
) -> None:
    """Gives the supernet's anchors their weights; `trained`: those of the ones that the job trains.

    given: how the job's images are normalised. Where they are as the first pretrained anchor knows them, the
    others are made to see their own; None, or a way that the job file asks for: all see them as they are.
    Anchors without either keep the weights they have. Raises UsageError when weights cannot be had, do not
    fit, or cannot be made for images that are normalised so.
    """
    states: dict[int, Mapping[str, Tensor]] = dict(trained)
    for i, anchor in enumerate(init.anchors):
        timm = as_timm(anchor)
        if timm is not None:
            states[i] = anchor_state(timm.timm, pretrained=timm.pretrained, sizes=sizes, seed=seed + i)
        elif isinstance(anchor, CheckpointInit):
            states[i] = load_folder(anchor.checkpoint).state_dict()
    net.load_anchors(states if given is None else _renormalised(init, states, given, sizes["in_chans"]))


def _renormalised(
    init: AnchorsInit, states: "Mapping[int, Mapping[str, Tensor]]", given: Normalisation, in_chans: int
) -> "dict[int, Mapping[str, Tensor]]":
    """The anchors' weights for images that are normalised for the first of them."""
    pretrained = {
        i: anchor
        for i, anchor in enumerate(init.anchors)
        if not (isinstance(anchor, TimmInit) and not anchor.pretrained)
    }
    images_by_anchor = {
        i: images for i, anchor in pretrained.items() if (images := images_of(anchor)) is not None
    }
    normal = {i: images.needs.for_channels(in_chans).normalisation for i, images in images_by_anchor.items()}
    if not normal or not normal[min(normal)].is_close(given):
        return dict(states)
    return dict(states) | {
        i: folded(images.model, states[i], given, normal[i]) for i, images in images_by_anchor.items()
    }


def _described(
    anchor: TimmInit | CheckpointInit | TrainedAnchor, sizes: Sizes, *, family: str, patch_size: int
) -> _Described:
    timm = as_timm(anchor)
    if timm is not None:
        read = read_anchor(timm.timm, pretrained=timm.pretrained, sizes=sizes)
        return _Described(read.numbers, read if timm.pretrained else None)
    if isinstance(anchor, CheckpointInit):
        return _Described(_folder_numbers(anchor.checkpoint, sizes, family))
    assert isinstance(anchor, TrainedAnchor)
    return _Described({"patch_size": patch_size} | anchor.vit)


def _folder_numbers(folder: str, sizes: Sizes, family: str) -> dict[str, Any]:
    module = load_folder(folder)
    try:
        numbers: dict[str, Any] = load("supernet.families", family).anchor_options(module)
    except UsageError as error:
        raise UsageError(f"'{folder}' holds {error.message}", error.hint) from error
    for name, wanted in sizes.items():
        wanted = list(wanted) if isinstance(wanted, Sequence) else wanted
        if numbers[name] != wanted:
            raise UsageError(f"The subnet in '{folder}' has {name} {numbers[name]}, the data {wanted}.")
    return numbers


def _check_pretraining(pretrained: Sequence[TimmAnchor]) -> None:
    for a, b in itertools.pairwise(pretrained):
        if a.image_size != b.image_size:
            raise UsageError(
                f"The anchors were pretrained on images of different sizes: '{a.name}' on "
                f"{_pixels(a.image_size)}, '{b.name}' on {_pixels(b.image_size)}.",
                "Stitch models that were pretrained alike.",
            )
        if a.num_classes != b.num_classes:
            raise UsageError(
                f"The anchors were pretrained for different classes: '{a.name}' for {a.num_classes}, "
                f"'{b.name}' for {b.num_classes}.",
                "Stitch models that were pretrained alike.",
            )


def _check_classifier(pretrained: TimmAnchor, num_classes: int) -> None:
    if pretrained.num_classes != num_classes:
        raise UsageError(
            f"timm's '{pretrained.name}' classifies {pretrained.num_classes} classes and the data has "
            f"{num_classes}: as it is, it knows nothing of them.",
            "Set supernet.space.originals: false, so that the anchors are used as the job trains them.",
        )


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
