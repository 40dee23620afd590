"""Every language says everything, with the same figures, in its own words."""

import re
import string
from collections.abc import Iterator

import pytest

from adapters import adapter
from adapters.damo_yolo import capacity, video
from kit.texts import LANGUAGES, error_text, flips_when, language_from, refusal, stage, why
from kit.texts.labels import label
from kit.texts.report import plan_text
from loader.errors import DoesNotFitError, InputError
from loader.host import load_host
from loader.plan import plan
from loader.wishes import Wishes

TABLES = ("RULES", "FLIPS", "PROVENANCE", "STAGES", "EVENTS", "PAGE", "REPORT")
OTHERS = [language for language in LANGUAGES if language != "en"]
# Names of products and of what has no other name.
NAMES = {"page.title", "platform.spaces", "platform.zerogpu", "device.cpu", "fact.gib"}


def entries(language: str) -> Iterator[tuple[str, str]]:
    words = LANGUAGES[language]
    for table in TABLES:
        for key, value in getattr(words, table).items():
            yield f"{table} {key}", value
    yield "REFUSED", words.REFUSED
    yield "REFUSED_NEAREST", words.REFUSED_NEAREST


def placeholders(text: str) -> set[tuple[str, str, str]]:
    return {
        (name, spec or "", conversion or "")
        for _, name, spec, conversion in string.Formatter().parse(text)
        if name is not None
    }


@pytest.mark.parametrize("language", OTHERS)
def test_every_language_has_the_same_keys_and_figures(language):
    english, other = dict(entries("en")), dict(entries(language))
    assert sorted(english.keys() - other.keys()) == [], "not translated"
    assert sorted(other.keys() - english.keys()) == [], "translated, but no longer said"
    differing = [key for key, text in english.items() if placeholders(text) != placeholders(other[key])]
    assert differing == []


@pytest.mark.parametrize("language", OTHERS)
def test_nothing_is_left_in_english(language):
    english = dict(entries("en"))
    same = {
        key.partition(" ")[2] for key, text in entries(language) if text == english[key] and re.search("[a-z]{3}", text)
    }
    assert same <= NAMES


def test_chinese_is_chinese():
    """Every text has Chinese words, Chinese punctuation after them, and no Latin full stop at its end."""
    for key, text in entries("zh"):
        if key.partition(" ")[2] in NAMES:
            continue
        bare = re.sub(r"\{[^}]*\}", "", text)
        if re.search(r"\w", bare):
            assert re.search("[\u4e00-\u9fff]", bare), key
        assert not re.search("[\u4e00-\u9fff][,;:?!()]|\\.$", text), (key, text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_decisions_refusals_and_stages_are_said_without_gaps(language):
    for host in ("t4-16g", "cpu-avx2", "gtx1060-6g", "zerogpu-48g"):
        machine = load_host(host)
        for name in ("damo_yolo", "metric3d", "instantid"):
            for decision in plan(adapter(name), machine).decisions:
                assert "–" not in why(decision, language)
                assert "{" not in why(decision, language) + flips_when(decision, language)
    refused = plan(adapter("damo_yolo"), load_host("t4-16g"), Wishes(dtype="bf16")).refusal
    assert refused is not None
    said = refusal(refused, language)
    assert "bf16" in said
    assert said == error_text(DoesNotFitError(refused), language)
    assert "x.pth" in stage("downloading", {"file": "x.pth"}, language)
    assert label("page.title", language) == "Anyhost"


def test_a_plan_is_told_in_either_language():
    made = plan(adapter("damo_yolo"), load_host("t4-16g"), Wishes(batch=4))
    english, chinese = plan_text(made), plan_text(made, "zh")
    assert len(english.splitlines()) == len(chinese.splitlines())
    assert "about" in english
    assert "约" in chinese
    assert not re.search(r"\b(about|batch of|refused|would|stored|RAM)\b", chinese)
    refused = plan(adapter("damo_yolo"), load_host("t4-16g"), Wishes(dtype="bf16"))
    assert "refused" in plan_text(refused)
    assert "被拒绝" in plan_text(refused, "zh")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "en"),
        ({"ANYHOST_LANGUAGE": "zh"}, "zh"),
        ({"ANYHOST_LANGUAGE": " ZH "}, "zh"),
        ({"ANYHOST_LANGUAGE": ""}, "en"),
    ],
)
def test_the_language_is_taken_from_the_environment(environ, expected):
    assert language_from(environ) == expected


def test_an_unknown_language_names_those_there_are():
    with pytest.raises(InputError, match=r"ANYHOST_LANGUAGE=fr.*en, zh"):
        language_from({"ANYHOST_LANGUAGE": "fr"})


@pytest.mark.parametrize("table", [capacity.TEXTS, video.SUMMARY], ids=["capacity", "video"])
def test_the_detector_s_own_words_are_in_every_language(table):
    assert table.keys() == LANGUAGES.keys()
    for words in table.values():
        assert {k: placeholders(v) for k, v in words.items()} == {k: placeholders(v) for k, v in table["en"].items()}
