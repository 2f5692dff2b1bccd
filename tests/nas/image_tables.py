"""Small tables of images as Parquet files and as `datasets` saves them."""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from image_trees import CLASSES
from PIL import Image


def png(seed: int, *, size: tuple[int, int] = (20, 24)) -> bytes:
    """The bytes of a file with a random image of (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(size[1], size[0], 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rows(count: int = 30, *, seed: int = 0, labels: Sequence[Any] = (0, 1, 2)) -> dict[str, list[Any]]:
    """Columns `image` and `label`, the labels in turn."""
    return {
        "image": [png(1000 * seed + number) for number in range(count)],
        "label": [labels[number % len(labels)] for number in range(count)],
    }


def write_parquet(path: Path, columns: Mapping[str, list[Any]], *, group: int = 7) -> Path:
    """A file with row groups of so many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, row_group_size=group)
    return path


def features(names: Sequence[str]) -> dict[str, Any]:
    """What `datasets` says of the columns."""
    label = {"names": list(names), "_type": "ClassLabel"}
    return {"image": {"_type": "Image"}, "label": label}


def hf_table(columns: Mapping[str, list[Any]], names: Sequence[str] = CLASSES) -> pa.Table:
    """Rows as `datasets` keeps them: images in structs, the names of classes in the schema."""
    images = [
        value if isinstance(value, dict) else {"bytes": value, "path": None} for value in columns["image"]
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "label": pa.array(columns["label"])})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features(names)}})})


def write_arrow(path: Path, table: pa.Table, *, batch: int = 4) -> Path:
    """A stream of record batches of so many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=batch)
    return path


def save_to_disk(folder: Path, table: pa.Table) -> Path:
    """One split in two files, as `Dataset.save_to_disk` writes it."""
    half = len(table) // 2
    names = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    for name, part in zip(names, (table.slice(0, half), table.slice(half)), strict=True):
        write_arrow(folder / name, part)
    state = {"_data_files": [{"filename": name} for name in names], "_format_type": None, "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features(CLASSES)}))
    return folder
