"""Truth of ten Hugging Face architectures, tiny and built offline, each eager and sdpa, in train and eval.

GPT-Neo offers no sdpa; its rows are eager only. Attention dropout is 0.2 and other dropout 0.1 throughout, so
that one is not taken for the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .rows_zoo import CAUSAL, EIGHTH, REAL, SHARE, TOKENS
from .truth import ANY, MIN32, Mask, P, Row, Truth

WEIGHT_BIAS = ("weight", "bias")
DROPPED = (("pattern", 0.2),)
KERNEL = {"scores": ("sdpa_attention.py", "scaled_dot_product_attention(")}


def linear(
    role_names: dict[str, str], what: tuple[str, ...] = WEIGHT_BIAS, width: int = 32, d_head: int = 8
) -> dict[str, Any]:
    """Four maps of the usual kind: heads are rows of query, key and value and columns of output."""
    known: dict[str, Any] = {"heads": {}}
    cuts = ((0, d_head),), ((width - d_head, width),)
    for role, name in role_names.items():
        known[role] = tuple(P(f"{name}.{one}") for one in what)
        if role == "output":
            known["heads"][role] = tuple((P(f"{name}.weight", 1, cut),) for cut in cuts)
        else:
            known["heads"][role] = tuple(tuple(P(f"{name}.{one}", 0, cut) for one in what) for cut in cuts)
    return known


def eager_lines(file: str, product: str = "torch.matmul(query, key.transpose(2, 3)) * scaling") -> dict:
    return {
        "scores": (file, product), "softmax": (file, "softmax(attn_weights, dim=-1"),
        "value": (file, "torch.matmul(attn_weights, value"),
    }


def truth(module: str, file: str, sdpa: bool, masks: dict[bool, tuple[Mask, ...]], **facts: Any) -> Truth:
    lines = KERNEL if sdpa else facts.pop("eager_lines", None) or eager_lines(file)
    facts.pop("eager_lines", None)
    if masks[sdpa] and not sdpa and "mask" not in lines:
        lines = {**lines, "mask": (file, "attn_weights + attention_mask")}
    if "scale" in facts and not sdpa and facts["scale"] != 1.0:
        lines = {**lines, "scale": (file, "* scaling")}
    return Truth(**{
        "module": module, "form": "fused" if sdpa else "dot-product", "kind": "self",
        "n_heads": 4, "d_head": 8, "scale": EIGHTH, "masks": masks[sdpa],
        "dropout": DROPPED, "positions": ("absolute",), "residual": True,
        "n_queries": 7, "n_keys": 7, "batch_size": 3, "lines": lines, **facts,
    })


PAD = {
    False: (Mask("add", MIN32, causal=False, allowed_share=SHARE),),
    True: (Mask("sdpa_bool", causal=False, allowed_share=SHARE),),
}
FUTURE = {
    False: (Mask("add", MIN32, causal=True, allowed_share=CAUSAL),),
    True: (Mask("is_causal", causal=True, allowed_share=CAUSAL),),
}
NO_MASK: dict[bool, tuple[Mask, ...]] = {False: (), True: ()}


def built(model: str, config: str, **options: Any) -> Callable[[bool], nn.Module]:
    def make(sdpa: bool) -> nn.Module:
        import transformers

        torch.manual_seed(0)
        settings = getattr(transformers, config)(**options)
        settings._attn_implementation = "sdpa" if sdpa else "eager"
        return getattr(transformers, model)(settings)

    return make


def padded() -> dict[str, torch.Tensor]:
    return {"input_ids": TOKENS, "attention_mask": REAL.long()}


def bare() -> dict[str, torch.Tensor]:
    return {"input_ids": TOKENS}


BERT_LIKE: dict[str, Any] = {
    "vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48,
    "attention_probs_dropout_prob": 0.2, "hidden_dropout_prob": 0.1, "max_position_embeddings": 20,
}


def distilbert(sdpa: bool) -> list[Truth]:
    found = []
    for i in range(2):
        at = f"distilbert.transformer.layer.{i}.attention"
        found.append(truth(at, "modeling_distilbert.py", sdpa, PAD, norm_place="post", **linear({
            "query": f"{at}.q_lin", "key": f"{at}.k_lin",
            "value": f"{at}.v_lin", "output": f"{at}.out_lin"})))
    return found


def bert(sdpa: bool, prefix: str = "bert.", file: str = "modeling_bert.py") -> list[Truth]:
    found = []
    for i in range(2):
        at = f"{prefix}encoder.layer.{i}.attention"
        found.append(truth(f"{at}.self", file, sdpa, PAD, norm_place="post", **linear({
            "query": f"{at}.self.query", "key": f"{at}.self.key", "value": f"{at}.self.value",
            "output": f"{at}.output.dense"})))
    return found


def albert(sdpa: bool) -> list[Truth]:
    at = "encoder.albert_layer_groups.0.albert_layers.0.attention"
    one = truth(at, "modeling_albert.py", sdpa, PAD, norm_place="post", **linear({
        "query": f"{at}.query", "key": f"{at}.key", "value": f"{at}.value", "output": f"{at}.dense"}))
    return [one, one]


def gpt2(sdpa: bool, masks: dict[bool, tuple[Mask, ...]] = FUTURE) -> list[Truth]:
    found = []
    for i in range(2):
        at = f"transformer.h.{i}.attn"
        fused = {
            role: (P(f"{at}.c_attn.weight", 1, (cut,)), P(f"{at}.c_attn.bias", 0, (cut,)))
            for role, cut in {"query": (0, 32), "key": (32, 64), "value": (64, 96)}.items()
        }
        cuts = {"query": ((0, 8), (24, 32)), "key": ((32, 40), (56, 64)), "value": ((64, 72), (88, 96))}
        heads: dict[str, Any] = {
            role: tuple(
                (P(f"{at}.c_attn.weight", 1, (cut,)), P(f"{at}.c_attn.bias", 0, (cut,))) for cut in both)
            for role, both in cuts.items()
        }
        heads["output"] = (
            (P(f"{at}.c_proj.weight", 0, ((0, 8),)),), (P(f"{at}.c_proj.weight", 0, ((24, 32),)),))
        lines = {
            **eager_lines("modeling_gpt2.py", "torch.matmul(query, key.transpose(-1, -2)) * scaling"),
            "residual": ("modeling_gpt2.py", "attn_output + residual"),
        }
        found.append(truth(
            at, "modeling_gpt2.py", sdpa, masks, norm_place="pre", causal=True, heads=heads, **fused,
            output=(P(f"{at}.c_proj.weight"), P(f"{at}.c_proj.bias")), eager_lines=lines))
    return found


def gpt_neo(sdpa: bool) -> list[Truth]:
    file, found = "modeling_gpt_neo.py", []
    lines = {
        "scores": (file, "torch.matmul(query, key.transpose(-1, -2))"),
        "mask": (file, "torch.where(causal_mask"),
        "softmax": (file, "softmax(attn_weights, dim=-1"),
        "value": (file, "torch.matmul(attn_weights, value"),
    }
    for i in range(2):
        at = f"transformer.h.{i}.attn.attention"
        window = Mask("where", MIN32, causal=True, allowed_share=CAUSAL if i == 0 else 22 / 49)
        maps = linear({"query": f"{at}.q_proj", "key": f"{at}.k_proj", "value": f"{at}.v_proj"}, ("weight",))
        out = linear({"output": f"{at}.out_proj"})
        maps["heads"].update(out["heads"])
        found.append(truth(
            at, file, sdpa, {False: (window, *FUTURE[False])}, norm_place="pre", causal=True, scale=1.0,
            eager_lines=lines, output=out["output"], **maps))
    return found


def llama(sdpa: bool, masks: dict[bool, tuple[Mask, ...]] = FUTURE) -> list[Truth]:
    found = []
    lines = eager_lines("modeling_llama.py", "torch.matmul(query, key_states.transpose(2, 3)) * scaling")
    for i in range(2):
        at = f"model.layers.{i}.self_attn"
        maps = linear({"query": f"{at}.q_proj", "output": f"{at}.o_proj"}, ("weight",))
        grouped = linear({"key": f"{at}.k_proj", "value": f"{at}.v_proj"}, ("weight",), width=16)
        maps["heads"].update(grouped.pop("heads"))
        found.append(truth(
            at, "modeling_llama.py", sdpa, masks, norm_place="pre", causal=True, n_key_heads=2,
            positions=("rotary",), rotary_sides=("query", "key"), eager_lines=lines, **maps, **grouped))
    return found


def t5(sdpa: bool) -> list[Truth]:
    def one(stack: str, i: int, place: int, name: str, masks: dict, **more: Any) -> Truth:
        at = f"{stack}.block.{i}.layer.{place}.{name}"
        maps = {role: f"{at}.{role[0]}" for role in ("query", "key", "value", "output")}
        return truth(at, "modeling_t5.py", sdpa, masks, norm_place="pre", scale=1.0, **{
            "d_head": 6, "positions": ("relative bias",), "batch_size": 3, **more,
        }, **linear(maps, ("weight",), 24, 6))

    padding = {False: PAD[False], True: (Mask("sdpa_float", MIN32, causal=False, allowed_share=SHARE),)}
    future = {
        False: (Mask("add", MIN32, causal=True, allowed_share=15 / 25),),
        True: (Mask("sdpa_float", MIN32, causal=True, allowed_share=15 / 25),),
    }
    found = [one("encoder", i, 0, "SelfAttention", padding) for i in range(2)]
    for i in range(2):
        found.append(one("decoder", i, 0, "SelfAttention", future, causal=True, n_queries=5, n_keys=5))
        cross = {"kind": "cross", "n_queries": 5, "positions": ()}
        found.append(one("decoder", i, 1, "EncDecAttention", padding, **cross))
    return found


def bart(sdpa: bool) -> list[Truth]:
    def one(at: str, masks: dict, **more: Any) -> Truth:
        return truth(at, "modeling_bart.py", sdpa, masks, norm_place="post", **more, **linear(
            {role: f"{at}.{name}_proj" for role, name in
             (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out"))}))

    future = {
        False: (Mask("add", MIN32, causal=True, allowed_share=15 / 25),),
        True: (Mask("is_causal", causal=True, allowed_share=15 / 25),),
    }
    found = [one(f"model.encoder.layers.{i}.self_attn", PAD) for i in range(2)]
    for i in range(2):
        at = f"model.decoder.layers.{i}"
        found.append(one(f"{at}.self_attn", future, causal=True, n_queries=5, n_keys=5))
        found.append(one(f"{at}.encoder_attn", PAD, kind="cross", n_queries=5, positions=ANY))
    return found


def vit(sdpa: bool) -> list[Truth]:
    found = []
    for i in range(2):
        at = f"vit.layers.{i}.attention"
        maps = linear({role: f"{at}.{role[0]}_proj" for role in ("query", "key", "value", "output")})
        found.append(truth(
            at, "modeling_vit.py", sdpa, NO_MASK, norm_place="pre", n_queries=5, n_keys=5, **maps))
    return found


def decoder_batch() -> dict[str, torch.Tensor]:
    return {**padded(), "labels": TOKENS[:, :5].clone()}


def pictures() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(3, 3, 8, 8)}


MODELS: dict[str, tuple[Callable[[bool], nn.Module], Callable[[], Any], Callable[[bool], list[Truth]]]] = {
    "DistilBERT": (built(
        "DistilBertForSequenceClassification", "DistilBertConfig", vocab_size=30, dim=32, n_layers=2,
        n_heads=4, hidden_dim=48, attention_dropout=0.2, max_position_embeddings=20), padded, distilbert),
    "BERT": (built("BertForMaskedLM", "BertConfig", **BERT_LIKE), padded, bert),
    "ALBERT": (built("AlbertModel", "AlbertConfig", embedding_size=12, **BERT_LIKE), padded, albert),
    "RoBERTa": (built("RobertaModel", "RobertaConfig", pad_token_id=0, **BERT_LIKE), padded,
                lambda sdpa: bert(sdpa, "", "modeling_roberta.py")),
    "GPT-2": (built(
        "GPT2LMHeadModel", "GPT2Config", vocab_size=30, n_embd=32, n_layer=2, n_head=4, n_positions=20,
        attn_pdrop=0.2, bos_token_id=1, eos_token_id=2), bare, gpt2),
    "GPT-Neo": (built(
        "GPTNeoForCausalLM", "GPTNeoConfig", vocab_size=30, hidden_size=32, num_layers=2, num_heads=4,
        attention_types=[[["global", "local"], 1]], window_size=4, max_position_embeddings=20,
        attention_dropout=0.2, embed_dropout=0.1, resid_dropout=0.1, bos_token_id=1, eos_token_id=2,
    ), bare, gpt_neo),
    "Llama": (built("LlamaForCausalLM", "LlamaConfig", vocab_size=30, hidden_size=32, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, attention_dropout=0.2,
                    max_position_embeddings=20), bare, llama),
    "T5": (built(
        "T5ForConditionalGeneration", "T5Config", vocab_size=30, d_model=32, d_kv=6, d_ff=48, num_layers=2,
        num_heads=4, dropout_rate=0.2, decoder_start_token_id=0), decoder_batch, t5),
    "BART": (built(
        "BartForConditionalGeneration", "BartConfig", vocab_size=30, d_model=32, encoder_layers=2,
        decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_ffn_dim=48, attention_dropout=0.2, max_position_embeddings=20, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
    ), decoder_batch, bart),
    "ViT": (built("ViTForImageClassification", "ViTConfig", hidden_size=32, num_hidden_layers=2,
                  num_attention_heads=4, intermediate_size=48, image_size=8, patch_size=4,
                  attention_probs_dropout_prob=0.2, hidden_dropout_prob=0.1), pictures, vit),
}
LEFT_PADDED = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7, [1] * 7])


def _row(name: str, sdpa: bool, train: bool) -> Row:
    model, batch, truths = MODELS[name]

    def make() -> tuple[nn.Module, Any]:
        made = model(sdpa)
        return made, batch()

    mode = f"{'sdpa' if sdpa else 'eager'} {'train' if train else 'eval'}"
    return Row(f"{name} {mode}", make, tuple(truths(sdpa)), train=train)


def _left_padded(name: str, sdpa: bool, truths: Callable[..., list[Truth]]) -> Row:
    """A causal mask and left padding in one tensor: still causal."""
    allowed = (LEFT_PADDED[:, None, :].bool() & torch.ones(7, 7, dtype=torch.bool).tril()).float().mean()
    how = "sdpa_bool" if sdpa else "add"
    masks = {sdpa: (Mask(how, causal=True, allowed_share=float(allowed)),)}

    def make() -> tuple[nn.Module, Any]:
        made = MODELS[name][0](sdpa)
        return made, {"input_ids": TOKENS, "attention_mask": LEFT_PADDED, "labels": TOKENS}

    return Row(f"{name} {'sdpa' if sdpa else 'eager'} left-padded", make, tuple(truths(sdpa, masks)))


ROWS = [
    *(_row(name, sdpa, train) for name in MODELS for sdpa in (False, True) for train in (False, True)
      if not (sdpa and name == "GPT-Neo")),
    *(_left_padded(name, sdpa, truths) for name, truths in (("GPT-2", gpt2), ("Llama", llama))
      for sdpa in (False, True)),
]
