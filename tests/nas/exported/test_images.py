"""An image file is for `infer.py` what it is for a job: the same inputs, whatever its mode."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas import datasets
from nas.exported.folder import preprocessor
from nas.exported.images import best, input_of
from nas.images.decoding import UnreadableError

MODES = ("RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "turned")
SIZES = ((40, 30), (30, 41), (33, 33))


def content(mode: str, number: int) -> bytes:
    """A file of random pixels in the mode."""
    width, height = SIZES[number % len(SIZES)]
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 4), np.uint8)
    file = BytesIO()
    if mode == "I;16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) << 4 | 15).save(file, "PNG")
    elif mode == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels, "RGBA").convert("RGB").save(file, "JPEG", exif=exif)
    else:
        image = Image.fromarray(pixels, "RGBA")
        image = image if mode == "RGBA" else image.convert(mode)
        image.save(file, "JPEG" if mode == "CMYK" else "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"in_chans": 1}, {"image_size": [9, 14], "crop": 0.9}, {"crop": 1.0}]
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_inputs_are_those_of_the_job(tmp_path: Path, options: dict[str, Any], interpolation: str) -> None:
    for number in range(2 * 3 * len(MODES)):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(content(MODES[number % len(MODES)], number))
    data = datasets.build(
        "image_folder",
        **{"root": str(tmp_path), "image_size": 12, "report": 0.4, "interpolation": interpolation} | options,
    )
    how = preprocessor(data.preprocessing.to_dict(), data.input_shape)["elastiform"]
    expected = np.concatenate([x.numpy() for x, _ in data.batches("report", 5)])
    files = sorted(name for name, _, split, _ in data.manifest() if split == "report")
    assert len(files) > len(MODES)
    for file, x in zip(files, expected, strict=True):
        given = input_of((tmp_path / file).read_bytes(), how)[0]
        np.testing.assert_allclose(given, x, atol=2e-6, err_msg=file)


def test_what_is_no_image_is_said() -> None:
    how = preprocessor(
        {"mean": [0], "std": [1], "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"},
        (1, 8, 8),
    )["elastiform"]
    for damaged in (b"", b"text", content("RGB", 0)[:200]):
        with pytest.raises(UnreadableError):
            input_of(damaged, how)


def test_the_best_classes_come_first() -> None:
    logits = np.log(np.array([[0.2, 0.5, 0.3]]))
    assert [name for name, _ in best(logits, ["a", "b", "c"], 2)] == ["b", "c"]
    assert best(logits, None, 1) == [("1", pytest.approx(0.5))]


def test_transformers_prepares_images_nearly_the_same() -> None:
    """Its processor computes with its own rounding, and reads our file."""
    transformers = pytest.importorskip("transformers")
    how = {
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.2],
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "crop_mode": "center",
    }
    described = preprocessor(how, (3, 32, 32))
    processor = transformers.BitImageProcessor.from_dict(described)
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)).resize((60, 70))
    file = BytesIO()
    smooth.save(file, "PNG")
    theirs = np.asarray(processor(smooth, return_tensors="np")["pixel_values"])
    assert np.abs(theirs - input_of(file.getvalue(), described["elastiform"])).max() < 0.05


def test_the_files_that_go_along_need_numpy_and_pillow_only() -> None:
    code = (
        "import sys, nas.exported.images, nas.exported.texts\n"
        "print({'torch', 'torchvision', 'sqlalchemy', 'timm', 'pydantic'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
