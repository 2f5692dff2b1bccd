"""The example server: an image or a text, answered by a subnet that keeps the deadline, or by a sentence."""

import importlib.util
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import search_spaces
import supernet
from nas.exported import elastic as writing
from nas.exported.elastic import ElasticMember, export_elastic

EXAMPLE = Path(__file__).parents[3] / "examples" / "serve_elastic.py"
CLASSES = list("abcdefghij")
IMAGES = {"mean": [0.5], "std": [0.5], "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}
VISION: dict[str, Any] = {"image_size": (8, 8), "patch_size": 4, "in_chans": 1, "num_classes": 10}
VISION |= {"embed_dim": (8, 16), "depth": (1, 2), "num_heads": (1, 2), "head_dim": 8}
LANGUAGE: dict[str, Any] = {"vocabulary": 256, "context": 32, "head_dim": 4, "embed_dim": [16]}
LANGUAGE |= {"depth": [1, 2], "num_heads": [2, 4], "mlp_hidden": [16, 32]}


def made_folder(name: str, folder: Path, **info: Any) -> Path:
    """The smallest and the largest subnet, the second one a thousand times slower as it says."""
    net = supernet.build(search_spaces.get(name, **(LANGUAGE if name == "matlm" else VISION)), seed=0).eval()
    members = [
        ElasticMember(
            arch,
            {
                "key": arch.key,
                "quality": number,
                "stderr": 0.1,
                "params": net.space.cost(arch).params,
                "macs": net.space.cost(arch).macs,
                "latency_ms": {"cpu": 1000.0**number},
            },
        )
        for number, arch in enumerate((net.space.smallest, net.space.largest))
    ]
    told = {"job": "made", "metric": "accuracy", "goal": "max", "inputs": "made inputs", **info}
    with pytest.MonkeyPatch.context() as patched:  # that outputs are right is asked elsewhere
        patched.setattr(writing, "_checked", lambda *_: 0.0)
        export_elastic(net, members, folder, example=net.example_input(3), info=told)
    return folder


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("serve_elastic", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def served(example: ModuleType, folder: Path) -> Iterator[HTTPConnection]:
    with example.NetsServer(("127.0.0.1", 0), example.Nets(folder, None, 2000.0)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        try:
            yield connection
        finally:
            connection.close()
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def images(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HTTPConnection]:
    folder = tmp_path_factory.mktemp("images") / "nets"
    made_folder("matformer", folder, classes=CLASSES, preprocessing=IMAGES)
    with served(example, folder) as connection:
        yield connection


@pytest.fixture(scope="module")
def texts(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HTTPConnection]:
    folder = tmp_path_factory.mktemp("texts") / "nets"
    made_folder("matlm", folder, tokenizer="bytes")
    with served(example, folder) as connection:
        yield connection


def post(connection: HTTPConnection, body: bytes, **headers: str) -> tuple[int, Any]:
    connection.request("POST", "/", body, {name.replace("_", "-"): text for name, text in headers.items()})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def picture() -> tuple[bytes, torch.Tensor]:
    """An image file, and the input that it has to become."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue(), (torch.from_numpy(pixels)[None, None] / 255 - 0.5) / 0.5


def test_an_image_is_classified_within_its_deadline(images: HTTPConnection) -> None:
    images.request("GET", "/")
    members = json.loads(images.getresponse().read())
    assert [member["quality"] for member in members] == [0, 1]
    net = supernet.build(search_spaces.get("matformer", **VISION), seed=0).eval()
    content, x = picture()
    for deadline, number in ((2000, 1), (50, 0)):  # the first run is the slowest, and has the time
        member, arch = members[number], (net.space.smallest, net.space.largest)[number]
        status, answer = post(images, content, Deadline_Ms=str(deadline))
        assert (status, answer["subnet"]) == (200, member["key"])
        with torch.no_grad():
            shares = net(x, arch).softmax(dim=-1)[0]
        best = shares.topk(3)
        assert [one["class"] for one in answer["classes"]] == [CLASSES[i] for i in best.indices]
        assert [one["probability"] for one in answer["classes"]] == pytest.approx(
            best.values.tolist(), abs=1e-5
        )
        assert answer["kept"] == (answer["took_ms"] <= deadline)


def test_a_text_goes_on(texts: HTTPConnection) -> None:
    status, answer = post(texts, b"abc", Deadline_Ms="100", Tokens="4")
    assert status == 200
    assert len(answer["subnets"]) == 4
    net = supernet.build(search_spaces.get("matlm", **LANGUAGE), seed=0).eval()
    ids = torch.tensor([list(b"abc")])
    with torch.no_grad():
        for _ in range(4):
            token = net(ids, net.space.smallest)[:, -1:].argmax(dim=-1)
            ids = torch.cat([ids, token], dim=1)
    assert answer["text"] == bytes(ids[0, 3:].tolist()).decode(errors="replace")


@pytest.mark.parametrize(
    ("body", "headers", "sentence"),
    [
        (b"", {}, "The body is empty: send an image file, or a text."),
        (b"no image", {}, "The body is no image that can be read"),
        (b"x", {"Deadline_Ms": "soon"}, "Deadline-Ms is no number above 0 and up to 60000."),
        (b"x", {"Deadline_Ms": "-1"}, "Deadline-Ms is no number above 0 and up to 60000."),
        (b"x", {"Deadline_Ms": "nan"}, "Deadline-Ms is no number above 0 and up to 60000."),
        (b"x", {"Content_Length": "many"}, "The request does not say its Content-Length."),
    ],
)
def test_a_bad_request_gets_a_sentence(
    body: bytes, headers: dict[str, str], sentence: str, images: HTTPConnection
) -> None:
    status, answer = post(images, body, **headers)
    images.close()  # what was not read of it is gone
    assert status == 400
    assert answer["error"].startswith(sentence)


def test_a_text_that_is_too_long_gets_a_sentence(texts: HTTPConnection) -> None:
    assert post(texts, b"a" * 20, Tokens="13") == (
        400,
        {"error": "The text and 13 tokens behind it are more than the 32 of a text."},
    )
    assert post(texts, b"a", Tokens="0")[0] == 400


def test_a_large_body_is_refused_before_it_is_read(images: HTTPConnection) -> None:
    assert post(images, b"x", Content_Length="20000001")[0] == 413
    images.close()
