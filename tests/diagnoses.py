"""Diagnoses built by hand, as a real run would make them: for the tests of formats and pages."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from attnscope.anatomy.blocks import (
    Anatomy,
    Attention,
    Block,
    DropoutStep,
    Form,
    InputTensor,
    Kind,
    MaskStep,
    ParameterSlice,
    Role,
    SoftmaxStep,
    Source,
    Step,
    block_name,
)
from attnscope.findings import Diagnosis, Evidence, Finding, Severity
from attnscope.readings import Reading, missing

FILE = "reviews/model.py"
HOSTILE = (
    '<script>document.title="stolen"</script><img src=x onerror=alert(1)>"\'`&</script><!--'
    "\u202egnp.exe\u200f\x1b[31m\n::error::[red]x[/red]%0A{{7*7}}"
)


def line(number: int, text: str = "", function: str = "forward", file: str = FILE) -> Source:
    return Source(file=file, line=number, function=function, text=text)


def attention(layer: int, n_heads: int, width: int, module: str) -> tuple[Attention, list[Block]]:
    d_head = width // n_heads
    roles = {Role.QUERY: "q_lin", Role.KEY: "k_lin", Role.VALUE: "v_lin", Role.OUTPUT: "out_lin"}
    blocks, head_slices = [], {}
    for role, name in roles.items():
        weight = ParameterSlice(f"{module}.{name}.weight", (width, width))
        bias = ParameterSlice(f"{module}.{name}.bias", (width,))
        blocks.append(Block(block_name(layer, role), role, (weight, bias), layer=layer))
        dim = 1 if role is Role.OUTPUT else 0
        head_slices[role.value] = tuple(
            (ParameterSlice(weight.parameter, (width, width), dim, ((h * d_head, (h + 1) * d_head),)),)
            for h in range(n_heads)
        )
    parent = module.rpartition(".")[0]
    norm, mlp = f"{parent}.sa_layer_norm", f"{parent}.ffn"
    blocks.append(Block(norm, Role.NORM, (ParameterSlice(f"{norm}.weight", (width,)),), layer=layer))
    wide = ParameterSlice(f"{mlp}.lin1.weight", (4 * width, width))
    blocks.append(Block(mlp, Role.MLP, (wide,), layer=layer))
    found = Attention(
        layer=layer, module=module, module_class="MultiHeadSelfAttention", form=Form.DOT_PRODUCT,
        kind=Kind.SELF, n_heads=n_heads, n_key_heads=n_heads, d_head=d_head, d_value=d_head,
        blocks={role.value: block_name(layer, role) for role in roles}, head_slices=head_slices,
        scale=1 / math.sqrt(d_head), expected_scale=1 / math.sqrt(d_head),
        scale_step=Step("aten.div.Tensor", line(58, "q = q / math.sqrt(dim_per_head)"), 40 + 60 * layer),
        score_step=Step("aten.bmm", line(60, "scores = torch.matmul(q, k.transpose(2, 3))"), 44 + 60 * layer),
        value_step=Step("aten.bmm", line(66, "context = torch.matmul(weights, v)"), 50 + 60 * layer),
        mask=(
            MaskStep(
                "aten.masked_fill.Scalar", line(62, "scores = scores.masked_fill(mask, float('-inf'))"),
                46 + 60 * layer, how="masked_fill", fill=-math.inf, causal=False, allowed_share=0.71,
                shape=(8, 1, 1, 48),
            ),
        ),
        softmax=SoftmaxStep("aten._softmax", line(64, "weights = scores.softmax(dim=-1)"), 47 + 60 * layer),
        dropout=(
            DropoutStep("aten.native_dropout", line(65, "weights = self.dropout(weights)"), 48, rate=0.1),
        ),
        positions=("absolute",), residual=True,
        residual_step=Step(
            "aten.add.Tensor", line(91, "x = self.sa_layer_norm(attended + x)"), 55 + 60 * layer,
        ),
        norms=(norm,), norm_place="post", n_queries=48, n_keys=48, batch_size=8,
    )
    return found, blocks


def anatomy(n_layers: int = 6, n_heads: int = 12, width: int = 384) -> Anatomy:
    attentions, inside = [], []
    for layer in range(n_layers):
        found, blocks = attention(layer, n_heads, width, f"distilbert.transformer.layer.{layer}.attention")
        attentions.append(found)
        inside += blocks
    outside = [
        Block("distilbert.embeddings.word_embeddings", Role.EMBEDDING,
              (ParameterSlice("distilbert.embeddings.word_embeddings.weight", (30522, width)),)),
        Block("distilbert.embeddings.position_embeddings", Role.POSITIONS,
              (ParameterSlice("distilbert.embeddings.position_embeddings.weight", (512, width)),)),
        Block("classifier", Role.CLASSIFIER, (ParameterSlice("classifier.weight", (2, width)),)),
    ]
    return Anatomy(
        model_class="DistilBertForSequenceClassification", attentions=tuple(attentions),
        blocks=(*outside[:2], *inside, outside[2]),
        inputs=(
            InputTensor("['input_ids']", (8, 48), "int64", "tokens"),
            InputTensor("['attention_mask']", (8, 48), "int64", "mask"),
            InputTensor("['labels']", (8,), "int64", "unused"),
        ),
        n_operations=431, seconds=0.21, forward_seconds=0.08,
    )


def readings(plan: Anatomy, seed: int = 0) -> dict[str, Reading]:
    """One reading for each combination of dims that lenses use."""
    random = np.random.default_rng(seed)
    n_layers, n_heads = len(plan.attentions), plan.attentions[0].n_heads if plan.attentions else 0
    blocks = tuple(block.name for block in plan.blocks)
    projections = tuple(name for name in blocks if name.startswith("L"))[:24]
    layers = tuple(range(n_layers))
    heads = tuple(range(n_heads))
    depth = np.linspace(0, 1, n_layers)[:, None]
    entropy = 3.4 - 1.6 * depth + random.normal(0, 0.35, (n_layers, n_heads))
    root = random.normal(size=(len(projections), 6))
    gram = np.abs(root @ root.T)
    scale = np.sqrt(np.diag(gram))
    steps = tuple(range(0, 400, 10))
    drift = np.exp(-np.linspace(0, 3, len(steps)))
    found = [
        Reading("attention_entropy", entropy, ("layer", "head"), "nats", {"layer": layers, "head": heads},
                settings={"quantile": 0.5, "max_batches": 1}),
        Reading("padding_mass", np.zeros((n_layers, n_heads)), ("layer", "head"), "1",
                {"layer": layers, "head": heads}),
        Reading("row_sums", np.full(n_layers, 1.2e-7), ("layer",), "1", {"layer": layers}),
        Reading("gradient_norm", random.lognormal(-2, 1, len(blocks)), ("block",), "loss", {"block": blocks}),
        Reading("block_coupling", gram / np.outer(scale, scale), ("block", "block_b"), "1",
                {"block": projections, "block_b": projections}),
        Reading("block_trace", random.lognormal(0, 1, len(projections)), ("block",), "loss",
                {"block": projections}, stderr=random.lognormal(-2, 0.3, len(projections))),
        Reading("loss_curve", 0.69 * drift + 0.1 + random.normal(0, 0.01, len(steps)), ("step",), "loss",
                {"step": steps}),
        Reading("update_ratio", drift[:, None] * random.lognormal(-7, 0.8, (1, len(projections))),
                ("step", "block"), "1", {"step": steps, "block": projections}),
        Reading("spectral_density", np.exp(-np.linspace(-2, 9, 120) ** 2 / 3), ("eigenvalue",), "1",
                {"eigenvalue": tuple(float(x) for x in np.linspace(-2, 9, 120).round(3))}),
        Reading("role_norms", random.lognormal(0, 0.3, (n_layers, 4)), ("layer", "role"), "1",
                {"layer": layers, "role": ("query", "key", "value", "output")}),
        Reading("mean_pattern", random.dirichlet(np.full(24, 0.3), size=(min(n_layers, 6), 24)),
                ("layer", "query", "key"), "1", {"layer": layers[:6]}),
        Reading("loss_value", np.asarray(0.413), (), "loss"),
        missing("top_eigenvalue", ("block",), "loss/parameter^2", "failed",
                "the loss is not twice differentiable here: the fused kernel has no double backward"),
    ]
    return {reading.lens: reading for reading in found}


def healthy(n_layers: int = 6, n_heads: int = 12) -> Diagnosis:
    plan = anatomy(n_layers, n_heads, 384 if n_heads == 12 else 64 * n_heads)
    return Diagnosis(
        findings=(), anatomy=plan, readings=readings(plan), name="reviews, healthy", effort="standard",
        expects={"causal": False, "padding_mask": "attention_mask", "order_matters": True},
        skipped={"update_ratio_per_head": "no optimiser was given"},
        checked=("future_leak", "padding_attended", "wrong_softmax_axis", "missing_scale", "dead_value"),
        seconds=21.4, gradients=14.2,
        environment={"torch": "2.13.0+cpu", "device": "cpu", "precision": "float32", "seed": 0,
                     "attnscope": "0.1.0",
                     "command": "attnscope check reviews/model.py:make --effort standard"},
    )


def findings() -> tuple[Finding, ...]:
    return (
        Finding(
            code="MSK102", kind="padding_attended", severity=Severity.ERROR, confidence=1.0,
            summary="Layer 3 attends to padding: what stands in a padded token changes the output.",
            block_or_site="L3.mask", layer=3,
            source=line(62, "scores = scores.masked_fill(mask == 2, float('-inf'))"),
            evidence=(
                Evidence("Changing padded tokens moves the logits by 0.43; a model that ignores padding "
                         "moves by exactly 0.", "padding_mass", 0.43, 0.0, True),
                Evidence("29 % of layer 3's attention falls on padded positions.", "padding_mass", 0.29, 0.0),
            ),
            counter_evidence=(
                Evidence("Layers 0 to 2, 4 and 5 put no mass on padding.", "padding_mass", 0.0, 0.0),
            ),
            consequences=("L4.mask", "L5"),
            alternatives=("The tokeniser marks real tokens with 0 and padding with 1.",
                          "The padding token is also an ordinary word of this vocabulary."),
            remedies=("Compare the mask with 0: `mask == 0`.",
                      "Pass `attn_mask=` to `scaled_dot_product_attention` instead of masking by hand.",
                      "Retrain the last two layers after the correction."),
            fingerprint="b01dfacecafe0001",
        ),
        Finding(
            code="PRJ304", kind="dead_value", severity=Severity.WARNING, confidence=0.82,
            summary="Head 5 of layer 2 carries nothing: its value projection is zero.",
            block_or_site="L2H5.V", layer=2, head=5, role="value",
            source=line(41, "self.v_lin = nn.Linear(dim, dim)", "__init__"),
            evidence=(Evidence("The norm of W_V in this head is 0; the other heads lie between 0.8 and 1.3.",
                               "role_norms", 0.0, 1.05, True),),
            consequences=("L2H5.Q", "L2H5.K", "L2H5.O"),
            alternatives=("The head was pruned on purpose.",),
            remedies=("Initialise the head's value rows again.",),
            fingerprint="b01dfacecafe0002",
        ),
        Finding(
            code="CRV602", kind="beyond_stability", severity=Severity.NOTE, confidence=0.55,
            summary="The classifier's sharpness is close to its stability limit.",
            block_or_site="classifier", role="classifier",
            evidence=(Evidence("The top eigenvalue times the learning rate is 1.7; the limit is 2.",
                               "block_trace", 1.7, 2.0),),
            remedies=("Lower the classifier's learning rate by a third.",), fingerprint="b01dfacecafe0003",
        ),
    )


def faulty(n_layers: int = 6, n_heads: int = 12) -> Diagnosis:
    base = healthy(n_layers, n_heads)
    mass = np.array(base.readings["padding_mass"].values)
    mass[3] = np.random.default_rng(1).uniform(0.2, 0.4, n_heads)
    changed = dict(base.readings)
    changed["padding_mass"] = replace(base.readings["padding_mass"], values=mass)
    return replace(base, findings=findings(), readings=changed, name="reviews, sabotaged")


def hostile() -> Diagnosis:
    """Every string that a user's code, files or data can choose is an attack."""
    base = faulty(4, 2)
    attentions = tuple(
        replace(item, module=HOSTILE, module_class=HOSTILE, unresolved=(HOSTILE,), scale_note=HOSTILE,
                mask=(replace(item.mask[0], source=Source(HOSTILE, 3, HOSTILE, HOSTILE)),))
        for item in base.anatomy.attentions
    )
    first = replace(
        base.findings[0], block_or_site=HOSTILE, summary=HOSTILE, source=Source(HOSTILE, 3, HOSTILE, HOSTILE),
        evidence=(Evidence(HOSTILE, HOSTILE, math.nan, -math.inf),), alternatives=(HOSTILE,),
        remedies=(HOSTILE,), consequences=(HOSTILE,), code=HOSTILE, kind=HOSTILE,
    )
    block = Block(HOSTILE, Role.ENCODER, (ParameterSlice(HOSTILE, (2, 2)),))
    reading = Reading(HOSTILE, np.ones(2), ("block",), HOSTILE, {"block": (HOSTILE, HOSTILE + "2")},
                      settings={HOSTILE: HOSTILE}, note=HOSTILE)
    return replace(
        base, name=HOSTILE, findings=(first, *base.findings[1:]), expects={HOSTILE: HOSTILE},
        skipped={HOSTILE: HOSTILE}, environment={HOSTILE: HOSTILE},
        readings={**base.readings, HOSTILE: reading}, checked=(HOSTILE,),
        anatomy=replace(base.anatomy, model_class=HOSTILE, attentions=attentions, notes=(HOSTILE,),
                        blocks=(*base.anatomy.blocks, block), unused=(HOSTILE,), wrappers=(HOSTILE,)),
    )


def without_attention() -> Diagnosis:
    block = Block("features", Role.ENCODER, (ParameterSlice("features.0.weight", (8, 3, 3, 3)),))
    plan = Anatomy("ConvNet", blocks=(block,), notes=("no attention found: no softmax weighs values here",))
    return Diagnosis(findings=(), anatomy=plan, name="a plain CNN", effort="light")
