"""Weights, from where they lie to a module that computes: find, fetch, verify, open, fill, cast.

Finding and fetching are in ``loader.folders`` and ``loader.fetch`` and need no torch; this module re-exports them.
Opening maps files into memory instead of reading them, and a module takes the mapped tensors themselves, so that a
network costs anonymous memory only for what is cast or written to.
"""

import json
import pickle
import re
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loader.download import Patience
from loader.errors import WeightsCorruptError, WeightsError
from loader.fetch import Progress, fetch, fetch_all
from loader.folders import Folders, Found, OnDisk, delete, find, on_disk, own_file, size_text

__all__ = [
    "Folders",
    "Found",
    "OnDisk",
    "Patience",
    "Progress",
    "cast_in_place",
    "delete",
    "fetch",
    "fetch_all",
    "find",
    "load_component",
    "metadata",
    "on_disk",
    "open_state",
    "own_file",
    "size_text",
]

HEADER_LIMIT = 100_000_000  # bytes of a safetensors header the format allows
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
LONE_TENSOR = "tensor"
# What the opcodes and lengths of a damaged pickle lead torch's reader to.
BROKEN_PICKLE = (
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    OSError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)

_BUILDING = threading.RLock()


def open_state(path: Path, *, key: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, in the file's own dtypes, mapped from the file.

    What the file is, is read from its content: safetensors, or a pickle as ``torch.save`` writes it. Pickles are
    opened with ``weights_only=True``; legacy ones (before torch 1.6) cannot be mapped and are read into memory.

    Args:
        path: the checkpoint.
        key: entry of a pickled dict that holds the state dict ("model", "state_dict", ...), "" for the dict itself.
            Safetensors files are flat: there it selects the names below ``key.`` if any are, else it has no effect.

    Returns:
        Tensors by name. A file that holds one tensor and no dict gives it under the name "tensor".

    Raises:
        WeightsCorruptError: empty, cut short, or text; with its size and what was expected.
        WeightsError: not a checkpoint, one that needs code to be opened, or without the entry ``key``.
    """
    size, head = _head(path)
    if head.startswith(ZIP_MAGIC):
        _require_torch_zip(path, size)
        return _state_of(_unpickle(path, size, mapped=True), path, key)
    if head.startswith(PICKLE_MAGIC):
        return _state_of(_unpickle(path, size, mapped=False), path, key)
    if _is_text(head):
        raise _text_error(path, size, head)
    _header(path, size, head)
    return _open_safetensors(path, key)


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself in its header, empty for other checkpoints.

    Raises:
        WeightsCorruptError: as ``open_state``.
        WeightsError: not a checkpoint.
    """
    size, head = _head(path)
    if head.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        return {}
    if _is_text(head):
        raise _text_error(path, size, head)
    return {str(name): str(value) for name, value in _header(path, size, head).get("__metadata__", {}).items()}


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """While open, this thread's modules register their parameters on ``meta``; their buffers are real.

    ``accelerate.init_empty_weights`` replaces the same method for all threads: what another one fills or builds in the
    meantime would end on ``meta`` too. One thread at a time, or the one that leaves last would put the other's
    replacement back for good.
    """
    builder = threading.get_ident()

    def register_on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(module, name, param)
        if param is not None and threading.get_ident() == builder:
            module._parameters[name] = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)

    with _BUILDING:
        register = nn.Module.register_parameter
        nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]


def load_component(
    build: Callable[[], nn.Module],
    load_published: Callable[[nn.Module, str, Mapping[str, Tensor]], None],
    component: str,
    state: Mapping[str, Tensor],
) -> nn.Module:
    """A network whose parameters are the tensors of ``state`` themselves: nothing is initialised, nothing copied.

    Parameters are built on ``meta``, buffers for real, since they are often computed and not in the checkpoint.
    Drop ``state`` afterwards: tensors of a legacy pickle stay in memory as long as it lives.

    Args:
        build: makes the network.
        load_published: fills it from published names, strictly (``loader.strict.load_strict``).
        component: the component's name, for ``load_published`` and messages.
        state: tensors under their published names.

    Returns:
        The network in eval mode, no gradients wanted, in the dtypes of ``state``.

    Raises:
        CheckpointMismatchError: names or shapes differ.
        WeightsError: something was left without values.
    """
    with _parameters_on_meta():
        module = build()
    load_published(module, component, state)
    empty = [name for name, tensor in _named_tensors(module) if tensor.is_meta]
    if empty:
        listed = ", ".join(empty[:8]) + (" …" if len(empty) > 8 else "")
        raise WeightsError(
            f"{component}: {len(empty)} tensors got no values: {listed}. The checkpoint lacks them and their absence "
            "was allowed, or they are tied and have to be tied again after loading."
        )
    return module.eval().requires_grad_(False)


