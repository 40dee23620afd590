"""Byte arithmetic of a run: weights, activations, workspace, margins. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loader.host import GIB, Accelerator, Dtype, Host
from loader.spec import DTYPE_BYTES, Component, Size, Variant
from loader.wishes import ResidencyName

MIB = 2**20


@dataclass(frozen=True)
class Shape:
    """How much one request asks for."""

    size: Size
    batch: int = 1
    steps: int = 1
    frames: int = 1
    guided: bool = True

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def items(self) -> int:
        return self.batch * self.frames


@dataclass(frozen=True)
class Peaks:
    """Bytes by pool. On a host without an accelerator everything is in ``host``."""

    device: int
    host: int


@dataclass(frozen=True)
class Precision:
    """In what a component is kept and in what it computes."""

    storage: Dtype
    compute: Dtype


def weight_bytes(component: Component, storage: Dtype) -> int:
    """Bytes of the component's parameters as stored, fp32 islands included."""
    islands = min(component.extra_fp32_params, component.n_params)
    return (component.n_params - islands) * DTYPE_BYTES[storage] + islands * 4


def block_bytes(component: Component, storage: Dtype) -> int:
    """Bytes that must be on the device at once when the component is streamed block by block.

    Two blocks: the one computing and the one being fetched. What lies outside the repeated blocks (embeddings, first
    and last layers) stays; a tenth of the component is what that comes to in the five models.
    """
    whole = weight_bytes(component, storage)
    if component.block_count <= 2:
        return whole
    return int(whole * 0.1 + 0.9 * whole * 2 / component.block_count)


def activation_bytes(component: Component, shape: Shape, compute: Dtype, saver_factor: float = 1.0) -> int:
    """Peak bytes of one call beyond the weights."""
    act = component.activation
    # What computes in int8 is calibrated in fp32 when it is loaded, and that takes more than any call to come.
    share = 1.0 if compute == "int8" else DTYPE_BYTES[compute] / 4
    items: float = min(shape.items, act.max_items) if act.max_items else shape.items
    if not shape.guided:
        items *= component.unguided
    return int((act.fixed + act.per_pixel * shape.pixels * items * saver_factor) * share)


def working_bytes(
    component: Component, shape: Shape, compute: Dtype, saver_factor: float = 1.0, *, on_host: bool
) -> int:
    """Peak bytes beyond the weights where the component computes: on the host what follows its calls is there too."""
    own = activation_bytes(component, shape, compute, saver_factor)
    return max(own, component.activation.host_fixed) if on_host else own


def stage_activation_bytes(
    variant: Variant, stage: str, precisions: Mapping[str, Precision], shape: Shape, savers: Sequence[str] = ()
) -> int:
    """Peak bytes of one call beyond the weights, of the stage's hungriest component on the accelerator."""
    factor = variant.saver_factor if savers else 1.0
    here = [c for c in variant.components if c.stage == stage and not c.on_cpu]
    return max((activation_bytes(c, shape, precisions[c.name].compute, factor) for c in here), default=0)


def workspace_bytes(on_accelerator: bool) -> int:
    """What libraries take beside tensors: cuDNN/cuBLAS workspaces on a device, oneDNN scratch on a CPU."""
    return 256 * MIB if on_accelerator else 16 * MIB


def host_budget(host: Host, held: int = 0) -> int:
    """Bytes of RAM a plan may use: what is free now less a margin of 10 %, at least 512 MiB."""
    free = host.free_ram_bytes
    return max(0, free - max(512 * MIB, free // 10) - held)


def device_budget(accelerator: Accelerator, held: int = 0) -> int:
    """Bytes of a device a plan may use: free memory less 5 % (at least 300 MiB), 20 % where it is also host RAM."""
    free = accelerator.free_bytes
    margin = free // 5 if accelerator.unified else max(300 * MIB, free // 20)
    return max(0, free - margin - held)


def peaks(
    variant: Variant,
    precisions: Mapping[str, Precision],
    shape: Shape,
    residency: ResidencyName,
    *,
    accelerator: Accelerator | None,
    savers: Sequence[str] = (),
) -> Peaks:
    """Predicted peak of a run by pool.

    resident: every component stays; offload: one stage awake at a time, the rest in host RAM; blocks: the awake stage
    is streamed block by block; dropped: what is not awake exists only as a file.
    """
    factor = variant.saver_factor if savers else 1.0
    stages = [[c for c in variant.components if c.stage == stage] for stage in variant.stages]

    def stored(components: Iterable[Component]) -> int:
        return sum(weight_bytes(c, precisions[c.name].storage) for c in components)

    def act(components: Iterable[Component]) -> int:
        needs = (
            working_bytes(c, shape, precisions[c.name].compute, factor, on_host=accelerator is None or c.on_cpu)
            for c in components
        )
        return max(needs, default=0)

    pinned = [c for c in variant.components if c.on_cpu]
    moving = [c for c in variant.components if not c.on_cpu]
    workspace = workspace_bytes(accelerator is not None)
    if accelerator is None:
        # oneDNN keeps the weights of convolutions a second time, in the order its kernels read them.
        packed = [
            max((_packed(c, precisions[c.name]) for c in stage if c.channels_last), default=0) for stage in stages
        ]
        if residency == "resident":
            return Peaks(0, stored(variant.components) + max(packed) + act(variant.components) + workspace)
        needs = [stored(stage) + extra + act(stage) for stage, extra in zip(stages, packed, strict=True)]
        return Peaks(0, max(needs) + workspace)
    after = max((c.activation.host_fixed for c in variant.components), default=0)
    beside = stored(pinned) + max(act(pinned), after)
    if residency == "resident":
        device = stored(moving) + act(moving)
        host = beside
    else:
        awake = [[c for c in stage if not c.on_cpu] for stage in stages]
        if residency == "offload":
            device = max((stored(stage) + act(stage) for stage in awake), default=0)
        else:
            device = max(
                (sum(block_bytes(c, precisions[c.name].storage) for c in stage) + act(stage) for stage in awake),
                default=0,
            )
        # What is read from a file passes through host RAM one stage at a time; with one memory for both it does not.
        asleep = stored(moving) if residency != "dropped" else max((stored(stage) for stage in awake), default=0)
        host = (0 if accelerator.unified else asleep) + beside
    return Peaks(device + workspace, host + workspace_bytes(on_accelerator=False))


def _packed(component: Component, precision: Precision) -> int:
    """Bytes of weights beside those that stay: for int8 the fp32 ones it is made from."""
    return weight_bytes(component, "fp32" if precision.compute == "int8" else precision.storage)


def gib(value: int | float) -> float:
    """Bytes as GiB with two decimals, for texts."""
    return round(value / GIB, 2)
