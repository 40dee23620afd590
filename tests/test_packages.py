"""Code compiled ahead of time: made once, loaded for every block of its kind, and never for anything else."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from adapters import adapter
from loader import packages
from loader.errors import RunError
from loader.host import load_host
from loader.packages import Call, attach, attached, build, captured, key_of, missing, note_of, packages_folder
from loader.place import arch_of, compile_in_place
from loader.plan import plan
from loader.wishes import Wishes
from tests.machines import ROOT

ARCH = arch_of("cpu")
X = torch.arange(24.0).reshape(2, 3, 4) / 24


class Block(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.norm, self.wide = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return x + nn.functional.gelu(self.wide(self.norm(x)))


class Net(nn.Module):
    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x, mask=None)
        return x


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net().eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One package, made of the first block of a network."""
    made = tmp_path_factory.mktemp("packages")
    module = net()
    with captured(module, "Block", ARCH) as calls, torch.inference_mode():
        module(X)
    (call,) = calls.values()  # three blocks of one kind
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its own parts
        build(call, ARCH, made)
    return made


@pytest.mark.alone
@pytest.mark.filterwarnings("default")
class TestMade:
    def test_one_package_serves_every_block_with_its_own_weights(self, folder):
        assert len(list(folder.glob("*.pt2"))) == 1
        for seed in (0, 1):
            module = net(seed)
            with torch.inference_mode():
                expected = module(X)
                stand_ins = attach(module, "Block", folder, lambda: ARCH)
                found = module(X)
            assert [s.used for s in stand_ins] == [1, 1, 1]
            assert note_of(module) == ""
            assert torch.allclose(found, expected, atol=1e-5)
        assert not torch.allclose(net(0)(X), net(1)(X), atol=1e-2)

    def test_a_worker_loads_it_and_the_main_process_does_not(self, folder):
        environ = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'tests/fake_spaces'}{os.pathsep}{ROOT}",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "tests.packaged_in_worker", str(folder)]
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["far"] < 1e-5
        assert (found["used"], found["note"]) == ([1, 1, 1], "")
        assert (found["here"], found["asked_here"]) == ([0, 0, 0], 0)

    def test_weights_that_were_elsewhere_between_two_calls_are_found_again(self, folder):
        module = net()
        attach(module, "Block", folder, lambda: ARCH)
        with torch.inference_mode():
            first = module(X)
            for block in module.blocks:
                for name, parameter in list(block.wide.named_parameters()):
                    block.wide._parameters[name] = nn.Parameter(parameter + 1, requires_grad=False)
            second = module(X)
        expected = net()
        for block in expected.blocks:
            block.wide.weight += 1
            block.wide.bias += 1
        assert not torch.allclose(first, second, atol=1e-2)
        assert torch.allclose(second, expected(X), atol=1e-5)

    def test_another_shape_runs_eagerly_and_says_so(self, folder):
        """AOTInductor itself would answer with the shape it knows."""
        module, other = net(), torch.cat([X, X])
        expected = module(other)
        attach(module, "Block", folder, lambda: ARCH)
        with torch.inference_mode():
            found = module(other)
        assert torch.equal(found, expected)
        assert [s.used for s in attached(module)] == [0, 0, 0]
        assert "float32(2, 3, 4)" in note_of(module)
        assert "here float32(4, 3, 4)" in note_of(module)

    @pytest.mark.parametrize(("part", "value"), [("torch", "2.7.0"), ("arch", "sm_75")])
    def test_code_made_elsewhere_is_not_loaded(self, folder, tmp_path, part, value):
        described = next(folder.glob("*.json"))
        key = packages._keys(folder)[0]
        foreign = replace(key, **{part: value})
        (tmp_path / f"{foreign.name}.json").write_text(json.dumps(json.loads(described.read_text()) | {part: value}))
        (tmp_path / f"{foreign.name}.pt2").write_bytes(described.with_suffix(".pt2").read_bytes())
        module = net()
        expected = module(X)
        attach(module, "Block", tmp_path, lambda: ARCH)
        assert torch.equal(module(X), expected)
        assert note_of(module) == f"the package of Block is for {part} {value}, here {getattr(key, part)}"

    def test_a_broken_file_is_not_used(self, folder, tmp_path):
        described = next(folder.glob("*.json"))
        (tmp_path / described.name).write_text(described.read_text())
        (tmp_path / described.with_suffix(".pt2").name).write_bytes(b"no package")
        module = net()
        expected = module(X)
        attach(module, "Block", tmp_path, lambda: ARCH)
        assert torch.equal(module(X), expected)
        assert "cannot be loaded" in note_of(module)


