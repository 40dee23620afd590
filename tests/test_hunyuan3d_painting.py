"""Words to a picture: the loop against diffusers' own pipeline, tokens against transformers' tokenizers."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from diffusers import DDPMScheduler, HunyuanDiTPAGPipeline
from transformers import BertTokenizer

from adapters.hunyuan3d import painting
from adapters.hunyuan3d.loading import load_component_of
from adapters.hunyuan3d.networks import build, load_published
from adapters.hunyuan3d.products import MeshRequest
from adapters.hunyuan3d.spec import SPEC
from loader.outcome import Unit
from loader.plan import plan
from loader.wishes import Wishes
from tests.machines import host_with

MINIATURE = SPEC.variant("miniature")
NAMES = ("prompt_encoder", "prompt_encoder_t5", "painter", "painter_vae")


@dataclass
class Loaded:
    """Components called directly, in fp32."""

    files: dict[str, Path] = field(default_factory=dict)
    checkpoint: None = None

    def __post_init__(self):
        self.plan = plan(SPEC, host_with(), Wishes(variant="miniature", dtype="fp32"))
        self.modules = {name: load_component_of(name, MINIATURE, {}) for name in NAMES}

    def call(self, component, *args, **kwargs):
        with torch.no_grad():
            return self.modules[component](*args, **kwargs)


def drawn(parts, request, side=64):
    work = painting.draw_picture(parts, request, side)
    answer = None
    while True:
        try:
            item = work.send(answer)
        except StopIteration as stop:
            return stop.value
        answer = item.run(parts.plan) if isinstance(item, Unit) else None


class Numbered:
    """A tokenizer for diffusers' pipeline that gives our stand-in's tokens."""

    model_max_length = 256

    def __call__(self, texts, *, padding, return_tensors, max_length=256, **_):
        texts = [texts] if isinstance(texts, str) else texts
        numbers, mask = painting.stand_in_tokens(texts, max_length)
        return type("Tokens", (), {"input_ids": numbers, "attention_mask": mask})()

    def batch_decode(self, _):
        return [""]


def test_the_loop_is_that_of_the_library_s_pipeline():
    parts = Loaded()
    request = MeshRequest(words="一只猫", draw_seed=5, draw_steps=4)
    ours = drawn(parts, request)
    transformer = parts.modules["painter"].transformer
    for block in transformer.blocks:
        block.attn1.set_processor(type(transformer.blocks[-1].attn1.processor)())
    pipeline = HunyuanDiTPAGPipeline(
        vae=parts.modules["painter_vae"].vae,
        text_encoder=parts.modules["prompt_encoder"],
        tokenizer=Numbered(),
        transformer=transformer,
        scheduler=DDPMScheduler.from_config(dict(painting.SCHEDULER)),
        safety_checker=None,
        requires_safety_checker=False,
        text_encoder_2=parts.modules["prompt_encoder_t5"],
        tokenizer_2=Numbered(),
        pag_applied_layers=["blocks.1"],
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "一只猫" + painting.SUFFIX,
        negative_prompt=painting.NEGATIVE,
        height=64,
        width=64,
        num_inference_steps=4,
        guidance_scale=5.0,
        pag_scale=1.3,
        generator=torch.Generator().manual_seed(5),
        original_size=(64, 64),
        use_resolution_binning=False,
    ).images[0]
    difference = np.abs(np.asarray(ours, int) - np.asarray(theirs, int))
    assert difference.max() <= 1
    assert np.asarray(ours).std() > 5


def test_perturbed_blocks_are_those_of_the_published_depth():
    with torch.device("meta"):
        transformer = build("painter", "text")
    from adapters.hunyuan3d.networks import perturb

    perturb(transformer)
    names = [type(block.attn1.processor).__name__ for block in transformer.blocks]
    assert [index for index, name in enumerate(names) if name.startswith("PAG")] == [16, 17, 18, 19]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """A sentencepiece model and a vocabulary, trained on a few words."""
    folder = tmp_path_factory.mktemp("tokenizers")
    text = folder / "text.txt"
    text.write_text(
        "\n".join(["一只猫 a red toy fire engine", "陶瓷猫头鹰 ceramic owl on white"] * 20), encoding="utf-8"
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "spiece"),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "一", "只", "猫", "red", "toy", ",", "白"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    return {
        f"{painting.FOLDER}/tokenizer_2/spiece.model": folder / "spiece.model",
        f"{painting.FOLDER}/tokenizer/vocab.txt": folder / "vocab.txt",
    }


def test_tokens_of_mt5_end_with_the_end_sign_and_are_cut_to_length(tokenizers):
    numbers, mask = painting.tokens_t5(["一只猫", "a red toy fire engine on white " * 9], tokenizers, 16)
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(tokenizers[f"{painting.FOLDER}/tokenizer_2/spiece.model"])
    )
    first = model.encode("一只猫")
    assert numbers[0].tolist() == [*first, 1, *[0] * (15 - len(first))]
    assert mask[0].tolist() == [1] * (len(first) + 1) + [0] * (15 - len(first))
    assert numbers.shape == mask.shape == (2, 16)
    assert numbers[1, -1] == 1
    assert mask[1].all()
    assert model.decode(numbers[0, : len(first)].tolist()) == "一只猫"


def test_tokens_of_bert(tokenizers):
    numbers, mask = painting.tokens(["一只red猫", ""], tokenizers, 9)
    assert numbers[0].tolist() == [2, 5, 6, 8, 7, 3, 0, 0, 0]
    assert mask[0].tolist() == [1] * 6 + [0] * 3
    assert numbers[1].tolist() == [2, 3, *[0] * 7]
    whole = BertTokenizer(vocab=str(tokenizers[f"{painting.FOLDER}/tokenizer/vocab.txt"]))
    assert whole("一只red猫").input_ids == numbers[0, :6].tolist()


@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight"])
def test_the_word_table_of_mt5_is_one_tensor_whichever_name_it_has(name):
    from adapters.hunyuan3d.miniature import CONFIGS
    from loader.weights import load_component

    config = CONFIGS["text"]["prompt_encoder_t5"]
    made = build("prompt_encoder_t5", "text", **config)
    state = {
        key: value for key, value in made.state_dict().items() if "shared" not in key and "embed_tokens" not in key
    }
    state[name] = torch.full((200, 16), 0.5)
    loaded = load_component(
        lambda: build("prompt_encoder_t5", "text", **config), load_published, "prompt_encoder_t5", state
    )
    assert loaded.shared.weight is loaded.encoder.embed_tokens.weight
    assert (loaded.shared.weight == 0.5).all()
    assert sum(p.numel() for p in loaded.parameters()) == 8528
