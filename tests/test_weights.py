"""Opening checkpoints and filling modules from them without a second copy."""

import argparse
import json
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from loader.errors import CheckpointMismatchError, WeightsCorruptError, WeightsError
from loader.strict import load_strict
from loader.weights import cast_in_place, load_component, metadata, open_state

# --- opening


class Shell:
    def __reduce__(self):
        return os.system, ("touch run-by-pickle",)


def test_safetensors(tmp_path):
    path = tmp_path / "net.safetensors"
    tensors = {"a.w": torch.randn(3, 4), "b.w": torch.ones(2, dtype=torch.float16), "n": torch.tensor(7)}
    save_file(tensors, path, metadata={"seed": "3"})
    state = open_state(path)
    assert all(
        torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )
    assert state.keys() == tensors.keys()
    assert open_state(path, key="a").keys() == {"w"}
    assert open_state(path, key="model").keys() == tensors.keys()
    assert metadata(path) == {"seed": "3"}


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_and_their_keys(tmp_path, zipped):
    path = tmp_path / "net.pth"
    inner = {"w": nn.Parameter(torch.randn(5, 5)), "b": torch.zeros(5, dtype=torch.bfloat16)}
    torch.save({"model": inner, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    state = open_state(path, key="model")
    assert torch.equal(state["w"], inner["w"])
    assert state["b"].dtype == torch.bfloat16
    assert not state["w"].requires_grad
    assert metadata(path) == {}
    with pytest.raises(WeightsError, match=r"no entry 'state_dict'; it has 'model' \(dict\), 'epoch' \(int\)"):
        open_state(path, key="state_dict")
    with pytest.raises(WeightsError, match=r"more than tensors: 'model' \(dict\).*name it as key"):
        open_state(path)
    with pytest.raises(WeightsError, match="entry 'epoch' is a int"):
        open_state(path, key="epoch")
    torch.save(inner["b"], path)
    assert open_state(path)["tensor"].shape == (5,)
    torch.save([inner["b"]], path)
    with pytest.raises(WeightsError, match="holds a list"):
        open_state(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"w": torch.zeros(1), "evil": Shell()}, f"{os.system.__module__}.system"),
        ({"model": {}, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (Shell, "Shell"),
    ],
)
def test_pickles_that_need_code_are_refused_by_name(tmp_path, monkeypatch, content, named, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "net.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=f"refused: it asks for .*{named}") as caught:
        open_state(tmp_path / "net.pth", key="model")
    assert not isinstance(caught.value, WeightsCorruptError)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "run-by-pickle").exists()


def test_plain_pickle_and_other_zips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.bin"
    path.write_bytes(pickle.dumps(Shell(), protocol=2))
    with pytest.raises(WeightsError, match="system"):
        open_state(path)
    for names, reason in (
        (("m/data.pkl", "m/code/m.py"), "TorchScript"),
        (("a.onnx",), r"a zip of 1 files \(a.onnx\)"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
        with pytest.raises(WeightsError, match=reason):
            open_state(path)
    assert not (tmp_path / "run-by-pickle").exists()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"", WeightsCorruptError, r"empty \(0 bytes\), a checkpoint was expected"),
        (b"<!DOCTYPE html><p>log in", WeightsCorruptError, "a web page of 24 bytes"),
        (b"Not found", WeightsCorruptError, r"text of 9 bytes \(it begins 'Not found'\), a binary checkpoint"),
        (LFS, WeightsCorruptError, "git-lfs pointer of 130 bytes, the file itself has 12,345 bytes"),
        (bytes(range(256)), WeightsError, r"\(256 bytes\) is no checkpoint this program opens: expected safetensors"),
        (b"\x05\0\0\0\0\0\0\0{oops", WeightsCorruptError, "header of 5 bytes cannot be read"),
        (b"\xff" * 7 + b"\0{}", WeightsError, "no checkpoint"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, content, kind, said):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    for reader in (open_state, metadata):
        with pytest.raises(kind, match=said):
            reader(path)


def test_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        open_state(tmp_path / "none.pth")


@pytest.mark.parametrize("left", [0.02, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_truncated_files(tmp_path, form, left):
    path = tmp_path / "net"
    state = {f"layer{i}.weight": torch.randn(50, 10) for i in range(10)}
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.stat().st_size
    cut = int(whole * left)
    os.truncate(path, cut)
    with pytest.raises(WeightsCorruptError, match=f"{cut:,} bytes") as caught:
        open_state(path)
    if form == "safetensors" and left > 0.1:
        assert f"{whole:,}" in str(caught.value)
    assert "weights_only" not in str(caught.value)


# --- filling


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("steps", torch.arange(4.0), persistent=False)
        self.register_buffer("index", torch.arange(4), persistent=False)


def fill(module: nn.Module, component: str, state) -> None:
    load_strict(module, state, what=component)


def half_state() -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(tensor.shape).half() if tensor.is_floating_point() else tensor + 5
        for name, tensor in Small().state_dict().items()
    }


def test_component_takes_the_tensors_themselves_in_their_dtype():
    state = half_state()
    module = load_component(Small, fill, "net", state)
    assert module.conv.weight.data_ptr() == state["conv.weight"].data_ptr()
    assert {tensor.dtype for tensor in module.parameters()} == {torch.float16}
    assert torch.equal(module.norm.running_var, state["norm.running_var"])
    assert int(module.norm.num_batches_tracked) == 5
    assert torch.equal(module.steps, torch.arange(4.0))
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_component_refuses_what_is_missing_or_left_empty():
    state = half_state()
    del state["conv.bias"]
    with pytest.raises(CheckpointMismatchError, match=r"conv\.bias"):
        load_component(Small, fill, "net", state)

    def lenient(module: nn.Module, component: str, state) -> None:
        load_strict(module, state, what=component, allow_missing=("conv.bias",))

    with pytest.raises(WeightsError, match=r"net: 1 tensors got no values: conv\.bias"):
        load_component(Small, lenient, "net", state)


def test_two_threads_may_build_at_once():
    original = nn.Module.register_parameter
    inside = threading.Barrier(2, timeout=0.3)

    def build() -> nn.Module:
        with suppress(threading.BrokenBarrierError):  # both threads would meet here if both were let in
            inside.wait()
        return Small()

    threads = [threading.Thread(target=load_component, args=(build, fill, "net", half_state())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert nn.Module.register_parameter is original
    assert inside.broken


def test_what_other_threads_build_and_fill_meanwhile_is_real():
    meanwhile = []

    def other():
        filled = nn.Linear(3, 3, device="meta")
        filled.load_state_dict({"weight": torch.eye(3), "bias": torch.ones(3)}, assign=True)
        meanwhile.extend((filled.weight, filled.bias, nn.Linear(2, 2).weight))

    def build() -> nn.Module:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return Small()

    state = half_state()
    assert torch.equal(load_component(build, fill, "net", state).conv.weight, state["conv.weight"])
    assert [tensor.device.type for tensor in meanwhile] == ["cpu"] * 3


def test_cast_goes_by_name_and_leaves_integers_and_ties():
    module = load_component(Small, fill, "net", half_state())
    module.twin = nn.Conv2d(2, 3, 1)
    module.twin.weight = module.conv.weight
    before = module.conv.weight.clone()
    asked = []

    def dtype_of(name: str) -> torch.dtype:
        asked.append(name)
        return torch.float32 if name.startswith("norm") else torch.bfloat16

    assert cast_in_place(module, dtype_of) is module
    assert module.conv.weight.dtype == module.conv.bias.dtype == torch.bfloat16
    assert torch.equal(module.conv.weight, before.to(torch.bfloat16))
    assert module.norm.running_mean.dtype == module.norm.weight.dtype == torch.float32
    assert module.steps.dtype == torch.bfloat16
    assert module.index.dtype == module.norm.num_batches_tracked.dtype == torch.int64
    assert "steps" not in module.state_dict()
    assert module.twin.weight is module.conv.weight
    assert asked.count("conv.weight") == 1
    assert "norm.running_mean" in asked
    with pytest.raises(WeightsError, match=r"weight \[2, 2\] is on meta"):
        cast_in_place(nn.Linear(2, 2, device="meta"), dtype_of)


# --- memory

MEASURE = """
import json, os, re, sys, threading, time
from pathlib import Path
import torch
from safetensors import safe_open
from torch import nn
from loader.strict import load_strict
from loader.weights import cast_in_place, load_component, open_state

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def fill(module, component, state):
    load_strict(module, state, what=component)

def measure(path, cast, width, layers):
    peak, done, before = [0], threading.Event(), anonymous()
    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], anonymous() - before)
            time.sleep(0.001)
    watcher = threading.Thread(target=watch)
    watcher.start()
    build = lambda: nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
    module = load_component(build, fill, "net", open_state(Path(path)))
    if cast != "none":
        cast_in_place(module, lambda name: getattr(torch, cast))
    # One value of every page: the file is read, zero throughout.
    assert not any(parameter[:, ::512].count_nonzero() for parameter in module.parameters())
    done.set()
    watcher.join()
    print(json.dumps([max(peak[0], anonymous() - before), sum(p.nbytes for p in module.parameters())]), flush=True)

load_component(lambda: nn.Linear(2, 2), fill, "warm", nn.Linear(2, 2).state_dict())
for job in json.loads(sys.argv[1]):
    # A child each, so that no case finds memory another has freed.
    child = os.fork()
    if child == 0:
        code = 1
        try:
            measure(*job)
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
"""


def sparse_safetensors(path: Path, width: int, layers: int, dtype: str, itemsize: int) -> int:
    """A file of zeros that takes no disk."""
    each = width * width * itemsize
    header = {
        f"{i}.weight": {"dtype": dtype, "shape": [width, width], "data_offsets": [i * each, (i + 1) * each]}
        for i in range(layers)
    }
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + layers * each)
    return layers * each


def test_memory_holds_what_was_cast_and_nothing_twice(tmp_path):
    fp32, fp16, pickled = (tmp_path / name for name in ("fp32.safetensors", "fp16.safetensors", "net.pth"))
    assert sparse_safetensors(fp32, 2048, 36, "F32", 4) > 600_000_000
    sparse_safetensors(fp16, 2048, 18, "F16", 2)
    torch.save({f"{i}.weight": torch.zeros(2048, 2048) for i in range(4)}, pickled)
    jobs = [
        (str(fp32), "none", 2048, 36),
        (str(pickled), "none", 2048, 4),
        (str(fp32), "bfloat16", 2048, 36),
        (str(fp16), "float32", 2048, 18),
    ]
    command = [sys.executable, "-c", MEASURE, json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    mapped, unpickled, halved, doubled = (json.loads(line) for line in done.stdout.splitlines())
    for peak, loaded in (mapped, unpickled):
        assert peak < 0.02 * loaded + 4_000_000
    for peak, loaded in (halved, doubled):
        assert 0.95 * loaded < peak <= 1.15 * loaded
    assert mapped[1] == 2 * halved[1] == 2 * doubled[1]


def test_a_pickle_under_the_name_of_safetensors_says_what_to_rename(tmp_path):
    path = tmp_path / "net.safetensors"
    torch.save({"weight": torch.ones(2)}, path)
    if torch.__version__ < "2.13":  # TorchVersion compares numbers; older ones go by what is in the file
        assert open_state(path)["weight"].tolist() == [1.0, 1.0]
    else:
        with pytest.raises(WeightsError, match=r"rename it to net\.pth"):
            open_state(path)
