"""From a job's config and its data to the search space, and what can be checked before anything runs."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

import search_spaces
from nas.conditions import Condition, distance
from nas.config import AnchorsInit, CheckpointInit, JobConfig, TimmInit
from nas.datasets import DataSet
from search_spaces import SearchSpace
from search_spaces._errors import UsageError, did_you_mean
from search_spaces._registry import load
from search_spaces._repair import changed, repaired
from search_spaces._space import Codes

PROBES = 20_000
CLOSEST = 64  # of them, which are moved towards limits that none keeps
RESTARTS = 8  # of the moves, from where they came closest
SHAKEN = 8  # copies of each of the best, changed before they are moved again
SMALLEST_GRID = 4


def resolve(config: JobConfig, data: DataSet) -> SearchSpace:
    """The space of a job: sizes from its data, then from its pretrained model, then what the job file says.

    Raises UsageError for options that do not fit together.
    """
    _check_sources(config)
    sizes, section = data_sizes(data), config.supernet
    if section.variant is not None:
        _check_variant(config, section.variant)
        return search_spaces.get(section.variant, **(sizes | section.space))
    return search_spaces.get(section.family, **(sizes | _defaults(config, sizes) | section.space))


def _check_sources(config: JobConfig) -> None:
    """Raises UsageError when the init section and the family, or two sections, do not go together."""
    family, init = config.supernet.family, config.supernet.init
    module = load("search_spaces", family)
    takes_anchors = "anchors" in inspect.signature(module.build).parameters
    if takes_anchors and not isinstance(init, AnchorsInit):
        raise UsageError(
            f"A {family} job needs the models that it joins.",
            "Give supernet.init a list of anchors; examples/stitching.yaml shows how.",
        )
    if not takes_anchors and isinstance(init, AnchorsInit):
        raise UsageError(f"A {family} job joins no models.", "Set supernet.family: stitching.")
    pretrained = isinstance(init, TimmInit | CheckpointInit)
    if pretrained and not hasattr(load("supernet", family), "nested_options"):
        raise UsageError(
            f"A {family} job cannot begin with the weights of another model.",
            "Set supernet.init: scratch, or supernet.family: matformer (plain ViTs) or turbovit (Hieras).",
        )
    for name, where in {"name": "name", "anchors": "supernet.init.anchors"}.items():
        if name in config.supernet.space:
            raise UsageError(f"'{name}' is no option of supernet.space in a job.", f"Set {where}.")


def _check_variant(config: JobConfig, variant: str) -> None:
    """Raises UsageError for a variant of another family, and for one beside a model that says it all, too."""
    family = config.supernet.family
    names = [name for name in search_spaces.names() if search_spaces.family_of(name) == family]
    if variant not in names:
        raise UsageError(f"Family {family} has no space called '{variant}'.", did_you_mean(variant, names))
    if not isinstance(config.supernet.init, str):
        raise UsageError(
            "supernet.variant and supernet.init both say what the network is.", "Leave one of them away."
        )


def data_sizes(data: DataSet) -> dict[str, Any]:
    """What the data decides of every network: image_size (height, width), in_chans, num_classes."""
    channels, height, width = data.input_shape
    return {"image_size": (height, width), "in_chans": channels, "num_classes": data.num_classes}


def _defaults(config: JobConfig, sizes: dict[str, Any]) -> dict[str, Any]:
    init = config.supernet.init
    if isinstance(init, TimmInit):
        family = load("supernet", config.supernet.family)
        options: dict[str, Any] = family.space_options(init.timm, pretrained=init.pretrained, **sizes)
        return options
    if isinstance(init, CheckpointInit):
        from nas.initial import checkpoint_options  # noqa: PLC0415 - imports torch

        return checkpoint_options(config.supernet.family, init.checkpoint, **sizes)
    module = load("search_spaces", config.supernet.family)
    patch_size = getattr(module, "default_patch_size", _patch_size)(sizes["image_size"])
    if isinstance(init, AnchorsInit):
        from nas.anchors import anchor_numbers  # noqa: PLC0415 - imports torch

        originals = config.supernet.space.get("originals", True) is True
        return {"anchors": anchor_numbers(init, sizes, patch_size=patch_size, originals=originals)}
    return {"patch_size": patch_size}


def _patch_size(image_size: tuple[int, int]) -> int:
    """The largest power of two that divides both sides and leaves 4 patches along the shorter; at least 2."""
    size = 2
    while (
        all(side % (2 * size) == 0 for side in image_size) and min(image_size) // (2 * size) >= SMALLEST_GRID
    ):
        size *= 2
    return size


def exact_metrics(space: SearchSpace, codes: Codes) -> dict[str, np.ndarray[Any, Any]]:
    """What is known of architectures without measuring: params, macs and memory.

    Memory: bytes of float32 weights and activations of one sample.
    """
    costs = space.costs(codes)
    return {
        "params": costs["params"],
        "macs": costs["macs"],
        "memory_bytes": costs["weight_bytes"] + costs["activation_bytes"],
    }


def check_limits(
    space: SearchSpace, limits: tuple[Condition, ...], measure: Callable[[Codes], dict[str, Any]]
) -> None:
    """Raises UsageError when no architecture is found that keeps the limits which `measure` can judge.

    measure: codes -> metrics by name, `(n,)` each; limits on others are passed over.
    """
    codes = probes(space)
    metrics = measure(codes)
    known = [limit for limit in limits if limit.name in metrics]
    for limit in known:
        values = metrics[limit.name]
        if not limit.mask(metrics).any() and not _within(limit, values):
            raise UsageError(
                f"No subnet of space '{space.name}' keeps the limit '{limit}': "
                f"{limit.name} goes from {values.min():.4g} to {values.max():.4g}.",
                "Relax the constraint or give the space smaller options.",
            )
    far = distance(known, metrics, len(codes))
    if (far == 0).any():
        return
    # What chance does not hit may still be there: a narrow window in a large space.
    found = codes[np.argsort(far, kind="stable")[:CLOSEST]]
    rng = np.random.default_rng(0)
    for _ in range(RESTARTS):
        found = repaired(space, found, lambda codes: distance(known, measure(codes), len(codes)), rng)
        metrics = measure(found)
        far = distance(known, metrics, len(found))
        nearest = int(far.argmin())
        if far[nearest] == 0:
            return
        best = np.repeat(found[np.argsort(far, kind="stable")[: CLOSEST // SHAKEN]], SHAKEN, axis=0)
        found = changed(space, changed(space, best, rng), rng)
    names = dict.fromkeys(limit.name for limit in known)
    values_there = ", ".join(f"{name} {float(metrics[name][nearest]):.6g}" for name in names)
    raise UsageError(
        f"No subnet of space '{space.name}' was found that keeps {' and '.join(map(str, known))}; "
        f"the closest has {values_there}.",
        "Relax one of the limits or widen the window between two of them.",
    )


def _within(limit: Condition, values: "np.ndarray[Any, Any]") -> bool:
    """Whether the limit's value lies between those that were seen."""
    return bool(values.min() <= limit.value <= values.max())


def probes(space: SearchSpace) -> Codes:
    """Codes of many architectures of all sizes, both ends included, on which limits are tried."""
    uniform = space.encode(space.uniform(16))
    return np.concatenate([uniform, space.sample_choices(np.random.default_rng(0), PROBES)])
