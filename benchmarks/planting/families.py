"""Healthy small models of every family, with a task each: what a diagnosis must be silent about."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from attnscope import catalogue
from attnscope.case import Case
from attnscope.faults import copy_of
from attnscope.tasks import Task, learn
from planting.huggingface import huggingface_batch, train
from planting.moment import training_share
from planting.small import FRESH

BERT = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 4,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
ENDS = {"bos_token_id": 1, "eos_token_id": 1}

# name -> (class, configuration class, settings, form of the batch)
LIBRARY: dict[str, tuple[str, str, Mapping[str, Any], str]] = {
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {
            "vocab_size": 32,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
            "num_labels": 4,
            "max_position_embeddings": 32,
        },
        "text",
    ),
    "bert": ("BertForSequenceClassification", "BertConfig", BERT, "text"),
    "albert": ("AlbertForSequenceClassification", "AlbertConfig", {**BERT, "embedding_size": 16}, "text"),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", {**BERT, **ENDS}, "text"),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 16, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, **ENDS},
        "language",
    ),
    "gpt-neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            "vocab_size": 16,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "window_size": 8,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 32,
            **ENDS,
        },
        "language",
    ),
    "llama": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            "vocab_size": 16,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "pad_token_id": 0,
            "max_position_embeddings": 32,
            **ENDS,
        },
        "language",
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "vocab_size": 16,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "pad_token_id": 0,
            "decoder_start_token_id": 0,
            "eos_token_id": 1,
        },
        "translation",
    ),
    "bart": (
        "BartForConditionalGeneration",
        "BartConfig",
        {
            "vocab_size": 16,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 32,
            "pad_token_id": 0,
            "decoder_start_token_id": 0,
            "forced_eos_token_id": None,
            **ENDS,
        },
        "translation",
    ),
    "vit": (
        "ViTForImageClassification",
        "ViTConfig",
        {
            "image_size": 12,
            "patch_size": 3,
            "num_channels": 1,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "num_labels": 8,
        },
        "image",
    ),
}
FORMS = {"text": "topic_and_place", "language": "copying", "translation": "copying", "image": "placed_shapes"}


def library_batch(form: str, seed: int, number: int, n_examples: int) -> dict[str, Any]:
    """One batch of a form's task, as keywords."""
    task: Task = catalogue.load("tasks", FORMS[form])(seed=seed)
    if form == "image":
        images, labels = task.batch(number, n_examples)
        return {"pixel_values": images, "labels": labels}
    made = huggingface_batch(task, number, n_examples)
    if form == "translation":
        phrase = made["input_ids"][:, 1:9]
        lengths = 4 + torch.arange(n_examples) % 5
        real = torch.arange(8) < lengths[:, None]
        return {
            "input_ids": phrase.masked_fill(~real, 0),
            "attention_mask": real.long(),
            "labels": phrase.flip(1).masked_fill(~real.flip(1), -100),
        }
    return made


def library_case(
    name: str,
    *,
    seed: int = 0,
    steps: int = 120,
    implementation: str = "eager",
    lr: float = 3e-3,
    settings: Mapping[str, Any] | None = None,
    prepare: Callable[[Any], Any] | None = None,
) -> Case:
    """A healthy small model of the library, trained for some steps (0: untrained)."""
    model_class, config_class, base, form = LIBRARY[name]
    config = getattr(transformers, config_class)(**{**base, **(settings or {})}, attn_implementation=implementation)
    torch.manual_seed(seed)
    model = getattr(transformers, model_class)(config)
    if prepare is not None:
        model = prepare(model)
    optimizer = train(model, lambda number, size: library_batch(form, seed, number, size), steps=steps, lr=lr)
    batches = [library_batch(form, seed, FRESH + number, 16) for number in range(2)]
    return Case(model, batches, optimizer=optimizer, name=f"hf-{name}")


@functools.cache
def _healthy(name: str, seed: int, steps: int, implementation: str, share: float) -> Case:
    return library_case(name, seed=seed, steps=steps, implementation=implementation)


def healthy_library(name: str, *, seed: int = 0, steps: int = 120, implementation: str = "eager") -> Case:
    """A copy of the healthy model, which is trained only once."""
    return copy_of(_healthy(name, seed, steps, implementation, training_share()))


class TorchEncoder(nn.Module):
    """A classifier around `nn.TransformerEncoder`."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(32, 32)
        self.positions = nn.Embedding(16, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.classifier = nn.Linear(32, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits."""
        hidden = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1]))
        hidden = self.encoder(hidden, src_key_padding_mask=attention_mask == 0)
        return self.classifier(hidden[:, 0])


