"""From a spec, a host, wishes and knowledge to a Plan: a pure function, and its way down.

``plan`` walks one ladder of candidates from best to worst and takes the first that fits: variant, size, residency
(with storage precision), then batch and savers. ``relax`` rules something out after a failure and plans again, so the
way down while running is the way down while planning.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from loader import cost, ladder, rules, tuned, wish_rules
from loader.codec import from_plain, to_plain
from loader.decision import Decision, Failure, FailureKind, Limits, Param, Rejected, Situation
from loader.host import Accelerator, Host
from loader.knowledge import EMPTY, Correction, Knowledge, correction_key
from loader.memory import Peaks, Precision, Shape, device_budget, gib, host_budget, peaks
from loader.placement import Placement as Placement
from loader.placement import Running, choose_placement
from loader.spec import AdapterSpec, Size, Variant
from loader.wishes import ResidencyName, Wishes


@dataclass(frozen=True)
class Plan:
    """What will run and why.

    Attributes:
        fits: False for a refusal; then ``refusal`` says by how much and what would fit.
        peak_bytes: predicted peak of the run by pool ("device", "host"); on a CPU-only host all is in "host".
        budget_bytes: what the plan may use of each pool.
        rung: place on the memory ladder of this variant and size, 0 the best.
        situation: what the plan was made from, so that it can be replayed and relaxed.
    """

    host: str
    adapter: str
    variant: str
    provenance: str
    fits: bool
    device: str
    size: Size
    batch: int
    steps: int
    frames: int
    savers: tuple[str, ...]
    peak_bytes: Mapping[str, int]
    budget_bytes: Mapping[str, int]
    predicted_seconds: float
    components: tuple[Placement, ...]
    decisions: tuple[Decision, ...]
    refusal: Decision | None
    rung: int
    situation: Situation

    @property
    def shape(self) -> Shape:
        """How much it asks for, as predictions take it."""
        guided = not self.situation.wishes.unguided
        return Shape(self.size, self.batch, self.steps, self.frames, guided)

    def component(self, name: str) -> Placement:
        return next(c for c in self.components if c.name == name)


def plan(spec: AdapterSpec, host: Host, wishes: Wishes | None = None, knowledge: Knowledge = EMPTY) -> Plan:
    """The plan for ``spec`` on ``host``; a refusal is a plan too, with ``fits`` False."""
    return plan_situation(Situation(spec, host, wishes or Wishes(), knowledge))


def plan_situation(situation: Situation) -> Plan:
    """The plan for everything in ``situation``, limits learned while running included."""
    refusal = wish_rules.refusal(situation)
    if refusal:
        return _refused(situation, refusal)
    found = _first_fit(situation, fp32_first=situation.wishes.precision_first)
    if found is None and situation.wishes.precision_first:
        found = _first_fit(situation, fp32_first=False)
    if found is None:
        return _refused(situation, _does_not_fit(situation))
    return found


# --- search -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """Device and precisions of every component, before memory is considered."""

    device: str
    precisions: Mapping[str, Precision]
    decisions: tuple[Decision, ...] = field(default=())


def _first_fit(situation: Situation, *, fp32_first: bool) -> Plan | None:
    for variant, size, notes in ladder.targets(situation):
        setting = _setting(situation, variant, size, fp32_first=fp32_first)
        for rung, candidate in enumerate(_candidates(situation, variant, size, setting)):
            if rung >= situation.limits.min_rung and (candidate.fits(situation) or situation.wishes.force):
                return _assemble(situation, variant, setting, candidate, rung, notes)
    return None


def _setting(situation: Situation, variant: Variant, size: Size, *, fp32_first: bool) -> Setting:
    device, decisions = rules.choose_device(situation)
    found = tuned.find(situation, variant.name, device, size)
    precisions: dict[str, Precision] = {}
    for component in variant.components:
        tried = tuned.dtype_of(found, component.name)
        choice = rules.choose_dtype(situation, component, device, fp32_first=fp32_first, tried=tried)
        precisions[component.name] = choice.precision
        decisions += choice.decisions
    return Setting(device, precisions, decisions)


@dataclass(frozen=True)
class Candidate:
    """One combination on the memory ladder with what it is predicted to need."""

    shape: Shape
    residency: ResidencyName
    precisions: Mapping[str, Precision]
    savers: tuple[str, ...]
    device: str
    peaks: Peaks
    half_stored: bool

    def fits(self, situation: Situation) -> bool:
        return self.short_bytes(situation) <= 0

    def short_bytes(self, situation: Situation) -> int:
        """Bytes missing in the pool that misses most; zero or less when it fits."""
        host, held = situation.host, situation.knowledge.held_bytes
        ram = host_budget(host, held.get("host", 0))
        accelerator = host.accelerator(self.device)
        if accelerator is None:
            return self.peaks.host - ram
        card = device_budget(accelerator, held.get(self.device, 0))
        if accelerator.unified:
            # One memory for both: what the device holds is gone from the host.
            return max(self.peaks.device - card, self.peaks.device + self.peaks.host - max(ram, card))
        return max(self.peaks.device - card, self.peaks.host - ram)


def _candidates(situation: Situation, variant: Variant, size: Size, setting: Setting) -> Iterator[Candidate]:
    """Residency outermost, then storage precision, then batch and savers: the order of the ladder while running."""
    accelerator = situation.host.accelerator(setting.device)
    wishes = situation.wishes
    general = _key(situation.spec.name, variant, setting.device, setting.precisions)
    batches = ladder.halvings(_batch_before_memory(situation, variant, size, setting))
    saver_sets: tuple[tuple[str, ...], ...] = ((), variant.savers) if variant.savers else ((),)
    for residency in ladder.residencies(accelerator, wishes.residency):
        for half in (False, True):
            precisions = _stored(variant, setting, accelerator) if half else setting.precisions
            if precisions is None:
                continue
            for batch in batches:
                for savers in saver_sets:
                    steps, frames = wishes.steps or variant.steps, wishes.frames or variant.frames
                    shape = Shape(size, batch, steps, frames, guided=not wishes.unguided)
                    need = peaks(
                        variant,
                        precisions,
                        shape,
                        residency,
                        accelerator=accelerator,
                        savers=savers,
                    )
                    kind = _request(shape, residency, savers, half=half)
                    factor = situation.knowledge.correction(f"{general}/{kind}").bytes
                    need = Peaks(int(need.device * factor), int(need.host * factor))
                    yield Candidate(shape, residency, precisions, savers, setting.device, need, half)


def _batch_before_memory(situation: Situation, variant: Variant, size: Size, setting: Setting) -> int:
    found = tuned.find(situation, variant.name, setting.device, size)
    return tuned.batch_of(situation, found, setting.precisions)


def _stored(variant: Variant, setting: Setting, accelerator: Accelerator | None) -> dict[str, Precision] | None:
    """Precisions with 16-bit storage wherever that applies, or None where it applies nowhere."""
    changed = dict(setting.precisions)
    for component in variant.components:
        half = rules.half_storage(component, setting.precisions[component.name], accelerator)
        if half:
            changed[component.name] = half
    return changed if changed != dict(setting.precisions) else None


# --- assembly ---------------------------------------------------------------------------------------------------


def _assemble(
    situation: Situation,
    variant: Variant,
    setting: Setting,
    candidate: Candidate,
    rung: int,
    notes: tuple[Decision, ...],
) -> Plan:
    precisions = candidate.precisions
    total = (
        cost.seconds(situation.host, setting.device, variant, precisions, candidate.shape, candidate.residency)
        * situation.knowledge.correction(_key_of(situation, variant, candidate)).seconds
    )
    placements, placing = _place(situation, variant, candidate)
    decisions = (*notes, *setting.decisions, *_memory_notes(situation, variant, candidate), *placing)
    return Plan(
        host=situation.host.name,
        adapter=situation.spec.name,
        variant=variant.name,
        provenance=variant.provenance,
        fits=True,
        device=setting.device,
        size=candidate.shape.size,
        batch=candidate.shape.batch,
        steps=candidate.shape.steps,
        frames=candidate.shape.frames,
        savers=candidate.savers,
        peak_bytes={"device": candidate.peaks.device, "host": candidate.peaks.host},
        budget_bytes=budgets(situation, setting.device),
        predicted_seconds=total,
        components=placements,
        decisions=decisions,
        refusal=None,
        rung=rung,
        situation=situation,
    )


def budgets(situation: Situation, device: str) -> dict[str, int]:
    """Bytes a plan may use by pool."""
    held = situation.knowledge.held_bytes
    accelerator = situation.host.accelerator(device)
    card = device_budget(accelerator, held.get(device, 0)) if accelerator else 0
    return {"device": card, "host": host_budget(situation.host, held.get("host", 0))}


def _place(
    situation: Situation, variant: Variant, candidate: Candidate
) -> tuple[tuple[Placement, ...], tuple[Decision, ...]]:
    found = tuned.find(situation, variant.name, candidate.device, candidate.shape.size)
    placed = [
        choose_placement(
            situation,
            variant,
            component,
            Running(candidate.device, candidate.residency, candidate.precisions[component.name], candidate.shape),
            found,
        )
        for component in variant.components
    ]
    return tuple(placement for placement, _ in placed), tuple(note for _, notes in placed for note in notes)


def _memory_notes(situation: Situation, variant: Variant, chosen: Candidate) -> tuple[Decision, ...]:
    """What memory made of the request: residency, storage, batch, savers."""
    setting_key = Setting(chosen.device, chosen.precisions)
    best = next(_candidates(situation, variant, chosen.shape.size, _unhalved(setting_key)))
    notes: list[Decision] = []
    short = gib(max(0, best.short_bytes(situation)))
    params: dict[str, Param] = {"short_gib": short, "device": chosen.device, "batch": chosen.shape.batch}
    rejected = (Rejected(best.residency, short, "GiB short"),) if short > 0 else ()
    wished = situation.wishes.residency
    if wished and chosen.residency == wished and wished != "resident":
        notes.append(Decision("residency_wish", "residency", "resident", chosen.residency, params))
    elif chosen.residency != best.residency:
        notes.append(
            Decision("residency", "residency", best.residency, chosen.residency, params, rejected, flips="more_memory")
        )
    if chosen.half_stored:
        names = [n for n, p in chosen.precisions.items() if p.storage != p.compute]
        stored = chosen.precisions[names[0]].storage
        notes.append(
            Decision(
                "half_storage",
                ", ".join(names),
                "fp32",
                f"{stored} stored, fp32 computed",
                params,
                rejected,
                flips="more_memory",
            )
        )
    if not chosen.fits(situation):
        notes.append(Decision("forced_memory", "memory", "refused", "tried", params, rejected))
    wished_batch = _batch_before_memory(situation, variant, chosen.shape.size, setting_key)
    if chosen.shape.batch != wished_batch:
        notes.append(
            Decision(
                "batch_for_memory",
                "batch",
                str(wished_batch),
                str(chosen.shape.batch),
                params,
                rejected,
                flips="more_memory",
            )
        )
    if chosen.savers:
        notes.append(
            Decision(
                "savers_for_memory", "savers", "none", ", ".join(chosen.savers), params, rejected, flips="more_memory"
            )
        )
    return tuple(notes)


def _unhalved(setting: Setting) -> Setting:
    return replace(setting, precisions={n: Precision(p.compute, p.compute) for n, p in setting.precisions.items()})


def _key(adapter: str, variant: Variant, device: str, precisions: Mapping[str, Precision]) -> str:
    """The key of runs of a kind, whatever the request."""
    main = max(variant.components, key=lambda c: c.n_params)
    return correction_key(adapter, variant.name, device, precisions[main.name].compute)


def _request(shape: Shape, residency: str, savers: tuple[str, ...], *, half: bool) -> str:
    """What of a request its time and memory depend on, as part of a key."""
    words = [f"{shape.size[0]}x{shape.size[1]}", f"b{shape.batch}", f"f{shape.frames}", residency]
    return " ".join([*words, *(["half"] if half else []), *([] if shape.guided else ["unguided"]), *savers])


def _key_of(situation: Situation, variant: Variant, candidate: Candidate) -> str:
    general = _key(situation.spec.name, variant, candidate.device, candidate.precisions)
    kind = _request(candidate.shape, candidate.residency, candidate.savers, half=candidate.half_stored)
    return f"{general}/{kind}"


def correction_keys(made: Plan) -> tuple[str, str]:
    """Under which keys a run by this plan teaches: of its kind, and of its kind at this size."""
    variant = made.situation.spec.variant(made.variant)
    precisions = {p.name: Precision(p.storage_dtype, p.compute_dtype) for p in made.components}
    general = _key(made.adapter, variant, made.device, precisions)
    moving = [p for p in made.components if not variant.component(p.name).on_cpu] or list(made.components)
    half = any(p.storage_dtype != p.compute_dtype for p in made.components)
    return general, f"{general}/{_request(made.shape, moving[0].residency, made.savers, half=half)}"


def applied_correction(made: Plan) -> Correction:
    """What measurements have made of this plan's prediction; nothing of a refusal."""
    if not made.components:
        return Correction()
    return made.situation.knowledge.correction(correction_keys(made)[1])


