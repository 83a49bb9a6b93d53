"""The kernels that a GPU would take, on fake tensors that say that they are on a processor.

torch chooses a kernel of `scaled_dot_product_attention` by device: a processor's keeps other things for the backward pass,
and with dropout it falls back to plain matrices of tokens x tokens. `attention` makes the choice of a GPU instead
(sdp_utils.cpp of torch 2.13): without a mask and in half precision flash attention, else the memory-efficient kernel.
Dropout keeps a number per element on a processor and a byte on a GPU: `dropout` is the latter.
"""

from __future__ import annotations

import torch

HALF = (torch.bfloat16, torch.float16)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` as a GPU runs it.

    Args:
        query: [batch, heads, tokens, head size]; `key` and `value` alike, with fewer heads if `enable_gqa`.
        attn_mask: bool or float, can be expanded to [batch, heads, query tokens, key tokens].
    """
    if torch.is_autocast_enabled("cpu"):
        number_type = torch.get_autocast_dtype("cpu")
        query, key, value = (tensor.to(number_type) for tensor in (query, key, value))
    if attn_mask is None and query.dtype in HALF:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[
            0
        ]
    if enable_gqa:  # this kernel knows no groups
        key, value = (tensor.repeat_interleave(query.shape[1] // tensor.shape[1], 1) for tensor in (key, value))
    bias = _as_bias(attn_mask, query, key) if attn_mask is not None else None
    keeps = any(tensor.requires_grad for tensor in (query, key, value)) and torch.is_grad_enabled()
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, keeps, dropout_p, is_causal, scale=scale
    )[0]


def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """`torch.nn.functional.dropout` as a GPU runs it, which keeps a mask of bytes (Dropout.cpp of torch 2.13)."""
    if inplace:  # this one keeps the numbers on a GPU, too
        return torch.dropout_(input, p, training)
    fused = training and 0 < p < 1 and input.numel() > 0
    return torch.native_dropout(input, p, training)[0] if fused else torch.dropout(input, p, training)


def no_packed_rows(position_ids: torch.Tensor) -> None:
    """transformers looks into the positions for rows that hold several texts (`masking_utils`, 5.23); a dry batch has none,
    and fake tensors cannot tell."""
    return None


def _as_bias(mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The mask as numbers to add, in the number type of the arithmetic, seen as [batch, heads, tokens, tokens]."""
    if mask.dtype == torch.bool:
        zero, least = mask.new_zeros((), dtype=query.dtype), mask.new_full((), float("-inf"), dtype=query.dtype)
        mask = torch.where(mask, zero, least)
    return mask.to(query.dtype).expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
