# mypy: disable-error-code="misc, no-untyped-call, unused-ignore"
"""Networks of ours as transformers wants to see them; put behind the network's file in an exported folder."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput, ImageClassifierOutput


class ElastiformConfig(PretrainedConfig):
    """elastiform: what config.json says of the network: `class` and `arguments`."""

    model_type = "elastiform"

    def __init__(self, elastiform: dict[str, Any] | None = None, **others: Any) -> None:
        self.elastiform = elastiform or {}
        super().__init__(**others)


class _Network(PreTrainedModel):
    config_class = ElastiformConfig

    def __init__(self, config: ElastiformConfig) -> None:
        super().__init__(config)
        described = config.elastiform
        self.network = globals()[described["class"]](**described["arguments"])
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """All weights come from the file."""


class ElastiformForImageClassification(_Network):
    """From images to logits."""

    main_input_name = "pixel_values"

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any) -> ImageClassifierOutput:
        logits = self.network(pixel_values)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


class ElastiformForCausalLM(_Network, GenerationMixin):
    """From token ids to logits; it remembers nothing between two tokens."""

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> CausalLMOutput:
        logits = self.network(input_ids)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **_: Any) -> dict[str, Any]:
        return {"input_ids": input_ids}