# --- refusals ---------------------------------------------------------------------------------------------------


def _does_not_fit(situation: Situation) -> Decision:
    """By how much the wished request does not fit, and the nearest that does."""
    variant, size, _ = next(ladder.targets(situation), (None, None, ()))
    if variant is None or size is None:
        return Decision("nothing_left", "memory", "", "refused", flips="more_memory")
    setting = _setting(situation, variant, size, fp32_first=False)
    least = min(_candidates(situation, variant, size, setting), key=lambda c: c.short_bytes(situation))
    nearest = _nearest(situation)
    accelerator = situation.host.accelerator(setting.device)
    need = least.peaks.device if accelerator else least.peaks.host
    if accelerator and accelerator.unified:
        need += least.peaks.host
    pools = budgets(situation, setting.device)
    short = least.short_bytes(situation)
    params: dict[str, Param] = {
        "needs_gib": gib(need),
        "free_gib": gib(pools["device" if accelerator else "host"]),
        "short_gib": gib(short),
        "device": setting.device,
        "variant": variant.name,
        "height": size[0],
        "width": size[1],
        "nearest": nearest,
    }
    return Decision(
        "does_not_fit" if nearest else "nothing_fits",
        "memory",
        f"{variant.name} {size[0]}×{size[1]}",
        "refused",
        params,
        (Rejected(least.residency, gib(short), "GiB short"),),
        flips="more_memory",
    )


