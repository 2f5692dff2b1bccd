"""The paths in a job: absolute from the time when it is made, so that it goes on from anywhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.config import JobConfig

# A data set's options that are paths are called so, or end so after an underscore.
PATH_OPTIONS = ("root", "folder", "path", "file")
LOCAL = "local-dir:"  # how timm names a folder


def with_absolute_paths(tree: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """A job's settings with every relative path in them taken from `base`; nothing else is judged or changed.

    Those are the data set's options called `root`, `folder`, `path` or `file`, folders with checkpoints of
    `supernet.init` and its anchors, and timm's `local-dir:` folders, of the teacher, too.
    """
    changed = dict(tree)
    if isinstance(data := tree.get("data"), dict):
        changed["data"] = {
            key: _absolute(item, base) if _is_path(key) else item for key, item in data.items()
        }
    if isinstance(net := tree.get("supernet"), dict) and isinstance(init := net.get("init"), dict):
        new = _weights(init, base)
        if isinstance(anchors := init.get("anchors"), list | tuple):
            new["anchors"] = [_weights(a, base) if isinstance(a, dict) else a for a in anchors]
        changed["supernet"] = net | {"init": new}
    if isinstance(train := tree.get("train"), dict) and isinstance(teacher := train.get("teacher"), dict):
        changed["train"] = train | {"teacher": _weights(teacher, base)}
    return changed


def absolute_options(options: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """A data set's options with every relative path taken from `base`."""
    return dict(with_absolute_paths({"data": dict(options)}, base)["data"])


def located(config: "JobConfig") -> "JobConfig":
    """A stored job, whose data's paths may be relative if it is an old one: they are taken from here.

    Its other paths stay as they are: stages know what they were made from by their text.
    """
    options = absolute_options(config.data.options, Path.cwd())
    return config.model_copy(update={"data": type(config.data)(name=config.data.name, **options)})


def _is_path(key: object) -> bool:
    return isinstance(key, str) and key.rpartition("_")[2] in PATH_OPTIONS


def _weights(section: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The section of a model, whose weights may be in a folder."""
    changed = dict(section)
    if "checkpoint" in changed:
        changed["checkpoint"] = _absolute(changed["checkpoint"], base)
    name = changed.get("timm")
    if isinstance(name, str) and name.startswith(LOCAL):
        changed["timm"] = LOCAL + str(_absolute(name.removeprefix(LOCAL), base))
    return changed


def _absolute(value: object, base: Path) -> object:
    if (
        not isinstance(value, str)
        or not value
        or "\0" in value
        or value.startswith(("local-dir:", "hf-hub:"))
    ):
        return value
    try:
        path = Path(value).expanduser()
    except RuntimeError:  # there is no such user: the path is judged where it is read
        return value
    return str(Path.cwd() / base / path) if not path.is_absolute() else str(path)
