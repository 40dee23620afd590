"""Weights as text for a terminal, in the words of the page."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from kit.texts.labels import label
from loader.folders import size_text
from loader.inventory import FileState, Totals, VariantState
from loader.spec import Source, Weights


def origin_of(weights: Weights) -> str:
    """Where a file would be fetched from first: a host, for the Hub with the repository."""
    source = next((s for s in weights.sources if s.kind != "asset"), weights.sources[0])
    return source_name(source)


def source_name(source: Source) -> str:
    """A source in a few words."""
    if source.kind == "hub":
        return f"huggingface.co/{source.location}"
    return source.location if source.kind == "asset" else urlsplit(source.location).netloc


def announced(state: VariantState, language: str) -> str:
    """What a download would fetch, how large that is and from where."""
    missing = state.missing
    if not missing:
        return label("weights.nothing", language)
    count = len(missing)
    files = label("terms.file" if count == 1 else "terms.files", language, count=count)
    origins = ", ".join(dict.fromkeys(origin_of(f.weights) for f in missing))
    words = label("weights.announce", language, files=files, size=size_text(state.missing_bytes), origins=origins)
    if state.partial_bytes:
        words += " " + label("weights.kept_part", language, size=size_text(state.partial_bytes))
    return words


def variant_words(state: VariantState, language: str) -> tuple[str, str]:
    """The state of a variant in a few words, and the tone they are shown in."""
    if not state.missing:
        ships = all(f.found and f.found.origin == "asset" for f in state.files)
        return label("weights.ships" if ships else "weights.here", language), "ah-good"
    have = len(state.files) - len(state.missing)
    if have:
        return label("weights.some", language, have=have, count=len(state.files)), "ah-part"
    if state.partial_bytes:
        sizes = {"done": size_text(state.partial_bytes), "total": size_text(state.bytes)}
        return label("weights.partial", language, **sizes), "ah-part"
    return label("weights.not_here", language), "ah-quiet"


def file_words(state: FileState, language: str) -> tuple[str, str]:
    """The state of a file in a few words, and the tone they are shown in."""
    if state.found is not None:
        return label("weights.here", language), "ah-good"
    if state.partial:
        sizes = {"done": size_text(state.partial), "total": size_text(state.weights.bytes)}
        return label("weights.partial", language, **sizes), "ah-part"
    return label("weights.not_here", language), "ah-quiet"


def checksum_words(state: FileState, language: str) -> str:
    """What a file's SHA-256 is held to."""
    if state.checksum == "announced":
        return label("weights.sum_announced" if state.verified else "weights.sum_unverified", language)
    if state.checksum == "recorded":
        return label("weights.sum_recorded", language)
    on_hub = state.found is None and state.weights.sources[0].kind == "hub"
    return label("weights.sum_hub" if on_hub else "weights.sum_none", language)


def variant_line(state: VariantState, language: str) -> str:
    """A variant in one line: name, size, state, licences."""
    name = f"{state.spec.name} {state.variant.name}"
    licences = ", ".join(licence.name for licence in state.licences)
    return f"{name:<24} {size_text(state.bytes):>9}  {variant_words(state, language)[0]}  [{licences}]"


def file_line(state: FileState, language: str) -> str:
    """A file in one line: name, size, state, where it lies or comes from, checksum."""
    size = size_text(state.found.bytes if state.found else state.weights.bytes)
    where = str(state.found.path) if state.found else label("weights.from", language, origin=origin_of(state.weights))
    summed = f"SHA-256 {state.sha256[:12] or '–'} ({checksum_words(state, language)})"
    return "; ".join((f"{state.weights.file}  {size}  {file_words(state, language)[0]}", where, summed))


def totals_lines(totals: Totals, language: str) -> Iterator[str]:
    """Disk taken and disk left."""
    whole = label("weights.total", language, size=size_text(sum(totals.by_origin.values())), count=totals.files)
    yield f"{label('weights.totals', language)}: {whole}"
    for origin, count in totals.by_origin.items():
        yield f"  {size_text(count)} {label(f'weights.origin.{origin}', language)}"
    yield f"{label('weights.free', language)}: {size_text(totals.free)} {label('weights.free_cache', language)}"
