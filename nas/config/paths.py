"""The paths in a job: absolute from the time when it is made, so that it goes on from anywhere."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.config import JobConfig

# A data set's options that are paths are called so, or end so after an underscore.
PATH_OPTIONS = ("root", "folder", "path", "file", "files", "labels", "tokenizer")
NO_PATHS = {"tokenizer": ("bytes", "init")}  # words that are none
WEIGHTS = ("checkpoint", "hf", "gguf")  # where weights may begin, as a path
LOCAL = "local-dir:"  # how timm names a folder
PACKAGE = "package:"  # what begins so is the file of an installed package
ELSEWHERE = (LOCAL, "hf-hub:", PACKAGE)  # what begins so is no path from here


def with_absolute_paths(tree: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """A job's settings with every relative path in them taken from `base`; nothing else is judged or changed.

    Those are the data set's options called `root`, `folder`, `path`, `file`, `files`, `labels` or
    `tokenizer`, folders and files with weights of `supernet.init`, its anchors and the baselines, and timm's
    `local-dir:` folders, of the teacher, too; also of several supernets.
    """
    changed = dict(tree)
    if isinstance(data := tree.get("data"), dict):
        changed["data"] = {
            key: _located(key, item, base) if _is_path(key) else item for key, item in data.items()
        }
    if isinstance(net := tree.get("supernet"), dict):
        changed["supernet"] = _beginning(net, base)
    if isinstance(entries := tree.get("supernets"), list | tuple):
        changed["supernets"] = [
            _taught(_beginning(entry, base), base) if isinstance(entry, dict) else entry for entry in entries
        ]
    if isinstance(baselines := tree.get("baselines"), list | tuple):
        changed["baselines"] = _each(baselines, base)
    return _taught(changed, base)


def _beginning(net: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The section of a supernet, whose weights to begin with may be in folders."""
    if not isinstance(init := net.get("init"), dict):
        return dict(net)
    new = _weights(init, base)
    if isinstance(anchors := init.get("anchors"), list | tuple):
        new["anchors"] = _each(anchors, base)
    return {**net, "init": new}


def _taught(tree: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """What has a section `train`, whose teacher may be in a folder."""
    if not isinstance(train := tree.get("train"), dict) or not isinstance(
        teacher := train.get("teacher"), dict
    ):
        return dict(tree)
    return {**tree, "train": train | {"teacher": _weights(teacher, base)}}


def absolute_options(options: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """A data set's options with every relative path taken from `base`."""
    return dict(with_absolute_paths({"data": dict(options)}, base)["data"])


def located(config: "JobConfig") -> "JobConfig":
    """A stored job, whose data's paths may be relative if it is an old one: they are taken from here.

    Its other paths stay as they are: stages know what they were made from by their text.
    """
    options = absolute_options(config.data.options, Path.cwd())
    return config.model_copy(update={"data": type(config.data)(name=config.data.name, **options)})


def named_paths(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The paths in a job's settings with the fields that name them, as of `with_absolute_paths`; also
    `package:NAME`, of weights.
    """
    for key, item in _mapping(tree, "data").items():
        if _is_path(key) and item not in NO_PATHS.get(key, ()):
            for one in item if isinstance(item, list | tuple) else (item,):
                if isinstance(one, str) and one:
                    yield f"data.{key}", one
    supernets = {"supernet": _mapping(tree, "supernet")}
    supernets |= {f"supernets.{place}": entry for place, entry in _listed(tree, "supernets")}
    sections = {f"{name}.init": _mapping(entry, "init") for name, entry in supernets.items()}
    for name, init in list(sections.items()):
        sections |= {f"{name}.anchors.{place}": anchor for place, anchor in _listed(init, "anchors")}
    taught = {"train": tree} | supernets
    sections |= {
        f"{'' if name == 'train' else name + '.'}train.teacher": _mapping(_mapping(entry, "train"), "teacher")
        for name, entry in taught.items()
    }
    sections |= {f"baselines.{place}": one for place, one in _listed(tree, "baselines")}
    for name, section in sections.items():
        yield from ((f"{name}.{key}", path) for key, path in _weights_of(section))


def _weights_of(section: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where the weights of a model lie, by the key that says so."""
    for key in WEIGHTS:
        if isinstance(path := section.get(key), str) and path and not path.startswith("hf-hub:"):
            yield key, path.removeprefix(LOCAL)
    if isinstance(name := section.get("timm"), str) and name.startswith(LOCAL):
        yield "timm", name.removeprefix(LOCAL)


def _mapping(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return inside if isinstance(inside := tree.get(key), dict) else {}


def _listed(tree: Mapping[str, Any], key: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The sections in a list, with their places."""
    inside = tree.get(key)
    for place, one in enumerate(inside if isinstance(inside, list | tuple) else ()):
        if isinstance(one, dict):
            yield place, one


def _is_path(key: object) -> bool:
    return isinstance(key, str) and key.rpartition("_")[2] in PATH_OPTIONS


def _located(key: str, item: object, base: Path) -> object:
    """An option that is a path or a list of them, unless it is one of the words that are none."""
    if isinstance(item, list | tuple):
        return [_absolute(one, base) for one in item]
    return item if item in NO_PATHS.get(key, ()) else _absolute(item, base)


def _each(sections: Sequence[Any], base: Path) -> list[Any]:
    return [_weights(section, base) if isinstance(section, dict) else section for section in sections]


def _weights(section: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The section of a model, whose weights may be in a folder."""
    changed = dict(section)
    for key in WEIGHTS:
        if key in changed:
            changed[key] = _absolute(changed[key], base)
    name = changed.get("timm")
    if isinstance(name, str) and name.startswith(LOCAL):
        changed["timm"] = LOCAL + str(_absolute(name.removeprefix(LOCAL), base))
    return changed


def _absolute(value: object, base: Path) -> object:
    if not isinstance(value, str) or not value or "\0" in value or value.startswith(ELSEWHERE):
        return value
    try:
        path = Path(value).expanduser()
    except RuntimeError:  # there is no such user: the path is judged where it is read
        return value
    return str(Path.cwd() / base / path) if not path.is_absolute() else str(path)
