"""A small HTTP server over an elastic folder: each answer by the best subnet that keeps its deadline.

    nas extract JOB --elastic -o nets
    python examples/serve_elastic.py nets --port 8000 --device cpu

    curl --data-binary @photo.jpg -H 'Deadline-Ms: 8' http://127.0.0.1:8000/
    curl --data-binary 'Once upon' -H 'Deadline-Ms: 20' -H 'Tokens: 40' http://127.0.0.1:8000/
    curl http://127.0.0.1:8000/v1/models
    curl http://127.0.0.1:8000/v1/chat/completions -H 'Deadline-Ms: 20' -H 'Content-Type: application/json' \\
      -d '{"model": "auto", "messages": [{"role": "user", "content": "Once upon"}], "max_tokens": 40}'

The first is for a front of image classifiers; the deadline begins when the request has arrived, and waiting
for others counts. The others are for language models, whose deadline is that of every token: between two of
them the subnet may be another, and what was read is kept. The last speaks the usual shape of chat
completions, with `stream`, too; `model` is the key of a subnet, or `auto` for the best that keeps the
deadline, and the most probable token is chosen, always.

It needs torch, safetensors, NumPy and Pillow, for other tokens than bytes the package tokenizers, and nothing
of Elastiform. It imports what is in the folder: trust who made it.
"""

import argparse
import importlib.util
import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
AUTO = "auto"  # the model that is the best subnet within the deadline
CHAT, MODELS = "/v1/chat/completions", "/v1/models"
USUAL_TOKENS = 128
TURN_BEGINS, TURN_ENDS = "<|im_start|>", "<|im_end|>"  # of a tokenizer that knows turns
UNFINISHED = "\ufffd"  # at the end of a text: the token behind it has the rest of a character
# Settings of a chat completion that are the same for all of them, and what they may be.
FIXED: Mapping[str, tuple[Any, ...]] = {"n": (1,), "temperature": (0,), "top_p": (1,), "logprobs": (False,)}


