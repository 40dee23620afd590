"""Saying that a picture, clip or model was made by a network: on it, and in it.

What is written inside follows IPTC: the property ``Iptc4xmpExt:DigitalSourceType`` with the term
"trainedAlgorithmicMedia" (IPTC Photo Metadata Standard 2023.2; https://cv.iptc.org/newscodes/digitalsourcetype/), as an
XMP packet (ISO 16684-1) in PNG, JPEG, WebP and MP4, and as plain data in glTF's ``asset.extras``.

Both are on by default. Only the one who runs the program can switch them off, by ``ANYHOST_AI_LABEL=off`` in its
environment; no request can.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, unescape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from kit.exports import OutputError
from loader.errors import InputError

VARIABLE = "ANYHOST_AI_LABEL"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SOFTWARE = "Anyhost"
TEXT_KEY = "anyhost"  # of the settings in a PNG, as everywhere in this program
LABEL_KEY = "AI-generated"
DECLARED: Mapping[str, Any] = {"ai_generated": True, "digital_source_type": SOURCE_TYPE}

# Where Adobe's XMP specification, part 3, keeps a packet in files of the MP4 family.
XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
GLB_MAGIC, GLB_JSON = b"glTF", b"JSON"
MAX_GLB_JSON_BYTES = 2**23
FORMATS: Mapping[str, str] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
QUALITY = 95

_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:anyhost="https://anyhost.invalid/ns/1.0/">'
    "{source}<xmp:CreatorTool>{software}</xmp:CreatorTool><anyhost:settings>{settings}</anyhost:settings>"
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)
_SETTINGS_TAGS = (b"<anyhost:settings>", b"</anyhost:settings>")


def enabled(environ: Mapping[str, str]) -> bool:
    """Whether this host labels what it makes: yes, unless its own environment says off."""
    return environ.get(VARIABLE, "").strip().lower() != "off"


def declared(settings: Mapping[str, Any], *, labelled: bool = True) -> dict[str, Any]:
    """``settings`` with what says how the work came to be; for JSON beside it, MP4 comments and glTF extras."""
    return {**settings, **DECLARED} if labelled else dict(settings)


# --- on it ------------------------------------------------------------------------------------------------------

LETTERS: Mapping[str, str] = {"en": "AI-generated", "zh": "AI"}
# No font that Pillow brings has Chinese: the strokes of 生 and 成 in a unit square, x right, y down.
STROKES: Mapping[str, tuple[tuple[tuple[tuple[float, float], ...], ...], ...]] = {
    "zh": (
        (
            ((0.30, 0.06), (0.24, 0.24), (0.12, 0.40)),
            ((0.24, 0.27), (0.88, 0.27)),
            ((0.16, 0.57), (0.84, 0.57)),
            ((0.05, 0.92), (0.95, 0.92)),
            ((0.52, 0.03), (0.52, 0.92)),
        ),
        (
            ((0.14, 0.24), (0.94, 0.24)),
            ((0.16, 0.24), (0.15, 0.62), (0.04, 0.95)),
            ((0.16, 0.48), (0.44, 0.48), (0.42, 0.76), (0.30, 0.74)),
            ((0.56, 0.03), (0.62, 0.44), (0.74, 0.76), (0.90, 0.93), (0.95, 0.74)),
            ((0.84, 0.40), (0.72, 0.68), (0.48, 0.95)),
            ((0.72, 0.05), (0.86, 0.15)),
        ),
    ),
}
SHARE, SMALLEST, LARGEST = 0.028, 11, 48  # height of the words: of the shorter side, and in pixels
WIDEST = 0.6  # of the picture
FINER = 4  # strokes are drawn so much larger, then scaled down
INK, GROUND, GROUND_ALPHA = 255.0, 16.0, 0.6


@dataclass(frozen=True, eq=False)
class Mark:
    """The words in the lower right corner, ready for pictures or frames of one size.

    Attributes:
        size: height and width of the pictures.
        corner: top and left of the words' box.
        colour: ``[h, w, 1]`` 0..255 of the box.
        alpha: ``[h, w, 1]`` 0..1.
    """

    size: tuple[int, int]
    corner: tuple[int, int]
    colour: NDArray[np.float32]
    alpha: NDArray[np.float32]

    def on(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy of ``rgb`` ``[H, W, 3]`` with the words on it.

        Raises:
            InputError: of another size.
        """
        if rgb.shape[:2] != self.size:
            raise InputError(f"this mark is for pictures of {self.size[1]}×{self.size[0]}, not {rgb.shape[1::-1]}")
        marked = rgb.copy()
        top, left = self.corner
        height, width = self.alpha.shape[:2]
        under = marked[top : top + height, left : left + width]
        under[:] = (under * (1 - self.alpha) + self.colour * self.alpha).round().astype(np.uint8)
        return marked


