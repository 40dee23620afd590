"""Prompts of any length with weights: "a (red:1.5) [cat]" to what the denoiser reads.

Source: InstantID/InstantID @ 2145b67, whose notation is that of AUTOMATIC1111/stable-diffusion-webui. One difference:
there the word BREAK is encoded with a weight of -1; here it ends a group of 75 tokens, as it was meant to.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

BOS, EOS = 49406, 49407
GROUP = 75  # tokens of a group between its begin and end
STRONGER, WEAKER = 1.1, 1 / 1.1

_TOKEN = re.compile(
    r"\\(?P<escaped>[()\[\]\\]?)"
    r"|(?P<open>[(\[])"
    r"|:(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\)"
    r"|(?P<close>[)\]])"
    r"|(?P<text>[^\\()\[\]:]+|:)"
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


class Fragment(NamedTuple):
    """A stretch of a prompt with one weight; ``BREAK`` is the end of a group."""

    text: str
    weight: float


BREAK = Fragment("BREAK", -1.0)


class Tokenizer(Protocol):
    """What is used of a CLIP tokenizer: text to ids between a begin and an end mark, of any length."""

    def __call__(self, text: str, *, truncation: bool) -> Any:
        """An object with ``input_ids``."""


class TextEmbeds(NamedTuple):
    """What the denoiser reads of a prompt and of what to avoid.

    Attributes:
        prompt: ``[1, T, D]``, both encoders' features side by side.
        negative: as ``prompt``, of the same length.
        pooled: ``[1, P]``.
        negative_pooled: ``[1, P]``.
    """

    prompt: Tensor
    negative: Tensor
    pooled: Tensor
    negative_pooled: Tensor


def parse(prompt: str) -> list[Fragment]:
    r"""Split a prompt by weight.

    ``(x)`` is 1.1 times as strong, ``(x:1.3)`` 1.3 times, ``[x]`` 1.1 times weaker; they nest, and one left open
    reaches to the end. A backslash takes the meaning from a bracket.

    Returns:
        Fragments in order, neighbours of one weight joined; one empty fragment for an empty prompt.
    """
    parts: list[Fragment] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def strengthen(start: int, factor: float) -> None:
        parts[start:] = [p if p is BREAK else Fragment(p.text, p.weight * factor) for p in parts[start:]]

    for match in _TOKEN.finditer(prompt):
        kind, whole = match.lastgroup, match.group()
        if kind == "escaped":
            parts.append(Fragment(match["escaped"], 1.0))
        elif kind == "open":
            opened[whole].append(len(parts))
        elif kind == "weight" and opened["("]:
            strengthen(opened["("].pop(), float(match["weight"]))
        elif whole == ")" and opened["("]:
            strengthen(opened["("].pop(), STRONGER)
        elif whole == "]" and opened["["]:
            strengthen(opened["["].pop(), WEAKER)
        else:
            first, *others = _BREAK.split(whole)
            parts.append(Fragment(first, 1.0))
            parts += [part for text in others for part in (BREAK, Fragment(text, 1.0))]
    for bracket, factor in (("(", STRONGER), ("[", WEAKER)):
        for start in opened[bracket]:
            strengthen(start, factor)
    return _join_equal(parts) or [Fragment("", 1.0)]


def _join_equal(parts: Sequence[Fragment]) -> list[Fragment]:
    joined: list[Fragment] = []
    for part in parts:
        before = joined[-1] if joined else BREAK
        if part is not BREAK and before is not BREAK and part.weight == before.weight:
            joined[-1] = Fragment(before.text + part.text, part.weight)
        else:
            joined.append(part)
    return joined


def tokenize(prompt: str, tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
    """Ids and weights of a prompt without begin and end marks; every fragment is tokenised on its own."""
    ids: list[int] = []
    weights: list[float] = []
    for fragment in parse(prompt):
        added = (
            [EOS] * (-len(ids) % GROUP)
            if fragment is BREAK
            else list(tokenizer(fragment.text, truncation=False).input_ids)[1:-1]
        )
        ids += added
        weights += [1.0 if fragment is BREAK else fragment.weight] * len(added)
    return ids, weights


def encode_prompts(
    prompt: str,
    negative: str,
    *,
    tokenizer: Tokenizer,
    text_encoder: CLIPTextModel,
    text_encoder_2: CLIPTextModelWithProjection,
) -> TextEmbeds:
    """Encode a prompt and what to avoid, in as many groups of 75 tokens as the longer one needs.

    Args:
        prompt: what to draw, with weights.
        negative: what to avoid, with weights.
        tokenizer: the first encoder's; its ids serve both.
        text_encoder: CLIP ViT-L.
        text_encoder_2: OpenCLIP ViT-bigG.
    """
    sides = [tokenize(text, tokenizer) for text in (prompt, negative)]
    length = max(len(ids) for ids, _ in sides)
    (embeds, pooled), (negative_embeds, negative_pooled) = (
        _encode(ids + [EOS] * (length - len(ids)), weights + [1.0] * (length - len(ids)), text_encoder, text_encoder_2)
        for ids, weights in sides
    )
    return TextEmbeds(embeds, negative_embeds, pooled, negative_pooled)


@torch.no_grad()
def _encode(
    ids: list[int], weights: list[float], text_encoder: CLIPTextModel, text_encoder_2: CLIPTextModelWithProjection
) -> tuple[Tensor, Tensor]:
    """Features ``[1, T, D]`` of all groups and the pooled ones ``[1, P]`` of the last."""
    groups = []
    # The last group holds fewer than 75 tokens, and is there even when it holds none.
    for start in range(0, len(ids) + 1, GROUP):
        tokens = torch.tensor([[BOS, *ids[start : start + GROUP], EOS]], device=text_encoder.device)
        first = text_encoder(tokens, output_hidden_states=True)
        second = text_encoder_2(tokens.to(text_encoder_2.device), output_hidden_states=True)
        features = torch.cat((first.hidden_states[-2], second.hidden_states[-2].to(first.hidden_states[-2])), dim=-1)
        groups.append(_weigh(features, [1.0, *weights[start : start + GROUP], 1.0]))
    return torch.cat(groups, dim=1), second.text_embeds


def _weigh(features: Tensor, weights: list[float]) -> Tensor:
    """Move each token's features ``[1, T, D]`` away from those of the end mark by its weight."""
    # Weights were rounded to half precision where the published results were made.
    factors = torch.tensor(weights, device=features.device, dtype=torch.float16).to(features)[None, :, None]
    end = features[:, -1:]
    return torch.where(factors == 1, features, end + (features - end) * factors)
