"""Rules of the source itself that no linter has: devices are given, not asked for; names stay away from PyPI's."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from adapters import ADAPTERS

ROOT = Path(__file__).parents[1]
PACKAGES = ("loader", "adapters", "kit", "page", "commands", "bench", "training")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# The places that may name a device: they ask it, move to it, or only talk about it.
MAY_NAME_DEVICES = {"probe.py", "probe_cards.py", "cards.py", "speed.py", "measure.py", "place.py", "opened.py"}


def literals(tree: ast.AST) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "cuda" and isinstance(node.ctx, ast.Load):
            found.append((node.lineno, ".cuda"))
        if isinstance(node, ast.Call):
            arguments = [*node.args, *(k.value for k in node.keywords)]
            for argument in arguments:
                if isinstance(argument, ast.Constant) and str(argument.value).split(":")[0] in ("cuda", "mps", "xpu"):
                    found.append((node.lineno, str(argument.value)))
    return found


def test_the_search_for_device_literals_finds_them():
    planted = ast.parse('x.cuda()\ntorch.zeros(3, device="cuda")\ny.to("cuda:0")')
    assert sorted(line for line, _ in literals(planted)) == [1, 2, 3]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_device_is_named_where_it_should_be_given(path):
    if path.parent.name == "loader" and path.name in MAY_NAME_DEVICES:
        return
    assert literals(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_no_loose_loading_and_no_pickles_outside_weights():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert "strict=" + "False, assign" not in text, path
        if path.name != "weights.py":
            assert "torch.load(" not in text, path


def test_requirements_name_nothing_that_breaks_the_set():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {line.split("=")[0].split(">")[0].strip().lower() for line in lines if line and not line.startswith("#")}
    assert not names & {"torchvision", "xformers", "mmcv", "pytorch3d", "nvdiffrast", "open3d", "adapters", "mediapipe"}
    assert len({n for n in names if n.startswith("opencv")}) <= 1


@pytest.mark.parametrize(
    "words",
    [["--help"], ["plan", "--host", "t4-16g"], ["host", "--named"], ["plan"], ["run", "--help"], ["bench", "--help"]],
)
def test_these_commands_never_import_torch(words, tmp_path):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['app.py', *{words!r}]\n"
        "try:\n    runpy.run_path('app.py', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'gradio', 'numpy', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environ = {"PATH": "/usr/bin:/bin", "ANYHOST_CACHE": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_pipeline_and_job_a_spec_names_exists():
    from importlib import import_module

    for spec in ADAPTERS:
        if spec.pipeline:
            module, _, function = spec.pipeline.partition(":")
            pipeline = getattr(import_module(module), function)()
            for method in ("load", "run", "sample", "drift"):
                assert callable(getattr(pipeline, method))
        if spec.job:
            job = import_module(spec.job)
            assert callable(job.request)
            assert callable(job.write)


def test_the_page_is_there_before_the_libraries_of_the_generators():
    """They take five seconds to import, of the twelve until the first visitor is answered."""
    code = (
        "import sys, page.build\n"
        "early = {'diffusers', 'transformers', 'peft', 'ray', 'onnxruntime'} & set(sys.modules)\n"
        "assert not early, early"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_a_module_does_no_work():
    """Importing everything in one fresh process starts no thread, opens no network and writes nothing."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES]
    code = (
        "import importlib, socket, sys, threading\n"
        "def refuse(*a, **k): raise AssertionError('network at import')\n"
        "socket.socket.connect = refuse\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "ours = [t.name for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]\n"
        "assert not ours, ours"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
