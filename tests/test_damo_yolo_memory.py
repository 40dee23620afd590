"""The detector's declared activation bytes against what a device that counts sees, and its cost in the plan."""

import gc

import pytest
import torch

from adapters import ADAPTERS, adapter
from adapters.damo_yolo.networks import build
from loader.memory import Shape, activation_bytes
from tests.fake_accelerator import fake_accelerator
from tests.machines import ROOT

SPEC = adapter("damo_yolo")
PUBLISHED = [v for v in SPEC.variants if v.provenance == "published"]


@pytest.mark.parametrize("variant", PUBLISHED, ids=lambda v: v.name)
def test_declared_activation_bytes_are_what_a_run_takes(variant):
    component = variant.component("detector")
    with fake_accelerator(2**40) as memory:
        network = build("detector", variant.name).merge().to("fake:0")
        gc.collect()
        images = torch.zeros(1, 3, 192, 256).to("fake:0")
        before = memory.used - images.numel() * 4
        memory.peak = memory.used
        with torch.inference_mode():
            network(images)
        taken = memory.peak - before
        del network, images
        gc.collect()
    assert taken == pytest.approx(activation_bytes(component, Shape((192, 256)), "fp32"), rel=0.05)


@pytest.mark.parametrize("variant", PUBLISHED, ids=lambda v: v.name)
def test_declared_parameters_are_the_network_s(variant):
    with torch.device("meta"):
        network = build("detector", variant.name)
    assert variant.component("detector").n_params == sum(p.numel() for p in network.parameters())


def test_names_of_weight_files_are_unique_or_the_same_file():
    seen = {}
    for spec in ADAPTERS:
        for variant in spec.variants:
            for weights in variant.weights:
                assert seen.setdefault(weights.file, weights.sources) == weights.sources, weights.file


def test_weights_that_ship_here_announce_their_checksum_and_size():
    """A checksum recorded at first use would refuse the file of the next release."""
    import hashlib

    for spec in ADAPTERS:
        for weights in (w for v in spec.variants for w in v.weights if w.sources[0].kind == "asset"):
            content = (ROOT / weights.sources[0].location).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (weights.bytes, weights.sha256)
