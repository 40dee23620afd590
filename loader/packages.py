"""Blocks compiled ahead of time, for where nothing can be compiled: a ZeroGPU worker begins anew at every request.

A package is the code of one repeated block, made by AOTInductor (PyTorch 2.8 to 2.13, "torch._inductor
aoti_compile_and_package"). It holds no weights: each block brings its own, which stay where they are. So one file
serves every block of a network, and every network with the same blocks.

Code is only right for what it was made for, and AOTInductor does not check that: a package answers an input of another
shape with numbers of the shape it knows. Everything it depends on is therefore in its key: PyTorch, the processor or
card, the class, shapes and dtypes of the parameters, and of the inputs. What has no package runs as it is.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from loader.errors import RunError

SETTINGS: Mapping[str, Any] = {
    "aot_inductor.package_constants_in_so": False,
    # Else scalars and the shortest vectors become numbers in the code, and every block computes with the first one's.
    "always_keep_tensor_constants": True,
    # Of the code around the kernels; optimised it takes minutes to compile and is no faster.
    "aot_inductor.compile_wrapper_opt_level": "O0",
}
FARTHEST = 0.02  # mean distance over mean size: what 16 bits leave of a block
PARTS = ("torch", "arch", "parameters", "inputs")  # of a key, told apart when nothing matches
VARIABLE, FOLDER = "ANYHOST_PACKAGES", "packages"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """What the code of a package was made for.

    Attributes:
        block: class of the block.
        torch: version of PyTorch that made it.
        arch: processor or card, as ``loader.place.arch_of`` calls it.
        parameters: a digest of the names, shapes and dtypes of parameters and buffers.
        inputs: the arguments in order: dtype, shape and strides of tensors, anything else as it is.
    """

    block: str
    torch: str
    arch: str
    parameters: str
    inputs: tuple[str, ...]

    @property
    def name(self) -> str:
        """The stem of its files."""
        words = json.dumps(asdict(self), sort_keys=True)
        return f"{self.block}-{hashlib.sha256(words.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Call:
    """A call that a package can be made for."""

    block: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def packages_folder(cache: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Where packages lie: ANYHOST_PACKAGES (a Space ships them in its repository), else in the cache folder."""
    return Path(environ[VARIABLE]) if environ.get(VARIABLE) else cache / FOLDER


