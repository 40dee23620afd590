"""A plan with everything it was made from and what became of it, as one file that can be replayed anywhere.

In it are the machine's facts, the model's description, the wishes, what was learned, the plan and the trace. Nobody's
data is: no inputs, no outputs, no names of files or folders.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from loader.codec import from_plain, to_plain
from loader.decision import Limits
from loader.errors import InputError
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
    """See the module. ``plan`` carries host, spec, wishes and knowledge in its situation."""

    format: str
    plan: Plan
    trace: tuple[TraceEntry, ...] = ()
    seconds: float = 0.0
    peak_device_bytes: int = 0
    peak_host_bytes: int = 0


def bundle_of(made: Plan | Result) -> Bundle:
    """A plan, or a finished run, without anything that is somebody's."""
    if isinstance(made, Plan):
        return Bundle(FORMAT, _without_names(made))
    return Bundle(
        FORMAT,
        _without_names(made.plan),
        tuple(replace(entry, unit=scrubbed(entry.unit), why=scrubbed(entry.why)) for entry in made.trace),
        made.seconds,
        int(made.peak_bytes.get("device", 0)),
        int(made.peak_bytes.get("host", 0)),
    )


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


def scrubbed(text: str) -> str:
    """``text`` without paths and names of files."""
    return _FILES.sub("(file)", _PATHS.sub("(path)", text))


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
