"""A folder that anybody can load: weights as safetensors, the module's source, config, model card, hashes.

The module's file needs torch only. Where timm's `VisionTransformer` can express the subnet, `config.json`
also carries what `timm.create_model("local-dir:FOLDER", pretrained=True)` reads.
"""

import ast
import hashlib
import importlib.util
import inspect
import json
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nas.errors import ConflictError, JobFailedError
from search_spaces.errors import UsageError
from supernet.pretrained.weight_files import check_finite

PLAIN = "supernet.plain."  # modules called so import torch and each other, and nothing else

WEIGHTS, CONFIG, SOURCE, CARD, HASHES = (
    "model.safetensors",
    "config.json",
    "modeling.py",
    "README.md",
    "SHA256SUMS",
)

SPECIAL = re.compile(r"[\\`*\[\]<>|#&~$!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=[a-z]):(?=//)")
ELSEWHERE = ("architecture", "classes", "preprocessing")  # of `info`: not in the card's table

_CARD = """# {title}

A subnet of an Elastiform supernet, as a stand-alone PyTorch module.

| | |
|---|---|
{figures}

## Loading

With torch and safetensors only, in this folder:

```python
import json
from modeling import {name}
from safetensors.torch import load_file

arguments = json.load(open("config.json"))["elastiform"]["arguments"]
model = {name}(**arguments)
model.load_state_dict(load_file("model.safetensors"))
model.eval()
```
{timm}
Input: {inputs} of shape ({shape}).
{images}`sha256sum -c SHA256SUMS` checks the files.

## Architecture

```json
{architecture}
```
"""

_TIMM = """
Or with timm:

```python
import timm

model = timm.create_model("local-dir:.", pretrained=True)
```
"""


def export(
    module: nn.Module,
    folder: Path,
    *,
    example: Tensor,
    info: Mapping[str, Any],
    timm: Mapping[str, Any] | None,
) -> list[Path]:
    """Writes the folder and reloads it: its outputs on `example` must be identical.

    module: has `config`, the arguments of its class.
    info: `subnet` (key), `architecture`, and figures for the model card; perhaps `classes`, the names of the
    outputs, and `preprocessing`, how images become inputs.
    timm: keys for timm in config.json, or None.
    Raises ConflictError when `folder` exists and is not empty, JobFailedError when the reloaded outputs
    differ. The folder appears complete or not at all.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(
            f"'{folder}' exists already and is not an empty folder.", "Choose another one with -o."
        )
    target = folder.resolve()
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        _write(module, partial, example=example, info=info, timm=timm)
        _check(module, partial, example)
        partial.replace(target)  # in place of an empty folder, too
    except UsageError as error:
        raise JobFailedError(error.message) from error
    except (OSError, SafetensorError) as error:
        raise JobFailedError(f"The subnet cannot be written to '{folder}': {error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [folder / name for name in (WEIGHTS, CONFIG, SOURCE, CARD, HASHES)]


def _write(
    module: nn.Module,
    folder: Path,
    *,
    example: Tensor,
    info: Mapping[str, Any],
    timm: Mapping[str, Any] | None,
) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    check_finite("the subnet", tensors)
    config = {
        **(timm or {}),
        "elastiform": {"class": type(module).__name__, "arguments": module.config, **info},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    # safetensors writes for the owner alone; whoever may read the config may read the weights.
    (folder / WEIGHTS).chmod(stat.S_IMODE((folder / CONFIG).stat().st_mode))
    (folder / SOURCE).write_text(standalone_source(type(module)))
    (folder / CARD).write_text(_card(module, example, info, timm=timm is not None))
    hashes = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(folder.iterdir())
    ]
    (folder / HASHES).write_text("\n".join(hashes) + "\n")


def _card(module: nn.Module, example: Tensor, info: Mapping[str, Any], *, timm: bool) -> str:
    figures = {k: v for k, v in info.items() if k not in ELSEWHERE}
    return _CARD.format(
        title=f"Subnet {escaped(info['subnet'])}",
        figures="\n".join(
            f"| {escaped(name.replace('_', ' '))} | {escaped(value)} |" for name, value in figures.items()
        ),
        name=type(module).__name__,
        timm=_TIMM if timm else "",
        inputs="float images" if example.is_floating_point() else "token ids",
        shape="batch, " + ", ".join(map(str, example.shape[1:])),
        images=_images(info),
        architecture=json.dumps(info["architecture"], indent=2),
    )


def escaped(value: object) -> str:
    """A name or a number as one line of Markdown that shows it and nothing else."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return SPECIAL.sub(r"\\\g<0>", line)


def _images(info: Mapping[str, Any]) -> str:
    """How images become inputs, and what the outputs stand for."""
    text, images = "", info.get("preprocessing")
    if images:
        text += (
            f"Judged on images with values from 0 to 1, resized ({escaped(images['interpolation'])}) and "
            f"cropped ({escaped(images['crop_mode'])}, {images['crop_pct']:g} of a side is kept), minus mean "
            f"{images['mean']}, divided by std {images['std']}.\n"
        )
    if info.get("classes"):
        names = "; ".join(f"{i} {escaped(name)}" for i, name in enumerate(info["classes"]))
        text += f"Outputs, by index: {names}.\n"
    return text


def _check(module: nn.Module, folder: Path, example: Tensor) -> None:
    """Loads the folder as the model card tells, from the files just written."""
    written = _module_at(folder / SOURCE)
    stored = json.loads((folder / CONFIG).read_text())["elastiform"]
    twin = getattr(written, stored["class"])(**stored["arguments"])
    twin.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    with torch.inference_mode():
        difference = (twin.eval()(example) - module.cpu().eval()(example)).abs().max().item()
    if difference != 0.0:
        raise JobFailedError(f"The exported subnet's outputs differ from the supernet's by {difference:.3g}.")


def _module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"exported_{uuid.uuid4().hex}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
    return module


def standalone_source(kind: type[nn.Module]) -> str:
    """The source of a plain module as one file that needs torch only: behind the files that it imports.

    Raises UsageError for a file that takes something from a plain one under another name.
    """
    main = Path(inspect.getfile(kind))
    title = ast.get_docstring(ast.parse(main.read_text()), clean=False) or kind.__name__
    files = list(dict.fromkeys(_with_imports(main)))
    future = dict.fromkeys(
        ast.unparse(node) for file in files for node in _tree(file).body if _is_future(node)
    )
    return "\n\n\n".join([f'"""{title}"""', *future, *map(_body, files)]) + "\n"


def _with_imports(path: Path) -> Iterator[Path]:
    """The file behind the plain files that it imports; one may come twice."""
    for node in _tree(path).body:
        if not _is_plain(node):
            continue
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            if alias.asname not in (None, alias.name):
                raise UsageError(
                    f"'{path.name}' imports {alias.name} as {alias.asname}, which an exported file cannot.",
                    "Import it under its own name.",
                )
        spec = importlib.util.find_spec(str(node.module))
        assert spec is not None
        assert spec.origin is not None
        yield from _with_imports(Path(spec.origin))
    yield path


def _body(path: Path) -> str:
    """The file without its docstring and without what stands elsewhere."""
    tree, lines = _tree(path), path.read_text().splitlines()
    left_out = [node for node in tree.body if _is_plain(node) or _is_future(node)]
    if ast.get_docstring(tree):
        left_out.append(tree.body[0])
    for node in sorted(left_out, key=lambda node: node.lineno, reverse=True):
        del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines).strip("\n")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _is_plain(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and str(node.module).startswith(PLAIN)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"
