"""What makes two components one: the same network, from the same files, placed the same way."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from loader.codec import to_plain
from loader.plan import Placement, Plan
from loader.spec import Weights

_DIGITS = 12


def key_of(
    plan: Plan, placement: Placement, files: Mapping[str, Path], checkpoint: Path | None, network: str = ""
) -> str:
    """The key a component is held under: its adapter and name, and a digest of all that it is made of.

    Args:
        plan: the plan in force.
        placement: of the component.
        files: the plan's files by announced name.
        checkpoint: the user's own file instead of them, or None.
        network: name of the network where other adapters have the same; then only files and placement tell it apart.
    """
    variant = plan.situation.spec.variant(plan.variant)
    wanted = [w for w in variant.weights if placement.name in w.fills] or list(variant.weights)
    origin = (
        [_of_file(checkpoint, "")]
        if checkpoint is not None
        else [_identity(w, files[w.file]) for w in wanted if w.file in files]
    )
    placed = {k: v for k, v in to_plain(placement).items() if k not in ("name", "residency", "bytes")}
    own = [network] if network else [plan.adapter, plan.variant, placement.name]
    text = json.dumps([own, origin, placed], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
    return f"{network or f'{plan.adapter}/{placement.name}'} {digest}"


def _identity(weights: Weights, path: Path) -> list[str | int]:
    if weights.sha256:
        return [weights.sha256, weights.key]
    return _of_file(path, weights.key)


def _of_file(path: Path, key: str) -> list[str | int]:
    """A file as it is now: written anew, it is another one."""
    try:
        resolved = path.resolve()
        there = resolved.stat()
    except OSError:
        return [str(path), key]
    return [str(resolved), there.st_size, there.st_mtime_ns, key]
