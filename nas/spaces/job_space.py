"""From a job's config and its data to the search space, and what can be checked before anything runs."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import search_spaces
from nas.config import AnchorsInit, CheckpointInit, GgufInit, HfInit, JobConfig, TimmInit
from nas.datasets import DataSet, task_name, task_of
from nas.limits import Limit, distance
from nas.store import Job, Store
from search_spaces import SearchSpace
from search_spaces.errors import NotFoundError, UsageError, did_you_mean
from search_spaces.layers import FLOAT_BYTES
from search_spaces.moves import changed, repaired
from search_spaces.registry import builder, load, names
from search_spaces.shapes.decoder import kv_elements
from search_spaces.space import Codes
from supernet import tasks

SPACES, SUPERNETS = "search_spaces.families", "supernet.families"
PROBES = 20_000
CLOSEST = 64  # of them, which are moved towards limits that none keeps
RESTARTS = 8  # of the moves, from where they came closest
SHAKEN = 8  # copies of each of the best, changed before they are moved again
SMALLEST_GRID = 4


def whole(spaces: Mapping[str, SearchSpace]) -> SearchSpace:
    """The space of a job whose supernets, by name, have these; of one that has one itself, that one."""
    return spaces[""] if "" in spaces else search_spaces.union(spaces)


def resolve(config: JobConfig, data: DataSet) -> SearchSpace:
    """The space of a job: sizes from its data, then from its pretrained model, then what the job file says.

    Raises UsageError for options that do not fit together, and for a family or a recipe of another task than
    the data's.
    """
    _check_task(config, data)
    _check_sources(config)
    sizes, section = data_sizes(data), config.supernet
    if section.variant is not None:
        _check_variant(config, section.variant)
        return search_spaces.get(section.variant, **(sizes | section.space))
    return search_spaces.get(section.family, **(sizes | _defaults(config, sizes) | section.space))


def space_of(store: Store, job: Job) -> SearchSpace:
    """The space in which the job searches. Raises NotFoundError for a job that has not begun."""
    stage = store.stage(job, "space")
    if stage is None or stage.result is None:
        raise NotFoundError(f"Job '{job.name}' has not begun.", f"Start it with `nas resume {job.id}`.")
    return search_spaces.described(stage.result.get("space"))


def _check_sources(config: JobConfig) -> None:
    """Raises UsageError when the init section and the family, or two sections, do not go together."""
    family, init = config.supernet.family, config.supernet.init
    takes_anchors = _takes_anchors(family)
    if takes_anchors and not isinstance(init, AnchorsInit):
        raise UsageError(
            f"A {family} job needs the models that it joins.",
            "Give supernet.init a list of anchors; examples/stitching.yaml shows how.",
        )
    if not takes_anchors and isinstance(init, AnchorsInit):
        joining = [name for name in names(SPACES) if _takes_anchors(name)]
        raise UsageError(f"A {family} job joins no models.", f"Set supernet.family: {' or '.join(joining)}.")
    if isinstance(init, TimmInit | CheckpointInit | HfInit | GgufInit):
        _check_begins(family, init)
    for name, where in {"name": "name", "anchors": "supernet.init.anchors"}.items():
        if name in config.supernet.space:
            raise UsageError(f"'{name}' is no option of supernet.space in a job.", f"Set {where}.")


def _takes_anchors(family: str) -> bool:
    """Whether the family joins models."""
    return "anchors" in inspect.signature(builder(SPACES, family)).parameters


def _check_begins(family: str, init: TimmInit | CheckpointInit | HfInit | GgufInit) -> None:
    """Raises UsageError for a family that cannot begin with weights of this kind."""
    from nas.spaces.preprocessing import as_timm  # noqa: PLC0415 - imports torch

    is_timms = isinstance(init, TimmInit | CheckpointInit) and as_timm(init) is not None
    offer = "space_options" if is_timms else "nested_options"
    if hasattr(load(SUPERNETS, family), offer):
        return
    modules = {name: load(SUPERNETS, name) for name in names(SUPERNETS)}
    able = [f"{name} ({module.NESTS})" for name, module in modules.items() if hasattr(module, offer)]
    raise UsageError(
        f"A {family} job cannot begin with the weights of another model.",
        f"Set supernet.init: scratch, or supernet.family: {' or '.join(able)}.",
    )


def _check_variant(config: JobConfig, variant: str) -> None:
    """Raises UsageError for a variant of another family, and for one beside a model that says it all, too."""
    family = config.supernet.family
    spaces = [name for name in search_spaces.names() if search_spaces.family_of(name) == family]
    if variant not in spaces:
        raise UsageError(f"Family {family} has no space called '{variant}'.", did_you_mean(variant, spaces))
    if not isinstance(config.supernet.init, str):
        raise UsageError(
            "supernet.variant and supernet.init both say what the network is.", "Leave one of them away."
        )


def family_task(family: str) -> str:
    """The task of a family: that of which its spaces take the sizes of the data."""
    taken = inspect.signature(builder(SPACES, family)).parameters.keys()
    fitting = [name for name in tasks.names() if name != tasks.TASK and taken >= set(tasks.get(name).sizes)]
    return fitting[0] if fitting else tasks.TASK


def _check_task(config: JobConfig, data: DataSet) -> None:
    """Raises UsageError for a family of another task than the data's, and for a recipe that is none of it."""
    family, task = config.supernet.family, task_name(data)
    if (other := family_task(family)) != task:
        able = [name for name in names(SPACES) if family_task(name) == task]
        hint = f"Families for {task}: {', '.join(able)}." if able else f"A data set for {other} fits it."
        raise UsageError(f"Family '{family}' is for {other}, and data set '{data.name}' is for {task}.", hint)
    if config.baselines and task != tasks.TASK:
        raise UsageError(
            f"Data set '{data.name}' is for {task}, and baselines are classifiers of images.",
            "Leave them out.",
        )
    if config.supernet.use is None and (problem := task_of(data).problem(config.train)):
        raise UsageError(f"Data set '{data.name}' is for {task}: {problem}")


