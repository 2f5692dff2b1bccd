"""What a first job can be about: a folder or a file of data, a model, or nothing of one's own."""

import json
import os
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from search_spaces.errors import NotHereError, UsageError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
TEXTS = (".txt", ".jsonl")
SAVED = ("dataset_dict.json", "state.json", "snapshots")  # in what `datasets` writes
MOST_FILES = 20_000  # that are looked at to see what a folder holds
FOREIGN = ("hf-hub:", "local-dir:")  # how names begin that timm looks up elsewhere
SAMPLED = 24  # images of which the size is read
HINT = "Give a folder of images, texts or a model, a .gguf or .parquet file, or the name of a model of timm."


@dataclass(frozen=True)
class Subject:
    """What a job is about, as far as looking at it says.

    words: what it is, for people.  data: section `data`.  init: where the weights begin, if a model was
    named.  is_language: whether networks are language models.  pixels: the smaller side of usual images.
    """

    words: str
    data: dict[str, Any]
    init: dict[str, Any] = field(default_factory=dict)
    is_language: bool = False
    pixels: int | None = None


def subject_of(what: str | None, data: Path | None) -> Subject:
    """What a folder, a file or a name stands for. data: the images of a model that was named.

    Raises UsageError for what no job can begin with, NotHereError for a path that is not there.
    """
    if what is None:
        return _example() if data is None else _data(data)
    path = Path(what).expanduser()
    model = _model(path) if path.exists() else _timm(what)
    if model is None:
        if data is not None:
            raise UsageError(f"'{what}' is no model, and --data gives the data of one.", HINT)
        return _data(path)
    if "timm" in model or "checkpoint" in model:
        return _with_images(what, model, data)
    if data is None:
        words, texts = "Python's documentation", {"name": "python_docs"}
    else:
        subject = _data(data)
        if not subject.is_language:
            raise UsageError(f"'{what}' is a language model, and there are {subject.words}.", HINT)
        words, texts = subject.words, subject.data
    return Subject(
        f"the language model '{what}' on {words}", texts | {"tokenizer": "init", "context": 128}, model, True
    )


def _example() -> Subject:
    return Subject("sums of two handwritten digits, which come with scikit-learn", {"name": "digit_pairs"})


def _with_images(what: str, model: dict[str, Any], data: Path | None) -> Subject:
    if data is None:
        raise UsageError(
            f"'{what}' is a model for images, and a job needs some.", "Give a folder of them: --data FOLDER."
        )
    subject = _data(data)
    if subject.is_language:
        raise UsageError(f"'{what}' is a model for images, and there are {subject.words}.", HINT)
    return Subject(f"{subject.words}, beginning with '{what}'", subject.data, model, pixels=subject.pixels)


def _model(path: Path) -> dict[str, Any] | None:
    """Where weights begin that lie at a path; None where there are none."""
    if path.suffix == ".gguf":
        return {"gguf": str(path)}
    config = path / "config.json"
    if not config.is_file():
        return None
    try:
        settings = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"'{config}' cannot be read: {error}.", HINT) from error
    if not isinstance(settings, dict):
        return None
    if "elastiform" in settings or "architecture" in settings:
        return {"checkpoint": str(path)}
    return {"hf": str(path)} if "model_type" in settings or "architectures" in settings else None


def _timm(what: str) -> dict[str, Any]:
    """A model of timm by its name. Raises NotHereError for a path, UsageError for another name."""
    if what.startswith(FOREIGN):
        return {"timm": what}
    if what.startswith((".", "~")) or os.sep in what:
        raise NotHereError(f"There is no file or folder '{what}'.", HINT)
    from timm import list_models

    if what.partition(".")[0] not in list_models():
        raise UsageError(f"'{what}' is no file, no folder and no model of timm.", HINT)
    return {"timm": what}


def _data(path: Path) -> Subject:
    """The data in a folder or file. Raises UsageError for what holds none that a job can take."""
    if not path.exists():
        raise NotHereError(f"There is no file or folder '{path}'.", HINT)
    if any((path / name).exists() for name in SAVED):
        return Subject(f"a data set of Hugging Face in '{path}'", {"name": "hf", "root": str(path)})
    endings = Counter(file.suffix.lower() for file in _files(path))
    kinds = {
        "images": sum(endings[ending] for ending in IMAGES),
        "texts": sum(endings[ending] for ending in TEXTS),
        "tables": endings[".parquet"],
        "rows": endings[".arrow"],
    }
    kind = max(kinds, key=lambda name: kinds[name])
    if not kinds[kind]:
        raise UsageError(f"'{path}' holds no images, no texts and no tables of them.", HINT)
    if kind == "images":
        return _images(path)
    if kind == "texts":
        return _texts(path, [ending for ending in TEXTS if endings[ending]])
    if kind == "rows":
        return Subject(f"a data set of Hugging Face in '{path}'", {"name": "hf", "root": str(path)})
    return _tables(path)


def _files(path: Path) -> Iterator[Path]:
    """The files below a folder, as far as they are looked at; or the file itself."""
    files = [path] if path.is_file() else (one for one in path.rglob("*") if one.is_file())
    return islice(files, MOST_FILES)


def _images(path: Path) -> Subject:
    from nas.images.scan import find

    tree = find(path)
    images = [image for group in tree.groups.values() for image in group]
    pixels = _usual_pixels([image.path for image in images[:: max(1, len(images) // SAMPLED)]])
    words = f"{len(images):,} images of {len(tree.classes):,} classes in '{path}'"
    return Subject(words, {"name": "image_folder", "root": str(path)}, pixels=pixels)


def _usual_pixels(paths: list[Path]) -> int | None:
    """The median of the smaller sides; what cannot be read `nas validate` tells."""
    from PIL import Image

    sides = []
    for path in paths:
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
        except OSError:
            continue
    return int(statistics.median(sides)) if sides else None


def _texts(path: Path, endings: list[str]) -> Subject:
    patterns = [str(path)] if path.is_file() else [f"{path}/**/*{ending}" for ending in endings]
    data = {"name": "text", "files": patterns, "context": 256}
    return Subject(f"texts in '{path}'", data, is_language=True)


def _tables(path: Path) -> Subject:
    """Parquet files with images or with texts, as the columns of the first one say."""
    from pyarrow import ArrowException, parquet

    first = next(file for file in _files(path) if file.suffix.lower() == ".parquet")
    try:
        columns = parquet.read_schema(first).names
    except (OSError, ArrowException) as error:
        raise UsageError(f"'{first}' cannot be read as Parquet: {error}.", HINT) from error
    if "text" in columns and "image" not in columns:
        return _texts(path, [".parquet"])
    data = {"name": "parquet_images", "root": str(path)}
    if "image" not in columns or "label" not in columns:
        raise UsageError(
            f"'{first}' has the columns {', '.join(columns[:12])}: no `text`, or no `image` and `label`.",
            "Write the job file by hand: `image_column` and `label_column` of `data` name others.",
        )
    return Subject(f"images in Parquet files in '{path}'", data)
