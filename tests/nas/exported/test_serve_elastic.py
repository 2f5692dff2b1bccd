"""The example server: an image or a text, answered by a subnet that keeps the deadline, or by a sentence."""

import importlib.util
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType, SimpleNamespace
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


# -- chat completions, by a plain HTTP client --


def chat(connection: HTTPConnection, *, deadline: str = "100", **said: Any) -> tuple[int, Any]:
    """What a chat completion is answered with; a stream as the documents of its events."""
    body = json.dumps({"messages": [{"role": "user", "content": "abc"}]} | said)
    headers = {"Content-Type": "application/json", "Deadline-Ms": deadline}
    connection.request("POST", "/v1/chat/completions", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.getheader("Content-Type") != "text/event-stream":
        return answer.status, json.loads(content)
    *events, last, rest = content.decode().split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return answer.status, [json.loads(event.removeprefix("data: ")) for event in events]


def greedy(subnet: str, ids: list[int], count: int) -> list[int]:
    """The most probable tokens behind these, by the subnet that is called so."""
    net = supernet.build(search_spaces.get("matlm", **LANGUAGE), seed=0).eval()
    arch = {one.key: one for one in (net.space.smallest, net.space.largest)}[subnet]
    text = torch.tensor([ids])
    with torch.no_grad():
        for _ in range(count):
            text = torch.cat([text, net(text, arch)[:, -1:].argmax(dim=-1)], dim=1)
    return [int(token) for token in text[0, len(ids) :]]


def test_the_models_are_the_subnets(texts: HTTPConnection) -> None:
    texts.request("GET", "/v1/models")
    listed = json.loads(texts.getresponse().read())
    texts.request("GET", "/")
    members = json.loads(texts.getresponse().read())
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["auto", *(one["key"] for one in members)]
    assert {model["object"] for model in listed["data"]} == {"model"}


@pytest.mark.parametrize("number", [0, 1])
def test_a_chat_is_answered_by_the_model_that_it_names(texts: HTTPConnection, number: int) -> None:
    texts.request("GET", "/")
    key = json.loads(texts.getresponse().read())[number]["key"]
    status, answer = chat(texts, model=key, max_tokens=5)
    tokens = greedy(key, [0, *b"abc"], 5)  # 0 stands before every text
    (choice,) = answer["choices"]
    assert (status, answer["object"], answer["model"]) == (200, "chat.completion", key)
    assert choice["message"] == {"role": "assistant", "content": bytes(tokens).decode(errors="replace")}
    assert choice["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}
    assert answer["subnets"] == [key] * 5
    parts = [{"role": "system", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}]
    usage = chat(texts, model=key, messages=parts, max_completion_tokens=2)[1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (4, 2)  # contents are lines


def test_a_stream_says_the_same_piece_by_piece(texts: HTTPConnection) -> None:
    asked = {"model": "auto", "max_tokens": 6, "temperature": 0.0}
    whole = chat(texts, **asked)[1]
    status, events = chat(texts, **asked, stream=True, stream_options={"include_usage": True})
    *pieces, usage = events
    deltas = [event["choices"][0]["delta"] for event in pieces]
    assert status == 200
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    assert deltas[0] == {"role": "assistant", "content": ""}
    said = "".join(delta.get("content", "") for delta in deltas)
    assert said == whole["choices"][0]["message"]["content"]
    assert [event["choices"][0]["finish_reason"] for event in pieces] == [None] * (len(pieces) - 1) + [
        "length"
    ]
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])
    assert all("usage" not in event for event in chat(texts, **asked, stream=True)[1])
    stop = said[1:3]
    stopped = chat(texts, **asked, stop=stop)[1]["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == (said[: said.find(stop)], "stop")


@pytest.mark.parametrize(
    ("said", "status", "about", "sentence"),
    [
        ({"messages": []}, 400, "messages", "messages is no list with a message."),
        (
            {"messages": [{"role": "user", "content": ""}]},
            400,
            "messages",
            "There is no text to be continued.",
        ),
        ({"messages": [{"role": "king", "content": "a"}]}, 400, "messages", "A message has a role"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            400,
            "messages",
            "The content of a message is a text",
        ),
        ({"messages": [{"role": "user", "content": "a" * 40}]}, 400, None, "The text and 1 tokens behind it"),
        ({"max_tokens": 29}, 400, None, "The text and 29 tokens behind it are more than the 32 of a text."),
        ({"max_tokens": 0}, 400, "max_tokens", "max_tokens is no number from 1 to 1000."),
        ({"max_tokens": 29, "stream": True}, 400, None, "The text and 29 tokens behind it"),
        ({"model": "gpt"}, 404, "model", "There is no model 'gpt'"),
        ({"temperature": 0.7}, 400, "temperature", "temperature can only be 0 here"),
        ({"n": 2}, 400, "n", "n can only be 1 here"),
        ({"stop": [1]}, 400, "stop", "stop is a text, or a list of texts."),
        ({"stream": "yes"}, 400, "stream", "stream is true or false"),
    ],
)
def test_a_bad_chat_gets_a_sentence(
    said: dict[str, Any], status: int, about: str | None, sentence: str, texts: HTTPConnection
) -> None:
    code, answer = chat(texts, **said)
    assert code == status
    error = answer["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", about)
    assert error["message"].startswith(sentence)


def test_what_else_is_no_chat(texts: HTTPConnection, images: HTTPConnection) -> None:
    texts.request("POST", "/v1/chat/completions", b"[]")
    answer = texts.getresponse()
    assert (answer.status, json.loads(answer.read())["error"]["message"]) == (
        400,
        "The body is no JSON object.",
    )
    texts.request("POST", "/v1/embeddings", b"{}")
    answer = texts.getresponse()
    assert (answer.status, "no '/v1/embeddings' here" in answer.read().decode()) == (404, True)
    texts.close()  # what was not read of it is gone
    assert chat(images)[1]["error"]["message"] == "These networks take images: there is no chat with them."


def test_turns_are_as_the_tokenizer_has_them(example: ModuleType, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[UNK]", "<|im_start|>", "<|im_end|>", "user", "assistant", "hello", "you"]
    read = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    read.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    read.add_special_tokens(words[1:3])
    folder = made_folder("matlm", tmp_path / "nets", tokenizer_json=read.to_str(), begin=0)
    assert "tokenizer_json" not in json.loads((folder / "elastic.json").read_text())
    nets = example.Nets(folder, None, 2000.0)
    assert nets.tokens.of_messages([{"role": "user", "content": "hello you"}]) == [1, 3, 5, 6, 2, 1, 4]
    asked = example.Asked(torch.tensor([[1]]), 4, "auto", (), False, False)
    made = [example.Made(token, "it", True) for token in (5, 6, 2, 5)]
    ends = SimpleNamespace(tokens=nets.tokens, following=lambda *_, **__: iter(made))
    *_, last = answer = list(example.pieces(ends, asked, 100.0))
    assert ("".join(one.text for one in answer), last.ended) == ("hello you", "stop")
    assert example.usage(asked, last.made)["completion_tokens"] == 3


def test_text_is_held_back_until_it_is_certain(example: ModuleType) -> None:
    assert example.certain("ab\ufffd", ()) == "ab"  # a character of which bytes are missing
    assert example.certain("abE", ("END",)) == "ab"
    assert example.certain("abEN", ("END", "b")) == "ab"
    assert example.certain("abX", ("END",)) == "abX"


def test_a_large_body_is_refused_before_it_is_read(images: HTTPConnection) -> None:
    assert post(images, b"x", Content_Length="20000001")[0] == 413
    images.close()
