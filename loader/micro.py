"""What timed operations of a device say: pure questions to the ``micro`` figures of a host. No torch."""

from collections.abc import Sequence

from loader.host import Dtype, Operation, OpTime

LAST, PACKED = "channels_last", "packed"
ATTENTION_MIN_GAIN = 1.1  # another attention product must be at least this much faster to be chosen


def find(
    micro: Sequence[OpTime], operation: Operation, dtype: str, *, layout: str = "", kernel: str = "", length: int = 0
) -> OpTime | None:
    """The figure of exactly this operation, or None."""
    key = (operation, dtype, layout, kernel, length)
    return next((op for op in micro if (op.operation, op.dtype, op.layout, op.kernel, op.length) == key), None)


def fastest(micro: Sequence[OpTime], operation: Operation, dtype: str) -> OpTime | None:
    """The fastest way of doing ``operation`` in ``dtype``, of the longest sequence where there are several."""
    found = [op for op in micro if op.operation == operation and op.dtype == dtype]
    longest = max((op.length for op in found), default=0)
    return min((op for op in found if op.length == longest), key=lambda op: op.seconds, default=None)


def gain(micro: Sequence[OpTime], operation: Operation, dtype: str) -> float | None:
    """How many times as fast as fp32 ``operation`` is in ``dtype``, each at its best; None when not both are known."""
    if operation == "attention":
        return _attention_gain(micro, dtype)
    low, full = fastest(micro, operation, dtype), fastest(micro, operation, "fp32")
    return full.seconds / low.seconds if low and full else None


def _attention_gain(micro: Sequence[OpTime], dtype: str) -> float | None:
    """At the longest sequence timed in both."""
    shared = {op.length for op in micro if op.operation == "attention" and op.dtype == dtype}
    shared &= {op.length for op in micro if op.operation == "attention" and op.dtype == "fp32"}
    if not shared:
        return None
    longest = max(shared)
    best = {
        d: min(op.seconds for op in micro if (op.operation, op.dtype, op.length) == ("attention", d, longest))
        for d in (dtype, "fp32")
    }
    return best["fp32"] / best[dtype]


def layout_gain(micro: Sequence[OpTime], dtype: str) -> float | None:
    """How many times as fast a convolution in ``dtype`` is in channels_last as contiguous; None when not both known."""
    there = [find(micro, "convolution", dtype, layout=layout) for layout in ("contiguous", "channels_last")]
    contiguous, last = there
    return contiguous.seconds / last.seconds if contiguous and last else None


def packing_gain(micro: Sequence[OpTime], dtype: str) -> float | None:
    """How many times as fast layers in ``dtype`` are with packed weights: at the worse of convolution and linear layer.

    None when neither was timed both ways.
    """
    pairs = (
        (find(micro, "convolution", dtype, layout=LAST), find(micro, "convolution", dtype, layout=LAST, kernel=PACKED)),
        (find(micro, "linear", dtype), find(micro, "linear", dtype, kernel=PACKED)),
    )
    return min((plain.seconds / packed.seconds for plain, packed in pairs if plain and packed), default=None)


def blocks_range(micro: Sequence[OpTime], dtype: str) -> tuple[int, int, float] | None:
    """Lengths from and to which attention by blocks beats the fused product, and by how much at the worst of them.

    Between two timed lengths at which it wins it is taken to win; from the shortest such length on, up to half as much
    again as the longest. None when it wins nowhere.
    """
    gains = {}
    for op in micro:
        if (op.operation, op.dtype, op.kernel) == ("attention", dtype, "blocks"):
            fused = find(micro, "attention", dtype, kernel="sdpa", length=op.length)
            if fused:
                gains[op.length] = fused.seconds / op.seconds
    best: list[int] = []
    current: list[int] = []
    for length in sorted(gains):
        current = [*current, length] if gains[length] >= ATTENTION_MIN_GAIN else []
        best = max(best, current, key=len)
    if not best:
        return None
    longest = best[-1] + best[-1] // 2 if best[-1] == max(gains) else best[-1]
    return best[0], longest, min(gains[length] for length in best)


def not_finite(micro: Sequence[OpTime]) -> tuple[Dtype, ...]:
    """Dtypes in which some harmless operation gave NaN or infinity."""
    return tuple(dict.fromkeys(op.dtype for op in micro if not op.finite))