class RequestError(Exception):
    """What is wrong with a request, in a sentence."""

    def __init__(
        self, sentence: str, status: int = 400, *, about: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(sentence)
        self.status, self.about, self.code = status, about, code


@dataclass(frozen=True)
class Tokens:
    """How texts become tokens and tokens become text; `begin` stands before a text, `end` ends a turn."""

    of: Callable[[str], list[int]]
    text: Callable[[Sequence[int]], str]
    begin: int | None = None
    end: int | None = None

    @classmethod
    def in_folder(cls, folder: Path, described: Mapping[str, Any]) -> "Tokens | None":
        """Of bytes, or as `tokenizer.json` has them; None where the folder says neither."""
        if described.get("tokenizer") == "bytes":
            return cls(
                lambda text: list(text.encode()), lambda ids: bytes(ids).decode(errors="replace"), begin=0
            )
        if not (folder / "tokenizer.json").exists():
            return None
        import tokenizers  # noqa: PLC0415 - for such folders alone

        read = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(
            lambda text: list(read.encode(text, add_special_tokens=False).ids),
            lambda ids: str(read.decode(list(ids))),
            begin=described.get("begin"),
            end=read.token_to_id(TURN_ENDS) if read.token_to_id(TURN_BEGINS) is not None else None,
        )

    def of_messages(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """A chat up to where the answer begins; without turns the contents, one a line, to be continued."""
        if self.end is None:
            text = "\n".join(message["content"] for message in messages)
            return [] if not text else [*([] if self.begin is None else [self.begin]), *self.of(text)]
        turns = [f"{TURN_BEGINS}{one['role']}\n{one['content']}{TURN_ENDS}\n" for one in messages]
        return self.of("".join([*turns, f"{TURN_BEGINS}assistant\n"]))


@dataclass(frozen=True)
class Made:
    """A token, who has made it, and whether in time."""

    token: int
    subnet: str
    kept: bool


class Nets:
    """The subnets of a folder, one request at a time."""

    def __init__(self, folder: Path, device: str | None, deadline_ms: float) -> None:
        self.elastic: Any = module_in(folder, "elastic").Elastic.load(folder)
        self.described = json.loads((folder / "elastic.json").read_text())
        self.adaptive = self.elastic.adapt(deadline_ms, device=device)
        self.usual_ms, self._turn = deadline_ms, threading.Lock()
        how = folder / "preprocessor_config.json"
        self.tokens = Tokens.in_folder(folder, self.described)
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
        made = list(self.following(tokens, count, deadline_ms))
        ids = [one.token for one in made]
        is_bytes = self.described.get("tokenizer") == "bytes"
        return {
            "text": bytes(ids).decode(errors="replace") if is_bytes else ids,
            "subnets": [one.subnet for one in made],
            "kept": sum(one.kept for one in made) / count,
        }

    def following(
        self, tokens: torch.Tensor, count: int, deadline_ms: float, *, key: str | None = None
    ) -> Iterator[Made]:
        """`count` tokens behind these (1, T), each when it is made. key: of the only subnet that makes them.

        Raises RequestError before the first where there is no room for them.
        """
        context = self.elastic.members[0]["arguments"]["context"]
        if tokens.shape[1] + count > context:
            raise RequestError(
                f"The text and {count} tokens behind it are more than the {context} of a text.",
                code="context_length_exceeded",
            )
        return self._following(tokens, count, deadline_ms, key)

    def _following(
        self, tokens: torch.Tensor, count: int, deadline_ms: float, key: str | None
    ) -> Iterator[Made]:
        decoding = self.elastic.decode(key or self.adaptive.member["key"])
        for number in range(count):
            with self._turn:
                member = decoding.member if key else self.adaptive.member_for(deadline_ms)
                decoding.use(member["key"], recompute=True)
                began = time.perf_counter()
                logits = decoding(tokens)
                took_ms = 1e3 * (time.perf_counter() - began)
                if number:  # before that it is a whole text that was read
                    self.adaptive.told(took_ms, member)
            tokens = logits[:, -1:].argmax(dim=-1)
            yield Made(int(tokens), member["key"], took_ms <= deadline_ms)


# -- chat completions --


@dataclass(frozen=True)
class Asked:
    """A chat completion: token ids (1, T), how many follow, by which model (AUTO: any), how it is told."""

    ids: torch.Tensor
    count: int
    model: str
    stops: tuple[str, ...]
    stream: bool
    with_usage: bool


def asked_of(nets: Nets, body: bytes) -> Asked:
    """What the document asks for. Raises RequestError."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise RequestError("The body is no JSON object.")
    if nets.tokens is None:
        what = "These networks take images" if nets.images is not None else "The folder has no tokenizer"
        raise RequestError(f"{what}: there is no chat with them.")
    for name, allowed in FIXED.items():
        if said.get(name) is not None and said[name] not in allowed:
            raise RequestError(
                f"{name} can only be {allowed[0]} here: the most probable token is chosen.", about=name
            )
    ids = nets.tokens.of_messages(messages_of(said.get("messages")))
    if not ids:
        raise RequestError("There is no text to be continued.", about="messages")
    stream, options = said.get("stream") or False, said.get("stream_options") or {}
    if not isinstance(stream, bool) or not isinstance(options, dict):
        raise RequestError("stream is true or false, and stream_options an object.", about="stream")
    count = count_of(said, room=nets.elastic.members[0]["arguments"]["context"] - len(ids))
    return Asked(
        torch.tensor([ids]),
        count,
        model_of(nets, said.get("model", AUTO)),
        stops_of(said.get("stop")),
        stream,
        bool(options.get("include_usage")),
    )


def messages_of(messages: Any) -> list[dict[str, str]]:
    """Role and text of each. Raises RequestError."""
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages is no list with a message.", about="messages")
    return [{"role": message_role(one), "content": message_text(one)} for one in messages]


def message_role(message: Any) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ("system", "developer", "user", "assistant"):
        raise RequestError("A message has a role: system, user or assistant.", about="messages")
    return "system" if role == "developer" else str(role)


def message_text(message: Mapping[str, Any]) -> str:
    """A text, or the texts of its parts one after the other. Raises RequestError."""
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    good = isinstance(parts, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in parts
    )
    if not good:
        raise RequestError("The content of a message is a text, or a list of texts.", about="messages")
    text = "".join(part["text"] for part in parts)
    return text.encode(errors="replace").decode()  # JSON may have halves of characters


def count_of(said: Mapping[str, Any], *, room: int) -> int:
    """How many tokens at most. Raises RequestError."""
    name = "max_completion_tokens" if said.get("max_completion_tokens") is not None else "max_tokens"
    count = said.get(name)
    if count is None:
        count = min(USUAL_TOKENS, max(room, 1))  # a text that leaves no room is refused with one token, too
    if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= MOST_TOKENS:
        raise RequestError(f"{name} is no number from 1 to {MOST_TOKENS}.", about=name)
    return count


def model_of(nets: Nets, name: Any) -> str:
    """AUTO or the key of a subnet. Raises RequestError."""
    keys = [member["key"] for member in nets.elastic.members]
    if name != AUTO and name not in keys:
        raise RequestError(
            f"There is no model {str(name)[:60]!r}; {MODELS} lists them.",
            404,
            about="model",
            code="model_not_found",
        )
    return str(name)


def stops_of(stop: Any) -> tuple[str, ...]:
    """Texts with which an answer ends. Raises RequestError."""
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
        raise RequestError("stop is a text, or a list of texts.", about="stop")
    return tuple(stops)


@dataclass(frozen=True)
class Piece:
    """What has come of an answer: more text, or at its end why it ended, with all tokens."""

    text: str
    made: Sequence[Made]
    ended: str | None = None


def pieces(nets: Nets, asked: Asked, deadline_ms: float) -> Iterator[Piece]:
    """An answer, piece by piece; the last one says why it ended. Raises RequestError before the first."""
    key = None if asked.model == AUTO else asked.model
    return _pieces(nets, asked, nets.following(asked.ids, asked.count, deadline_ms, key=key))


def _pieces(nets: Nets, asked: Asked, following: Iterator[Made]) -> Iterator[Piece]:
    assert nets.tokens is not None
    made, ids, sent, ended = list[Made](), list[int](), "", "length"
    for one in following:
        made.append(one)
        is_end = one.token == nets.tokens.end
        ids += [] if is_end else [one.token]
        text = nets.tokens.text(ids)
        stopped = [place for stop in asked.stops if (place := text.find(stop)) >= 0]
        if is_end or stopped:
            text, ended = text[: min(stopped, default=len(text))], "stop"
        is_last = ended == "stop" or len(made) == asked.count
        ready = text if is_last else certain(text, asked.stops)
        if len(ready) > len(sent):
            yield Piece(ready[len(sent) :], made)
            sent = ready
        if is_last:
            break
    yield Piece("", made, ended)


def certain(text: str, stops: Sequence[str]) -> str:
    """The text without what may still become another character, or belong to a text that ends it."""
    text = text.rstrip(UNFINISHED)
    longest = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
    return text[: len(text) - longest]


def usage(asked: Asked, made: Sequence[Made]) -> dict[str, int]:
    prompt = asked.ids.shape[1]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": len(made),
        "total_tokens": prompt + len(made),
    }


def completion(asked: Asked, answer: Sequence[Piece]) -> dict[str, Any]:
    """All of an answer in one document; `subnets` says who has made each token, `kept` how many in time."""
    made, message = answer[-1].made, {"role": "assistant", "content": "".join(one.text for one in answer)}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": [{"index": 0, "message": message, "finish_reason": answer[-1].ended}],
        "usage": usage(asked, made),
        "subnets": [one.subnet for one in made],
        "kept": sum(one.kept for one in made) / len(made),
    }


def chunks(asked: Asked, answer: Iterator[Piece]) -> Iterator[dict[str, Any]]:
    """The same as it comes; with the usage at the end, if that is asked for."""
    shared: dict[str, Any] = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": asked.model,
    }

    def chunk(delta: Mapping[str, str], ended: str | None = None) -> dict[str, Any]:
        return {**shared, "choices": [{"index": 0, "delta": delta, "finish_reason": ended}]}

    made: Sequence[Made] = ()
    yield chunk({"role": "assistant", "content": ""})
    for piece in answer:
        made = piece.made
        if piece.text:
            yield chunk({"content": piece.text})
        if piece.ended:
            yield chunk({}, piece.ended)
    if asked.with_usage:
        yield {**shared, "choices": [], "usage": usage(asked, made)}


def models(nets: Nets) -> dict[str, Any]:
    """The subnets as models, and AUTO."""
    about = {"object": "model", "created": 0, "owned_by": "elastiform"}
    names = ("quality", "params", "latency_ms")
    listed = [
        {"id": member["key"], **about, **{name: member[name] for name in names}}
        for member in nets.elastic.members
    ]
    return {"object": "list", "data": [{"id": AUTO, **about}, *listed]}


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
    """POST: an image, a text, or a chat. GET: the subnets."""

    timeout = SECONDS
    server: "NetsServer"

    def do_POST(self) -> None:
        chats = self.path == CHAT
        try:
            if self.path != "/" and not chats:
                raise RequestError(f"There is no {self.path[:60]!r} here, but / and {CHAT}.", 404)
            body = self._body()
            if chats:
                self._chat(body)
            else:
                self._send(200, self.server.nets.answer(body, self.headers))
        except RequestError as error:
            shape = {"message": str(error), "type": "invalid_request_error"}
            shape |= {"param": error.about, "code": error.code}  # type: ignore[dict-item]
            self._send(error.status, {"error": shape if self.path.startswith("/v1/") else str(error)})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # who has asked does not listen any more

    def do_GET(self) -> None:
        if self.path == MODELS:
            self._send(200, models(self.server.nets))
            return
        names = ("key", "quality", "params", "latency_ms")
        self._send(
            200, [{name: member[name] for name in names} for member in self.server.nets.elastic.members]
        )

    def _chat(self, body: bytes) -> None:
        nets = self.server.nets
        deadline_ms = number(self.headers, "Deadline-Ms", nets.usual_ms, most=MOST_MS)
        asked = asked_of(nets, body)
        answer = pieces(nets, asked, deadline_ms)
        if not asked.stream:
            self._send(200, completion(asked, list(answer)))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()
        for chunk in chunks(asked, answer):
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

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
