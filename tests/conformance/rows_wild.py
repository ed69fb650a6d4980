"""Truth of architectures for which nothing was prepared: how far the anatomy carries beyond its own list.

Sizes are as in `rows_hf`: width 32, four heads of eight, seven positions. Parameters are given where they are
laid out in an unusual way; elsewhere the module's maps are named and must be found under their roles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .rows_hf import BERT_LIKE, FUTURE, PAD, built, linear, pictures
from .rows_zoo import EIGHTH, REAL, TOKENS
from .truth import ANY, MIN32, Mask, P, Row, Truth

DECODER: dict[str, Any] = {
    **{key: value for key, value in BERT_LIKE.items() if "prob" not in key},
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}
GROUPED = {**DECODER, "num_key_value_heads": 2}
ROTARY: dict[str, Any] = {"positions": ("rotary",), "rotary_sides": ("query", "key")}
CAUSAL_MASK: dict[str, Any] = {"masks": FUTURE[False], "causal": True}


def tokens(padding: bool = False) -> Callable[[], dict[str, torch.Tensor]]:
    return lambda: {"input_ids": TOKENS, **({"attention_mask": REAL.long()} if padding else {})}


def attention(module: str, **facts: Any) -> Truth:
    return Truth(**{
        "module": module, "form": "dot-product", "kind": "self", "n_heads": 4, "d_head": 8, "scale": EIGHTH,
        "residual": True, "norm_place": "pre", "n_queries": 7, "n_keys": 7, "batch_size": 3, **facts,
    })


def maps(at: str, names: str, what: tuple[str, ...] = ("weight",), key_width: int = 32) -> dict[str, Any]:
    """Query, key, value and output maps by their names in that order; keys and values may be narrower."""
    query, key, value, output = (f"{at}.{name}" for name in names.split())
    wide = linear({"query": query, "output": output}, what)
    narrow = linear({"key": key, "value": value}, what, width=key_width)
    wide["heads"].update(narrow.pop("heads"))
    return {**wide, **narrow}


Cuts = tuple[tuple[int, int], ...]


def fused(at: str, name: str, output: str, rows: dict[str, Cuts], bias: bool) -> dict[str, Any]:
    """One map for query, key and value; `rows` gives the rows of each of its heads."""
    what = ("weight", "bias") if bias else ("weight",)
    known: dict[str, Any] = {"heads": {}, "output": tuple(P(f"{at}.{output}.{one}") for one in what)}
    for role, cuts in rows.items():
        known[role] = tuple(P(f"{at}.{name}.{one}", 0, cuts) for one in what)
        known["heads"][role] = tuple(
            tuple(P(f"{at}.{name}.{one}", 0, (cut,)) for one in what) for cut in (cuts[0], cuts[-1]))
    known["heads"]["output"] = (
        (P(f"{at}.{output}.weight", 1, ((0, 8),)),), (P(f"{at}.{output}.weight", 1, ((24, 32),)),))
    return known


def cuts(start: int, step: int, n: int = 4) -> Cuts:
    """Eight rows for each of n heads."""
    return tuple((start + step * number, start + step * number + 8) for number in range(n))


BY_HEAD = {"query": cuts(0, 24), "key": cuts(8, 24), "value": cuts(16, 24)}
STACKED = {"query": cuts(0, 8), "key": cuts(32, 8), "value": cuts(64, 8)}
ONE_KEY = {"query": cuts(0, 8), "key": cuts(32, 8, 1), "value": cuts(40, 8, 1)}
TWO_KEYS = {"query": cuts(0, 8), "key": cuts(32, 8, 2), "value": cuts(48, 8, 2)}


def row(
    name: str, model: str, config: str, settings: dict[str, Any], batch: Callable[[], Any],
    truth: Callable[[int], Truth], n_layers: int = 2, sdpa: bool = False, unused: Any = (),
) -> Row:
    def make() -> tuple[nn.Module, Any]:
        made = built(model, config, **settings)(sdpa)
        return made, batch()

    return Row(name, make, tuple(truth(layer) for layer in range(n_layers)), unused=unused)


def decoder(
    at: str, names: str = "q_proj k_proj v_proj o_proj", key_width: int = 16, **facts: Any
) -> Callable[[int], Truth]:
    """The usual pre-norm decoder layer with rotary positions and a causal mask."""
    what = facts.pop("what", ("weight",))
    n_key_heads = key_width // 8

    def one(layer: int) -> Truth:
        place = at.format(layer)
        return attention(place, **{
            "n_key_heads": n_key_heads, **ROTARY, **CAUSAL_MASK, **maps(place, names, what, key_width), **facts})

    return one


def normed(at: str, **facts: Any) -> Callable[[int], Truth]:
    """A decoder layer with norms on queries and keys: whether a norm's gain is the query's or a norm's is open."""
    def one(layer: int) -> Truth:
        gains = tuple(f"{at.format(layer)}.{side}_norm.weight" for side in "qk")
        return decoder(at, may_hold=gains, **facts)(layer)

    return one