def _nearest(situation: Situation) -> str:
    """The nearest request that fits, as wishes in words, or an empty text."""
    freed = replace(
        situation,
        wishes=replace(situation.wishes, allow_smaller=True, batch=None, residency=None, precision_first=False),
        limits=Limits(),
    )
    found = _first_fit(freed, fp32_first=False)
    if found is None and situation.wishes.device not in (None, "cpu"):
        found = _first_fit(replace(freed, wishes=replace(freed.wishes, device="cpu")), fp32_first=False)
    if found is None:
        return ""
    return f"{found.variant} {found.size[0]}×{found.size[1]} on {found.device} ({found.components[0].residency})"


def _refused(situation: Situation, refusal: Decision) -> Plan:
    device, decisions = rules.choose_device(situation)
    named = [v.name for v in situation.spec.variants]
    # A refusal is shown beside what it was asked of; a variant that does not exist cannot be.
    asked = situation.wishes if situation.wishes.variant in named else replace(situation.wishes, variant=None)
    variant, size, _ = next(ladder.targets(replace(situation, wishes=asked)), (None, None, ()))
    variant = variant or situation.spec.variants[0]
    size = size or variant.sizes[0]
    return Plan(
        host=situation.host.name,
        adapter=situation.spec.name,
        variant=variant.name,
        provenance=variant.provenance,
        fits=False,
        device=device,
        size=size,
        batch=situation.wishes.batch or 1,
        steps=situation.wishes.steps or variant.steps,
        frames=situation.wishes.frames or variant.frames,
        savers=(),
        peak_bytes={"device": 0, "host": 0},
        budget_bytes=budgets(situation, device),
        predicted_seconds=0.0,
        components=(),
        decisions=(*decisions, refusal),
        refusal=refusal,
        rung=0,
        situation=situation,
    )


