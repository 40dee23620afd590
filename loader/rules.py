"""One function per rule a plan applies. Each takes the situation and returns a value with its decisions.

Figures quoted by static rules were measured with torch 2.13 on 2-core machines and are in ``docs/benchmarks``; figures
measured on the host itself, where there are any, replace them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from loader import micro
from loader.decision import Decision, Rejected, Situation
from loader.host import Accelerator, Cpu, Dtype, Rate
from loader.memory import Precision
from loader.spec import Component

# Precision order for "the next higher one": bf16 stands above fp16 because it has fp32's range.
PRECISION_ORDER: tuple[Dtype, ...] = ("int8", "fp16", "bf16", "fp32")
# Without them products of two bytes are added up in 16 bit, where they overflow.
INT8_ISA = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
NATIVE_BF16_ISA = frozenset({"avx512_bf16", "amx_bf16", "arm_bf16"})
BF16_MIN_GAIN = 1.1  # a lower precision must be at least this much faster to be worth its rounding


@dataclass(frozen=True)
class DtypeChoice:
    precision: Precision
    decisions: tuple[Decision, ...]


# --- device -----------------------------------------------------------------------------------------------------


def choose_device(situation: Situation) -> tuple[str, tuple[Decision, ...]]:
    """The device everything but CPU-bound components runs on."""
    host, wish = situation.host, situation.wishes.device
    decisions: list[Decision] = []
    usable = []
    for accelerator in host.accelerators:
        problem = accelerator_problem(situation, accelerator)
        if problem and not (situation.wishes.force and wish == accelerator.device):
            decisions.append(problem)
        else:
            usable.append(accelerator.device)
    preferred = usable[0] if usable else "cpu"
    if wish is None or wish == preferred:
        return preferred, tuple(decisions)
    if wish == "cpu" or wish in usable:
        decisions.append(Decision("device_wish", "device", preferred, wish))
        return wish, tuple(decisions)
    return preferred, tuple(decisions)


def accelerator_problem(situation: Situation, accelerator: Accelerator) -> Decision | None:
    """Why an accelerator cannot be used, or None."""
    host = situation.host
    params = {
        "name": accelerator.name,
        "arch": accelerator.arch,
        "oldest": host.wheel_archs[0] if host.wheel_archs else "",
    }
    if accelerator.device in situation.limits.no_device:
        return Decision("no_kernel_image", "device", accelerator.device, "cpu", params, flips="other_wheel")
    if not wheel_has_code(accelerator, host.wheel_archs):
        return Decision("wheel_lacks_arch", "device", accelerator.device, "cpu", params, flips="other_wheel")
    if accelerator.runs_code is False:
        return Decision("device_does_not_answer", "device", accelerator.device, "cpu", params, flips="driver")
    return None


def wheel_has_code(accelerator: Accelerator, wheel_archs: tuple[str, ...]) -> bool:
    """Whether the installed torch carries code for the card.

    Binary code of one compute capability runs on the same major version with an equal or higher minor one (CUDA C++
    Programming Guide, "Binary compatibility"); AMD code runs on the very architecture only.
    """
    if not wheel_archs or accelerator.kind not in ("cuda", "rocm"):
        return True
    if accelerator.kind == "rocm" or not accelerator.arch.startswith("sm_"):
        return accelerator.arch in wheel_archs
    major, minor = divmod(int(accelerator.arch[3:]), 10)
    archs = [divmod(int(a[3:].rstrip("af")), 10) for a in wheel_archs if a.startswith("sm_")]
    return any(m == major and n <= minor for m, n in archs)


# --- precision --------------------------------------------------------------------------------------------------


def choose_dtype(
    situation: Situation, component: Component, device: str, *, fp32_first: bool = False, tried: Dtype | None = None
) -> DtypeChoice:
    """Compute dtype of a component: the first of its preferences that nothing speaks against.

    ``tried`` won here on sample input: rules that only expect it to be slow do not count against it.
    """
    on_device = None if component.on_cpu else situation.host.accelerator(device)
    wish = wished_dtype(situation, component)
    preferred = component.dtypes[0]
    order: tuple[Dtype, ...] = component.dtypes
    if wish is not None and (wish in component.dtypes or situation.wishes.force):
        order = (wish, *(d for d in component.dtypes if d != wish))
    elif fp32_first:
        order = ("fp32", *(d for d in component.dtypes if d != "fp32"))
    elif tried is not None:
        order = (tried, *(d for d in component.dtypes if d != tried))
    objections: list[Decision] = []
    chosen: Dtype = "fp32"
    for dtype in order:
        objection = dtype_objection(situation, component, on_device, dtype)
        # What failed here while it ran is not tried again, forced or not.
        forced = situation.wishes.force and dtype == wish and not _below_floor(situation, component, dtype)
        forced = forced and (dtype != "int8" or on_device is None)  # nothing computes it on a card
        won = tried == dtype and wish is None and objection is not None and expects_slow(objection)
        if objection is None or forced or won:
            chosen = dtype
            break
        objections.append(objection)
    decisions = [replace(o, got=chosen) for o in objections] + _dtype_notes(
        situation, component, on_device, chosen, wish, preferred
    )
    return DtypeChoice(Precision(chosen, chosen), tuple(decisions))


def expects_slow(objection: Decision) -> bool:
    """Whether a precision is objected to for its speed alone, so that trying it would be safe."""
    slow = ("fp16_on_cpu", "bf16_cpu_without_isa", "bf16_cpu_measured_slow")
    return objection.rule in slow or objection.rule.endswith("_not_native")


def wished_dtype(situation: Situation, component: Component) -> Dtype | None:
    """What the user asked for this component, or None."""
    return situation.wishes.component_dtype.get(component.name, situation.wishes.dtype)


def dtype_objection(
    situation: Situation, component: Component, accelerator: Accelerator | None, dtype: Dtype
) -> Decision | None:
    """What speaks against a compute dtype for a component on a device, or None.

    fp32 is never objected to: it is what remains.
    """
    if dtype == "fp32":
        return None
    floor = situation.limits.dtype_floor.get(component.name, dtype)
    if _below_floor(situation, component, dtype):
        reason = next((f for f in reversed(situation.limits.failures) if f.component == component.name), None)
        rule = reason.kind if reason else "not_finite"
        return Decision(rule, component.name, dtype, floor, {"detail": reason.detail if reason else ""})
    quarantined = _quarantined(situation, component, dtype)
    if quarantined:
        return quarantined
    if accelerator is None:
        return _cpu_objection(situation, component, dtype)
    return _accelerator_objection(component, accelerator, dtype)


def _below_floor(situation: Situation, component: Component, dtype: Dtype) -> bool:
    floor = situation.limits.dtype_floor.get(component.name)
    return floor is not None and PRECISION_ORDER.index(dtype) < PRECISION_ORDER.index(floor)


def _accelerator_objection(component: Component, accelerator: Accelerator, dtype: Dtype) -> Decision | None:
    params = {"device": accelerator.device, "name": accelerator.name, "arch": accelerator.arch}
    if dtype == "int8":
        return Decision("int8_on_card", component.name, "int8", "", params, flips="cpu_device")
    if dtype in accelerator.broken or dtype in micro.not_finite(accelerator.micro):
        return Decision(f"{dtype}_broken", component.name, dtype, "fp32", params)
    if dtype not in accelerator.native:
        slower = _slower_than_fp32(accelerator.rates, dtype)
        return Decision(f"{dtype}_not_native", component.name, dtype, "", params, slower, flips=f"{dtype}_native_card")
    return None


def _cpu_objection(situation: Situation, component: Component, dtype: Dtype) -> Decision | None:
    cpu = situation.host.cpu
    if dtype in micro.not_finite(cpu.micro):
        params: dict[str, str | int | float] = {"device": "cpu", "name": cpu.name, "arch": cpu_isa_name(cpu)}
        return Decision(f"{dtype}_broken", component.name, dtype, "fp32", params)
    if dtype == "fp16":
        return _fp16_on_cpu(cpu, component)
    if dtype == "bf16":
        return _bf16_on_cpu(situation, component)
    if dtype == "int8" and not INT8_ISA & set(cpu.effective_isa):
        isa: dict[str, str | int | float] = {"isa": cpu_isa_name(cpu)}
        return Decision("int8_without_vnni", component.name, "int8", "", isa, flips="int8_cpu")
    return None


def _fp16_on_cpu(cpu: Cpu, component: Component) -> Decision:
    measured = cpu.rates.get("fp16")
    convolutions = micro.gain(cpu.micro, "convolution", "fp16") if component.channels_last else None
    if convolutions:
        times, evidence = round(1 / convolutions, 1), "measured"
    elif component.channels_last and "avx512_fp16" in cpu.effective_isa:
        # Such a CPU multiplies matrices in fp16 as fast as in fp32; its convolutions are still slower.
        times, evidence = 1.8, "typical"
    elif measured and measured.source == "measured":
        times, evidence = round(cpu.rates["fp32"].gflops / measured.gflops, 1), "measured"
    else:
        times, evidence = (6.0 if component.channels_last else 3.5), "typical"
    return Decision(
        "fp16_on_cpu",
        component.name,
        "fp16",
        "",
        {"times": times, "evidence": evidence},
        (Rejected("fp16", times, "× the time of fp32"),),
        flips="accelerator",
    )


def _bf16_on_cpu(situation: Situation, component: Component) -> Decision | None:
    cpu = situation.host.cpu
    if not NATIVE_BF16_ISA & set(cpu.effective_isa):
        times = 2.2 if "avx512" in cpu.effective_isa else 6.0
        measured = cpu_bf16_gain(situation, component)
        params: dict[str, str | int | float] = {"isa": cpu_isa_name(cpu), "times": times, "evidence": "typical"}
        if measured and measured[1] == "measured":
            params |= {"times": round(1 / measured[0], 1), "evidence": "measured"}
        if cpu.limits:
            params["limits"] = ", ".join(cpu.limits)
        return Decision(
            "bf16_cpu_without_isa",
            component.name,
            "bf16",
            "",
            params,
            (Rejected("bf16", float(params["times"]), "× the time of fp32"),),
            flips="bf16_cpu",
        )
    gain = cpu_bf16_gain(situation, component)
    if gain and gain[0] < BF16_MIN_GAIN:
        times = round(1 / gain[0], 1)
        return Decision(
            "bf16_cpu_measured_slow",
            component.name,
            "bf16",
            "",
            {"times": times, "isa": cpu_isa_name(cpu)},
            (Rejected("bf16", times, "× the time of fp32"),),
            flips="bf16_cpu",
        )
    return None


def cpu_bf16_gain(situation: Situation, component: Component) -> tuple[float, str] | None:
    """How many times faster bf16 is than fp32 on this CPU and how that is known, or None when it is not."""
    learned = situation.knowledge.speed.get("cpu", {}).get("bf16")
    if learned:
        return learned, "measured"
    cpu = situation.host.cpu
    if component.channels_last:
        # Timed beside a contiguous one and kept over starts, where it was; else as the last start saw it.
        ratio = micro.gain(cpu.micro, "convolution", "bf16") or cpu.bf16_convolution_ratio
        if ratio > 0:
            return ratio, "measured"
    if "bf16" in cpu.rates:
        return cpu.rates["bf16"].gflops / cpu.rates["fp32"].gflops, cpu.rates["bf16"].source
    return None


def _cpu_gain(situation: Situation, component: Component, chosen: Dtype) -> tuple[float, str] | None:
    # int8 is taken only where it was wished or timed, and each of these speaks for itself.
    return cpu_bf16_gain(situation, component) if chosen == "bf16" else None


def cpu_isa_name(cpu: Cpu) -> str:
    """The widest instruction set products really use, as people call it."""
    for flag, name in (
        ("amx_bf16", "AMX"),
        ("avx512_bf16", "AVX-512 with bf16"),
        ("avx512", "AVX-512 without bf16"),
        ("avx2", "AVX2"),
        ("arm_bf16", "Arm with bf16"),
        ("neon", "Arm NEON"),
    ):
        if flag in cpu.effective_isa:
            return name
    return "no vector extension"


def _quarantined(situation: Situation, component: Component, dtype: Dtype) -> Decision | None:
    for entry in situation.knowledge.quarantine:
        same = entry.adapter == situation.spec.name and entry.component == component.name and entry.dtype == dtype
        if same and entry.compile == "none" and not entry.packed:
            return Decision("quarantined", component.name, dtype, "", {"reason": entry.reason, "torch": entry.torch})
    return None


def _slower_than_fp32(rates: Mapping[str, Rate], dtype: Dtype) -> tuple[Rejected, ...]:
    if dtype not in rates:
        return ()
    return (Rejected(dtype, round(rates["fp32"].gflops / rates[dtype].gflops, 1), "× the time of fp32"),)


def _dtype_notes(
    situation: Situation,
    component: Component,
    accelerator: Accelerator | None,
    chosen: Dtype,
    wish: Dtype | None,
    preferred: Dtype,
) -> list[Decision]:
    notes = []
    forced = wish == chosen and (
        wish not in component.dtypes or dtype_objection(situation, component, accelerator, chosen) is not None
    )
    if wish == chosen and (forced or wish != preferred):
        notes.append(Decision("dtype_forced" if forced else "dtype_wish", component.name, preferred, chosen))
    elif situation.wishes.precision_first and chosen == "fp32" and preferred != "fp32":
        notes.append(Decision("precision_first", component.name, preferred, "fp32"))
    elif wish is not None and wish not in component.dtypes:
        notes.append(Decision("component_keeps_dtype", component.name, wish, chosen))
    elif chosen != "fp32":
        gain = _rate_gain(accelerator, chosen) if accelerator else _cpu_gain(situation, component, chosen)
        if gain:
            notes.append(
                Decision(
                    "low_precision_pays",
                    component.name,
                    "fp32",
                    chosen,
                    {"times": round(gain[0], 1), "evidence": gain[1]},
                    (Rejected("fp32", round(gain[0], 1), f"× the time of {chosen}"),),
                    flips="precision_first",
                )
            )
    if chosen != "fp32" and component.keep_fp32:
        paths = ", ".join(island.path for island in component.keep_fp32)
        notes.append(
            Decision("keep_fp32", component.name, chosen, "fp32", {"parts": paths, "why": component.keep_fp32[0].why})
        )
    return notes


def _rate_gain(accelerator: Accelerator, dtype: Dtype) -> tuple[float, str] | None:
    if dtype not in accelerator.rates:
        return None
    return accelerator.rates[dtype].gflops / accelerator.rates["fp32"].gflops, accelerator.rates[dtype].source


def half_storage(component: Component, precision: Precision, accelerator: Accelerator | None) -> Precision | None:
    """Storage in 16 bit under fp32 compute, for a host short of memory; None where it does not apply.

    Casting up on the way in is exact for either format, so only the checkpoint's own rounding is lost. Cards without
    bf16 arithmetic store fp16 where the model survives it.
    """
    if precision.compute != "fp32" or component.on_cpu or set(component.dtypes) == {"fp32"}:
        return None
    storage: Dtype = "bf16"
    if accelerator is not None and "bf16" not in accelerator.native and "fp16" in component.dtypes:
        storage = "fp16"
    if storage not in component.dtypes and "fp16" in component.dtypes:
        storage = "fp16"
    return Precision(storage, "fp32") if storage in component.dtypes else None
