"""Words to a picture: HunyuanDiT with perturbed-attention guidance, a call at a time so that each network may sleep.

Facts from ``infer/text_to_image.py`` of Tencent/Hunyuan3D-1 (commit af913e6), the loop as diffusers'
``HunyuanDiTPAGPipeline`` runs it.
"""

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from PIL import Image
from torch import Tensor

from adapters.hunyuan3d.dice import Dice
from adapters.hunyuan3d.products import MeshRequest
from adapters.hunyuan3d.sampler import draw
from loader.outcome import Step, Unit
from loader.pipeline import Parts
from loader.plan import Plan

FOLDER = "HunyuanDiT"
"""Where its files stand among the variant's files of weights."""
SIDE = 1024
TOKENS, TOKENS_T5 = 77, 256
GUIDANCE, PERTURBED_GUIDANCE = 5.0, 1.3
TILE = 512
# What the model was asked beside the words, so that one object stands on white (its training captions are Chinese).
SUFFIX = ",白色背景,3D风格,最佳质量"
NEGATIVE = (
    "文本,特写,裁剪,出框,最差质量,低质量,JPEG伪影,PGLY,重复,病态,残缺,多余的手指,变异的手,画得不好的手,画得不好的脸,变异,畸形,"
    "模糊,脱水,糟糕的解剖学,糟糕的比例,多余的肢体,克隆的脸,毁容,恶心的比例,畸形的肢体,缺失的手臂,缺失的腿,额外的手臂,额外的腿,"
    "融合的手指,手指太多,长脖子"
)
SCHEDULER: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.03,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "variance_type": "fixed_small",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
}


@dataclass(frozen=True)
class Prompt:
    """The words for the transformer; batches are negative, positive.

    Attributes:
        states: ``[2, 77, 1024]`` of BERT, ``mask [2, 77]`` where there are words.
        states_t5: ``[2, 256, 2048]`` of mT5, ``mask_t5 [2, 256]``.
    """

    states: Tensor
    mask: Tensor
    states_t5: Tensor
    mask_t5: Tensor

    def tripled(self) -> tuple[Tensor, ...]:
        """Negative, positive, and positive again for the perturbed pass."""
        pairs = (self.states, self.mask, self.states_t5, self.mask_t5)
        return tuple(torch.cat((pair, pair[1:])) for pair in pairs)


def tokens(texts: list[str], files: Mapping[str, Path], length: int) -> tuple[Tensor, Tensor]:
    """BERT's token numbers and mask, each ``[B, length]``."""
    from transformers import BertTokenizer

    vocabulary = files.get(f"{FOLDER}/tokenizer/vocab.txt")
    if vocabulary is None:
        return stand_in_tokens(texts, length)
    made = BertTokenizer(vocab=str(vocabulary))(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return made.input_ids, made.attention_mask


def tokens_t5(texts: list[str], files: Mapping[str, Path], length: int) -> tuple[Tensor, Tensor]:
    """mT5's token numbers and mask, each ``[B, length]``: sentencepiece's pieces, the end sign 1, then 0."""
    import sentencepiece

    model = files.get(f"{FOLDER}/tokenizer_2/spiece.model")
    if model is None:
        return stand_in_tokens(texts, length)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return _padded([[*pieces.encode(text)[: length - 1], 1] for text in texts], length)


def stand_in_tokens(texts: list[str], length: int, vocabulary: int = 200) -> tuple[Tensor, Tensor]:
    """Characters as numbers, for networks that were never trained on words."""
    rows = [[2 + ord(character) % (vocabulary - 2) for character in text[: length - 1]] + [1] for text in texts]
    return _padded(rows, length)


def _padded(rows: list[list[int]], length: int) -> tuple[Tensor, Tensor]:
    numbers, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    for index, row in enumerate(rows):
        numbers[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return numbers, mask


def make_scheduler(files: Mapping[str, Path], steps: int) -> DDPMScheduler:
    """The published schedule, set to ``steps`` steps; its steps keep nothing between them."""
    path = files.get(f"{FOLDER}/scheduler/scheduler_config.json")
    config = json.loads(path.read_text(encoding="utf-8")) if path else dict(SCHEDULER)
    scheduler: DDPMScheduler = DDPMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    return scheduler


def draw_picture(parts: Parts, request: MeshRequest, side: int) -> Generator[Step | Unit, Any, Image.Image]:
    """The picture of the request's words, RGB, ``side`` × ``side``."""
    yield Step("mesh_words", 0, 2)
    texts = [NEGATIVE, request.words.strip() + SUFFIX]
    first = yield Unit("words", "prompt_encoder", partial(_encode, parts, texts))
    yield Step("mesh_words", 1, 2)
    second = yield Unit("words, mT5", "prompt_encoder_t5", partial(_encode_t5, parts, texts))
    prompt = Prompt(*first, *second)
    scheduler = make_scheduler(parts.files, request.draw_steps)
    dice = Dice.thrown(request.draw_seed)
    noise, dice = dice.use(lambda generator: draw((1, 4, side // 8, side // 8), torch.device("cpu"), generator))
    latents = noise * float(scheduler.init_noise_sigma)
    for index, timestep in enumerate(scheduler.timesteps):
        step = partial(_denoise, parts, scheduler, prompt, int(timestep))
        latents, dice = yield Unit(f"drawing step {index + 1}", "painter", partial(_run_step, step, latents, dice))
        yield Step("mesh_draw", index + 1, len(scheduler.timesteps))
    return (yield Unit("drawing", "painter_vae", partial(_decode, parts, latents)))


def _encode(parts: Parts, texts: list[str], plan: Plan) -> tuple[Tensor, Tensor]:
    del plan
    numbers, mask = tokens(texts, parts.files, TOKENS)
    states: Tensor = parts.call("prompt_encoder", numbers, attention_mask=mask)[0]
    return states.float().cpu(), mask


def _encode_t5(parts: Parts, texts: list[str], plan: Plan) -> tuple[Tensor, Tensor]:
    del plan
    numbers, mask = tokens_t5(texts, parts.files, TOKENS_T5)
    states: Tensor = parts.call("prompt_encoder_t5", numbers, attention_mask=mask)[0]
    return states.float().cpu(), mask


def _run_step(step: Any, latents: Tensor, dice: Dice, plan: Plan) -> tuple[Tensor, Dice]:
    del plan
    after, thrown = dice.use(lambda generator: step(latents, generator))
    return after, thrown


def _denoise(
    parts: Parts, scheduler: DDPMScheduler, prompt: Prompt, timestep: int, latents: Tensor, generator: torch.Generator
) -> Tensor:
    """Latents after one step, guided away from the negative words and from the perturbed pass."""
    sample = torch.cat([latents] * 3)
    when = torch.full((3,), float(timestep))
    prediction = parts.call("painter", sample, when, *prompt.tripled()).float().cpu()
    negative, positive, perturbed = prediction.chunk(3)
    guided = negative + GUIDANCE * (positive - negative) + PERTURBED_GUIDANCE * (positive - perturbed)
    stepped: Tensor = scheduler.step(guided, timestep, latents, generator=generator, return_dict=False)[0]
    return stepped


def _decode(parts: Parts, latents: Tensor, plan: Plan) -> Image.Image:
    tile = TILE if "vae_tiling" in plan.savers else 0
    decoded = parts.call("painter_vae", latents, "decode", tile, scaled=True).float().cpu()
    pictures: list[Image.Image] = VaeImageProcessor().postprocess(decoded, output_type="pil")
    return Image.fromarray(np.asarray(pictures[0].convert("RGB")))
