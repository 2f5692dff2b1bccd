"""Images of awkward kinds: what the values of their pixels become."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from image_trees import save
from PIL import Image

from nas.datasets import image_folder
from nas.images.decoding import UnreadableError
from nas.images.files import decoded
from nas.images.sets.image_set import crop_box
from search_spaces.errors import UsageError

EXACT = {"mean": (0, 0, 0), "std": (1, 1, 1), "augmentation": "none", "report": 0.3}
RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def build(
    root: Path, make: Callable[[int], Image.Image], ending: str = ".png", **options: object
) -> torch.Tensor:
    """The reported images, of classes of three, of which `make` makes number 0 to 5; no two may be equal."""
    for i in range(6):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        make(i).save(root / "ab"[i % 2] / f"{i}{ending}")
    dataset = image_folder.build(**({"root": str(root), "image_size": 8} | EXACT | options))
    return torch.cat([images for images, _ in dataset.batches("report", 9)])


def padded(values: np.ndarray, i: int) -> Image.Image:
    """An image whose centre is the values; others with another width have the same centre."""
    return Image.fromarray(np.pad(values, ((0, 0), (i, i))))


@pytest.mark.parametrize(
    ("values", "ending"),
    [
        (RAMP.astype(np.uint16) << 8, ".png"),
        (RAMP.astype(np.uint16) << 4, ".png"),  # 12 bits in 16
        (RAMP.astype(np.uint16), ".png"),  # 8 bits in 16
        (RAMP.astype(np.int32) << 8, ".tif"),
        (RAMP.astype(np.int32), ".tif"),
        (RAMP.astype(np.float32) / 255, ".tif"),
        (RAMP.astype(np.float32), ".tif"),
    ],
)
def test_values_are_scaled_by_the_range_of_the_data(tmp_path, values: np.ndarray, ending: str) -> None:
    if values.dtype == np.uint16 and values.max() < 4096:
        values = values | 1  # fills the low bits, too
    built = build(tmp_path, lambda i: padded(values, i), ending)
    expected = torch.from_numpy(RAMP / 255).float().expand_as(built)
    torch.testing.assert_close(built, expected, atol=1.01 / 255, rtol=0)


def test_a_dark_image_stays_darker_than_a_light_one(tmp_path) -> None:
    built = build(tmp_path, lambda i: padded(RAMP.astype(np.uint16) << 4 | 1, i) if i % 2 else dark(i))
    assert built[0].max() < 0.1 < built[1].max()


def dark(i: int) -> Image.Image:
    return padded(RAMP.astype(np.uint16) | 1, i)


def test_a_pgm_of_sixteen_bits_has_the_range_that_it_names(tmp_path) -> None:
    for i in range(6):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        values = np.pad(RAMP.astype(np.uint16) << 4, ((0, 0), (i, i))).astype(">u2")
        header = f"P5 {values.shape[1]} {values.shape[0]} 4095\n".encode()
        (tmp_path / "ab"[i % 2] / f"{i}.pgm").write_bytes(header + values.tobytes())
    dataset = image_folder.build(root=str(tmp_path), image_size=8, **EXACT)
    pixels = torch.cat([images for images, _ in dataset.batches("report", 9)])
    torch.testing.assert_close(
        pixels, torch.from_numpy(RAMP / 255).float().expand_as(pixels), atol=2 / 255, rtol=0
    )


def test_an_image_is_oriented_as_it_says(tmp_path) -> None:
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(
        np.asarray(decoded(tmp_path / "turned.png"))[..., 0], np.rot90(np.asarray(image), -1)
    )


@pytest.mark.parametrize(("background", "expected"), [("white", 1.0), ("black", 0.0), ([0, 51, 0], 0.0)])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_shows_the_background(tmp_path, background, expected: float, mode: str) -> None:
    built = build(tmp_path, lambda i: Image.new("RGBA", (8 + i, 8)).convert(mode), background=background)
    assert built[:, 0].unique().tolist() == [expected]


def test_a_grey_value_of_sixteen_bits_may_be_transparent(tmp_path) -> None:
    values = RAMP.astype(np.uint16) << 8
    Image.fromarray(values).save(tmp_path / "clear.png", transparency=0)
    grey = np.asarray(decoded(tmp_path / "clear.png"))[..., 0]
    assert grey[0, 0] == 255
    assert np.array_equal(grey.ravel()[1:], RAMP.ravel()[1:])


def test_sixteen_bits_with_a_sign_have_fifteen(tmp_path) -> None:
    Image.fromarray(RAMP.astype(np.uint16) << 7).save(tmp_path / "signed.tif", tiffinfo={339: 2})
    assert np.array_equal(np.asarray(decoded(tmp_path / "signed.tif"))[..., 0], RAMP)


@pytest.mark.parametrize(
    "make",
    [
        lambda i: RAMP.astype(np.uint16) << (8 if i else 4) | 1,  # 12 bits among 16
        lambda i: RAMP.astype(np.float32) / (1 if i else 255),
    ],
)
def test_images_of_another_range_than_the_others_are_named(tmp_path, make) -> None:
    for i in range(8):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        padded(make(i), i).save(tmp_path / "ab"[i % 2] / f"{i}.tif")
    notes = image_folder.build(root=str(tmp_path), image_size=8, **EXACT).facts["notes"]
    assert len(notes) == 1
    assert notes[0].startswith("1 images have values of a much smaller range")
    assert "'a/0.tif'" in notes[0]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[0, np.nan]], dtype=np.float32), "no finite numbers"),
        (np.array([[0, np.inf]], dtype=np.float32), "no finite numbers"),
        (np.array([[-1, 1]], dtype=np.float32), "from -1 to 1"),
        (np.array([[0, 1000]], dtype=np.float32), "from 0 to 1000"),
        (np.array([[-5, 7]], dtype=np.int32), "negative values"),
    ],
)
def test_values_without_a_range_are_refused(tmp_path, values: np.ndarray, reason: str) -> None:
    Image.fromarray(values).save(tmp_path / "odd.tif")
    with pytest.raises(UnreadableError, match=reason):
        decoded(tmp_path / "odd.tif")


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "1", "L", "P"])
def test_other_modes_are_read(tmp_path, mode: str) -> None:
    ending = {"CMYK": ".jpg", "YCbCr": ".jpg"}.get(mode, ".png")
    save(tmp_path / f"it{ending}", seed=0, mode=mode)
    assert decoded(tmp_path / f"it{ending}").mode == "RGB"


def test_a_program_that_is_called_an_image_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given, **named: pytest.fail("it was run"))
    with pytest.raises(UnreadableError, match="no image that is known"):
        decoded(path)


def test_the_first_frame_of_an_animation_is_read(tmp_path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "it.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert decoded(tmp_path / "it.webp").getpixel((0, 0)) == (255, 0, 0)


def test_images_may_be_rectangles(tmp_path) -> None:
    image = np.zeros((20, 20, 3), dtype=np.uint8)
    image[5:15] = 255

    def marked(i: int) -> Image.Image:
        return Image.fromarray(np.where(np.arange(20)[:, None, None] == 0, np.uint8(i), image))

    built = build(tmp_path, marked, image_size=[8, 16])
    assert built.shape == (2, 3, 8, 16)
    assert built.min() == 1  # the largest box of twice the width is the white middle
    dataset = image_folder.build(root=str(tmp_path), image_size=(16, 8))
    assert dataset.input_shape == (3, 16, 8)
    assert dataset.train_batch(0, 0, 4)[0].shape == (4, 3, 16, 8)


@pytest.mark.parametrize("shape", [(1, 1), (8, 16), (16, 8)])
def test_crops_have_about_the_proportions_of_the_input(shape: tuple[int, int]) -> None:
    draws = torch.rand(100, 10, 4, generator=torch.Generator().manual_seed(0)).tolist()
    for draw in draws:
        _, _, h, w = crop_box(400, 400, draw, shape=shape)
        assert (h, w) == (400, 400) or 0.7 < (w / h) / (shape[1] / shape[0]) < 1.4


def test_images_may_have_one_channel(tmp_path) -> None:
    built = build(tmp_path, lambda i: Image.new("RGB", (8 + i, 8), (0, 255, 0)), in_chans=1)
    assert built.shape == (2, 1, 8, 8)
    torch.testing.assert_close(built, torch.full_like(built, 150 / 255), atol=1 / 255, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": [8]},
        {"image_size": [8, 0]},
        {"in_chans": 2},
        {"in_chans": True},
        {"background": "whitish"},
        {"background": [0, 0, 300]},
        {"on_bad_image": "ignore"},
        {"on_equal_images": 1},
        {"skipped": "a"},
    ],
)
def test_a_wrong_option_is_named(tmp_path, options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(options)).replace("image_size", "(image_size|width)")):
        image_folder.build(root=str(tmp_path), **options)
