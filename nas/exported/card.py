"""The model card of an extracted folder: what the subnet is, how it is used, what of it was checked."""

import json
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nas.exported.forms import Exporter

CARD = "README.md"
SPECIAL = re.compile(r"[\\`*\[\]<>|#&~$!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=[a-z]):(?=//)")
ELSEWHERE = (
    "architecture",
    "classes",
    "preprocessing",
    "command",
    "inputs",
    "measured",
)  # of `info`: not in the card's table
LICENCE = "not stated: it follows from the data, and from the weights with which the job began"

_CARD = """# {title}

A subnet of an Elastiform supernet, as a stand-alone network.

| | |
|---|---|
{figures}

## Use

```
python infer.py {argument}
```

{loading}
Input: {inputs} of shape ({shape}).
{images}`sha256sum -c SHA256SUMS` or `nas verify .` checks the files.

## How it was made

{made}{check}

## Architecture

```json
{architecture}
```
"""


def card(
    exporter: Exporter,
    module: nn.Module,
    example: Tensor,
    info: Mapping[str, Any],
    *,
    keys: Mapping[str, Any],
    check: str,
) -> str:
    """The card. keys: in config.json beside ours.  check: a sentence about how the files were checked."""
    figures = {k: v for k, v in info.items() if k not in ELSEWHERE} | {"licence": LICENCE}
    images = example.is_floating_point()
    return _CARD.format(
        title=f"Subnet {escaped(info['subnet'])}",
        figures="\n".join(
            f"| {escaped(name.replace('_', ' '))} | {escaped(value)} |" for name, value in figures.items()
        ),
        argument="IMAGE..." if images else "TEXT",
        loading=exporter.LOADING.format(
            name=type(module).__name__,
            timm=_TIMM if "model_args" in keys else "",
            auto=f"AutoModelFor{'ImageClassification' if images else 'CausalLM'}",
            trust=", trust_remote_code=True" if "auto_map" in keys else "",
        ),
        inputs="float images" if images else "token ids",
        shape="batch, " + ", ".join(map(str, example.shape[1:])),
        images=_images(info),
        made=f"```\n{info['command']}\n```\n\n" if info.get("command") else "",
        check=check,
        architecture=json.dumps(info["architecture"], indent=2),
    )


_TIMM = """
Or with timm:

```python
import timm

model = timm.create_model("local-dir:.", pretrained=True)
```
"""


def escaped(value: object) -> str:
    """A name or a number as one line of Markdown that shows it and nothing else."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return SPECIAL.sub(r"\\\g<0>", line)


def device_line(fingerprint: Mapping[str, Any]) -> str:
    """What a device is, in words: backend, processor, threads, precision."""
    parts = [fingerprint.get(key) for key in ("backend", "cpu", "gpu")]
    if (threads := fingerprint.get("threads")) is not None:
        parts.append(f"{threads} thread{'s' if threads != 1 else ''}")
    return ", ".join(str(part) for part in (*parts, fingerprint.get("precision")) if part)


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
