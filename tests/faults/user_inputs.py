"""What a user may hand to `nas`, by name: each is run once, in the background, and then judged by a test."""

import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from nas_process import JOB, Place, Ran, make_place

sys.path.append(str(Path(__file__).parents[1] / "nas"))
from image_trees import make_tree

IMAGES = """\
data: {name: image_folder, root: images, image_size: 16, workers: 1}
supernet: {space: {embed_dim: [8, 16], depth: [1, 2], num_heads: [1, 2], mlp_ratio: [1, 2]}}
train: {steps: 20, batch_size: 8, threads: 1}
predictor: {samples: 12, rounds: 2, max_rounds: 2}
devices: {cpu: {batch: 2}}
"""

Case = Callable[[Place], Ran]


def with_set(*settings: str) -> Case:
    """The tiny job with settings over its file."""
    options = [word for setting in settings for word in ("--set", setting)]
    return lambda place: place.nas("run", "job.yaml", *options)


def empty_folder(place: Place) -> Ran:
    (place.folder / "job.yaml").write_text(IMAGES)
    (place.folder / "images").mkdir()
    return place.nas("run", "job.yaml")


def corrupt_image(place: Place) -> Ran:
    (place.folder / "job.yaml").write_text(IMAGES)
    for image in sorted(make_tree(place.folder / "images").glob("*/*.png")):
        image.write_bytes(image.read_bytes()[:60])
    return place.nas("run", "job.yaml")


def changed_data(place: Place) -> Ran:
    """A new image comes between the start of a job and its resume."""
    corrupt_image(place)
    shutil.copyfile(place.folder / "images" / "ant" / "1.png", place.folder / "images" / "ant" / "new.png")
    return place.nas("resume", "job")


def from_subnet(spoil: Callable[[Path], None], *settings: str) -> Case:
    """A job that begins with an extracted subnet, which `spoil` changes first."""

    def run(place: Place) -> Ran:
        folder = place.folder / "subnet"
        shutil.copytree(place.folder.parent / "subnet", folder)
        spoil(folder)
        job = [line for line in JOB.splitlines() if not line.startswith("supernet:")]
        job.append(f"supernet: {{init: {{checkpoint: {folder}}}}}")
        (place.folder / "job.yaml").write_text("\n".join(job))
        return with_set(*settings)(place)

    return run


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def keep(folder: Path) -> None:
    """Nothing is spoilt."""


REFUSED: dict[str, Case] = {
    "unknown data set": with_set("data=digit"),
    "unknown option": with_set("supernet.space.embed_dims=[8]"),
    "impossible constraint": with_set('constraints=["params<=100"]'),
    "empty image folder": empty_folder,
    "missing init": with_set("supernet.init={checkpoint: nowhere}"),
}
REFUSED_TOO: dict[str, Case] = {
    "damaged init": from_subnet(flip),
    "init of wrong sizes": from_subnet(keep, "data.name=digit_pairs"),
    "incomplete init": from_subnet(lambda folder: (folder / "model.safetensors").unlink()),
    "init without hashes": from_subnet(lambda folder: (folder / "SHA256SUMS").unlink()),
    "init beside another space": from_subnet(keep, "supernet.space.embed_dim=[8, 12]"),
}
FAILED: dict[str, Case] = {
    "NaN loss": with_set("train.lr=1e38"),
    "impossible latency": with_set('constraints=["latency_ms<=0.0001"]'),
    "changed data": changed_data,
}
CASES = REFUSED | REFUSED_TOO | FAILED | {"corrupt image": corrupt_image}


def prepared(finished: Place, folder: Path, wanted: Iterable[str]) -> Path:
    """The folder of all cases, with an extracted subnet where a case wants one."""
    if REFUSED_TOO.keys() & set(wanted):
        smallest = finished.query("SELECT key FROM subnets ORDER BY params LIMIT 1")[0][0]
        ran = finished.nas("extract", "job", "--subnet", smallest, "-o", folder / "subnet")
        assert ran.code == 0, ran.err
    return folder


def place_of(folder: Path, case: str) -> Place:
    """Where a case runs."""
    return make_place(folder / case.replace(" ", "_"))