def test_the_key_is_of_everything_that_the_code_depends_on():
    base = key_of(Block(), ARCH, (X,), {"mask": None})
    others = [
        key_of(Block(), "sm_90", (X,), {"mask": None}),
        key_of(Block().to(torch.bfloat16), ARCH, (X,), {"mask": None}),
        key_of(Block(8), ARCH, (X,), {"mask": None}),
        key_of(Block(), ARCH, (X.to(torch.bfloat16),), {"mask": None}),
        key_of(Block(), ARCH, (X[:1],), {"mask": None}),
        key_of(Block(), ARCH, (X.transpose(0, 1).contiguous().transpose(0, 1),), {"mask": None}),
        key_of(Block(), ARCH, (X,), {"mask": X}),
        key_of(Block(), ARCH, (X,), {}),
        key_of(nn.Identity(), ARCH, (X,), {"mask": None}),
        replace(base, torch="2.8.0"),
    ]
    assert len({key.name for key in (base, *others)}) == len(others) + 1
    assert key_of(Block(), ARCH, (X + 1,), {"mask": None}) == base


def test_without_any_package_the_folder_is_named(tmp_path):
    key = key_of(Block(), ARCH, (X,), {})
    assert missing(key, tmp_path / "none") == f"no package of Block in {tmp_path / 'none'}"
    (tmp_path / "broken.json").write_text("{")
    assert missing(key, tmp_path) == f"no package of Block in {tmp_path}"


def test_what_cannot_be_made_leaves_nothing_behind(tmp_path):
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(RunError, match="Branching cannot be compiled ahead of time"):
        build(Call(Branching(), (X,), {}), ARCH, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_the_deployer_s_or_in_the_cache(tmp_path):
    assert packages_folder(tmp_path, {}) == tmp_path / "packages"
    assert packages_folder(tmp_path, {"ANYHOST_PACKAGES": "/app/packages"}).as_posix() == "/app/packages"


def test_a_wish_for_packages_is_planned_where_nothing_can_be_compiled():
    made = plan(adapter("metric3d"), load_host("zerogpu-48g"), Wishes(variant="vit_small", compile="aot"))
    placed = made.component("depth_model")
    assert (placed.compile, placed.compile_blocks) == ("aot", "Block")
    assert "compile_package" in {d.rule for d in made.decisions}
    unwished = plan(adapter("metric3d"), load_host("zerogpu-48g"), Wishes(variant="vit_small"))
    assert unwished.component("depth_model").compile == "none"


def test_placing_attaches_them(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYHOST_PACKAGES", str(tmp_path))
    made = plan(adapter("metric3d"), load_host("cpu-amx"), Wishes(variant="vit_small", compile="aot", dtype="fp32"))
    module = net()
    expected = module(X)
    compile_in_place(module, made.component("depth_model"))
    assert len(attached(module)) == 3
    assert torch.equal(module(X), expected)
    assert note_of(module) == f"no package of Block in {tmp_path}"


def test_code_with_weights_in_it_is_thrown_away(tmp_path, monkeypatch):
    """As AOTInductor makes it when it is told nothing: short vectors become numbers in the code."""

    class Numbers:
        """Answers with the weights it was made with, whatever it is given."""

        def __init__(self, block: nn.Module) -> None:
            self.block = block

        def get_constant_fqns(self) -> list[str]:
            return [name for name, _ in self.block.named_parameters()]

        def load_constants(self, *_: object, **__: object) -> None:
            pass

        def __call__(self, *args, **kwargs):
            return self.block(*args, **kwargs)

    block = net().blocks[0]
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", lambda *_, package_path, **__: package_path)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda _: Numbers(block))
    monkeypatch.setattr(packages.Path, "unlink", lambda *_, **__: None)
    monkeypatch.setattr(torch.export, "export", lambda *_: None)
    with pytest.raises(RunError, match="differs by"):
        build(Call(block, (X,), {"mask": None}), ARCH, tmp_path)
