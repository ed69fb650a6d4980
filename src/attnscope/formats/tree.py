"""An anatomy as a tree for the terminal: every attention, what its parts are, and the line of each."""

from __future__ import annotations

from rich.text import Text
from rich.tree import Tree

from attnscope.anatomy.blocks import ROLE_LETTERS, Anatomy, Attention, Block, Role, Step
from attnscope.formats.files import where
from attnscope.formats.numbers import count, number
from attnscope.plain import printable


def anatomy_tree(anatomy: Anatomy) -> Tree:
    """The tree that `attnscope trace` prints."""
    root = Tree(_line((anatomy.model_class, "bold"), (f"  {_size(anatomy)}", "dim")), guide_style="dim")
    if anatomy.wrappers:
        root.add(_line((f"unwrapped: {', '.join(anatomy.wrappers)}", "dim")))
    if anatomy.inputs:
        branch = root.add(Text("inputs", "bold"))
        for item in anatomy.inputs:
            branch.add(_line((item.path, "cyan"), (f"  {item.use}, {item.dtype} {list(item.shape)}", "")))
    by_name = {block.name: block for block in anatomy.blocks}
    shown: set[str] = set()
    for attention in anatomy.attentions:
        shown.update(attention.blocks.values())
        _attention(root, attention, by_name)
    outside = [block for block in anatomy.blocks if block.name not in shown]
    if outside:
        branch = root.add(Text("outside attention", "bold"))
        for block in outside:
            branch.add(_block(block.role.value, block))
    if anatomy.unused:
        branch = root.add(Text("no output depends on", "bold yellow"))
        for name in anatomy.unused:
            branch.add(_line((name, "")))
    for note in anatomy.notes:
        root.add(_line((f"note: {note}", "yellow")))
    watched = f"{count(anatomy.n_operations, 'operation')} watched in {number(anatomy.seconds)} s"
    root.add(_line((f"{watched}; a plain forward pass takes {number(anatomy.forward_seconds)} s", "dim")))
    return root


def _line(*parts: tuple[str, str]) -> Text:
    line = Text()
    for words, style in parts:
        line.append(printable(words), style)
    return line


def _size(anatomy: Anatomy) -> str:
    total = sum(block.numel for block in anatomy.blocks)
    return f"{count(len(anatomy.attentions), 'attention')}, {total:,} parameters"


def _attention(root: Tree, attention: Attention, blocks: dict[str, Block]) -> None:
    heads = count(attention.n_heads, "head")
    if attention.n_key_heads != attention.n_heads:
        heads += f" over {count(attention.n_key_heads, 'key head')}"
    if attention.d_head is not None:
        heads += f" of {attention.d_head}"
    branch = root.add(
        _line(
            (attention.name, "bold"), (f"  {attention.module or '(the model itself)'}", "cyan"),
            (f"  {attention.module_class}: {attention.kind}, {attention.form}, {heads}", ""),
        )
    )
    for role, name in attention.blocks.items():
        block = blocks.get(name)
        letter = ROLE_LETTERS.get(Role(role), role)
        if block is not None:
            branch.add(_block(letter, block))
    for label, words, step in steps(attention):
        branch.add(_step(label, words, step))
    for words in attention.unresolved:
        branch.add(_line((f"not resolved: {words}", "yellow")))


def steps(attention: Attention) -> list[tuple[str, str, Step | None]]:
    """Each site of an attention: its name, what was seen there, and the operation with its line."""
    found: list[tuple[str, str, Step | None]] = [("scores", attention.form.value, attention.score_step)]
    found.append(("scale", _scale(attention), attention.scale_step))
    for mask in attention.mask:
        words = [mask.how.replace("_", " "), mask.when.replace("_", " ")]
        words += [] if mask.fill is None else [f"fill {number(mask.fill)}"]
        words += ["causal"] if mask.causal else []
        words += [] if mask.allowed_share is None else [f"allows {mask.allowed_share:.0%}"]
        found.append(("mask", ", ".join(words), mask))
    if not attention.mask:
        found.append(("mask", "none", None))
    if attention.softmax is not None:
        soft = attention.softmax
        twice = "" if soft.applications == 1 else f", applied {soft.applications} times"
        found.append(("softmax", f"{soft.normaliser} over {soft.over} (dim {soft.dim}){twice}", soft))
    for drop in attention.dropout:
        rate = "" if drop.rate is None else f" {number(drop.rate)}"
        found.append(("dropout", f"on the {drop.where}{rate}{', active' if drop.active else ''}", drop))
    found.append(("positions", ", ".join(attention.positions) or "not seen", None))
    if attention.rotary_sides:
        found.append(("rotary", f"on {', '.join(attention.rotary_sides)}", None))
    if attention.head_layout != "ok":
        found.append(("heads", attention.head_layout, attention.value_step))
    residual = {True: "added", False: "not added", None: "not seen"}[attention.residual]
    found.append(("residual", residual, attention.residual_step))
    norms = f": {', '.join(attention.norms)}" if attention.norms else ""
    found.append(("norm", f"{attention.norm_place}{norms}", None))
    return found


def _scale(attention: Attention) -> str:
    if attention.scale is None:
        return "not seen"
    words = number(attention.scale, digits=4)
    if attention.expected_scale is not None:
        words += f" (1/sqrt of the head width is {number(attention.expected_scale, digits=4)})"
    return f"{words}; {attention.scale_note}" if attention.scale_note else words


def _block(label: str, block: Block) -> Text:
    facts = f"  {block.numel:,} parameters"
    facts += "" if block.trainable else ", frozen"
    facts += f", shared by {', '.join(f'L{layer}' for layer in block.shared_by)}" if block.shared_by else ""
    parts = ", ".join(map(str, block.slices))
    return _line((f"{label:<9} ", "green"), (parts or block.name, ""), (facts, "dim"))


def _step(label: str, words: str, step: Step | None) -> Text:
    line = _line((f"{label:<9} ", "magenta"), (words, ""))
    if step is not None and step.source is not None:
        line.append(f"  {printable(where(step.source))}", "cyan")
        line.append(f"  {printable(step.source.text.strip())}", "dim")
    return line