# --- the way down -----------------------------------------------------------------------------------------------


def relax(current: Plan, failure: Failure | FailureKind) -> Plan:
    """The next plan down after ``failure``, or a refusal when no rung is left. Repeated, it always ends.

    A bare kind of failure is taken as one of the component with the most bytes.
    """
    if isinstance(failure, str):
        failure = Failure(failure, max(current.components, key=lambda p: p.bytes).name if current.components else "")
    limits = ladder.tightened(current.situation, failure, _facts(current))
    if limits is None:
        refusal = Decision(
            "nothing_left", failure.component or "plan", failure.kind, "refused", {"detail": failure.detail}
        )
        return _refused(current.situation, refusal)
    situation = replace(current.situation, limits=limits)
    lower = plan_situation(situation)
    if not lower.fits and situation.wishes.allow_smaller:
        pair = (current.variant, *current.size)
        excluded = (*limits.excluded, pair)
        smaller = replace(limits, min_rung=0, variant="", size=None, excluded=excluded)
        lower = plan_situation(replace(situation, limits=smaller))
    return lower


def _facts(current: Plan) -> ladder.Current:
    return ladder.Current(
        variant=current.variant,
        size=current.size,
        rung=current.rung,
        device=current.device,
        dtypes={p.name: p.compute_dtype for p in current.components},
        keep_fp32={p.name: p.keep_fp32 for p in current.components},
        compiled=tuple(p.name for p in current.components if p.compile != "none"),
        packed=tuple(p.name for p in current.components if p.packed),
    )


# --- storage ----------------------------------------------------------------------------------------------------


def plan_to_json(value: Plan) -> str:
    """``value`` whole, with what it was made from."""
    return json.dumps(to_plain(value), ensure_ascii=False)


def plan_from_json(text: str) -> Plan:
    """The plan that ``plan_to_json`` wrote."""
    return from_plain(Plan, json.loads(text))
