"""Names of attention products, as plans carry them; ``loader.attention`` has the products themselves."""

SDPA = "sdpa"


def blocks_between(low: int, high: int) -> str:
    """The name of the product that takes blocks for ``low`` to ``high`` keys."""
    return f"blocks:{low}-{high}"


def span_of(name: str) -> tuple[int, int] | None:
    """The keys from and to which ``name`` takes blocks; None for the fused product.

    Raises:
        ValueError: there is no product of that name.
    """
    if name == SDPA:
        return None
    kind, _, span = name.partition(":")
    low, _, high = span.partition("-")
    if kind != "blocks" or not (low.isdecimal() and high.isdecimal()):
        raise ValueError(f"there is no attention product {name!r}: sdpa or blocks:LOW-HIGH")
    return int(low), int(high)
