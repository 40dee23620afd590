"""Attention products by name, so that a plan can choose one and ``place`` can put it into a network.

``sdpa`` is torch's fused product. ``blocks:LOW-HIGH`` is a plain loop over heads and blocks of query rows for sequences
of LOW to HIGH keys and ``sdpa`` for all others: on CPUs whose matrix unit multiplies bf16, torch's fused kernel was
measured to be no faster in bf16 than in fp32, while two plain products with a softmax between reach the unit
(``loader.microprobe`` times both; ``docs/benchmarks``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

from torch import Tensor, nn
from torch.nn import functional as F

from loader.attention_names import span_of

BLOCK_ROWS = 512


class Attend(Protocol):
    """Softmax attention scaled by ``width ** -0.5``.

    ``query [B, heads, Q, width]``, ``key`` and ``value [B, heads, K, width]``, ``bias`` broadcastable to
    ``[B, heads, Q, K]`` and added before the softmax; returns ``[B, heads, Q, width]``.
    """

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor: ...


class _HoldsAttend(Protocol):
    attend: Attend


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention by torch's fused kernels, as ``Attend`` describes."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def attend_blocks(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention as two products with a softmax between, ``BLOCK_ROWS`` query rows of one head at a time.

    A block's scores stay in the processor's cache. They are rounded to the inputs' dtype before the softmax, which
    itself sums in fp32. Arguments and result as ``Attend`` describes.
    """
    batch, heads, rows, _ = query.shape
    scaled = query * query.shape[-1] ** -0.5
    turned = key.transpose(-2, -1)
    result = query.new_empty(batch, heads, rows, value.shape[-1])
    added = None if bias is None else bias.to(query.dtype).expand(batch, heads, rows, key.shape[-2])
    for one in range(batch):
        for head in range(heads):
            for start in range(0, rows, BLOCK_ROWS):
                block = slice(start, start + BLOCK_ROWS)
                scores = scaled[one, head, block] @ turned[one, head]
                if added is not None:
                    scores = scores + added[one, head, block]
                result[one, head, block] = scores.softmax(dim=-1) @ value[one, head]
    return result


@dataclass(frozen=True)
class ByLength:
    """``attend_blocks`` on the CPU for ``low`` to ``high`` keys, the fused product otherwise."""

    low: int
    high: int

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """As ``Attend`` describes."""
        if query.device.type == "cpu" and self.low <= key.shape[-2] <= self.high and query.shape[-2] >= BLOCK_ROWS:
            return attend_blocks(query, key, value, bias)
        return attend(query, key, value, bias)


def product(name: str) -> Attend:
    """The attention product called ``name``.

    Raises:
        ValueError: there is none of that name.
    """
    span = span_of(name)
    return attend if span is None else ByLength(*span)


def _holders(module: nn.Module) -> Iterator[_HoldsAttend]:
    for child in module.modules():
        processor = getattr(child, "processor", None)
        # A processor that is a module is among the modules already.
        for candidate in (child, None if isinstance(processor, nn.Module) else processor):
            if hasattr(candidate, "attend"):
                yield cast(_HoldsAttend, candidate)


def use_attention(module: nn.Module, function: Attend) -> int:
    """Let every attention layer below ``module`` call ``function``; returns how many do."""
    holders = list(_holders(module))
    for holder in holders:
        holder.attend = function
    return len(holders)
