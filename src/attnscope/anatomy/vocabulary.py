"""What the operations of a forward pass do, as far as the search for attention needs to know.

Names are those of the dispatcher without namespace, overload and the trailing underscore of in-place forms.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Move elements about and change no number: they can be replayed on an index tensor.
LAYOUT = _names(
    """
    view reshape _unsafe_view _reshape_alias view_as reshape_as permute transpose t mT mH adjoint numpy_T
    matrix_H unsqueeze squeeze expand expand_as broadcast_to flatten unflatten ravel contiguous clone alias detach
    detach_copy slice select narrow split split_with_sizes unsafe_split unsafe_split_with_sizes chunk
    unsafe_chunk tensor_split unbind movedim moveaxis swapaxes swapdims repeat repeat_interleave tile roll flip
    index_select gather take_along_dim index as_strided unfold diagonal view_as_real view_as_complex
    _pack_padded_sequence _pad_packed_sequence constant_pad_nd pad pixel_shuffle pixel_unshuffle
    atleast_1d atleast_2d atleast_3d
    """
)
# Those that bring elements to other places along an axis.
MOVING = frozenset({"roll", "flip", "index_select", "gather", "take_along_dim"})
JOIN = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack"})

# Keep every element in its place and only change its type.
CAST = _names("to _to_copy type_as lift_fresh lift_fresh_copy float double half conj resolve_conj real")

# One tensor in, the same shape out (or a tensor and numbers, or a tensor and a mask).
UNARY = _names(
    """
    neg exp exp2 expm1 log log1p tanh sigmoid relu relu6 gelu silu mish elu selu celu softplus leaky_relu prelu
    hardtanh hardsigmoid hardswish abs sqrt rsqrt square reciprocal clamp clamp_min clamp_max clip nan_to_num
    dropout native_dropout alpha_dropout feature_dropout softmax _softmax log_softmax _log_softmax cos sin sign
    masked_fill tril triu threshold logsigmoid erf bernoulli sparsemax layer_norm native_layer_norm
    rms_norm _fused_rms_norm group_norm native_group_norm batch_norm native_batch_norm _batch_norm_with_update
    _native_batch_norm_legit instance_norm cumsum normalize _safe_softmax renorm log10 log2 round floor ceil
    _native_batch_norm_legit_no_training cudnn_batch_norm _batch_norm_impl_index _weight_norm
    _weight_norm_interface
    """
)
BINARY = _names(
    """
    add sub rsub mul multiply div divide true_divide where maximum minimum addcmul addcdiv lerp pow
    floor_divide remainder fmod atan2 hypot logaddexp copysign subtract index_put masked_scatter glu copy written
    """
)
ELEMENTWISE = CAST | UNARY | BINARY
NONLINEAR = _names(
    """
    exp tanh sigmoid relu relu6 gelu silu mish elu selu celu softplus leaky_relu prelu hardtanh hardsigmoid
    hardswish abs log softmax _softmax glu square
    """
)
NORM = _names(
    """
    layer_norm native_layer_norm rms_norm _fused_rms_norm group_norm native_group_norm batch_norm
    native_batch_norm _batch_norm_with_update _native_batch_norm_legit instance_norm normalize
    _native_batch_norm_legit_no_training cudnn_batch_norm
    """
)
SOFTMAX = frozenset({"softmax", "_softmax", "_safe_softmax"})
DROPOUT = frozenset({"dropout", "native_dropout", "alpha_dropout", "feature_dropout", "_fused_dropout"})

MATRIX_PRODUCT = frozenset({"matmul", "bmm", "mm", "mv", "dot", "vdot", "baddbmm", "addmm", "addmv", "linear"})
CONVOLUTION = _names("conv1d conv2d conv3d convolution _convolution conv_transpose1d conv_transpose2d")
REDUCTION = _names(
    """
    sum mean amax amin max min prod std var norm linalg_vector_norm logsumexp any all argmax argmin nansum
    nanmean std_mean var_mean median mode
    """
)
FUSED = _names(
    """
    scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu
    _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention
    _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math
    _scaled_dot_product_fused_attention_overrideable
    """
)
RECURRENT = _names("gru lstm rnn_tanh rnn_relu gru_cell lstm_cell rnn_tanh_cell rnn_relu_cell")
LOOKUP = frozenset({"embedding", "embedding_bag", "_embedding_bag"})
POOLING = _names(
    """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d max_pool2d_with_indices max_pool3d_with_indices
    """
)

LOSS = _names(
    """
    cross_entropy_loss nll_loss nll_loss_nd nll_loss2d mse_loss l1_loss smooth_l1_loss huber_loss
    binary_cross_entropy binary_cross_entropy_with_logits kl_div ctc_loss _ctc_loss cosine_embedding_loss
    hinge_embedding_loss margin_ranking_loss multi_margin_loss multilabel_margin_loss triplet_margin_loss
    """
)

# Take only the shape of their operand: what they make does not depend on its numbers.
FACTORY = _names(
    """
    new_empty new_zeros new_ones new_full empty_like zeros_like ones_like full_like rand_like randn_like
    randint_like new_empty_strided
    """
)

# Composite operations that are recorded whole; every other composite operation is recorded by its parts.
WHOLE = _names(
    """
    linear matmul softmax log_softmax dropout layer_norm rms_norm group_norm batch_norm instance_norm
    reshape flatten chunk expand_as scaled_dot_product_attention where to conv1d conv2d conv3d gru lstm
    rnn_tanh rnn_relu gru_cell lstm_cell contiguous avg_pool1d max_pool1d max_pool2d max_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d embedding masked_fill repeat_interleave
    take_along_dim clip std var alpha_dropout feature_dropout _pad_packed_sequence movedim view_as
    reshape_as type_as conv_transpose1d conv_transpose2d swapaxes swapdims moveaxis tile unflatten ravel
    nll_loss nll_loss_nd cross_entropy_loss rnn_tanh_cell rnn_relu_cell mT mH adjoint
    """
)


def base_name(schema_name: str) -> str:
    """`aten::add_` -> `add`."""
    name = schema_name.rpartition("::")[2]
    if name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return name