def encoder(at: str, names: str, **facts: Any) -> Callable[[int], Truth]:
    """The usual post-norm encoder layer with absolute positions and padded keys."""
    def one(layer: int) -> Truth:
        place = at.format(layer)
        return attention(place, **{
            "norm_place": "post", "positions": ("absolute",), "masks": PAD[False],
            **maps(place, names, ("weight", "bias")), **facts})

    return one


def one_map(
    at: str, name: str, output: str, rows: dict[str, Cuts], bias: bool = True, **facts: Any
) -> Callable[[int], Truth]:
    """One map makes queries, keys and values."""
    def one(layer: int) -> Truth:
        place = at.format(layer)
        return attention(place, **{**CAUSAL_MASK, **fused(place, name, output, rows, bias), **facts})

    return one


ENDS = {"bos_token_id": 1, "eos_token_id": 2}
SMALL_GPT = {"vocab_size": 30, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 20, **ENDS}
SMALL = {"vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **ENDS}
VISION = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "image_size": 8, "patch_size": 4,
}
NEOX = "gpt_neox.layers.{}.attention"
FALCON = "transformer.h.{}.self_attention"

ROWS = [
    row("OPT padded", "OPTForCausalLM", "OPTConfig", {
        "vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 48, "num_attention_heads": 4,
        "max_position_embeddings": 20, "word_embed_proj_dim": 32, "pad_token_id": 0, **ENDS,
    }, tokens(True), decoder(
        "model.decoder.layers.{}.self_attn", "q_proj k_proj v_proj out_proj", 32, what=("weight", "bias"),
        positions=("absolute",), rotary_sides=(),
        masks=(Mask("add", MIN32, causal=True, allowed_share=ANY),))),
    row("GPT-J", "GPTJForCausalLM", "GPTJConfig", {**SMALL_GPT, "rotary_dim": 4}, tokens(), decoder(
        "transformer.h.{}.attn", "q_proj k_proj v_proj out_proj", 32)),
    row("GPT-NeoX", "GPTNeoXForCausalLM", "GPTNeoXConfig", DECODER, tokens(),
        one_map(NEOX, "query_key_value", "dense", BY_HEAD, **ROTARY)),
    row("CodeGen", "CodeGenForCausalLM", "CodeGenConfig", {**SMALL_GPT, "rotary_dim": 4}, tokens(),
        lambda layer: attention(f"transformer.h.{layer}.attn", **ROTARY, **CAUSAL_MASK, **{
            # four partitions, each of them query, value, key of one head
            role: (P(f"transformer.h.{layer}.attn.qkv_proj.weight", 0, cuts(start, 24)),)
            for role, start in (("query", 0), ("value", 8), ("key", 16))
        }, output=(P(f"transformer.h.{layer}.attn.out_proj.weight"),))),
    row("Falcon", "FalconForCausalLM", "FalconConfig", SMALL, tokens(), one_map(
        FALCON, "query_key_value", "dense", ONE_KEY, False, n_key_heads=1, **ROTARY)),
    row("Falcon with ALiBi", "FalconForCausalLM", "FalconConfig", {**SMALL, "alibi": True}, tokens(), one_map(
        FALCON, "query_key_value", "dense", ONE_KEY, False, n_key_heads=1, positions=("relative bias",))),
    row("Bloom", "BloomForCausalLM", "BloomConfig", {
        "vocab_size": 30, "hidden_size": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2,
    }, tokens(), one_map(FALCON, "query_key_value", "dense", BY_HEAD, positions=("relative bias",))),
    row("Mistral", "MistralForCausalLM", "MistralConfig", {**GROUPED, "sliding_window": 4}, tokens(), decoder(
        "model.layers.{}.self_attn", masks=(Mask("add", MIN32, causal=True, allowed_share=22 / 49),))),
    row("Mixtral", "MixtralForCausalLM", "MixtralConfig", {**GROUPED, "num_local_experts": 4}, tokens(),
        decoder("model.layers.{}.self_attn"), unused=ANY),
    row("Qwen3", "Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 8}, tokens(),
        normed("model.layers.{}.self_attn")),
    row("Gemma 2", "Gemma2ForCausalLM", "Gemma2Config", {
        **GROUPED, "head_dim": 8, "query_pre_attn_scalar": 16}, tokens(), decoder(
        "model.layers.{}.self_attn", scale=0.25, norm_place=ANY, masks=ANY)),
    row("OLMo 2", "Olmo2ForCausalLM", "Olmo2Config", GROUPED, tokens(),
        normed("model.layers.{}.self_attn", norm_place="post")),
    row("Phi", "PhiForCausalLM", "PhiConfig", DECODER, tokens(), decoder(
        "model.layers.{}.self_attn", "q_proj k_proj v_proj dense", 32, what=("weight", "bias"))),
    row("Phi 3", "Phi3ForCausalLM", "Phi3Config", GROUPED, tokens(), one_map(
        "model.layers.{}.self_attn", "qkv_proj", "o_proj", TWO_KEYS, False, n_key_heads=2, **ROTARY)),
    row("GPT-BigCode", "GPTBigCodeForCausalLM", "GPTBigCodeConfig", SMALL_GPT, tokens(), one_map(
        "transformer.h.{}.attn", "c_attn", "c_proj", ONE_KEY, n_key_heads=1, positions=("absolute",), masks=ANY)),
    row("ModernBERT", "ModernBertModel", "ModernBertConfig", DECODER, tokens(True), one_map(
        "layers.{}.attn", "Wqkv", "Wo", STACKED, False, **ROTARY, masks=PAD[False], causal=False, norm_place=ANY)),
    row("RoFormer", "RoFormerModel", "RoFormerConfig", BERT_LIKE, tokens(True), lambda layer: attention(
        f"encoder.layer.{layer}.attention.self", masks=PAD[False], norm_place="post", **ROTARY)),
    row("MPNet", "MPNetModel", "MPNetConfig", BERT_LIKE, lambda: {
        "input_ids": TOKENS + 2, "attention_mask": REAL.long()}, encoder(  # its padding token is 1, always
        "encoder.layer.{}.attention.attn", "q k v o", positions=("absolute", "relative bias"))),
    row("CLIP vision", "CLIPVisionModel", "CLIPVisionConfig", VISION, pictures, lambda layer: attention(
        f"encoder.layers.{layer}.self_attn", positions=("absolute",), n_queries=5, n_keys=5,
        **maps(f"encoder.layers.{layer}.self_attn", "q_proj k_proj v_proj out_proj", ("weight", "bias")))),
    row("DeiT", "DeiTModel", "DeiTConfig", VISION, pictures, lambda layer: attention(
        f"layers.{layer}.attention", positions=("absolute",), n_queries=6, n_keys=6)),
    row("BEiT sdpa", "BeitModel", "BeitConfig", {**VISION, "use_relative_position_bias": True}, pictures,
        lambda layer: attention(
            f"layers.{layer}.attention", form="fused", positions=("relative bias",), n_queries=5, n_keys=5, masks=ANY,
        ), sdpa=True),
    row("Mamba 2", "Mamba2Model", "Mamba2Config", {
        "vocab_size": 30, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 8,
        "n_groups": 1, "expand": 2}, tokens(), lambda layer: attention(""), n_layers=0, unused=ANY),
    row("FNet", "FNetModel", "FNetConfig", {
        "vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48,
        "max_position_embeddings": 20}, tokens(), lambda layer: attention(""), n_layers=0),
    row("RWKV", "RwkvModel", "RwkvConfig", {
        "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "context_length": 16}, tokens(),
        lambda layer: attention(""), n_layers=0),
]
