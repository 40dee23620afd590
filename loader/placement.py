"""Where and how one component runs, and the rules that say so, put together."""

from dataclasses import dataclass

from loader import compile_rules, cost, kernel_rules, tuned
from loader.decision import Decision, Situation
from loader.host import Dtype
from loader.knowledge import Tuned
from loader.memory import Precision, Shape, weight_bytes
from loader.spec import Component, Variant
from loader.wishes import CompileMode, ResidencyName


@dataclass(frozen=True)
class Placement:
    """Where and how one component runs. ``bytes`` are those of its weights as stored.

    ``compile_blocks`` is the class name of the repeated blocks to compile, "" for the whole graph. ``packed`` weights
    are laid out as the CPU's kernels read them when they are loaded, see ``loader.packing``.
    """

    name: str
    device: str
    storage_dtype: Dtype
    compute_dtype: Dtype
    residency: ResidencyName
    memory_format: str
    attention: str
    compile: CompileMode
    bytes: int
    fuse: bool = False
    keep_fp32: tuple[str, ...] = ()
    compile_blocks: str = ""
    packed: bool = False


@dataclass(frozen=True)
class Running:
    """What was decided about a component before: where, from where, in what, for how much."""

    device: str
    residency: ResidencyName
    precision: Precision
    shape: Shape


def choose_placement(
    situation: Situation, variant: Variant, component: Component, running: Running, found: Tuned | None
) -> tuple[Placement, tuple[Decision, ...]]:
    """The rest: memory format, attention product, packing and compiling, by rule or as ``found`` by trying."""
    precision = running.precision
    device = "cpu" if component.on_cpu else running.device
    accelerator = situation.host.accelerator(device)
    kernels = kernel_rules.choose_kernels(situation, component, accelerator, precision, found)
    hooked = running.residency in ("blocks", "dropped") and accelerator is not None
    calls = cost.calls(component, running.shape)
    own = cost.component_seconds(situation.host, accelerator, component, precision, running.shape, running.residency)
    packing = kernel_rules.choose_packing(situation, component, device, precision)
    use = compile_rules.Use(
        calls,
        own / max(1, calls),
        hooked,
        variant.name,
        packed=max(1.0, packing.times),
        moved=running.residency == "offload" and accelerator is not None,
    )
    asked = tuned.with_compile(situation, found, component.name, precision.compute)
    compile_mode, compile_notes = compile_rules.choose_compile(asked, component, device, precision, use)
    if asked is not situation:
        compile_notes = ()  # of a wish nobody made: the figures of what was tried say why
    islands = tuple(island.path for island in component.keep_fp32) if precision.compute != "fp32" else ()
    islands += tuple(m for m in situation.limits.fp32_modules.get(component.name, ()) if m not in islands)
    placement = Placement(
        name=component.name,
        device=device,
        storage_dtype=precision.storage,
        compute_dtype=precision.compute,
        residency="resident" if component.on_cpu else running.residency,
        memory_format=kernels.layout,
        attention=kernels.attention,
        compile=compile_mode,
        bytes=weight_bytes(component, precision.storage),
        fuse=component.fuse,
        keep_fp32=islands,
        compile_blocks=component.repeated_block if component.compile == "blocks" else "",
        packed=packing.pays and compile_mode == "none",
    )
    packing_notes = packing.decisions if compile_mode == "none" else ()
    notes = (*kernels.decisions, *kernel_rules.fuse_decision(component), *packing_notes, *compile_notes)
    return placement, notes
