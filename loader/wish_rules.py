"""Which wishes this host or model cannot honour, with the reason and the nearest thing that works."""

from collections.abc import Iterator

from loader import rules
from loader.decision import Decision, Situation
from loader.host import Dtype
from loader.spec import Component, Size, Variant


def refusal(situation: Situation) -> Decision | None:
    """The first wish that has to be refused, or None.

    ``force`` lets a wish through that would merely be slow, unsupported or broken here; names that mean nothing and
    sizes the network cannot take stay refused.
    """
    for decision in _impossible(situation):
        return decision
    if situation.wishes.force:
        return None
    for decision in _unwise(situation):
        return decision
    return None


def _impossible(situation: Situation) -> Iterator[Decision]:
    spec, wishes, host = situation.spec, situation.wishes, situation.host
    names = [v.name for v in spec.variants]
    if wishes.variant is not None and wishes.variant not in names:
        yield _refuse("unknown_variant", "variant", wishes.variant, names[0], choices=", ".join(names))
        return
    devices = ["cpu", *(a.device for a in host.accelerators)]
    if wishes.device is not None and wishes.device not in devices:
        yield _refuse("no_such_device", "device", wishes.device, devices[-1], choices=", ".join(devices))
    variant = _variant(situation)
    components = {c.name: c for c in variant.components}
    for name in wishes.component_dtype:
        if name not in components:
            yield _refuse("unknown_component", "dtype", name, next(iter(components)), choices=", ".join(components))
    for subject, value in (("batch", wishes.batch), ("steps", wishes.steps), ("frames", wishes.frames)):
        if value is not None and value < 1:
            yield _refuse("below_one", subject, str(value), "1")
    if wishes.batch is not None and wishes.batch > spec.max_batch:
        yield _refuse("batch_too_large", "batch", str(wishes.batch), str(spec.max_batch))
    if wishes.size is not None and wishes.size != nearest_size(variant, wishes.size):
        near = nearest_size(variant, wishes.size)
        low, high = variant.input_range
        yield _refuse(
            "size_not_possible",
            "size",
            f"{wishes.size[0]}×{wishes.size[1]}",
            f"{near[0]}×{near[1]}",
            multiple=variant.size_multiple,
            low=low,
            high=high,
        )


def nearest_size(variant: Variant, size: Size) -> Size:
    """The size nearest to ``size`` that the network takes."""
    low, high = variant.input_range
    step = variant.size_multiple

    def nearest(side: int) -> int:
        multiple = max(1, round(side / step)) * step
        return min(max(multiple, -(-low // step) * step), high // step * step)

    return nearest(size[0]), nearest(size[1])


def _variant(situation: Situation) -> Variant:
    spec = situation.spec
    if situation.wishes.variant is not None:
        return spec.variant(situation.wishes.variant)
    device, _ = rules.choose_device(situation)
    return spec.variant(spec.default if device != "cpu" else spec.cpu_only.variant)


def _unwise(situation: Situation) -> Iterator[Decision]:
    host, wish = situation.host, situation.wishes.device
    device, _ = rules.choose_device(situation)
    accelerator = host.accelerator(wish) if wish else None
    if accelerator:
        problem = rules.accelerator_problem(situation, accelerator)
        if problem:
            params = {**problem.params, "nearest": device}
            yield Decision(problem.rule, "device", accelerator.device, "refused", params, flips=problem.flips)
    for component in _variant(situation).components:
        yield from _unwise_dtype(situation, component, device)
    yield from _dtype_nobody_takes(situation)


def _unwise_dtype(situation: Situation, component: Component, device: str) -> Iterator[Decision]:
    named = situation.wishes.component_dtype.get(component.name)
    wish = rules.wished_dtype(situation, component)
    if wish is None:
        return
    if wish not in component.dtypes:
        if named is not None:
            choices = ", ".join(component.dtypes)
            yield _refuse(
                "dtype_not_offered", component.name, wish, _best(situation, component, device), choices=choices
            )
        return
    accelerator = None if component.on_cpu else situation.host.accelerator(device)
    objection = rules.dtype_objection(situation, component, accelerator, wish)
    # What running itself has ruled out is not the user's wish any more.
    if objection and component.name not in situation.limits.dtype_floor:
        nearest = _best(situation, component, device)
        params = {**objection.params, "nearest": nearest}
        yield Decision(
            objection.rule, component.name, wish, "refused", params, objection.rejected, flips=objection.flips
        )


def _dtype_nobody_takes(situation: Situation) -> Iterator[Decision]:
    wish = situation.wishes.dtype
    components = _variant(situation).components
    if wish is not None and not any(wish in c.dtypes for c in components):
        choices = ", ".join(dict.fromkeys(d for c in components for d in c.dtypes))
        yield _refuse("dtype_not_offered", situation.spec.name, wish, components[0].dtypes[0], choices=choices)


def _best(situation: Situation, component: Component, device: str) -> Dtype:
    accelerator = None if component.on_cpu else situation.host.accelerator(device)
    for dtype in component.dtypes:
        if rules.dtype_objection(situation, component, accelerator, dtype) is None:
            return dtype
    return "fp32"


def _refuse(rule: str, subject: str, wanted: str, nearest: str, **params: str | int) -> Decision:
    return Decision(rule, subject, wanted, "refused", {**params, "nearest": nearest})
