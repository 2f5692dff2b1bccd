"""A small HTTP server over an elastic folder: each answer by the best subnet that keeps its deadline.

    nas extract JOB --elastic -o nets
    python examples/serve_elastic.py nets --port 8000 --device cpu

    curl --data-binary @photo.jpg -H 'Deadline-Ms: 8' http://127.0.0.1:8000/
    curl --data-binary 'Once upon' -H 'Deadline-Ms: 20' -H 'Tokens: 40' http://127.0.0.1:8000/

The first is for a front of image classifiers; the deadline begins when the request has arrived, and waiting
for others counts. The second is for language models, whose deadline is that of every token. It needs torch,
safetensors, NumPy and Pillow, and nothing of Elastiform. It imports what is in the folder: trust who made it.
"""

import argparse
import importlib.util
import json
import math
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

MOST_BYTES = 20_000_000  # of a request
SECONDS = 30.0  # that one may take to arrive
MOST_MS = 60_000.0
MOST_TOKENS = 1_000
BEST = 3  # classes that are told


class RequestError(Exception):
    """What is wrong with a request, in a sentence."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


class Nets:
    """The subnets of a folder, one request at a time."""

    def __init__(self, folder: Path, device: str | None, deadline_ms: float) -> None:
        self.elastic: Any = module_in(folder, "elastic").Elastic.load(folder)
        self.described = json.loads((folder / "elastic.json").read_text())
        self.adaptive = self.elastic.adapt(deadline_ms, device=device)
        self.usual_ms, self._turn = deadline_ms, threading.Lock()
        how = folder / "preprocessor_config.json"
        self.images = module_in(folder, "images") if how.exists() else None
        self.how = json.loads(how.read_text())["elastiform"] if how.exists() else None
        if self.images is None and "vocabulary" not in self.elastic.members[0]["arguments"]:
            raise ValueError("the folder does not say how image files become inputs")

    def answer(self, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
        """What the body shows, or how it goes on. Raises RequestError."""
        came = time.perf_counter()
        deadline_ms = number(headers, "Deadline-Ms", self.usual_ms, most=MOST_MS)
        if not body:
            raise RequestError("The body is empty: send an image file, or a text.")
        if self.images is not None:
            return self.classified(self.image(body), deadline_ms, came)
        count = number(headers, "Tokens", 20, most=MOST_TOKENS)
        return self.continued(self.token_ids(body), int(count), deadline_ms)

    def image(self, body: bytes) -> torch.Tensor:
        """The input that an image file becomes. Raises RequestError."""
        assert self.images is not None
        try:
            return torch.from_numpy(self.images.input_of(body, self.how))
        except (OSError, self.images.UnreadableError) as error:
            raise RequestError(f"The body is no image that can be read: {error}.") from error

    def classified(self, x: torch.Tensor, deadline_ms: float, came: float) -> dict[str, Any]:
        """The most probable classes, by the best subnet that has the time."""
        assert self.images is not None
        with self._turn:
            left_ms = deadline_ms - 1e3 * (time.perf_counter() - came)
            member = self.adaptive.member_for(left_ms)
            began = time.perf_counter()
            with torch.inference_mode():
                logits = self.elastic.use(member["key"])(x)
            self.adaptive.told(1e3 * (time.perf_counter() - began), member)
        took_ms = 1e3 * (time.perf_counter() - came)
        best = self.images.best(logits.numpy(), self.described.get("classes"), BEST)
        return {
            "classes": [{"class": name, "probability": share} for name, share in best],
            "subnet": member["key"],
            "took_ms": took_ms,
            "kept": took_ms <= deadline_ms,
        }

    def token_ids(self, body: bytes) -> torch.Tensor:
        """A text's bytes as (1, T), or a list of ids where the tokenizer is another. Raises RequestError."""
        if self.described.get("tokenizer") == "bytes":
            return torch.tensor([list(body)])
        vocabulary = self.elastic.members[0]["arguments"]["vocabulary"]
        try:
            ids = json.loads(body)
        except ValueError:
            ids = None
        good = isinstance(ids, list) and ids and all(type(i) is int and 0 <= i < vocabulary for i in ids)
        if not good:
            raise RequestError(f"The body is no JSON list of token ids below {vocabulary}.")
        return torch.tensor([ids])

    def continued(self, tokens: torch.Tensor, count: int, deadline_ms: float) -> dict[str, Any]:
        """The tokens behind these, each by the best subnet that has the time; what was read is kept."""
        decoding, made, subnets, kept = self.elastic.decode(self.adaptive.member["key"]), [], [], 0
        context = self.elastic.members[0]["arguments"]["context"]
        if tokens.shape[1] + count > context:
            raise RequestError(
                f"The text and {count} tokens behind it are more than the {context} of a text."
            )
        for _ in range(count):
            with self._turn:
                member = self.adaptive.member_for(deadline_ms)
                decoding.use(member["key"], recompute=True)
                began = time.perf_counter()
                logits = decoding(tokens)
                took_ms = 1e3 * (time.perf_counter() - began)
                if made:  # before that it is a whole text that was read
                    self.adaptive.told(took_ms, member)
            tokens = logits[:, -1:].argmax(dim=-1)
            made.append(int(tokens))
            subnets.append(member["key"])
            kept += took_ms <= deadline_ms
        is_bytes = self.described.get("tokenizer") == "bytes"
        text = bytes(made).decode(errors="replace") if is_bytes else made
        return {"text": text, "subnets": subnets, "kept": kept / count}


def module_in(folder: Path, name: str) -> ModuleType:
    """A file of the folder as a module."""
    spec = importlib.util.spec_from_file_location(f"served_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def number(headers: Mapping[str, str], name: str, usual: float, *, most: float) -> float:
    """The number in a header, above 0. Raises RequestError."""
    text = headers.get(name)
    try:
        value = usual if text is None else float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        raise RequestError(f"{name} is no number above 0 and up to {most:g}.")
    return value


class Handler(BaseHTTPRequestHandler):
    """POST: an image or a text. GET: the subnets."""

    timeout = SECONDS
    server: "NetsServer"

    def do_POST(self) -> None:
        try:
            self._send(200, self.server.nets.answer(self._body(), self.headers))
        except RequestError as error:
            self._send(error.status, {"error": str(error)})

    def do_GET(self) -> None:
        names = ("key", "quality", "params", "latency_ms")
        self._send(
            200, [{name: member[name] for name in names} for member in self.server.nets.elastic.members]
        )

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise RequestError("The request does not say its Content-Length.")
        if int(length) > MOST_BYTES:
            raise RequestError(f"The body has more than {MOST_BYTES:,} bytes.", 413)
        return self.rfile.read(int(length))

    def _send(self, status: int, document: Any) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class NetsServer(ThreadingHTTPServer):
    """Reads several requests at a time; the subnets answer one after the other."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], nets: Nets) -> None:
        super().__init__(address, Handler)
        self.nets = nets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `nas extract --elastic` wrote")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", help="whose latencies to begin with, where the front has several")
    parser.add_argument("--deadline-ms", type=float, default=50.0, help="of requests that name none")
    asked = parser.parse_args()
    try:
        nets = Nets(asked.folder, asked.device, asked.deadline_ms)
    except (OSError, KeyError, ValueError) as error:  # no such folder, no such device
        parser.error(f"'{asked.folder}' cannot be served: {error.args[-1]}")
    with NetsServer((asked.host, asked.port), nets) as server:
        print(f"http://{asked.host}:{server.server_port}/ answers by {len(nets.elastic.members)} subnets")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Stopped.")


if __name__ == "__main__":
    main()
