"""InstantID's prompts: weights, groups, parity with upstream's embeddings."""

import re
import zlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from adapters.instantid.networks import build, load_published
from adapters.instantid.prompts import EOS, TextEmbeds, encode_prompts, parse, tokenize
from tests.parity.case import case
from tests.parity.rule import rule_tensor

DESCRIPTION, EXPECTED = case("instantid", "prompt_embeds")


def tokenizer(text: str, *, truncation: bool) -> SimpleNamespace:
    assert not truncation
    words = re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower())
    return SimpleNamespace(input_ids=[49406, *(1000 + zlib.crc32(word.encode()) % 40000 for word in words), EOS])


def encoder(component: str) -> nn.Module:
    module = build(component, "sdxl", **DESCRIPTION[component])
    names = {
        name if name.startswith("text_") else f"text_model.{name}": tensor
        for name, tensor in module.state_dict().items()
    }
    load_published(module, component, {name: rule_tensor(name, tensor) for name, tensor in names.items()})
    return module


@pytest.fixture(scope="module")
def encoders() -> dict[str, nn.Module]:
    return {name: encoder(name) for name in ("text_encoder", "text_encoder_2")}


def embeds(encoders: dict[str, nn.Module], prompt: str, negative: str = "") -> TextEmbeds:
    return encode_prompts(prompt, negative, tokenizer=tokenizer, **encoders)


@pytest.mark.parametrize("name", DESCRIPTION["cases"])
def test_embeddings_equal_upstream(encoders, name):
    description = DESCRIPTION["cases"][name]
    got = embeds(encoders, description["prompt"], description["negative"])
    assert [list(part.shape) for part in got] == description["shapes"]
    keys = ("prompt_embeds", "negative_prompt_embeds", "pooled", "negative_pooled")
    for part, key in zip(got, keys, strict=True):
        torch.testing.assert_close(part, EXPECTED[f"{name}.{key}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("prompt", "fragments"),
    [
        ("a man", [("a man", 1.0)]),
        ("", [("", 1.0)]),
        ("a (red) hat", [("a ", 1.0), ("red", 1.1), (" hat", 1.0)]),
        ("a (red:1.5) [cat]", [("a ", 1.0), ("red", 1.5), (" ", 1.0), ("cat", 1 / 1.1)]),
        ("((x))", [("x", 1.1 * 1.1)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        ("(a:-1)(b:.5)(c:2.)", [("a", -1.0), ("b", 0.5), ("c", 2.0)]),
        (r"\(a\) \[b\] \\ c\d", [(r"(a) [b] \ cd", 1.0)]),
        ("(left open [both", [("left open ", 1.1), ("both", 1.1 / 1.1)]),
        ("stray) and ] and :1.2) and a:b", [("stray) and ] and :1.2) and a:b", 1.0)]),
        ("(a)(b)", [("ab", 1.1)]),
        ("a BREAK b", [("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]),
        ("(a BREAK b:2)", [("a", 2.0), ("BREAK", -1.0), ("b", 2.0)]),
        ("BREAKING (x:-1)", [("BREAKING ", 1.0), ("x", -1.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
    ],
)
def test_prompts_are_split_by_weight(prompt, fragments):
    got = parse(prompt)
    assert [fragment.text for fragment in got] == [text for text, _ in fragments]
    assert [fragment.weight for fragment in got] == pytest.approx([weight for _, weight in fragments])


def test_a_break_fills_the_group_with_end_marks():
    ids, weights = tokenize("(one two:2) BREAK three", tokenizer)
    assert ids[2:75] == [EOS] * 73
    assert (len(ids), len(weights)) == (76, 76)
    assert weights == [2.0, 2.0] + [1.0] * 74
    assert len(tokenize("one BREAK BREAK two", tokenizer)[0]) == 76
    assert tokenize("BREAK one", tokenizer)[0] == tokenize("one", tokenizer)[0]


@pytest.mark.parametrize(("words", "length"), [(0, 2), (74, 76), (75, 79), (76, 80), (150, 156)])
def test_groups_are_of_75_and_the_last_may_be_empty(encoders, words, length):
    got = embeds(encoders, " ".join(f"w{n}" for n in range(words)))
    assert got.prompt.shape[1] == got.negative.shape[1] == length
    assert not got.prompt.requires_grad


def test_a_weight_moves_its_own_token_away_from_the_end_mark(encoders):
    plain, strong = embeds(encoders, "a red cat").prompt, embeds(encoders, "a (red:1.3) cat").prompt
    half = torch.tensor(1.3, dtype=torch.float16).item()
    moved = plain[:, -1] + (plain[:, 2] - plain[:, -1]) * half
    torch.testing.assert_close(strong[:, 2], moved)
    untouched = [0, 1, 3, 4]
    assert torch.equal(strong[:, untouched], plain[:, untouched])


def test_prompts_in_bf16_are_near_fp32(encoders):
    exact = embeds(encoders, "a (red:1.5) cat", "ugly")
    low = encode_prompts(
        "a (red:1.5) cat",
        "ugly",
        tokenizer=tokenizer,
        **{name: encoder(name).bfloat16() for name in encoders},
    )
    for a, b in zip(low, exact, strict=True):
        assert a.dtype == torch.float32, "features are weighed in fp32 whatever the encoders compute in"
        assert 0 < (a - b).abs().max() < 0.15
