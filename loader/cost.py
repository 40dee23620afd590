"""Predicted seconds of a run, from arithmetic, rates, and the copies a residency needs. Pure."""

from collections.abc import Mapping

from loader.host import Accelerator, Host, Rate
from loader.memory import Precision, Shape, weight_bytes
from loader.spec import DTYPE_BYTES, Component, Variant
from loader.wishes import ResidencyName

CAST_PASSES = 2.5  # read stored, write cast, read cast: memory traffic of a layer-wise cast, in units of stored bytes

# Time a call takes before any arithmetic: some hundred kernels queued on an accelerator, Python on a CPU.
OVERHEAD_SECONDS = {"accelerator": 0.006, "cpu": 0.002}


def calls(component: Component, shape: Shape) -> int:
    """How often the component runs in one request."""
    items = component.work.worked(shape.items)
    return {
        "run": 1,
        "step": shape.steps,
        "item": items,
        "item-step": items * shape.steps,
    }[component.work.per]


def gflop(component: Component, shape: Shape) -> float:
    """Arithmetic of one call, in GFLOP."""
    mpx = shape.pixels / 1e6
    work = component.work
    batch = shape.batch if work.per in ("run", "step") else 1
    share = 1.0 if shape.guided else component.unguided
    return share * (work.fixed + batch * (work.per_megapixel * mpx + work.per_megapixel2 * mpx * mpx))


# Large products reach a bit more than half of a vendor's peak; timed rates are what products reach.
VENDOR_SHARE = 0.55
# Of a network in int8 only the convolutions are. DAMO-YOLO-T was 2.3 to 3.0 times as fast as in fp32 where
# products of bytes are 4.4 to 7.8 times as fast.
INT8_SHARE = 0.5


def rate(rates: Mapping[str, Rate], dtype: str) -> float:
    """GFLOP/s that a network in ``dtype`` (or fp32 where it is not listed) reaches by the rates of products."""
    found = rates.get(dtype, rates["fp32"])
    return found.gflops * (VENDOR_SHARE if found.source == "vendor" else INT8_SHARE if dtype == "int8" else 1.0)


def seconds(
    host: Host,
    device: str,
    variant: Variant,
    precisions: Mapping[str, Precision],
    shape: Shape,
    residency: ResidencyName,
) -> float:
    """Predicted seconds of one request on ``device`` once the weights are loaded."""
    accelerator = host.accelerator(device)
    return sum(
        component_seconds(host, None if c.on_cpu else accelerator, c, precisions[c.name], shape, residency)
        for c in variant.components
    )


def component_seconds(
    host: Host,
    accelerator: Accelerator | None,
    component: Component,
    precision: Precision,
    shape: Shape,
    residency: ResidencyName,
) -> float:
    """Predicted seconds of one component in one request, its copies included; ``accelerator`` None means the CPU."""
    rates = accelerator.rates if accelerator else host.cpu.rates
    bandwidth = (accelerator.bandwidth_gbs if accelerator else host.cpu.bandwidth_gbs) * 1e9
    count = calls(component, shape)
    stored = weight_bytes(component, precision.storage)
    # A call can be no faster than reading its weights once.
    compute = gflop(component, shape) / (rate(rates, precision.compute) * component.work.efficiency)
    once = max(compute, stored / bandwidth) + OVERHEAD_SECONDS["accelerator" if accelerator else "cpu"]
    if DTYPE_BYTES[precision.storage] < DTYPE_BYTES[precision.compute]:
        once += CAST_PASSES * stored / bandwidth
    return count * once + _copies(host, accelerator, component, stored, count, residency)


def _copies(
    host: Host,
    accelerator: Accelerator | None,
    component: Component,
    stored: int,
    count: int,
    residency: ResidencyName,
) -> float:
    if component.on_cpu or residency == "resident":
        return 0.0
    from_disk = stored / (host.disk_gbs * 1e9) if residency == "dropped" else 0.0
    if accelerator is None or accelerator.unified:
        return from_disk
    # Offload moves a component in and out once a run; block-wise offload reads it in again at every call.
    moves = 2 if residency == "offload" else count
    return from_disk + moves * stored / (accelerator.link_gbs * 1e9)
