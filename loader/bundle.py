"""A plan with everything it was made from and what became of it, as one file that can be replayed anywhere.

In it are the machine's facts, the model's description, the wishes, what was learned, the plan, the trace and the error
that ended the run. Nobody's data is: no inputs, no outputs, no names of files or folders.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from loader.codec import from_plain, to_plain
from loader.compare import MEASURES, Difference, compare
from loader.decision import Limits
from loader.errors import AnyhostError, InputError
from loader.outcome import Result, TraceEntry
from loader.plan import Plan, plan_situation

FORMAT = "anyhost-bundle-1"
MAX_BYTES = 20 * 2**20
# Paths of any system, up to the next space or quote, and names of files of the kinds people bring.
_PATHS = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][^\s'\"\\/:,;()]+){2,}[\\/]?|~[\\/][^\s'\"]+")
_FILES = re.compile(
    r"[^\s'\"\\/:,;()]+\.(?:png|jpe?g|webp|gif|bmp|tiff?|heic|avif|mp4|mov|mkv|webm|avi|wav|mp3|m4a|flac|ogg|"
    r"pth?|bin|ckpt|onnx|safetensors|glb|obj|ply|stl|json)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Bundle:
    """See the module. ``plan`` carries host, spec, wishes and knowledge in its situation.

    Attributes:
        error: what ended the run, "" where nothing did.
    """

    format: str
    plan: Plan
    trace: tuple[TraceEntry, ...] = ()
    seconds: float = 0.0
    peak_device_bytes: int = 0
    peak_host_bytes: int = 0
    error: str = ""


@dataclass(frozen=True)
class Replayed:
    """A bundle's plan, and the one that is made of the same facts now."""

    was: Plan
    now: Plan

    @property
    def differences(self) -> tuple[Difference, ...]:
        """What is otherwise now."""
        return compare(self.was, self.now)

    @property
    def reproduces(self) -> bool:
        """Whether the same is run, or refused for the same reason; predictions may have become better."""
        refusals = [made.refusal and made.refusal.rule for made in (self.was, self.now)]
        return refusals[0] == refusals[1] and all(d.what in MEASURES for d in self.differences)


def bundle_of(made: Plan | Result, error: Exception | None = None) -> Bundle:
    """A plan, or a run that has ended, be it by ``error``, without anything that is somebody's."""
    ended = "" if error is None else _ended_by(error)
    if isinstance(made, Plan):
        return Bundle(FORMAT, _without_names(made), error=ended)
    return Bundle(
        FORMAT,
        _without_names(made.plan),
        tuple(replace(entry, unit=_without_file(entry.unit), why=scrubbed(entry.why)) for entry in made.trace),
        made.seconds,
        int(made.peak_bytes.get("device", 0)),
        int(made.peak_bytes.get("host", 0)),
        ended,
    )


def _ended_by(error: Exception) -> str:
    """Words of this project's errors; of others, and of those about what a user gave, only where they came from."""
    name = type(error).__name__
    if isinstance(error, AnyhostError) and not isinstance(error, InputError):
        return f"{name}: {scrubbed(str(error))}"
    trace, place = error.__traceback__, ""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in ("adapters", "kit", "loader"):
            place = f" at {module}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{name}{place}"


def bundle_to_json(bundle: Bundle) -> str:
    """``bundle`` as a text that ``bundle_from_json`` reads back."""
    return json.dumps(to_plain(bundle), indent=1, ensure_ascii=False) + "\n"


def write_bundle(path: Path, bundle: Bundle) -> None:
    """Write ``bundle``, whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(bundle_to_json(bundle), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def bundle_from_json(text: str, *, where: str = "bundle") -> Bundle:
    """The bundle that ``bundle_to_json`` wrote.

    Raises:
        InputError: the text is no bundle, or one of another version; the message names what is wrong.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no bundle: it is not JSON ({error})") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise InputError(f"{where} is no bundle of this version: its format is {found!r}, expected {FORMAT!r}")
    try:
        return from_plain(Bundle, data)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{where} is no bundle: {error}") from error


def read_bundle(path: Path) -> Bundle:
    """The bundle in a file.

    Raises:
        InputError: it cannot be read, is larger than 20 MiB, or is no bundle.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path.name} has {size:,} bytes and a bundle at most {MAX_BYTES:,}: choose another file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} cannot be read as a bundle: {error}") from error
    return bundle_from_json(text, where=path.name)


def replay(bundle: Bundle) -> Plan:
    """The plan made anew from what the bundle's was made from: the same, unless the rules have changed since."""
    return plan_situation(bundle.plan.situation)


def replayed(bundle: Bundle) -> Replayed:
    """``replay`` beside what it was.

    Raises:
        InputError: its facts contradict each other, as after editing by hand.
    """
    try:
        return Replayed(bundle.plan, replay(bundle))
    except (LookupError, ValueError, TypeError, ArithmeticError, AttributeError, StopIteration) as error:
        what = f"{type(error).__name__}: {scrubbed(str(error))}"
        raise InputError(f"this bundle cannot be replayed: what it says does not go together ({what})") from error


def scrubbed(text: str) -> str:
    """``text`` without paths and names of files."""
    return _FILES.sub("(file)", _PATHS.sub("(path)", text))


def _without_file(unit: str) -> str:
    """A unit's name, unless a file is named in it: that name may begin anywhere."""
    return "(file)" if _FILES.search(unit) else scrubbed(unit)


def _without_names(made: Plan) -> Plan:
    """Details of failures and reasons of quarantine are words of errors, and those may name files."""
    situation = made.situation
    limits: Limits = situation.limits
    failures = tuple(replace(f, detail=scrubbed(f.detail)) for f in limits.failures)
    known = situation.knowledge
    quarantine = tuple(replace(q, reason=scrubbed(q.reason)) for q in known.quarantine)
    clean = replace(
        situation,
        limits=replace(limits, failures=failures),
        knowledge=replace(known, quarantine=quarantine),
    )
    # Decisions quote those words: they are made anew from the cleaned ones.
    return plan_situation(clean) if _quotes(failures, quarantine) else replace(made, situation=clean)


def _quotes(*texts: Iterable[object]) -> bool:
    return any(True for group in texts for _ in group)