def data_sizes(data: DataSet) -> dict[str, Any]:
    """What the data decides of every network, by the words of its task: of images image_size (height, width),
    in_chans and num_classes, of text context (tokens) and vocabulary.
    """
    return task_of(data).sizes_of(tuple(data.input_shape), data.num_classes)


def _defaults(config: JobConfig, sizes: dict[str, Any]) -> dict[str, Any]:
    init = config.supernet.init
    family = config.supernet.family
    if isinstance(init, TimmInit):
        module = load(SUPERNETS, family)
        options: dict[str, Any] = module.space_options(init.timm, pretrained=init.pretrained, **sizes)
        return options
    if isinstance(init, CheckpointInit):
        from nas.spaces.initial import checkpoint_options  # noqa: PLC0415 - imports torch

        return checkpoint_options(family, init.checkpoint, sizes)
    if isinstance(init, HfInit | GgufInit):
        from nas.spaces.initial import language_options  # noqa: PLC0415 - imports torch

        return language_options(family, init, sizes)
    if "image_size" not in sizes:
        return {}
    patch_size = getattr(load(SPACES, family), "default_patch_size", _patch_size)(sizes["image_size"])
    if isinstance(init, AnchorsInit):
        from nas.spaces.pretrained import anchor_numbers  # noqa: PLC0415 - imports torch

        originals = config.supernet.space.get("originals", True) is True
        numbers = anchor_numbers(init, sizes, family=family, patch_size=patch_size, originals=originals)
        return {"anchors": numbers}
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

    Memory: bytes of float32 weights and activations of one sample; of a decoder in place of the activations
    the keys and values of one text, which are what it holds while it writes.
    """
    costs = space.costs(codes)
    kv_cache = space.totals(codes, kv_elements)[:, 0] * FLOAT_BYTES
    return {
        "params": costs["params"],
        "macs": costs["macs"],
        "memory_bytes": costs["weight_bytes"] + np.where(kv_cache > 0, kv_cache, costs["activation_bytes"]),
    }


def check_limits(
    space: SearchSpace, limits: tuple[Limit, ...], measure: Callable[[Codes], dict[str, Any]]
) -> None:
    """Raises UsageError when no architecture is found that keeps the limits which `measure` can judge.

    measure: codes -> metrics by name, `(n,)` each; limits on others are passed over.
    """
    codes = probes(space)
    metrics = measure(codes)
    judged = [limit for limit in limits if limit.name in metrics]
    for limit in judged:
        values = metrics[limit.name]
        if not limit.mask(metrics).any() and not _within(limit, values):
            raise UsageError(
                f"No subnet of space '{space.name}' keeps the limit '{limit}': "
                f"{limit.name} goes from {values.min():.4g} to {values.max():.4g}.",
                "Relax the constraint or give the space smaller options.",
            )
    far = distance(judged, metrics, len(codes))
    if (far == 0).any():
        return
    # What chance does not hit may still be there: a narrow window in a large space.
    nearby = codes[np.argsort(far, kind="stable")[:CLOSEST]]
    rng = np.random.default_rng(0)
    for _ in range(RESTARTS):
        nearby = repaired(space, nearby, lambda codes: distance(judged, measure(codes), len(codes)), rng)
        metrics = measure(nearby)
        far = distance(judged, metrics, len(nearby))
        nearest = int(far.argmin())
        if far[nearest] == 0:
            return
        best = np.repeat(nearby[np.argsort(far, kind="stable")[: CLOSEST // SHAKEN]], SHAKEN, axis=0)
        nearby = changed(space, changed(space, best, rng), rng)
    names = dict.fromkeys(limit.name for limit in judged)
    values_there = ", ".join(f"{name} {float(metrics[name][nearest]):.6g}" for name in names)
    raise UsageError(
        f"No subnet of space '{space.name}' was found that keeps {' and '.join(map(str, judged))}; "
        f"the closest has {values_there}.",
        "Relax one of the limits or widen the window between two of them.",
    )


def _within(limit: Limit, values: "np.ndarray[Any, Any]") -> bool:
    """Whether the limit's value lies between those that were seen."""
    return bool(values.min() <= limit.value <= values.max())


def probes(space: SearchSpace) -> Codes:
    """Codes of many architectures of all sizes, both ends included, on which limits are tried."""
    uniform = space.encode(space.uniform(16))
    return np.concatenate([uniform, space.sample_choices(np.random.default_rng(0), PROBES)])
