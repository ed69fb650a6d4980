"""Planted mistakes: positions and the cache."""

from __future__ import annotations

from typing import Any

import torch

from attnscope.case import Case
from planting.editing import Edit
from planting.huggingface import healthy as healthy_library
from planting.huggingface import in_library
from planting.planted import Planted, Truth
from planting.small import healthy, in_code

MISSING: dict[str, Any] = {
    "rules": ("positions_missing", "positions_constant", "unused_parameter"),
    "places": ("positions*", "L*.positions", "*position*", "model"),
}
ROTARY: dict[str, Any] = {
    "rules": ("rotary_misapplied",),
    "places": ("L*.positions", "positions", "L*.V", "L*.K", "L*.Q"),
}
CACHE: dict[str, Any] = {
    "rules": ("wrong_cache_position",),
    "places": ("L*.cache", "L*.positions", "positions", "model", "*cache*"),
}


def shifted_table(case: Case, name: str) -> None:
    """Moves a table of positions by one row, as a checkpoint with an offset of another convention does."""
    table = case.model.get_parameter(name)
    with torch.no_grad():
        table.copy_(table.roll(1, dims=0))


def shifted_encoder(seed: int) -> tuple[Case, Truth]:
    """Positions of a trained model one off."""
    case = healthy("encoder", seed)
    shifted_table(case, "positions.weight")
    return case, Truth(("positions_shifted",), ("positions*", "*position*"))


def shifted_gpt2(seed: int) -> tuple[Case, Truth]:
    """Positions of a trained library model one off."""
    case = healthy_library("gpt2", seed)
    shifted_table(case, "transformer.wpe.weight")
    return case, Truth(("positions_shifted",), ("positions*", "*wpe*", "*position*"))


PLANTED = (
    in_code("positions missing", "never added", "gpt", Edit("hidden = hidden + self.positions(places)", ""), **MISSING),
    in_code(
        "positions missing", "never added", "encoder", Edit("hidden = hidden + self.positions(places)", ""), **MISSING
    ),
    in_code("positions missing", "never added", "vit", Edit("hidden = hidden + self.positions", ""), **MISSING),
    in_library(
        "positions missing",
        "never added",
        "distilbert",
        Edit(
            "embeddings = inputs_embeds + position_embeddings  # (bs, max_seq_length, dim)",
            "embeddings = inputs_embeds",
        ),
        **MISSING,
    ),
    in_code(
        "positions constant",
        "arange times 0",
        "encoder",
        Edit(
            "places = torch.arange(input_ids.shape[1], device=input_ids.device)",
            "places = torch.zeros(input_ids.shape[1], dtype=torch.long, device=input_ids.device)",
        ),
        **MISSING,
    ),
    in_library(
        "positions constant",
        "arange times 0",
        "distilbert",
        Edit(
            "position_ids = self.position_ids[:, :seq_length]", "position_ids = 0 * self.position_ids[:, :seq_length]"
        ),
        **MISSING,
    ),
    Planted("positions shifted", "table rolled", "encoder", shifted_encoder),
    Planted("positions shifted", "table rolled", "hf-gpt2", shifted_gpt2),
    in_code(
        "rotary positions",
        "on the value",
        "rotary_decoder",
        Edit("key = rotate(key, angles)", "key = rotate(key, angles)\nvalue = rotate(value, angles)"),
        **ROTARY,
    ),
    in_library(
        "rotary positions",
        "on the value",
        "llama",
        Edit(
            "query_states, key_states = apply_rotary_pos_emb(query_states, key_states, cos, sin)",
            "query_states, key_states = apply_rotary_pos_emb(query_states, key_states, cos, sin)\n"
            "value_states, _ = apply_rotary_pos_emb(value_states, value_states, cos, sin)",
        ),
        **ROTARY,
    ),
    in_code("rotary positions", "on the query only", "rotary_decoder", Edit("key = rotate(key, angles)", ""), **ROTARY),
    in_library(
        "rotary positions",
        "on the key only",
        "llama",
        Edit("q_embed = (q * cos) + (rotate_half(q) * sin)", "q_embed = q"),
        **ROTARY,
    ),
    in_code(
        "cache position",
        "starts at 0 again",
        "gpt",
        Edit(
            "places = torch.arange(n_past, n_past + input_ids.shape[1], device=input_ids.device)",
            "places = torch.arange(input_ids.shape[1], device=input_ids.device)",
        ),
        **CACHE,
    ),
    in_code(
        "cache position",
        "one too far",
        "gpt",
        Edit(
            "n_past = past_key_values[0][0].shape[2] if past_key_values else 0",
            "n_past = past_key_values[0][0].shape[2] + 1 if past_key_values else 0",
        ),
        **CACHE,
    ),
    in_library(
        "cache position",
        "starts at 0 again",
        "gpt2",
        Edit(
            "past_seen_tokens = past_key_values.get_seq_length() if past_key_values is not None else 0",
            "past_seen_tokens = 0",
            nth=0,
        ),
        **CACHE,
    ),
    in_library(
        "cache position",
        "starts at 0 again",
        "llama",
        Edit(
            "past_seen_tokens = past_key_values.get_seq_length() if past_key_values is not None else 0",
            "past_seen_tokens = 0",
            nth=0,
        ),
        **CACHE,
    ),
)
