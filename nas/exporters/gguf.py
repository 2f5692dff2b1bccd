"""A GGUF file of a decoder, for llama.cpp and what is built on it."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.exported.forms import Form, Run
from nas.text.gguf_tokenizers import CONTROL
from nas.text.tokens import BYTES
from nas.text.vocabularies import TEXTS, Vocabulary, vocabulary_of
from search_spaces.errors import UsageError
from search_spaces.shapes.gguf import PRECISIONS
from supernet.plain.decoder import Decoder

if TYPE_CHECKING:
    from gguf import GGUFValueType, GGUFWriter

MODULES = ("gguf", "xllamacpp")
EXTRA = "llama-cpp"
TOLERANCES = {"fp32": 1e-3, "fp16": 0.02, "q8_0": None, "q4_0": None}
LAST_ONLY = STEPS = True
DEVICES, RISK = ("llama_cpp",), None
FILE, CONFIG = "model.gguf", "config.json"
TOKENIZER = "tokenizer_of_the_file"  # in config.json and on the card
NUMBERS = "none: texts go in as the numbers of their tokens"

LOADING = """With llama.cpp and whatever reads its files: `llama-cli -m model.gguf`. From Python:

```python
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = "model.gguf"
server = xllamacpp.Server(params)
server.handle_completions({{"prompt": [1, 2, 3], "n_predict": 20, "temperature": 0}})
```
"""


def write(module: nn.Module, folder: Path, *, example: Tensor, form: Form) -> Mapping[str, Any]:
    """See `Exporter`; with the tokenizer of the network's texts, where GGUF has one like it."""
    from predictors.runtimes.gguf import files

    if not isinstance(module, Decoder):
        raise UsageError("GGUF is for language models.", "--format onnx takes any network.")
    tokens, said = _tokens_of(form.tokenizer)
    file, precision = folder / FILE, form.precision
    add = partial(_add_tokens, tokens=tokens, vocabulary=module.vocabulary, in_bytes=form.tokenizer == BYTES)
    made = files.write(file, module.config, module.state_dict(), precision=precision, describe_tokens=add)
    if tokens is not None:
        said += _differing(file, tokens)
    drawn = tokens.letter if tokens is not None else ord("A") if form.tokenizer == BYTES else 0
    kind, _ = PRECISIONS[precision]
    settings = {"architecture": made, "kind": kind, "drawn": drawn}
    return {"gguf": settings, "elastiform": {TOKENIZER: said}}


def _tokens_of(tokenizer: str | None) -> tuple[Vocabulary | None, str]:
    """The vocabulary to be copied, and in words what becomes of the tokenizer of the network's texts."""
    if tokenizer in (None, BYTES):
        return None, tokenizer or NUMBERS
    try:
        return vocabulary_of(str(tokenizer)), "as the network's texts have it"
    except UsageError as error:
        return None, f"{NUMBERS}: {error.message}"


def _add_tokens(writer: "GGUFWriter", *, tokens: Vocabulary | None, vocabulary: int, in_bytes: bool) -> None:
    """Those of a tokenizer; bytes as the tokens of GPT-2's; or what no text becomes, with its numbers."""
    if tokens is not None:
        for key, value in tokens.of_size(vocabulary).items():
            writer.add_key_value(key, value, _kind_of(value))
        return
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    if in_bytes:
        writer.add_token_list(_bytes_as_characters()[:vocabulary])
        writer.add_bos_token_id(0)  # which no text has, and every one begins with
        writer.add_eos_token_id(0)
    else:
        writer.add_token_list([f"<token {number}>" for number in range(vocabulary)])
        writer.add_token_types([CONTROL] * vocabulary)
    writer.add_add_bos_token(in_bytes)
    writer.add_token_merges(["ÿ ÿ"])  # one is needed, and no UTF-8 has these bytes


def _kind_of(value: Any) -> "GGUFValueType":
    import gguf

    is_count = isinstance(value, int) and not isinstance(value, bool)
    return gguf.GGUFValueType.UINT32 if is_count else gguf.GGUFValueType.get_type(value)


def _differing(file: Path, tokens: Vocabulary) -> str:
    """Of which text llama.cpp makes other tokens than the data do; nothing where all are the same."""
    from predictors.runtimes.sessions.llama_cpp import tokenized

    text = next((text for text in TEXTS if tokenized(file, text) != tokens.split(text)), None)
    return "" if text is None else f", but llama.cpp makes other tokens of {text!r}"


def _bytes_as_characters() -> list[str]:
    """What stands for each byte in a byte-level BPE: itself where it is printed, else one from 256 on."""
    printed = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printed]
    codes = {byte: 256 + place for place, byte in enumerate(others)}
    return [chr(codes.get(byte, byte)) for byte in range(256)]


def network(folder: Path) -> nn.Module:
    """See `Exporter`."""
    from predictors.runtimes.gguf.files import GGUFFile

    described = json.loads((folder / CONFIG).read_text())
    return GGUFFile(folder / FILE, described["elastiform"]["arguments"]["vocabulary"])


@contextmanager
def whole(folder: Path) -> Iterator[Run]:
    """See `Exporter`; one text at a time."""
    from predictors.runtimes.sessions.llama_cpp import LlamaCppRun, loaded

    vocabulary = json.loads((folder / CONFIG).read_text())["elastiform"]["arguments"]["vocabulary"]
    how: Any = {"vocabulary": vocabulary, "is_step": False, "threads": torch.get_num_threads()}
    runs: dict[int, LlamaCppRun] = {}

    def logits(text: Any) -> Any:
        """Of (1, tokens)."""
        if text.shape[1] not in runs:
            runs[text.shape[1]] = loaded(folder / FILE, {"texts": text}, **how)
        return runs[text.shape[1]].computed([text])[0]

    try:
        yield lambda x: np.concatenate([logits(ids[None]) for ids in x])
    finally:
        for run in runs.values():
            run.close()


def load(folder: Path) -> Callable[[Any], Any]:
    """From texts (n, tokens) to the logarithms of the probabilities of what follows, (n, 1, vocabulary)."""
    import json
    import os

    import numpy as np
    import xllamacpp

    config = json.loads((folder / "config.json").read_text())
    arguments = config["elastiform"]["arguments"]
    params = xllamacpp.CommonParams()
    params.model.path = str(folder / "model.gguf")
    params.n_ctx = params.n_batch = params.n_ubatch = arguments["context"] + 1
    params.n_parallel, params.n_gpu_layers, params.warmup, params.verbosity = 1, 0, False, 0
    # Its fused attention computes in fp16, whatever the weights are.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if "OMP_NUM_THREADS" in os.environ:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(os.environ["OMP_NUM_THREADS"])
    server = xllamacpp.Server(params)

    def one(ids: Any) -> Any:
        # Of a token that is no whole character nothing is told; which one is drawn changes no probability.
        drawn = {"logit_bias": [[config["gguf"]["drawn"], 1000.0]], "temperature": 0.0, "n_predict": 1}
        answer = server.handle_completions(
            {**drawn, "prompt": ids.tolist(), "n_probs": arguments["vocabulary"]}
        )
        if "error" in answer:
            raise RuntimeError(answer["error"])
        (token,) = answer["choices"][0]["logprobs"]["content"]
        logits = np.full((1, arguments["vocabulary"]), -np.inf, np.float32)
        for each in token["top_logprobs"]:
            logits[0, each["id"]] = each["logprob"]
        return logits

    return lambda x: np.stack([one(ids) for ids in x])
