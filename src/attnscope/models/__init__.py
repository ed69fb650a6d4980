"""Models: attention models small enough to study, one idea per file, every step on a line of its own.

A model is an `nn.Module` whose constructor takes sizes by keyword, with small defaults, and whose class is
named for its file (`conv3d_attention` holds `Conv3dAttention`). They are written as people write them in
their own projects: no import from this package, so that a file can be copied, edited, broken and run alone.

The names of the field are used throughout: `query`, `key`, `value`, `output`, `scores`, `pattern`, `d_model`,
`d_head`, `n_heads`. Shapes are `[batch, position, d_model]` outside and `[batch, head, position, d_head]`
inside an attention.
"""