def mark(rgb: NDArray[np.uint8], language: str = "en") -> NDArray[np.uint8]:
    """A copy of ``rgb`` ``[H, W, 3]`` that says it is AI-generated, small, in its lower right corner."""
    return mark_for((rgb.shape[0], rgb.shape[1]), language).on(rgb)


def mark_for(size: tuple[int, int], language: str = "en") -> Mark:
    """The words for pictures of ``size`` (height, width); English in languages that have none here."""
    height, width = size
    line = min(max(round(min(size) * SHARE), SMALLEST), LARGEST)
    words = _words(line, language if language in LETTERS else "en")
    if words.shape[1] > WIDEST * width or words.shape[0] > height:
        fit = min(WIDEST * width / words.shape[1], height / words.shape[0])
        smaller = (max(1, int(words.shape[1] * fit)), max(1, int(words.shape[0] * fit)))
        words = np.asarray(Image.fromarray(words).resize(smaller, Image.Resampling.LANCZOS), np.uint8)
    ink = words.astype(np.float32)[:, :, None] / 255
    margin = min(line // 2, max(0, height - len(words)), max(0, width - words.shape[1]))
    corner = (height - len(words) - margin, width - words.shape[1] - margin)
    alpha = np.maximum(ink, np.float32(GROUND_ALPHA))
    colour = (ink * INK + (1 - ink) * GROUND_ALPHA * GROUND) / (ink + (1 - ink) * GROUND_ALPHA)
    return Mark(size, corner, colour.astype(np.float32), alpha)


def _words(line: int, language: str) -> NDArray[np.uint8]:
    """Ink ``[h, w]`` 0..255 of the label with letters of ``line`` pixels."""
    large = line * FINER
    font = ImageFont.load_default(large)
    left, top, right, bottom = font.getbbox(LETTERS[language])
    glyphs, gap, pad = STROKES.get(language, ()), large // 5, large // 3
    width = round(right - left) + len(glyphs) * (large + gap) + 2 * pad
    canvas = Image.new("L", (width, large + 2 * pad))
    pen = ImageDraw.Draw(canvas)
    pen.text((pad - left, pad + (large - (bottom - top)) / 2 - top), LETTERS[language], fill=255, font=font)
    for index, strokes in enumerate(glyphs):
        x = pad + round(right - left) + gap + index * (large + gap)
        for stroke in strokes:
            path = [(x + u * large, pad + v * large) for u, v in stroke]
            pen.line(path, fill=255, width=max(1, round(large * 0.085)), joint="curve")
    small = canvas.resize((max(1, width // FINER), max(1, canvas.height // FINER)), Image.Resampling.LANCZOS)
    return np.asarray(small, np.uint8)


# --- pictures ---------------------------------------------------------------------------------------------------


def encode_picture(rgb: NDArray[np.uint8], suffix: str, settings: Mapping[str, Any], *, labelled: bool = True) -> bytes:
    """A picture file with its settings inside and, when ``labelled``, the declaration that it was generated.

    Args:
        rgb: ``[H, W, 3]``; ``mark`` it first.
        suffix: ".png", ".jpg" or ".webp".
        settings: what would give this picture again; JSON.
        labelled: from ``enabled``.

    Raises:
        InputError: another kind of file.
    """
    kind = FORMATS.get(suffix.lower())
    if kind is None:
        raise InputError(f"pictures are written as {', '.join(FORMATS)}, not {suffix!r}")
    written = _json(declared(settings, labelled=labelled))
    options: dict[str, Any] = {"xmp": xmp_packet(settings, labelled=labelled)}
    if kind == "PNG":
        info = PngInfo()
        info.add_itxt(TEXT_KEY, written)
        if labelled:
            info.add_text(LABEL_KEY, SOURCE_TYPE)
        # Pillow writes no XMP into PNG by itself: it is a text chunk of this name (PNG, third edition, 11.3.3.5).
        info.add_itxt("XML:com.adobe.xmp", options["xmp"].decode())
        options = {"pnginfo": info}
    elif kind == "JPEG":
        options |= {"quality": QUALITY, "subsampling": 0}
    else:
        options |= {"quality": QUALITY, "method": 4}
    buffer = BytesIO()
    Image.fromarray(rgb).save(buffer, kind, **options)
    return buffer.getvalue()


def xmp_packet(settings: Mapping[str, Any], *, labelled: bool = True) -> bytes:
    """An XMP packet, UTF-8."""
    source = f"<Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>" if labelled else ""
    words = escape(_json(declared(settings, labelled=labelled)))
    return _PACKET.format(source=source, software=SOFTWARE, settings=words).encode()


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings a picture of this program carries; empty where it carries none.

    Raises:
        InputError: not a picture.
    """
    try:
        with Image.open(path) as image:
            image.load()
            said = image.info.get(TEXT_KEY) or _settings_in(image.info.get("xmp"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{Path(path).name} is not a picture this program reads: {error}") from error
    try:
        read = json.loads(said) if said else {}
    except ValueError:
        return {}  # edited by something that cut it short
    return read if isinstance(read, dict) else {}


def _settings_in(packet: object) -> str:
    raw = packet.encode() if isinstance(packet, str) else packet
    if not isinstance(raw, bytes):
        return ""
    begin, end = _SETTINGS_TAGS
    inside = raw.partition(begin)[2].partition(end)[0]
    return unescape(inside.decode("utf-8", "replace"))


def _json(value: Mapping[str, Any]) -> str:
    """As people read it, unless it holds halves of characters, which no file can."""
    words = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return words if words.isprintable() else json.dumps(value, separators=(",", ":"))


# --- clips and models -------------------------------------------------------------------------------------------


def label_clip(path: Path, settings: Mapping[str, Any], *, labelled: bool = True) -> Path:
    """Add an XMP packet to a finished MP4, as a box of its own at its end; players skip what they do not know.

    Raises:
        OutputError: the file cannot be written.
    """
    packet = xmp_packet(settings, labelled=labelled)
    try:
        with path.open("ab") as file:
            file.write(struct.pack(">I", 8 + len(XMP_BOX) + len(packet)) + b"uuid" + XMP_BOX + packet)
    except OSError as error:
        raise OutputError(f"{path} could not be labelled: {error}") from error
    return path


def label_glb(data: bytes, settings: Mapping[str, Any], *, labelled: bool = True) -> bytes:
    """A binary glTF 2.0 with ``settings`` and the declaration in ``asset.extras``; nothing else changes.

    Raises:
        InputError: not a binary glTF.
    """
    if len(data) < 20 or data[:4] != GLB_MAGIC or data[16:20] != GLB_JSON:
        raise InputError(f"a GLB begins with glTF and a JSON chunk; these {len(data):,} bytes do not")
    version, length = struct.unpack("<I4xI", data[4:16])
    document, rest = json.loads(data[20 : 20 + length]), data[20 + length :]
    asset = document.setdefault("asset", {"version": "2.0"})
    asset["extras"] = {**asset.get("extras", {}), **declared(settings, labelled=labelled)}
    written = _json(document).encode()
    written += b" " * (-len(written) % 4)
    chunk = struct.pack("<I", len(written)) + GLB_JSON + written
    return GLB_MAGIC + struct.pack("<II", version, 12 + len(chunk) + len(rest)) + chunk + rest


def read_glb_settings(path: Path) -> dict[str, Any]:
    """The settings a binary glTF of this program carries; empty where it carries none, or is none.

    Only its JSON chunk is read, not the model.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(20)
        if len(head) < 20 or head[:4] != GLB_MAGIC or head[16:20] != GLB_JSON:
            return {}
        (length,) = struct.unpack("<I", head[12:16])
        written = file.read(length) if length <= MAX_GLB_JSON_BYTES else b""
    try:
        extras = json.loads(written)["asset"]["extras"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return extras if isinstance(extras, dict) else {}
