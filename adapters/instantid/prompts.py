"""Prompts of any length with weights: "a (red:1.5) [cat]" to what the denoiser reads.

Source: InstantID/InstantID @ 2145b67, whose notation is that of AUTOMATIC1111/stable-diffusion-webui. One difference:
there the word BREAK is encoded with a weight of -1; here it ends a group of 75 tokens, as it was meant to.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

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


class Tokens(NamedTuple):
    """A prompt as the encoders read it, group by group.

    Attributes:
        ids: ``[1, n]`` each, begin and end marks included.
        weights: one for each id.
    """

    ids: tuple[Tensor, ...]
    weights: tuple[tuple[float, ...], ...]


class Sides(NamedTuple):
    """What is wanted and what is to be avoided."""

    prompt: Tokens
    negative: Tokens


class Features(NamedTuple):
    """What an encoder made of both sides, fp32 on the CPU.

    Attributes:
        prompt, negative: ``[1, n, D]`` for each group.
        pooled, negative_pooled: ``[1, P]`` of the last group; None from the first encoder.
    """

    prompt: tuple[Tensor, ...]
    negative: tuple[Tensor, ...]
    pooled: Tensor | None = None
    negative_pooled: Tensor | None = None


# Ids [1, n] and ``output_hidden_states=True`` to what a CLIP text model of transformers returns.
Encoder = Callable[..., Any]


def token_sides(prompt: str, negative: str, tokenizer: Tokenizer) -> Sides:
    """Both sides in as many groups of 75 tokens as the longer one needs.

    Args:
        prompt: what to draw, with weights.
        negative: what to avoid, with weights.
        tokenizer: the first encoder's; its ids serve both.
    """
    sides = [tokenize(text, tokenizer) for text in (prompt, negative)]
    length = max(len(ids) for ids, _ in sides)
    return Sides(
        *(_grouped(ids + [EOS] * (length - len(ids)), weights + [1.0] * (length - len(ids))) for ids, weights in sides)
    )


def _grouped(ids: list[int], weights: list[float]) -> Tokens:
    # The last group holds fewer than 75 tokens, and is there even when it holds none.
    starts = range(0, len(ids) + 1, GROUP)
    return Tokens(
        tuple(torch.tensor([[BOS, *ids[start : start + GROUP], EOS]]) for start in starts),
        tuple((1.0, *weights[start : start + GROUP], 1.0) for start in starts),
    )


def encode(encoder: Encoder, sides: Sides, *, pooled: bool) -> Features:
    """Both sides through one encoder; ``pooled`` from the one that has a projection."""
    with torch.no_grad():
        seen = [[encoder(ids, output_hidden_states=True) for ids in side.ids] for side in sides]
    wanted, avoided = (tuple(_kept(output.hidden_states[-2]) for output in outputs) for outputs in seen)
    if not pooled:
        return Features(wanted, avoided)
    return Features(wanted, avoided, *(_kept(outputs[-1].text_embeds) for outputs in seen))


def _kept(tensor: Tensor) -> Tensor:
    return tensor.float().cpu().clone()


def text_embeds(sides: Sides, first: Features, second: Features) -> TextEmbeds:
    """What the denoiser reads: features of both encoders side by side, weighed, and the second one's pooled ones."""
    assert second.pooled is not None, "the second encoder has a projection"
    assert second.negative_pooled is not None, "the second encoder has a projection"
    prompt, negative = (
        torch.cat(
            [_weigh(torch.cat(pair, dim=-1), weights) for *pair, weights in zip(*halves, tokens.weights, strict=True)],
            dim=1,
        )
        for tokens, *halves in (
            (sides.prompt, first.prompt, second.prompt),
            (sides.negative, first.negative, second.negative),
        )
    )
    return TextEmbeds(prompt, negative, second.pooled, second.negative_pooled)


def encode_prompts(
    prompt: str, negative: str, *, tokenizer: Tokenizer, text_encoder: Encoder, text_encoder_2: Encoder
) -> TextEmbeds:
    """All of the above in one go.

    Args:
        prompt: what to draw, with weights.
        negative: what to avoid, with weights.
        tokenizer: the first encoder's; its ids serve both.
        text_encoder: CLIP ViT-L.
        text_encoder_2: OpenCLIP ViT-bigG.
    """
    sides = token_sides(prompt, negative, tokenizer)
    return text_embeds(sides, encode(text_encoder, sides, pooled=False), encode(text_encoder_2, sides, pooled=True))


def stacked(embeds: Sequence[TextEmbeds]) -> TextEmbeds:
    """Several prompts of one length as a batch."""
    return TextEmbeds(*(torch.cat(parts) for parts in zip(*embeds, strict=True)))


def _weigh(features: Tensor, weights: Sequence[float]) -> Tensor:
    """Move each token's features ``[1, T, D]`` away from those of the end mark by its weight."""
    # Weights were rounded to half precision where the published results were made.
    factors = torch.tensor(weights, device=features.device, dtype=torch.float16).to(features)[None, :, None]
    end = features[:, -1:]
    return torch.where(factors == 1, features, end + (features - end) * factors)
