"""InstantID from files under their published names: opened, filled, merged, refused by name; narrow networks."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from adapters.instantid import loading
from adapters.instantid.networks import build
from adapters.instantid.networks.attention import face_layers
from adapters.instantid.networks.miniature import CONFIGS, miniature
from adapters.instantid.prompts import BOS, EOS
from adapters.instantid.spec import SPEC
from bench.apart import apart
from bench.identity import LIMIT, load
from loader.errors import CheckpointMismatchError, LicenceNotAcceptedError, WeightsCorruptError
from loader.folders import Folders
from loader.place import place
from loader.plan import plan
from loader.weights import open_state
from loader.wishes import Wishes
from tests.instantid_runs import pictures, request
from tests.machines import ROOT, engine_on, host_with
from tests.test_instantid_parts import faces_network

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
ACCEPTED = frozenset(w.licence.name for v in SPEC.variants for w in v.weights if w.licence.accept)


def narrow(kind: str, variant: str, **config: object) -> torch.nn.Module:
    return build(kind, variant, **{**CONFIGS[kind][1], **config})


def published_state(component: str) -> dict[str, torch.Tensor]:
    """A component's tensors under the names its file has."""
    state = {name: tensor for name, tensor in miniature(component).state_dict().items() if "processor" not in name}
    if component == "text_encoder":
        # transformers 5 took this level out of the class without a projection; the files have it.
        state = {n if n.startswith("text_model.") else f"text_model.{n}": t for n, t in state.items()}
    return {name: tensor.half().contiguous() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every file of the variants, at narrow widths."""
    root = tmp_path_factory.mktemp("weights")
    detector, recogniser = faces_network()
    weights = {w.file: w for v in SPEC.variants for w in v.weights}
    for file, entry in weights.items():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".onnx"):
            path.write_bytes(detector if "scrfd" in file else recogniser)
        elif file.endswith("vocab.json"):
            words = {"a</w>": 0, "man</w>": 1, "m": 2, "an</w>": 3, "n</w>": 4, "a": 5}
            path.write_text(json.dumps({**words, "<|startoftext|>": BOS, "<|endoftext|>": EOS}), encoding="utf-8")
        elif file.endswith("merges.txt"):
            path.write_text("#version: 0.2\na n</w>\nm an</w>\n", encoding="utf-8")
        elif file.endswith("ip-adapter.bin"):
            faces = dict(face_layers(miniature("unet")).state_dict())
            torch.save({"image_proj": miniature("face_projection").state_dict(), "ip_adapter": faces}, path)
        elif "lcm-lora" in file:
            save_file(lora(), path)
        else:
            save_file(published_state(entry.fills[0]), path)
    return root


def lora() -> dict[str, torch.Tensor]:
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    random = torch.Generator().manual_seed(1)
    return {
        f"{layer}.lora_down.weight": torch.randn(4, 64, generator=random),
        f"{layer}.lora_up.weight": torch.randn(64, 4, generator=random),
        f"{layer}.alpha": torch.tensor(4.0),
    }


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(loading, "build", narrow)


def files_of(variant: str, folder) -> dict:
    return {w.file: folder / w.file for w in SPEC.variant(variant).weights}


def sized(folder):
    """The spec with the sizes that these files have."""
    variants = tuple(
        replace(v, weights=tuple(replace(w, bytes=(folder / w.file).stat().st_size) for w in v.weights))
        for v in SPEC.variants
    )
    return replace(SPEC, variants=variants)


def engine(tmp_path, folder):
    made = engine_on(host_with(), tmp_path)
    made.folders = Folders(cache=tmp_path / "cache", own=(folder,), assets=ROOT)
    return made


@pytest.mark.parametrize("variant", ["sdxl", "lcm", "sdxl_controls"])
def test_a_published_variant_runs_from_its_files(tmp_path, folder, small, variant):
    made = engine(tmp_path, folder)
    wishes = Wishes(variant=variant, size=(512, 512), steps=1)
    controls = {"canny": 0.5} if variant == "sdxl_controls" else {}
    spec = sized(folder)
    with pytest.raises(LicenceNotAcceptedError, match="InstantID research terms"):
        list(made.run(spec, request(), wishes))
    result = list(made.run(spec, request(controls=controls), wishes, accepted=ACCEPTED))[-1]
    assert result.weights == "published"
    assert result.trace == ()
    drawn = result.outputs[0]
    assert not drawn.faces.stand_in
    assert drawn.scheduler == ("lcm" if variant == "lcm" else "euler")
    assert drawn.guidance == (1.5 if variant == "lcm" else 5.0)
    assert pictures(result)[0].std() > 3
    made.close()


def test_every_component_has_the_file_s_own_values(folder, small):
    made = plan(SPEC, host_with(), Wishes(variant="sdxl_controls", compile="none"))
    load = partial(loading.load, plan=made, files=files_of("sdxl_controls", folder), checkpoint=None)
    for placement in made.components:
        if placement.name == "face_analysis":
            continue
        network = load(placement.name)
        expected = miniature(placement.name)
        inside = network.vae if placement.name == "vae" else network
        for name, tensor in inside.state_dict().items():
            torch.testing.assert_close(tensor.float(), expected.state_dict()[name].half().float(), atol=1e-3, rtol=1e-2)
        place(network, placement)
        assert {p.dtype for p in network.parameters()} == {
            {"fp32": torch.float32, "bf16": torch.bfloat16}[placement.storage_dtype]
        }


def test_lcm_weights_are_in_the_denoiser_and_nowhere_else(folder, small):
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    states = {}
    for variant in ("sdxl", "lcm"):
        made = plan(SPEC, host_with(), Wishes(variant=variant))
        states[variant] = loading.load("unet", made, files_of(variant, folder), None).state_dict()
    changed = [name for name, tensor in states["sdxl"].items() if not torch.equal(tensor, states["lcm"][name])]
    assert changed == [layer]
    added = lora()
    down, up = (next(v for n, v in added.items() if half in n) for half in ("down", "up"))
    difference = states["lcm"][layer].float() - states["sdxl"][layer].float()
    torch.testing.assert_close(difference, up @ down, atol=0.02, rtol=0)


@pytest.mark.parametrize("part", ["image_proj", "ip_adapter"])
def test_a_renamed_key_is_refused_by_name(tmp_path, folder, small, part):
    files = files_of("sdxl", folder)
    content = torch.load(files[loading.IP_ADAPTER], weights_only=True)  # noqa: TID251 - to write it again, changed
    old = next(iter(content[part]))
    content[part]["elsewhere"] = content[part].pop(old)
    path = tmp_path / "ip-adapter.bin"
    torch.save(content, path)
    made = plan(SPEC, host_with(), Wishes(variant="sdxl"))
    component = "face_projection" if part == "image_proj" else "unet"
    with pytest.raises(CheckpointMismatchError, match=rf"missing: {old}.*unexpected: elsewhere"):
        loading.load(component, made, {**files, loading.IP_ADAPTER: path}, None)


def test_a_damaged_file_says_so(tmp_path, folder, small):
    files = files_of("sdxl", folder)
    name = next(n for n in files if n.startswith("InstantID/ControlNet"))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(files[name].read_bytes()[:-1000])
    made = plan(SPEC, host_with(), Wishes(variant="sdxl"))
    with pytest.raises(WeightsCorruptError, match="cut short"):
        loading.load("identity_net", made, {**files, name: cut}, None)


@pytest.mark.parametrize(("component", "narrow"), [("vae", False), ("unet", True)])
def test_loading_takes_no_more_memory_than_what_is_kept(component, narrow):
    """Files of zeros in the published layout: the whole autoencoder, and a denoiser of a third of the width."""
    row = apart(load, None, component, narrow=narrow)
    assert (row["stored"], row["layout"]) == ("bf16", "channels_last" if component == "vae" else "contiguous")
    assert row["kept_bytes"] > 150e6
    assert 0.95 < row["ratio"] <= LIMIT


def test_the_adapter_is_read_in_place(folder):
    """The pickle is mapped, so that filling the denoiser costs no second copy of it."""
    state = open_state(folder / loading.IP_ADAPTER, key="ip_adapter")
    assert all(name.endswith((".to_k_ip.weight", ".to_v_ip.weight")) for name in state)
    assert len(state) == 2 * len(face_layers(miniature("unet")))
