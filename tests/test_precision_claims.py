"""What ``docs/precision.md`` says of claims that circulate, each shown to be so with the torch that is installed."""

import inspect
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from adapters import ADAPTERS, adapter
from loader.cards import cuda_native
from loader.host import load_host
from loader.plan import plan
from loader.wishes import Wishes
from tests.machines import ROOT

DOC = (ROOT / "docs" / "precision.md").read_text(encoding="utf-8")


def test_every_test_the_document_names_exists():
    named = set(re.findall(r"`tests/(test_\w+\.py)(?:::(\w+))?`", DOC))
    assert len(named) >= 5
    for file, function in named:
        text = (Path(__file__).parent / file).read_text(encoding="utf-8")
        assert not function or f"def {function}(" in text, (file, function)


def test_bf16_is_native_from_compute_capability_8_and_torch_s_bare_question_counts_emulation():
    assert "bf16" not in cuda_native((7, 0))
    assert "bf16" not in cuda_native((7, 5))
    assert "bf16" in cuda_native((8, 0))
    parameters = inspect.signature(torch.cuda.is_bf16_supported).parameters  # noqa: TID251 - asked about, not asked
    assert parameters["including_emulation"].default is True


@pytest.mark.parametrize("host", ["rtx3050-8g", "rtx3060-12g", "rtx3070-8g"])
def test_an_ampere_laptop_card_has_bf16(host):
    assert plan(adapter("damo_yolo"), load_host(host)).components[0].compute_dtype == "bf16"


def test_there_is_no_dtype_called_bf32():
    assert not hasattr(torch, "bf32")
    assert not hasattr(torch, "bfloat32")


@pytest.mark.parametrize(("host", "dtype"), [("cpu-amx", "bf16"), ("cpu-bf16", "bf16"), ("cpu-avx2", "fp32")])
def test_bf16_on_a_cpu_is_a_question_of_its_instructions(host, dtype):
    assert plan(adapter("damo_yolo"), load_host(host)).components[0].compute_dtype == dtype


def test_half_runs_on_a_cpu_and_some_operators_still_raise_in_several_words():
    picture, matrix = torch.ones(1, 4, 8, 8, dtype=torch.half), torch.eye(4, dtype=torch.half)
    torch.nn.functional.conv2d(picture, torch.ones(4, 4, 3, 3, dtype=torch.half))
    torch.nn.functional.linear(matrix, matrix)
    torch.nn.functional.scaled_dot_product_attention(picture, picture, picture)
    words = set()
    for call in (
        lambda: torch.linalg.svd(matrix),
        lambda: torch.linalg.inv(matrix),
        lambda: torch.fft.fft2(picture),
        lambda: torch.quantile(matrix, 0.5),
    ):
        with pytest.raises((RuntimeError, NotImplementedError)) as caught:
            call()
        words.add(re.sub(r"['\"].*?['\"]", "", str(caught.value)).split()[0])
    assert len(words) >= 3


def test_no_plan_computes_fp16_on_a_cpu():
    for spec in ADAPTERS:
        for host in ("cpu-amx", "cpu-avx2", "cpu-basic", "arm-cpu"):
            made = plan(spec, load_host(host))
            assert "fp16" not in {p.compute_dtype for p in made.components}, (spec.name, host)


def test_autocast_to_fp32_on_a_cpu_does_nothing_but_warn():
    matrix = torch.eye(4, dtype=torch.half)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.autocast("cpu", dtype=torch.float32):  # noqa: TID251 - what the claim is about
            assert not torch.is_autocast_enabled("cpu")
            assert (matrix @ matrix).dtype == torch.half
    assert "not supported" in str(caught[0].message)


def test_versions_compared_as_text_are_wrong():
    assert "1.9" > "1.10"
    assert Version("1.9") < Version("1.10")
    assert "2.8.0" > "2.13.0"


def test_checkpointing_and_scaling_change_nothing_in_inference():
    layer = torch.nn.Linear(8, 8)
    x = torch.ones(2, 8)
    with torch.inference_mode():
        plain = layer(x)
        assert plain.grad_fn is None
        again = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    torch.testing.assert_close(plain, again, rtol=0, atol=0)
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    assert not hasattr(scaler, "forward")


def test_reduce_overhead_is_cuda_graphs_and_a_cpu_has_none():
    from torch._inductor import list_mode_options

    assert list_mode_options("reduce-overhead") == {"triton.cudagraphs": True}


def test_fp32_needs_half_as_much_memory_again_as_fp16_with_offload_by_the_plan():
    """Weights asleep in host RAM count there; on the card the largest awake stage and its activations double."""
    host = load_host("rtx4090-24g")
    host = replace(host, ram_bytes=128 * 2**30, free_ram_bytes=120 * 2**30)
    spec = adapter("aniportrait")
    low = plan(spec, host, Wishes(dtype="fp16", residency="offload"))
    full = plan(spec, host, Wishes(dtype="fp32", residency="offload"))
    ratio = full.peak_bytes["device"] / low.peak_bytes["device"]
    assert 1.4 < ratio <= 2.0