class TorchAttention(nn.Module):
    """A classifier around one `nn.MultiheadAttention`."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(32, 32)
        self.positions = nn.Embedding(16, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm = nn.LayerNorm(32)
        self.classifier = nn.Linear(32, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits."""
        hidden = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1]))
        attended, _ = self.attention(hidden, hidden, hidden, key_padding_mask=attention_mask == 0)
        hidden = self.norm(hidden + attended)
        return self.classifier(hidden[:, 0])


class TorchTransformer(nn.Module):
    """An encoder and decoder around `nn.Transformer`: the second phrase from the first."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(16, 32)
        self.positions = nn.Embedding(32, 32)
        self.transformer = nn.Transformer(32, 4, 1, 1, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, 16)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of the next token, for each of the second half's inputs."""
        hidden = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1]))
        first, second = hidden[:, :9], hidden[:, 9:]
        mask = nn.Transformer.generate_square_subsequent_mask(second.shape[1])
        return self.head(self.transformer(first, second, tgt_mask=mask, tgt_is_causal=True))


class GatedPooling(nn.Module):
    """Multiple-instance learning: an image is a bag of patches, pooled by gated attention (Ilse et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(9 + 2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.tanh = nn.Linear(32, 16)
        self.gate = nn.Linear(32, 16)
        self.score = nn.Linear(16, 1)
        self.classifier = nn.Linear(32, 8)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        patches = nn.functional.unfold(image, 3, stride=3).transpose(1, 2)
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, 4), torch.linspace(-1, 1, 4), indexing="ij")
        places = torch.stack([rows.flatten(), columns.flatten()], -1).expand(len(patches), -1, -1)
        hidden = self.encode(torch.cat([patches, places], -1))
        scores = self.score(torch.tanh(self.tanh(hidden)) * torch.sigmoid(self.gate(hidden)))
        pattern = torch.softmax(scores, dim=1)
        return self.classifier((pattern * hidden).sum(1))


class LearnedQueries(nn.Module):
    """A Perceiver in small: a few learned vectors ask the patches, then each other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(9, 32)
        self.positions = nn.Parameter(0.1 * torch.randn(16, 32))
        self.latents = nn.Parameter(0.5 * torch.randn(4, 32))
        self.read = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm_read = nn.LayerNorm(32)
        self.talk = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm_talk = nn.LayerNorm(32)
        self.classifier = nn.Linear(32, 8)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        patches = nn.functional.unfold(image, 3, stride=3).transpose(1, 2)
        hidden = self.embed(patches) + self.positions
        latents = self.latents.expand(len(image), -1, -1)
        latents = self.norm_read(latents + self.read(latents, hidden, hidden)[0])
        latents = self.norm_talk(latents + self.talk(latents, latents, latents)[0])
        return self.classifier(latents.mean(1))


class PlainConvolution(nn.Module):
    """No attention at all."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 36, 8),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.layers(image)
        return logits


class Translation(Task):
    """The second half of `copying`, as targets of an encoder and decoder."""

    steps = 150

    def batch(self, number: int, n_examples: int = 32) -> tuple[Tensor, Tensor]:
        """All tokens, and the targets of the second half."""
        inputs, targets = catalogue.load("tasks", "copying")(seed=self.seed).batch(number, n_examples)
        return inputs, targets[:, 9:]


OWN: dict[str, tuple[type[nn.Module], Callable[[int], Task]]] = {
    "nn.TransformerEncoder": (TorchEncoder, lambda seed: catalogue.load("tasks", "topic_and_place")(seed=seed)),
    "nn.MultiheadAttention": (TorchAttention, lambda seed: catalogue.load("tasks", "topic_and_place")(seed=seed)),
    "nn.Transformer": (TorchTransformer, lambda seed: Translation(seed=seed)),
    "gated pooling": (GatedPooling, lambda seed: catalogue.load("tasks", "placed_shapes")(seed=seed)),
    "learned queries": (LearnedQueries, lambda seed: catalogue.load("tasks", "placed_shapes")(seed=seed)),
    "no attention": (PlainConvolution, lambda seed: catalogue.load("tasks", "placed_shapes")(seed=seed)),
}


def own_case(name: str, *, seed: int = 0, steps: int = 150) -> Case:
    """A healthy model of the table above, trained for some steps."""
    model_class, make_task = OWN[name]
    torch.manual_seed(seed)
    model, task = model_class(), make_task(seed)
    optimizer = learn(model, task, steps=steps)
    batches = [task.batch(FRESH + number, 16) for number in range(2)]
    return Case(model, batches, optimizer=optimizer, expects=task.expects, name=name)
