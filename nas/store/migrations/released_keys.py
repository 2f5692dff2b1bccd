"""What schemas 0001 to 0003 made keys of stages and names of retrained subnets from. Frozen.

Nothing is added here when a section gets a field: a job's config in the store has the fields of its time, and
keys are made of those that it has. Until then keys were made of all fields, those left out that had come late
and stood at their defaults, and of the text that Pydantic makes of a model.
"""

from collections.abc import Mapping
from typing import Any

# Section -> the late fields, and the values that left no trace.
LATE: Mapping[str, Mapping[str, Any]] = {
    "config": {"variant": None},
    "predictor": {"source": None},
    "sampling": {"at_once": None, "blocks_twice": False},
    "search": {"options": {}, "latency_margin": 1.0, "measure_above": 0.1, "racing": 0.1},
    "train": {
        "decay_also": [],
        "init_std": None,
        "patch_mixup": False,
        "recipe": "own",
        "sort_every": None,
        "widening": 0.0,
    },
}
MEASURED_ELSEWHERE = "device-"  # stages that were known by all fields
RECIPE = (
    *("steps", "batch_size", "lr", "weight_decay", "betas", "warmup", "clip", "label_smoothing"),
    *("largest_first", "ema", "lr_scale", "widening", "sort_every", "patch_mixup", "precision"),
)
LATE_IN_RECIPE: Mapping[str, Any] = {"decay_also": [], "init_std": None}
MODELS = {"vit": "TrainedAnchor", "checkpoint": "CheckpointInit", "timm": "TimmInit"}  # of anchors, by a key


def stage_inputs(stage: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Today's inputs of a stage as they were then."""
    if stage.startswith(MEASURED_ELSEWHERE):
        return {"predictor": {**LATE["predictor"], **inputs["predictor"]}}
    shortened = {
        name: _without_late(name, value) if name in LATE else value for name, value in inputs.items()
    }
    return shortened | {"init": _text(inputs["init"])} if "init" in inputs else shortened


def retraining(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a retraining from the whole recipe, defaults included, as plain data."""
    sampling, teacher = recipe["sampling"], recipe["teacher"] or {"weight": 0.5, "hard": True}
    numbers = {name: recipe[name] for name in RECIPE}
    numbers |= {name: sampling[name] for name in ("distill", "distill_after")}
    numbers |= {f"teacher_{name}": teacher[name] for name in ("weight", "hard")}
    numbers |= {name: recipe[name] for name, value in LATE_IN_RECIPE.items() if recipe[name] != value}
    return numbers | ({"blocks_twice": True} if sampling["blocks_twice"] else {})


def _without_late(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    late = LATE[section]
    return {
        name: _without_late(name, value) if name in LATE else value
        for name, value in values.items()
        if name not in late or value != late[name]
    }


def _text(init: Any) -> str:
    """Where weights begin, as the text of its model."""
    if not isinstance(init, Mapping):
        return str(init)
    return " ".join(f"{name}={_part(value)}" for name, value in init.items())


def _part(value: Any) -> str:
    """The text of a value of the model; its only list is of anchors."""
    return f"({', '.join(map(_anchor, value))})" if isinstance(value, list) else repr(value)


def _anchor(anchor: Mapping[str, Any]) -> str:
    model = next(MODELS[name] for name in MODELS if name in anchor)
    return f"{model}({', '.join(f'{name}={value!r}' for name, value in anchor.items())})"
