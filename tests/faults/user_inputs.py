"""What a user may hand to `nas run`, by name: what is written into the job's folder, and the words for it."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from nas_process import JOB, Place

sys.path.append(str(Path(__file__).parents[1] / "nas"))
from image_trees import make_tree

IMAGES = """\
data: {name: image_folder, root: images, image_size: 16, workers: 1}
supernet: {space: {embed_dim: [8, 16], depth: [1, 2], num_heads: [1, 2], mlp_ratio: [1, 2]}}
train: {steps: 20, batch_size: 8, threads: 1}
predictor: {samples: 12, rounds: 2, max_rounds: 2}
devices: {cpu: {batch: 2}}
"""

Words = tuple[str, ...]
Case = Callable[[Place, Path], Words]  # from the job's folder and that of an extracted subnet


def with_set(*settings: str) -> Case:
    """The tiny job with settings over its file."""
    return lambda place, subnet: ("job.yaml", *(word for setting in settings for word in ("--set", setting)))


def empty_folder(place: Place, subnet: Path) -> Words:
    (place.folder / "job.yaml").write_text(IMAGES)
    (place.folder / "images").mkdir()
    return ("job.yaml",)


def corrupt_images(place: Place) -> Words:
    (place.folder / "job.yaml").write_text(IMAGES)
    for image in sorted(make_tree(place.folder / "images").glob("*/*.png")):
        image.write_bytes(image.read_bytes()[:60])
    return ("job.yaml",)


def from_subnet(spoil: Callable[[Path], None], *settings: str) -> Case:
    """A job that begins with an extracted subnet, which `spoil` changes first."""

    def prepare(place: Place, subnet: Path) -> Words:
        folder = shutil.copytree(subnet, place.folder / "subnet")
        spoil(folder)
        job = [line for line in JOB.splitlines() if not line.startswith("supernet:")]
        job.append(f"supernet: {{init: {{checkpoint: {folder}}}}}")
        (place.folder / "job.yaml").write_text("\n".join(job))
        return with_set(*settings)(place, subnet)

    return prepare


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def keep(folder: Path) -> None:
    """Nothing is spoilt."""


REFUSED: dict[str, Case] = {
    "unknown data set": with_set("data=digit"),
    "unknown option": with_set("supernet.space.embed_dims=[8]"),
    "unknown optimizer": with_set("train.optimizer=sgd"),
    "unknown schedule": with_set("train.schedule=cosin"),
    "optimizer without anything to train": with_set("train.optimizer=muon", "train.lr_scale={blocks: 0}"),
    "finalists without a step": with_set("finalists.train={steps: 0.0001}"),
    "impossible constraint": with_set('constraints=["params<=100"]'),
    "empty image folder": empty_folder,
    "missing init": with_set("supernet.init={checkpoint: nowhere}"),
    "damaged init": from_subnet(flip),
    "init of wrong sizes": from_subnet(keep, "data.name=digit_pairs"),
    "incomplete init": from_subnet(lambda folder: (folder / "model.safetensors").unlink()),
    "init without hashes": from_subnet(lambda folder: (folder / "SHA256SUMS").unlink()),
    "init beside another space": from_subnet(keep, "supernet.space.embed_dim=[8, 12]"),
}
