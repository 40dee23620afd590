"""Convolutions in bytes: the arithmetic they stand for, which values stay bytes, and the ranges found on samples."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.damo_yolo.networks import build
from adapters.damo_yolo.networks.layers import EntryConv2d
from loader import quantised
from loader.calibrating import LayerScales, Scale, calibrate
from loader.packing import pack
from loader.quantised import QuantisedConvolution, available, convert, quantisable, quantise, to_bytes

# Bytes up to 127 alone: CPUs without VNNI add products of two bytes in 16 bit, which overflows beyond.
HALF = Scale(0.02, 20)


class Activated(nn.Module):
    activations = (("conv", "act"),)

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = conv, act

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        if added is None:
            return self.act(self.conv(x))
        if getattr(self.conv, "takes_added", False):
            return self.act(self.conv(x, added))
        return self.act(self.conv(x) + added)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(5)


@pytest.fixture
def narrow(monkeypatch):
    """Weights of 63 steps to either side: with any byte they do not overflow 16 bit either."""
    monkeypatch.setattr(quantised, "WEIGHT_LEVELS", 63)


def bytes_of(values: Tensor, scale: Scale) -> Tensor:
    """What ``values`` are once rounded to bytes, in numbers again."""
    return (((values / scale.step + scale.zero + 0.5).floor()).clamp(0, 255) - scale.zero) * scale.step


def rounded(conv: nn.Conv2d) -> Tensor:
    """The weight of ``conv`` in 127 steps to either side, a step for each output channel."""
    steps = conv.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    return (conv.weight.detach() / steps).round() * steps


def plainly(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What the quantised ``conv`` stands for, before its activation."""
    bias = None if conv.bias is None else conv.bias.detach()
    return F.conv2d(x, rounded(conv), bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def small(*shape: int) -> Tensor:
    """Values whose bytes in HALF are at most 127."""
    return (torch.rand(shape) * 127).floor().sub(HALF.zero) * HALF.step


def test_this_torch_has_the_operators():
    assert available()


@pytest.mark.parametrize("act", [nn.Identity(), nn.ReLU(), nn.SiLU()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize(
    ("channels", "groups", "kernel", "stride", "bias"),
    [(8, 1, 1, 1, True), (8, 1, 3, 2, False), (8, 8, 5, 1, True), (8, 4, 3, 1, True), (3, 1, 3, 1, True)],
)
def test_a_layer_computes_what_it_stands_for(channels, groups, kernel, stride, bias, act):
    conv = nn.Conv2d(channels, 16, kernel, stride, kernel // 2, groups=groups, bias=bias)
    x = small(1, channels, 20, 12)
    expected = act(plainly(conv, x))
    layer = Activated(conv, act).requires_grad_(requires_grad=False)
    pack(layer)
    convert(layer, {"conv": LayerScales(HALF)})
    assert isinstance(conv, QuantisedConvolution)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
        other = small(3, channels, 9, 31)  # another batch and size than it was packed for
        assert layer(other).shape[0] == 3
        torch.testing.assert_close(layer(other)[1:2], layer(other[1:2]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("act", [nn.Identity(), nn.ReLU(), nn.SiLU()], ids=lambda a: type(a).__name__)
def test_a_sum_is_computed_with_its_convolution_and_the_shortcut_stays(act):
    conv = nn.Conv2d(8, 16, 3, padding=1)
    x, added = small(2, 8, 10, 6), torch.randn(2, 16, 10, 6).contiguous(memory_format=torch.channels_last)
    before = added.clone()
    expected = act(plainly(conv, x) + added)
    layer = Activated(conv, act).requires_grad_(requires_grad=False)
    pack(layer)
    convert(layer, {"conv": LayerScales(HALF)})
    with torch.inference_mode():
        torch.testing.assert_close(layer(x, added), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(added, before, rtol=0, atol=0)


def test_bytes_added_and_given_are_in_scales_of_their_own():
    conv = nn.Conv2d(8, 16, 3, padding=1)
    gives, adds = Scale(0.03, 0), Scale(0.015, 11)
    x = small(1, 8, 10, 6)
    added = torch.randint(0, 256, (1, 16, 10, 6), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    before = added.clone()
    expected = F.relu(plainly(conv, x) + (added.float() - 11) * 0.015)
    layer = Activated(conv, nn.ReLU()).requires_grad_(requires_grad=False)
    pack(layer)
    convert(layer, {"conv": LayerScales(HALF, gives, adds)})
    with torch.inference_mode():
        given = layer(x, added)
    assert given.dtype == torch.uint8
    torch.testing.assert_close(given.float() * 0.03, expected.clamp(max=255 * 0.03), rtol=0, atol=0.016)
    assert torch.equal(added, before)


def test_rounding_to_bytes():
    scale = Scale(0.5, 10)
    values = torch.tensor([-100.0, -5.0, -0.3, -0.2, 0.0, 0.2, 0.3, 122.5, 122.7, 1e9])
    assert to_bytes(values, scale).tolist() == [0, 0, 9, 10, 10, 10, 11, 255, 255, 255]
    given = torch.tensor([3, 255], dtype=torch.uint8)
    assert to_bytes(given, scale) is given


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-0.28, 3.1), (-4.0, -1.0), (2.0, 3.0), (0.0, 0.0)])
def test_a_scale_covers_its_range_and_holds_zero(low, high):
    scale = Scale.covering(low, high)
    ends = torch.tensor([low, high, 0.0])
    assert bytes_of(ends, scale)[2] == 0
    torch.testing.assert_close(bytes_of(ends, scale), ends, rtol=0, atol=scale.step)
    assert 0 <= scale.zero <= 255


# --- which values stay bytes ------------------------------------------------------------------------------------


class Net(nn.Module):
    """Two convolutions meet in a third; the first is also pooled for the fourth; the last is added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1)
        self.meet = nn.Conv2d(16, 8, 1)
        self.alone = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        met = self.meet(
            torch.cat(
                [F.interpolate(self.left(x), scale_factor=2.0), F.interpolate(self.right(x), scale_factor=2.0)], 1
            )
        )
        pooled = F.max_pool2d(met, 2)
        return pooled + self.last(self.alone(pooled)), self.last(pooled)


def scales_of(net: nn.Module, *calls: tuple[Tensor, ...]) -> dict[str, LayerScales]:
    net.requires_grad_(requires_grad=False)
    pack(net)
    return calibrate(net, quantisable(net), calls)


def test_bytes_go_from_convolution_to_convolution_and_nowhere_else():
    found = scales_of(Net(), (torch.randn(1, 4, 8, 8),))
    stays = {name: scales.output for name, scales in found.items()}
    assert stays["left"] is not None, "concatenated, read by a convolution alone"
    assert stays["left"] == stays["right"] == found["meet"].input
    assert stays["meet"] is None, "pooled"
    assert stays["alone"] is None, "the layer that reads it reads floating point elsewhere"
    assert stays["last"] is None, "added, and given away"


def test_what_is_given_away_is_floating_point():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> dict[str, tuple[Tensor, ...]]:
            read = self.first(x)
            return {"both": (read, self.second(read))}

    found = scales_of(Both(), (torch.randn(1, 4, 8, 8),))
    assert found["first"].output is None
    assert found["second"].output is None


@pytest.mark.usefixtures("narrow")
def test_a_quantised_network_is_near_the_one_it_was():
    net, x = Net().eval(), torch.randn(2, 4, 16, 16)
    with torch.inference_mode():
        expected = net(x)
        net.requires_grad_(requires_grad=False)
        assert quantise(net, [(x,)]) == 5
        for one, other in zip(expected, net(x), strict=True):
            assert (other - one).norm() < 0.05 * one.norm()


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("variant", ["T", "M", "Ns"])
def test_a_detector_of_each_family_is_near_the_one_it_was(variant):
    net = build("detector", variant, num_classes=5).merge().requires_grad_(requires_grad=False)
    images = torch.randint(0, 256, (2, 3, 96, 64)).float()
    with torch.inference_mode():
        expected = net.raw(images)
        quantise(net, [(images,)], keep=("head.integral",))
        found = net.raw(images)
        net(images[:1])
    layers = [layer for layer in net.modules() if isinstance(layer, QuantisedConvolution)]
    assert len(layers) == sum(isinstance(layer, nn.Conv2d) for layer in net.modules())
    assert sum(layer.scales.output is not None for layer in layers) > len(layers) / 3
    bias = net.head.gfl_reg[0].bias.view(1, -1, 1, 1)  # of weights nobody trained next to nothing comes beside it
    one, other = expected[0].bins - bias, found[0].bins - bias
    assert (other - one).norm() < 0.5 * one.norm()


def test_images_are_bytes_already():
    net = build("detector", "Ns").merge().requires_grad_(requires_grad=False)
    dark = torch.randint(0, 40, (1, 3, 64, 64)).float()
    quantise(net, [(dark,)])
    entry = next(layer for layer in net.modules() if isinstance(layer, EntryConv2d))
    assert entry.scales.input == Scale(1.0, 0)


def test_what_is_kept_or_computes_in_its_own_way_is_not_quantised():
    class Own(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input * 2)

    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1)), Own(4, 4, 1)).requires_grad_(False)
    assert quantise(net, [(torch.randn(1, 3, 8, 8),)], keep=("1",)) == 1
    assert [isinstance(layer, QuantisedConvolution) for layer in (net[0], net[1][0], net[2])] == [True, False, False]


def test_without_samples_nothing_is_quantised():
    net = nn.Sequential(nn.Conv2d(3, 4, 1)).requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="calibration never reached 1 of 1 layers"):
        quantise(net, [])
    assert not isinstance(net[0], QuantisedConvolution)


def test_a_network_without_convolutions_needs_no_samples():
    assert quantise(nn.Sequential(nn.Linear(3, 4)), []) == 0