def cast_in_place(
    module: nn.Module, dtype_of: Callable[[str], torch.dtype], *, channels_last: bool = False
) -> nn.Module:
    """Casts floating-point parameters and buffers one by one, so that there is never a second copy of the whole.

    The memory layout is made in the same copy: laid out again afterwards, each tensor would leave a hole of its size
    in the allocator's heap, which for a network of convolutions came to half of what it weighs.

    Args:
        module: the network; tied parameters stay tied.
        dtype_of: the dtype for a parameter or buffer, by its full name ("encoder.blocks.0.attn.qkv.weight").
        channels_last: lay tensors of four dimensions out with their channels innermost.

    Returns:
        ``module``.

    Raises:
        WeightsError: a tensor on ``meta`` has no values to cast.
    """
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point():
            _require_values(name, parameter)
            parameter.data = _cast(parameter.data, dtype_of(name), channels_last=channels_last)
    for prefix, owner in module.named_modules():
        for name, buffer in list(owner.named_buffers(recurse=False)):
            full = f"{prefix}.{name}" if prefix else name
            if buffer.is_floating_point():
                _require_values(full, buffer)
                # Assigning an attribute keeps whether the buffer is persistent.
                setattr(owner, name, _cast(buffer, dtype_of(full), channels_last=channels_last))
    return module


def _cast(tensor: Tensor, dtype: torch.dtype, *, channels_last: bool) -> Tensor:
    layout = torch.channels_last if channels_last and tensor.dim() == 4 else torch.preserve_format
    return tensor.to(dtype, memory_format=layout)