def key_of(block: nn.Module, arch: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Key:
    """The key of ``block`` when it is called with these arguments."""
    held = [f"{name} {_described(tensor)}" for name, tensor in sorted(_tensors(block).items())]
    digest = hashlib.sha256("\n".join(held).encode()).hexdigest()[:16]
    given, shape = pytree.tree_flatten((tuple(args), dict(sorted(kwargs.items()))))
    inputs = (*(_described(item) for item in given), str(shape))
    return Key(type(block).__name__, torch.__version__, arch, digest, inputs)


def _tensors(block: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers themselves: ``state_dict`` makes new tensor objects, which nobody would keep alive."""
    return {**dict(block.named_parameters()), **dict(block.named_buffers())}


def _described(item: Any) -> str:
    if isinstance(item, Tensor):
        return f"{str(item.dtype).removeprefix('torch.')}{tuple(item.shape)}{tuple(item.stride())}"
    return repr(item)


def build(call: Call, arch: str, folder: Path) -> Path:
    """Make a package for calls like this one; needs a C++ compiler, on a card Triton too. Minutes.

    Args:
        call: its block in eval mode, on the device and in the precision it will run with.
        arch: of that device.
        folder: where it is put.

    Returns:
        The package; a JSON file beside it says what it is for.

    Raises:
        RunError: it cannot be compiled as a whole, or its code needs constants that are no parameters.
    """
    block = call.block
    key = key_of(block, arch, call.args, call.kwargs)
    folder.mkdir(parents=True, exist_ok=True)
    path, temporary = folder / f"{key.name}.pt2", folder / f"{key.name}.{os.getpid()}.pt2"
    try:
        program = torch.export.export(block, call.args, dict(call.kwargs))
        torch._inductor.aoti_compile_and_package(program, package_path=str(temporary), inductor_configs=dict(SETTINGS))
        package = torch._inductor.aoti_load_package(str(temporary))
        wanted = set(package.get_constant_fqns())
    except Exception as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{key.block} cannot be compiled ahead of time: {_first_line(error)}") from error
    if others := ", ".join(sorted(wanted - set(_tensors(block)))):
        temporary.unlink()
        raise RunError(f"{key.block} computes with constants that are no parameters ({others}): run it eagerly")
    if (far := _distance(package, call)) > FARTHEST:
        temporary.unlink()
        raise RunError(f"{key.block} compiled differs by {far:.2g} from what it was, {FARTHEST} may be: run it eagerly")
    path.with_suffix(".json").write_text(json.dumps(asdict(key), indent=1), encoding="utf-8")
    temporary.replace(path)
    return path


def _distance(package: Any, call: Call) -> float:
    """How far a package is from its block with weights that are not the ones it was made with, relative to those."""
    others = {n: t * 1.25 if t.is_floating_point() else t for n, t in _tensors(call.block).items()}
    with torch.inference_mode():
        expected = torch.func.functional_call(call.block, others, call.args, dict(call.kwargs))
        found = _Loaded(package)(others, call.args, call.kwargs)
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True)
    tensors = [(a.float(), b.float()) for a, b in pairs if isinstance(a, Tensor) and a.is_floating_point()]
    return max((float((a - b).abs().mean() / a.abs().mean().clamp_min(1e-12)) for a, b in tensors), default=0.0)


class Packaged:
    """Stands in for the ``forward`` of one block: its package where one fits the call, else the block as it is.

    Args:
        block: keeps its parameters and stays what it is.
        folder: of packages.
        arch: asked for at the first call, since a ZeroGPU's card is only there in a worker.

    Attributes:
        note: why the block runs as it is, "" while a package does.
        used: calls that a package answered.
    """

    def __init__(self, block: nn.Module, folder: Path, arch: Callable[[], str]) -> None:
        self._block, self._folder, self._arch = block, folder, arch
        self._eager = block.forward
        self._loaded: dict[Key, _Loaded | None] = {}
        self.note, self.used = "", 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key = key_of(self._block, self._arch(), args, kwargs)
        if key not in self._loaded:
            self._loaded[key] = self._load(key)
        package = self._loaded[key]
        if package is not None:
            try:
                answer = package(_tensors(self._block), args, kwargs)
            except RuntimeError as error:
                self._loaded[key], self.note = None, f"the package of {key.block} failed: {_first_line(error)}"
            else:
                self.used += 1
                return answer
        return self._eager(*args, **kwargs)

    def _load(self, key: Key) -> "_Loaded | None":
        """The package for ``key``, or None and a note."""
        path = self._folder / f"{key.name}.pt2"
        if not path.is_file():
            self.note = missing(key, self._folder)
            return None
        try:
            return _Loaded(torch._inductor.aoti_load_package(str(path)))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file, the block runs without it
            self.note = f"the package {path.name} cannot be loaded: {_first_line(error)}"
            return None


class _Loaded:
    """A package in memory: it computes with its block's own tensors, not copied, which may leave between runs."""

    def __init__(self, package: Any) -> None:
        self._package = package
        self._wanted = tuple(package.get_constant_fqns())
        self._at: tuple[tuple[int, int], ...] = ()

    def __call__(self, tensors: Mapping[str, Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        own = {name: tensors[name] for name in self._wanted}
        at = tuple((id(tensor), tensor.data_ptr()) for tensor in own.values())
        if at != self._at:  # the first call, or they have been somewhere else between two runs
            self._package.load_constants(own, check_full_update=True, user_managed=True)
            self._at = at
        return self._package(*args, **kwargs)


@contextmanager
def captured(module: nn.Module, block_class: str, arch: str) -> Iterator[dict[Key, Call]]:
    """Calls of the blocks of ``module`` inside this, one of each key; of ``module`` itself where it has none."""
    calls: dict[Key, Call] = {}

    def note(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.setdefault(key_of(block, arch, args, kwargs), Call(block, args, dict(kwargs)))

    handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in _blocks(module, block_class)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _blocks(module: nn.Module, block_class: str) -> list[nn.Module]:
    return [block for block in module.modules() if type(block).__name__ == block_class] or [module]


def attach(module: nn.Module, block_class: str, folder: Path, arch: Callable[[], str]) -> list[Packaged]:
    """Let each block of ``module`` whose class is called ``block_class`` run by its package, if there is one."""
    blocks = _blocks(module, block_class)
    stand_ins = [Packaged(block, folder, arch) for block in blocks]
    for block, stand_in in zip(blocks, stand_ins, strict=True):
        block.forward = stand_in
    return stand_ins


def attached(module: nn.Module) -> list[Packaged]:
    """What ``attach`` put in place."""
    found = (vars(block).get("forward") for block in module.modules())
    return [stand_in for stand_in in found if isinstance(stand_in, Packaged)]


def note_of(module: nn.Module) -> str:
    """Why blocks of ``module`` run without their package, "" where none does."""
    return next((stand_in.note for stand_in in attached(module) if stand_in.note), "")


def missing(key: Key, folder: Path) -> str:
    """What there is instead of a package for ``key``: the nearest one, and in what it differs."""
    others = [other for other in _keys(folder) if other.block == key.block]
    if not others:
        return f"no package of {key.block} in {folder}"
    nearest = min(others, key=lambda other: sum(getattr(other, part) != getattr(key, part) for part in PARTS))
    differing = [
        f"{part} {_short(getattr(nearest, part))}, here {_short(getattr(key, part))}"
        for part in PARTS
        if getattr(nearest, part) != getattr(key, part)
    ]
    return f"the package of {key.block} is for " + "; ".join(differing)


def _keys(folder: Path) -> list[Key]:
    found = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            found.append(Key(**{f.name: plain[f.name] for f in fields(Key)} | {"inputs": tuple(plain["inputs"])}))
        except (ValueError, TypeError, KeyError, OSError):
            _log.warning("%s describes no package", path)
    return found


def _short(part: str | tuple[str, ...]) -> str:
    return part if isinstance(part, str) else " ".join(part[:-1])


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
