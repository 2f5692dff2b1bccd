"""A GGUF file of a decoder, for llama.cpp and what is built on it.

Where all layers are equal the network is called llama, qwen2 or qwen3, else `deci`: of that architecture
llama.cpp reads heads and FFN widths by layer (NVIDIA's Llama-Nemotron has it).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from nas.exported.forms import Form
from search_spaces.errors import UsageError
from supernet.plain.decoder import Decoder
from supernet.pretrained.gguf_files import ARCHITECTURES, INTERLEAVED, NAMES, neighbouring_rows

if TYPE_CHECKING:
    from gguf import GGUFWriter

MODULES = ("gguf", "xllamacpp")
EXTRA = "llama-cpp"
TOLERANCES = {"fp32": 1e-3, "fp16": 0.02, "q8_0": None, "q4_0": None}
LAST_ONLY = True
DEVICES, RISK = (), None  # llama.cpp has a benchmark of its own
FILE, BY_LAYER = "model.gguf", "deci"
TURNED = ("attn_q.weight", "attn_k.weight")
CONTROL = 3  # the type of tokens that are found in no text
KINDS = {"fp32": "F32", "fp16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}  # of the matrices
ALL_ALIKE = "Give all layers the same width, or take another format."

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
    """See `Exporter`."""
    import gguf

    if not isinstance(module, Decoder):
        raise UsageError("GGUF is for language models.", "--format onnx takes any network.")
    config = module.config
    architecture = architecture_of(config)
    kind = gguf.GGMLQuantizationType[KINDS[form.precision]]
    _check_blocks(module, form.precision, gguf.GGML_QUANT_SIZES[kind][0])
    writer = gguf.GGUFWriter(folder / FILE, architecture)
    _describe(writer, config)
    in_bytes = form.tokenizer == "bytes"
    _add_tokens(writer, config["vocabulary"], in_bytes=in_bytes)
    for name, tensor in module.state_dict().items():
        theirs = NAMES.theirs(name)
        for key, part in zip(theirs, tensor.detach().chunk(len(theirs)), strict=True):
            turned = architecture in (*INTERLEAVED, BY_LAYER) and key.endswith(TURNED)
            rows = neighbouring_rows(part, config["head_dim"]) if turned else part
            of_tensor = kind if rows.ndim == 2 else gguf.GGMLQuantizationType.F32
            numbers = gguf.quantize(np.ascontiguousarray(rows.float().numpy()), of_tensor)
            writer.add_tensor(key, numbers, raw_dtype=of_tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {"gguf": {"architecture": architecture, "kind": kind.name, "drawn": ord("A") if in_bytes else 0}}


def architecture_of(config: Mapping[str, Any]) -> str:
    """What llama.cpp calls a decoder with these arguments. Raises UsageError for one that it lacks."""
    switches = {name: True for name in ("qkv_bias", "qk_norm") if config[name]}
    kind = next((name for name, theirs in ARCHITECTURES.items() if theirs == switches), None)
    if kind is None or not config["gated"] or config["act"] != "silu":
        raise UsageError(
            "llama.cpp has no such network: FFNs gated by SiLU are needed, and at most one of biases of "
            "queries, keys and values (Qwen2) and norms of queries and keys (Qwen3).",
            "Take another format.",
        )
    if len(set(config["num_heads"])) == len(set(config["mlp_hidden"])) == 1:
        return kind
    if switches:
        raise UsageError(
            f"llama.cpp reads widths by layer of networks of Llama's kind alone, and this is one of {kind}.",
            ALL_ALIKE,
        )
    return BY_LAYER


def _check_blocks(module: Decoder, precision: str, block: int) -> None:
    """Numbers of a row are quantised a block at a time. Raises UsageError for rows that are none."""
    for name, tensor in module.named_parameters():
        width = tensor.shape[-1]
        if tensor.ndim == 2 and width % block:
            near = sorted({max(block, width // block * block), -(-width // block) * block})
            raise UsageError(
                f"{precision} takes {block} numbers at a time, and the rows of {name} have {width}.",
                f"The nearest widths that it takes are {' and '.join(map(str, near))}.",
            )


def _describe(writer: "GGUFWriter", config: Mapping[str, Any]) -> None:
    alike = writer.arch != BY_LAYER
    heads = list(config["num_heads"])
    kv_heads = [count // config["heads_per_kv"] for count in heads]
    writer.add_context_length(config["context"] + 1)  # llama.cpp wants room for the one that it draws
    writer.add_embedding_length(config["embed_dim"])
    writer.add_block_count(len(heads))
    writer.add_feed_forward_length(config["mlp_hidden"][0] if alike else list(config["mlp_hidden"]))
    writer.add_head_count(heads[0] if alike else heads)
    writer.add_head_count_kv(kv_heads[0] if alike else kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["norm_eps"])
    writer.add_vocab_size(config["vocabulary"])


def _add_tokens(writer: "GGUFWriter", vocabulary: int, *, in_bytes: bool) -> None:
    """Bytes as the tokens of GPT-2's tokenizer; others as what no text becomes: they go by their numbers."""
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


def _bytes_as_characters() -> list[str]:
    """What stands for each byte in a byte-level BPE: itself where it is printed, else one from 256 on."""
    printed = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printed]
    codes = {byte: 256 + place for place, byte in enumerate(others)}
    return [chr(codes.get(byte, byte)) for byte in range(256)]


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