def _require_values(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        raise WeightsError(f"{name} {list(tensor.shape)} is on meta and has no values to cast: load the weights first")


def _named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _head(path: Path) -> tuple[int, bytes]:
    """Size and first bytes, enough to tell formats apart."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error
    if size == 0:
        raise WeightsCorruptError(f"{path} is empty (0 bytes), a checkpoint was expected: delete it and fetch it again")
    return size, head


def _is_text(head: bytes) -> bool:
    """Plain text in its first bytes; a safetensors header is text too, but comes after an eight-byte number."""
    return all(byte in b"\t\n\r" or 32 <= byte < 127 or byte >= 128 for byte in head) and b"\0" not in head


def _text_error(path: Path, size: int, head: bytes) -> WeightsError:
    text = head.decode("utf-8", errors="replace")
    if text.startswith("version https://git-lfs"):
        real = re.search(r"^size (\d+)$", text, re.MULTILINE)
        expected = f"{int(real[1]):,} bytes" if real else "a checkpoint"
        return WeightsCorruptError(
            f"{path} is a git-lfs pointer of {size:,} bytes, the file itself has {expected}: run `git lfs pull` there"
        )
    kind = "a web page" if re.match(r"\s*<(!doctype|html|\?xml)", text, re.IGNORECASE) else "text"
    begin = " ".join(text.split())[:60]
    return WeightsCorruptError(
        f"{path} is {kind} of {size:,} bytes (it begins {begin!r}), a binary checkpoint was expected: "
        "delete it and fetch it again"
    )


def _header(path: Path, size: int, head: bytes) -> dict[str, Any]:
    """The JSON header of a safetensors file, its length checked against the file's."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:9] != b"{" or length > HEADER_LIMIT:
        raise WeightsError(
            f"{path} ({size:,} bytes) is no checkpoint this program opens: expected safetensors, or a pickle written "
            "by torch.save (.pth, .pt, .bin, .ckpt)"
        )
    if 8 + length > size:
        raise _cut_short(path, size, 8 + length)
    with path.open("rb") as file:
        file.seek(8)
        raw = file.read(length)
    try:
        header: dict[str, Any] = json.loads(raw)
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise WeightsCorruptError(
            f"{path} ({size:,} bytes): its safetensors header of {length:,} bytes cannot be read ({error}): "
            "delete it and fetch it again"
        ) from error
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise _cut_short(path, size, expected)
    return header


def _cut_short(path: Path, size: int, expected: int) -> WeightsCorruptError:
    return WeightsCorruptError(
        f"{path} is cut short: it has {size:,} bytes, its header announces {expected:,}: delete it and fetch it again"
    )


def _open_safetensors(path: Path, key: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            below = [name for name in names if key and name.startswith(f"{key}.")]
            return {
                (name.removeprefix(f"{key}.") if below else name): file.get_tensor(name) for name in (below or names)
            }
    except SafetensorError as error:
        raise WeightsCorruptError(
            f"{path} ({path.stat().st_size:,} bytes) is no valid safetensors file ({error}): "
            "delete it and fetch it again"
        ) from error


def _require_torch_zip(path: Path, size: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise WeightsCorruptError(
            f"{path} is cut short: of a torch checkpoint {size:,} bytes are here, and the directory expected at its "
            "end is not: delete it and fetch it again"
        ) from error
    if any(name.split("/")[1:2] == ["code"] or name.endswith("/constants.pkl") for name in names):
        raise WeightsError(f"{path} is a TorchScript program: opening it runs code, and only tensors are opened here")
    if not any(name.endswith("data.pkl") for name in names):
        listed = ", ".join(names[:4])
        raise WeightsError(f"{path} is a zip of {len(names)} files ({listed}), not a checkpoint: extract it first")


def _unpickle(path: Path, size: int, *, mapped: bool) -> Any:
    from safetensors import SafetensorError

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)  # noqa: TID251 - the one place
    except pickle.UnpicklingError as error:
        refused = _refused(str(error))
        if refused:
            raise WeightsError(
                f"{path} was refused: it asks for {refused}, and a pickle that needs more than tensors can run any "
                "code. Take a safetensors version, or export its state dict with torch.save on a machine you trust."
            ) from error
        # Torch's own message advises to open the file without this protection; only its last word is of use.
        detail = re.search(r"WeightsUnpickler error:\s+(.+)", str(error))
        raise WeightsCorruptError(_damaged(path, size, detail[1] if detail else "its pickle breaks off")) from error
    except SafetensorError as error:
        # Torch from 2.13 goes by the name of the file.
        raise WeightsError(
            f"{path} is named as safetensors and is a checkpoint as torch.save writes it: rename it to {path.stem}.pth"
        ) from error
    except BROKEN_PICKLE as error:
        raise WeightsCorruptError(_damaged(path, size, str(error) or type(error).__name__)) from error


def _refused(message: str) -> str:
    """The names in torch's refusal, "" when it speaks of something else."""
    names = re.findall(r"GLOBAL ([A-Za-z_][\w.]*\w)", message)
    return ", ".join(dict.fromkeys(names))


def _damaged(path: Path, size: int, why: str) -> str:
    return (
        f"{path} ({size:,} bytes) cannot be read as a checkpoint of tensors, it is cut short, damaged, or something "
        f"else that was pickled ({why.strip().splitlines()[0][:200]}): "
        "delete it and fetch it again"
    )


def _state_of(content: Any, path: Path, key: str) -> dict[str, Tensor]:
    if isinstance(content, Tensor) and not key:
        return {LONE_TENSOR: content.detach()}
    if not isinstance(content, Mapping):
        wanted = f"a dict with the entry {key!r}" if key else "a dict of tensors"
        raise WeightsError(f"{path} holds a {type(content).__name__}, {wanted} was expected")
    if key:
        if key not in content:
            raise WeightsError(f"{path} has no entry {key!r}; it has {_entries(content)}")
        content = content[key]
        if not isinstance(content, Mapping):
            raise WeightsError(f"{path}: entry {key!r} is a {type(content).__name__}, a dict of tensors was expected")
    other = {name: value for name, value in content.items() if not isinstance(value, Tensor)}
    if other:
        hint = "" if key else "; if one of them holds the state dict, name it as key"
        raise WeightsError(f"{path} holds more than tensors: {_entries(other)}{hint}")
    return {str(name): tensor.detach() for name, tensor in content.items()}


def _entries(content: Mapping[Any, Any]) -> str:
    listed = [f"{name!r} ({type(value).__name__})" for name, value in list(content.items())[:8]]
    return ", ".join(listed) + (" …" if len(content) > 8 else "")
