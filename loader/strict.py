"""Loading a state dict by name, all of it or not at all."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from loader.errors import CheckpointMismatchError


def load_strict(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    what: str,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
) -> None:
    """Fill ``module`` from ``state_dict``; every name and shape must agree.

    Tensors are copied into the module's own dtype and device; a module on ``meta`` takes the tensors themselves.

    Args:
        module: the network, with the checkpoint's tensor names.
        state_dict: tensors under the names of ``module.state_dict()``.
        what: what is being loaded, for the error message ("damo_yolo T").
        allow_missing: exact names the checkpoint may lack.
        allow_unexpected: exact names the checkpoint may have in excess; they are dropped.

    Raises:
        CheckpointMismatchError: names or shapes differ; the module is unchanged.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - state_dict.keys() - set(allow_missing))
    unexpected = sorted(state_dict.keys() - own.keys() - set(allow_unexpected))
    common = own.keys() & state_dict.keys()
    wrong_shape = sorted(
        f"{name}: {list(state_dict[name].shape)}, {list(own[name].shape)}"
        for name in common
        if state_dict[name].shape != own[name].shape
    )
    if missing or unexpected or wrong_shape:
        raise CheckpointMismatchError(what, missing, unexpected, wrong_shape)
    on_meta = any(tensor.is_meta for tensor in own.values())
    # strict=True is not used because the allowances have been settled, by name, above.
    module.load_state_dict({name: state_dict[name] for name in common}, strict=len(common) == len(own), assign=on_meta)
