"""The settings of a result: written into every output, and read back from it.

A record is plain JSON. It stands in the "settings" of a JSON file (in the "info" of a COCO file), in the PNG text
``anyhost``, in the XMP packet of a JPEG or WebP picture, and in the comment of a video. It names what ran (adapter,
variant, weights) and what was asked for (wishes, options); it never names a folder of the user's.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit.ai_label import encode_picture
from kit.ai_label import read_glb_settings as in_glb
from kit.ai_label import read_settings as in_picture
from kit.exports import OutputError, write_json
from loader.codec import from_plain, to_plain
from loader.errors import InputError
from loader.plan import Plan
from loader.wishes import Wishes

VERSION = "0.1.0"  # of this program, as in pyproject.toml
FORMAT = 1  # of a record; a reader of this format reads all lower ones
PICTURES, VIDEOS, MODELS = (".png", ".jpg", ".jpeg", ".webp"), (".mp4",), (".glb",)
MAX_RECORD_BYTES = 2**18
MAX_JSON_BYTES = 2**25  # data files hold their detections beside the settings


@dataclass(frozen=True)
class Settings:
    """What a result was made with.

    Attributes:
        adapter: which model.
        variant: the one that ran; the wish for one is among the wishes.
        weights: what they were, as every output says it.
        wishes: as they were asked for.
        options: of the model, by name: threshold, classes, camera, …
        program: version of this program that wrote it.
        source: name of the file it was read from.
    """

    adapter: str
    variant: str
    weights: str
    wishes: Wishes
    options: Mapping[str, Any]
    program: str = ""
    source: str = ""


# --- writing ----------------------------------------------------------------------------------------------------


def restorable(plan: Plan, options: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that can be brought back: ``{format, program, wishes, options}``.

    Beside it stand ``adapter``, ``variant`` and ``weights``, and whatever else a model has to say of its result.

    Raises:
        TypeError: an option that is no plain JSON value, or a path.
    """
    asked = {name: value for name, value in to_plain(plan.situation.wishes).items() if value not in (None, False, {})}
    return {"format": FORMAT, "program": VERSION, "wishes": asked, "options": _plain(dict(options), "options")}


def settings_record(plan: Plan, weights: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A whole record of a run by ``plan`` on ``weights``.

    Raises:
        TypeError: as ``restorable``.
    """
    return {"adapter": plan.adapter, "variant": plan.variant, "weights": weights} | restorable(plan, options)


def write_settings(path: Path, record: Mapping[str, Any]) -> Path:
    """A settings file of its own, for what can carry no settings itself.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    return write_json(path, {"settings": dict(record)})


def embed(rgb: NDArray[np.uint8], suffix: str, record: Mapping[str, Any]) -> bytes:
    """A picture file that carries its settings. What a network drew is labelled too: ``kit.ai_label``.

    Args:
        rgb: ``[H, W, 3]``.
        suffix: ".png" (every pixel as it is), ".jpg" or ".webp".
        record: its settings.

    Raises:
        InputError: another kind of file.
        OutputError: the record is longer than a picture of this kind carries.
    """
    try:
        return encode_picture(rgb, suffix, record, labelled=False)
    except ValueError as error:
        raise OutputError(f"the settings do not fit into a {suffix} picture ({error}): save it as .png") from error


def _plain(value: Any, where: str) -> Any:
    """``value`` as JSON has it; nothing else, and nothing that says where the user's files lie."""
    if isinstance(value, PurePath):
        raise TypeError(f"{where} is a path: settings travel with pictures and must not name the user's folders")
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{where} is {type(value).__name__}, which JSON does not have")


# --- reading ----------------------------------------------------------------------------------------------------


def read_settings(path: Path, adapter: str | None = None) -> Settings:
    """The settings in a saved picture, video or JSON file, or in the JSON file of the same name beside it.

    Args:
        path: the file.
        adapter: the model they have to be for; None takes any.

    Raises:
        InputError: the file carries none or cannot be read, they are for another model, from a newer version, or say
            something that no settings say.
    """
    record = _carried(path)
    if record is None:
        beside = path.with_suffix(".json")
        record = _carried(beside) if beside != path and beside.is_file() else None
    if record is None:
        raise InputError(
            f"{path.name} carries no settings: choose a picture or a JSON file that was saved here (what passes "
            "through a messenger or an editor often loses them)"
        )
    return _settings(record, path.name, adapter)


def _settings(record: Mapping[str, Any], name: str, adapter: str | None) -> Settings:
    made = record["format"]
    if not isinstance(made, int) or isinstance(made, bool) or made < 1:
        raise InputError(f"{name}: format {made!r} is not one of settings; they are counted from 1")
    if made > FORMAT:
        raise InputError(
            f"{name} was written by a newer version ({record.get('program', 'unknown')}, settings of format {made}); "
            f"this one ({VERSION}) reads up to format {FORMAT}: update, or set the controls by hand"
        )
    words = {key: record.get(key, "") for key in ("adapter", "variant", "weights", "program")}
    wrong = [key for key, value in words.items() if not isinstance(value, str)]
    if wrong:
        raise InputError(f"{name}: {', '.join(wrong)} in the settings must be text")
    if adapter is not None and words["adapter"] != adapter:
        raise InputError(
            f"{name} has settings of {words['adapter'] or 'no model'}, and these are the controls of {adapter}: "
            "bring them back on the tab of that model"
        )
    options = record.get("options", {})
    if not isinstance(options, Mapping):
        raise InputError(f"{name}: the options in the settings must be an object with names, got {options!r:.60}")
    try:
        wishes = from_plain(Wishes, record.get("wishes", {}))
    except ValueError as error:
        raise InputError(f"{name}: a wish cannot be read: {error}") from error
    return Settings(**words, wishes=wishes, options=options, source=name)


def _carried(path: Path) -> Mapping[str, Any] | None:
    """The record in a file, None where there is none."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _of_json(path)
    if suffix in VIDEOS:
        return _of_video(path)
    if suffix in MODELS:
        return _of_model(path)
    return _of_picture(path) if suffix in PICTURES else None


def _of_json(path: Path) -> Mapping[str, Any] | None:
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise InputError(
                f"{path.name} has {size:,} bytes, a file with settings at most {MAX_JSON_BYTES:,}: send a smaller one"
            )
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is not JSON in UTF-8 ({_short(error)}): choose a file saved here") from error
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror or error}") from error
    if not isinstance(data, Mapping):
        return None
    return next((found for found in (data, data.get("settings"), data.get("info")) if _is_record(found)), None)


def _of_picture(path: Path) -> Mapping[str, Any] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged tags and of large pictures
            found = in_picture(path)
    except RecursionError:
        return None
    return found if _is_record(found) else None


def _of_video(path: Path) -> Mapping[str, Any] | None:
    import av

    try:
        with av.open(str(path)) as container:
            return _of_text(container.metadata.get("comment"))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{path.name} is not a video, or is damaged: choose a file saved here") from error


def _of_model(path: Path) -> Mapping[str, Any] | None:
    try:
        found = in_glb(path)
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror or error}") from error
    return found if _is_record(found) else None


def _of_text(text: object) -> Mapping[str, Any] | None:
    """The record in a comment, None where it is somebody else's comment."""
    if not isinstance(text, str) or len(text) > MAX_RECORD_BYTES:
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if _is_record(data) else None


def _is_record(data: object) -> bool:
    return isinstance(data, Mapping) and {"format", "adapter"} <= data.keys()


def _short(error: BaseException) -> str:
    return str(error)[:120]
