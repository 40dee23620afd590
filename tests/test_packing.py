"""Packed weights: the same results, the same bytes, whatever comes next; and plans that use them where they help."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adapters import adapter
from adapters.damo_yolo.networks import VARIANTS, build
from adapters.damo_yolo.networks.layers import EntryConv2d
from loader.host import OpTime, load_host
from loader.packing import NOTHING, Packed, PackedConvolution, PackedLinear, available, pack
from loader.place import place
from loader.plan import plan
from loader.residency.tensors import Slots
from loader.wishes import Wishes
from tests.parity.rule import fill


class ConvolutionAndActivation(nn.Module):
    activations = (("conv", "act"),)

    def __init__(self, conv: nn.Module, act: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm, self.act = conv, norm or nn.Identity(), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(x)))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(3)


def both(module: nn.Module, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, nn.Module]:
    """What ``module`` gives, what it gives packed, and the packed one."""
    packed = copy.deepcopy(module).eval()
    pack(packed)
    with torch.inference_mode():
        return module.eval()(*inputs), packed(*inputs), packed


def test_this_torch_packs():
    assert available()


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (3, 2, 1), (3, 1, 2)])
def test_a_convolution_gives_what_it_gave(groups, kernel, stride, dilation):
    conv = nn.Conv2d(8, 16, kernel, stride, padding=kernel // 2, dilation=dilation, groups=groups)
    plain, packed, module = both(nn.Sequential(conv), torch.randn(2, 8, 20, 12))
    torch.testing.assert_close(packed, plain, rtol=1e-5, atol=1e-5)
    assert isinstance(module[0], PackedConvolution)
    assert module[0].packed.is_mkldnn


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_a_linear_layer_gives_what_it_gave(bias, rows):
    plain, packed, module = both(nn.Sequential(nn.Linear(24, 40, bias=bias)), torch.randn(2, rows, 24))
    torch.testing.assert_close(packed, plain, rtol=1e-5, atol=1e-5)
    assert isinstance(module[0], PackedLinear)


@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh")])
def test_an_activation_is_computed_with_its_convolution(act):
    plain, packed, module = both(ConvolutionAndActivation(nn.Conv2d(3, 8, 3), act), torch.randn(1, 3, 9, 9))
    torch.testing.assert_close(packed, plain, rtol=1e-5, atol=1e-5)
    assert isinstance(module.act, nn.Identity)
    assert module.conv.fused != NOTHING


@pytest.mark.parametrize(
    "module",
    [
        ConvolutionAndActivation(nn.Conv2d(3, 8, 3), nn.Softplus()),
        ConvolutionAndActivation(nn.Conv2d(3, 8, 3), nn.ReLU(), norm=nn.BatchNorm2d(8)),
        ConvolutionAndActivation(nn.Conv2d(3, 8, 3, padding="same"), nn.ReLU()),
        ConvolutionAndActivation(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
    ],
    ids=["unknown activation", "a norm between", "padding in words", "reflected padding"],
)
def test_what_the_operators_do_not_know_stays_a_step_of_its_own(module):
    plain, packed, changed = both(module, torch.randn(1, 3, 9, 9))
    torch.testing.assert_close(packed, plain, rtol=1e-5, atol=1e-5)
    assert type(changed.act) is type(module.act)


@pytest.mark.parametrize(
    ("layer", "shape"), [(lambda: nn.Linear(8, 8), (4, 8)), (lambda: nn.Conv2d(8, 8, 3, padding=1), (1, 8, 6, 6))]
)
def test_a_weight_two_layers_share_is_left_to_both(layer, shape):
    first, second = layer(), layer()
    second.weight = first.weight
    plain, packed, module = both(nn.Sequential(first, second), torch.randn(shape))
    assert torch.equal(packed, plain)
    assert not any(isinstance(one, Packed) for one in module)
    assert module[0].weight is module[1].weight, "packed apart they would be held twice"


def test_a_layer_that_computes_in_its_own_way_is_left_as_it_is():
    class Doubled(nn.Conv2d):
        def _conv_forward(self, *given):
            return 2 * super()._conv_forward(*given)

    plain, packed, module = both(nn.Sequential(Doubled(3, 4, 3)), torch.randn(1, 3, 9, 9))
    assert torch.equal(packed, plain)
    assert type(module[0]) is Doubled


def test_what_reads_its_weights_itself_is_left_as_it_is():
    class ReadsItself(nn.Module):
        packs = False

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(8, 8), nn.Conv2d(8, 8, 1))

    module = nn.ModuleList([ReadsItself(), nn.Linear(8, 8)])
    assert pack(module) == 1
    assert [isinstance(one, Packed) for one in (*module[0].inner, module[1])] == [False, False, True]


def test_a_subclass_keeps_what_it_does_before():
    entry = EntryConv2d(3, 8, 3, bias=False).bfloat16()
    plain, packed, module = both(nn.Sequential(entry), torch.randn(1, 3, 9, 9))
    torch.testing.assert_close(packed, plain, rtol=2e-2, atol=2e-2)
    assert isinstance(module[0], EntryConv2d)
    assert packed.dtype == torch.bfloat16


def test_other_sizes_and_batches_give_the_same():
    conv = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1)).eval()
    packed = copy.deepcopy(conv)
    pack(packed)
    with torch.inference_mode():
        for shape in ((1, 8, 32, 32), (1, 8, 48, 16), (4, 8, 32, 32), (4, 8, 32, 32), (1, 8, 32, 32), (2, 8, 5, 5)):
            x = torch.randn(shape)
            torch.testing.assert_close(packed(x), conv(x), rtol=1e-5, atol=1e-5)


def test_sizes_that_take_turns_are_not_laid_out_each_time(monkeypatch):
    laid: list[int] = []
    module = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1)).eval()
    pack(module)
    conv = module[0]
    small, large = torch.randn(1, 8, 16, 16), torch.randn(1, 8, 32, 32)

    def calls(*inputs: torch.Tensor) -> int:
        before = id(conv.packed)
        laid.clear()
        with torch.inference_mode():
            for x in inputs:
                module(x)
                laid.append(id(conv.packed))
        return sum(a != b for a, b in itertools.pairwise([before, *laid]))

    assert calls(small) == 1
    assert calls(large, small, large, small) == 0
    assert calls(large, large, large) == 1


def test_whoever_looks_at_a_weight_sees_it():
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(16, 4)).bfloat16()
    before = [layer.weight.detach().clone() for layer in layers]
    pack(layers)
    with torch.inference_mode():
        layers[0](torch.randn(1, 3, 9, 9).bfloat16())
        for layer, weight in zip(layers, before, strict=True):
            seen = layer.weight
            assert (seen.shape, seen.dtype, seen.device) == (weight.shape, weight.dtype, weight.device)
            assert torch.equal(seen + 0, weight)
            assert torch.equal(seen.float()[1:], weight.float()[1:])
        x = torch.randn(2, 16).bfloat16()
        torch.testing.assert_close(F.linear(x, layers[1].weight), x @ before[1].T)


def test_attention_of_torch_reads_weights_of_layers_that_were_packed():
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    x = torch.randn(1, 5, 16)
    module = nn.ModuleList([attention, nn.Linear(16, 16)])

    def forward(layers: nn.ModuleList) -> torch.Tensor:
        own, out = layers
        turned = x.transpose(0, 1)
        weights = (own.in_proj_weight, own.in_proj_bias, None, None, False, 0.0, out.weight, out.bias)
        found, _ = F.multi_head_attention_forward(turned, turned, turned, 16, 2, *weights)
        return found

    packed = copy.deepcopy(module)
    pack(packed)
    with torch.inference_mode():
        torch.testing.assert_close(forward(packed), forward(module), rtol=1e-5, atol=1e-5)


def test_its_weights_still_count_and_leave():
    module = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Linear(16, 8)).bfloat16()
    before = Slots(module).bytes
    pack(module)
    with torch.inference_mode():
        module[0](torch.randn(1, 16, 8, 8, dtype=torch.bfloat16))
    slots = Slots(module)
    assert slots.bytes == before
    slots.clear()
    assert module[0].packed is None


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name in ("T", "Ns", "L")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_detector_gives_what_it_gave(variant, dtype):
    network = fill(build("detector", variant), skip=("integral.project",)).eval()
    network.merge()
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(5)) * 255
    with torch.inference_mode():
        exact = network(images)
    network = network.to(dtype).to(memory_format=torch.channels_last)
    plain, packed, module = both(network, images)
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert all(isinstance(m, PackedConvolution) for m in convolutions)
    # Nothing is left to activate afterwards.
    assert not any(isinstance(m, nn.ReLU | nn.SiLU) for m in module.modules())
    for mine, theirs, true in zip(packed, plain, exact, strict=True):
        # Rounded less often, it is no further from fp32; in fp32 sums are taken in another order.
        assert (mine - true).abs().mean() <= 1.1 * (theirs - true).abs().mean() + 1e-5 * true.abs().mean()


# --- plans ------------------------------------------------------------------------------------------------------


def linear(plain: float, packed: float, dtype: str = "bf16") -> tuple[OpTime, ...]:
    return OpTime("linear", dtype, plain), OpTime("linear", dtype, packed, kernel="packed")


def detector_on(host_name: str, micro: tuple[OpTime, ...] = (), **wishes):
    host = load_host(host_name)
    made = plan(adapter("damo_yolo"), replace(host, cpu=replace(host.cpu, micro=micro)), Wishes(**wishes))
    note = next((d for d in made.decisions if d.rule == "packed"), None)
    return made.component("detector"), note


def test_weights_are_packed_on_processors_that_gain_from_it():
    placed, note = detector_on("cpu-amx")
    assert placed.packed
    assert note.params == {"times": 1.3, "evidence": "typical"}
    assert detector_on("cpu-avx2")[1].params["times"] == 1.05
    for host in ("a100-40g", "m2-16g"):
        assert detector_on(host)[0].packed is False


def test_what_was_timed_here_outweighs_it():
    placed, note = detector_on("cpu-amx", linear(2.0, 1.0))
    assert placed.packed
    assert note.params == {"times": 2.0, "evidence": "measured"}
    slower, nothing = detector_on("cpu-amx", linear(1.0, 1.1))
    assert slower.packed is False
    assert nothing is None
    # The worse of the two decides.
    convolution = (
        OpTime("convolution", "bf16", 1.0, "channels_last"),
        OpTime("convolution", "bf16", 1.2, "channels_last", "packed"),
    )
    assert detector_on("cpu-amx", (*linear(2.0, 1.0), *convolution))[0].packed is False


def test_bf16_is_packed_only_where_the_processor_computes_it():
    assert detector_on("cpu-avx2", dtype="bf16", force=True)[0].packed is False
    assert detector_on("cpu-avx2")[0].packed


def test_what_is_compiled_is_not_packed():
    placed, note = detector_on("cpu-amx", compile="default")
    assert (placed.compile, placed.packed, note) == ("default", False, None)


def test_place_packs_what_the_plan_says():
    placed, _ = detector_on("cpu-amx")
    network = build("detector", "Ns")
    assert any(isinstance(m, PackedConvolution) for m in place(network, placed).modules())
    plain = place(build("detector", "Ns"), replace(placed, packed=False))
    assert not any(isinstance(m, PackedConvolution) for m in plain.modules())
