"""Images a second that processes prepare, ours against timm's loader: the same files, transforms, processes.

    python benchmarks/input.py [--images 480] [--batch 48] [--rounds 7] [--workers 2] [--alone] [--decoders]

Made JPEGs of 500x375 pixels become batches of 224x224. Both loaders live through the whole run and take turns
in every round, when neither works any more: first as many batches as they may have prepared, which do not
count, then those that do. Printed are medians over the rounds of images a second, of images per
second of CPU time of the processes, and of the ratios within rounds with their quartiles. Then the share of
time that steps of a ViT-Ti waited for their batches. With --alone: CPU time an image in one process, without
loaders. With --decoders: how long an image takes, decoded by Pillow and by torchvision.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import timm
import torch
from PIL import Image
from timm.data.dataset_factory import create_dataset
from timm.data.loader import create_loader
from timm.data.transforms_factory import create_transform
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from nas import datasets
from nas.images.decoding import Scale, image_of
from nas.training.loading import AHEAD, loading

SIDE = 224
BILINEAR = InterpolationMode.BILINEAR
CLASSES = 4
CPU = torch.device("cpu")
SLACK = 0.05  # seconds of CPU that looking takes
# DeiT has m9, at which timm may posterize to no bits: Pillow refuses that, and timm's loader ends with it.
DEIT = {"auto_augment": "rand-m5-mstd0.5-inc1", "re_prob": 0.25}
# What it is called, our option, timm's arguments.
TRANSFORMS: list[tuple[str, Any, dict[str, Any]]] = [
    ("crop, flip; our own", "crop", {}),
    ("crop, flip; by timm", {}, {}),
    ("RandAugment, erasing", DEIT, DEIT),
]


def make_images(root: Path, count: int) -> Path:
    """JPEGs of random textures, about as large as photographs of that size."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(int)
        pixels = (pixels + rng.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
        path = root / f"class{number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
    return root


def timms(root: Path, batch: int, workers: int, options: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Batches of timm's loader without end."""
    loader = create_loader(
        create_dataset("", root=str(root)),
        (3, SIDE, SIDE),
        batch,
        is_training=True,
        color_jitter=None,
        num_workers=workers,
        use_prefetcher=False,
        use_multi_epochs_loader=True,
        device=CPU,
        **options,
    )
    while True:
        for images, _ in loader:
            yield images


def ours(batches: Any) -> Iterator[torch.Tensor]:
    number = 0
    while True:
        yield batches(number)[0]
        number += 1


def processes() -> dict[int, float]:
    """CPU seconds of this process, which may normalise, and of each that it has started."""
    seconds = {}
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        times = process.cpu_times()
        seconds[process.pid] = times.user + times.system
    return seconds


def settle() -> None:
    """Waits until the processes of both loaders have prepared all they may."""
    seconds = -1.0
    while (now := sum(processes().values())) > seconds + SLACK:
        seconds = now
        time.sleep(0.2)


def rate(take: Callable[[], torch.Tensor], idle: int, counted: int, batch: int) -> tuple[float, float]:
    """Images a second, and per second of CPU time."""
    settle()
    for _ in range(idle):
        take()
    before, began = processes(), time.perf_counter()
    for _ in range(counted):
        take()
    elapsed, after = time.perf_counter() - began, processes()
    cpu = sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
    return counted * batch / elapsed, counted * batch / cpu


def compare(
    root: Path, arguments: argparse.Namespace, option: Any, theirs: dict[str, Any]
) -> list[list[float]]:
    """For every round: our images a second, timm's, ours per CPU second, timm's."""
    data = datasets.build("image_folder", root=str(root), image_size=SIDE, augmentation=option)
    workers, batch = arguments.workers, arguments.batch
    idle = AHEAD * workers + 1
    with ExitStack() as stack:
        batches = stack.enter_context(loading(data, 0, batch, CPU, processes=workers))
        one, other = ours(batches), timms(root, batch, workers, theirs)
        next(one), next(other)  # processes have started
        rounds = []
        for turn in range(arguments.rounds):
            pair = [one, other] if turn % 2 == 0 else [other, one]
            rates = {id(each): rate(each.__next__, idle, arguments.counted, batch) for each in pair}
            mine, timm_rate = rates[id(one)], rates[id(other)]
            rounds.append([mine[0], timm_rate[0], mine[1], timm_rate[1]])
    return rounds


def row(name: str, rounds: list[list[float]]) -> str:
    columns = [statistics.median(column) for column in zip(*rounds, strict=True)]
    cells = [f"{value:.0f}" for value in columns]
    for first in (0, 2):
        ratios = [one[first] / one[first + 1] for one in rounds]
        low, middle, high = statistics.quantiles(ratios, n=4)
        cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
    return f"| {name} | {' | '.join(cells)} |"


def waited(root: Path, workers: int, batch: int, steps: int) -> float:
    """The share of time in which steps of a ViT-Ti on one thread waited, without the first batch."""
    data = datasets.build("image_folder", root=str(root), image_size=SIDE, augmentation=DEIT)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    with loading(data, 0, batch, CPU, processes=workers) as batches:
        batches(0)
        before, began = batches.waited, time.perf_counter()
        for number in range(1, steps + 1):
            images, labels = batches(number)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
        return (batches.waited - before) / (time.perf_counter() - began)


def decoders(root: Path) -> str:
    """CPU milliseconds an image, from the file's bytes to the resized image, and how far pixels differ."""
    contents = [path.read_bytes() for path in sorted(root.rglob("*.jpg"))[:48]]
    scale, size = Scale(mode="RGB"), [SIDE]

    def by_pillow(content: bytes) -> torch.Tensor:
        return image_of(content, scale)

    def pillow_resized(content: bytes) -> torch.Tensor:
        return F.pil_to_tensor(F.resize(by_pillow(content), size, interpolation=BILINEAR))

    def by_torchvision(content: bytes) -> torch.Tensor:
        return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)

    def for_pillow(content: bytes) -> torch.Tensor:
        image = Image.fromarray(by_torchvision(content).permute(1, 2, 0).numpy())
        return F.pil_to_tensor(F.resize(image, size, interpolation=BILINEAR))

    def torchvision_resized(content: bytes) -> torch.Tensor:
        return F.resize(by_torchvision(content), size, interpolation=BILINEAR, antialias=True)

    ways = [by_pillow, by_torchvision, pillow_resized, for_pillow, torchvision_resized]
    times: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for _ in range(5):
        for way in ways:
            began = time.process_time()
            for content in contents:
                way(content)
            times[way.__name__].append(1000 * (time.process_time() - began) / len(contents))
    lines = ["| way | ms an image | largest difference to Pillow |", "|---|---|---|"]
    for way in ways:
        low, middle, high = statistics.quantiles(times[way.__name__], n=4)
        reference = by_pillow if way in ways[:2] else pillow_resized
        far = max(largest_difference(way(one), reference(one)) for one in contents)
        lines.append(f"| {way.__name__} | {middle:.2f} ({low:.2f} to {high:.2f}) | {far} |")
    return "\n".join(lines)


def alone(root: Path, option: Any, theirs: dict[str, Any], batch: int) -> list[float]:
    """CPU milliseconds an image that this process takes: ours, timm's; for every round timm's over ours."""
    data = datasets.build("image_folder", root=str(root), image_size=SIDE, augmentation=option, workers=1)
    transform = create_transform(
        SIDE, is_training=True, color_jitter=None, interpolation="bilinear", **theirs
    )
    files: Any = create_dataset("", root=str(root))
    files.transform = transform
    times: list[tuple[float, float]] = []
    for turn in range(21):
        began = time.process_time()
        data.train_batch(0, turn, batch)
        middle = time.process_time()
        torch.stack([files[(turn * batch + place) % len(files)][0] for place in range(batch)])
        times.append((middle - began, time.process_time() - middle))
    mine, timm_time = (1000 * statistics.median(column) / batch for column in zip(*times, strict=True))
    return [mine, timm_time, *statistics.quantiles([two / one for one, two in times], n=4)]


def largest_difference(one: Any, other: Any) -> int:
    tensors = [each if isinstance(each, torch.Tensor) else F.pil_to_tensor(each) for each in (one, other)]
    return int((tensors[0].int() - tensors[1].int()).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("images", 480), ("batch", 48), ("rounds", 7), ("workers", 2), ("counted", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--decoders", action="store_true")
    parser.add_argument("--alone", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = make_images(Path(folder), arguments.images)
        if arguments.decoders:
            print(decoders(root))
            return
        if arguments.alone:
            print("| transforms | ours, ms | timm, ms | timm/ours |\n|---|---|---|---|")
            for name, option, theirs in TRANSFORMS:
                mine, other, low, middle, high = alone(root, option, theirs, arguments.batch)
                ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
                print(f"| {name} | {mine:.2f} | {other:.2f} | {ratio} |", flush=True)
            return
        print("| transforms | ours/s | timm/s | ours/CPU s | timm/CPU s | ratio | ratio of CPU time |")
        print("|---|---|---|---|---|---|---|")
        for name, option, theirs in TRANSFORMS:
            print(row(name, compare(root, arguments, option, theirs)), flush=True)
        share = waited(root, arguments.workers, 16, arguments.steps)
        print(f"\nSteps of a ViT-Ti on 16 images waited {share:.1%} of the time.")


if __name__ == "__main__":
    main()
