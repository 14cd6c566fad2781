"""Texts of the nodes in every language: nothing missing, nothing stale, and in the form the editor reads."""

import json
import re
import urllib.request

import pytest

from helpers import ROOT, node_classes
from scripts import build_locales

LANGUAGES = (build_locales.SOURCE, *build_locales.TRANSLATED)
AGAIN = "run `python -m scripts.build_locales` after a change to a schema"
KANA, HAN = r"[\u3040-\u30ff]", r"[\u4e00-\u9fff]"


def texts(language):
    return dict(build_locales.flatten(build_locales.read(language)))


def test_every_node_has_texts():
    assert set(node_classes()) <= set(build_locales.node_texts())
    assert {path.name for path in (ROOT / "locales").iterdir()} == set(LANGUAGES)


def test_english_is_the_schema():
    assert build_locales.read("en") == build_locales.node_texts(), AGAIN


@pytest.mark.parametrize("language", build_locales.TRANSLATED)
def test_translation_has_every_key_and_no_other(language):
    assert list(texts(language)) == list(dict(build_locales.flatten(build_locales.node_texts()))), AGAIN


@pytest.mark.parametrize(("language", "letters"), [("zh", HAN), ("ja", KANA)])
def test_translation_is_one(language, letters):
    for path, text in texts(language).items():
        assert text == text.strip()
        if path[-1] != "name":
            assert re.search(letters, text), f"{'.'.join(path)}: {text}"
    if language == "zh":
        assert not any(re.search(KANA, text) for text in texts(language).values())


@pytest.mark.parametrize("language", build_locales.TRANSLATED)
def test_translation_keeps_what_is_no_prose(language):
    """Numbers, file names, and the options of combo boxes, which the editor does not translate."""
    options = {
        (node_id, "inputs", item.id, "tooltip"): set(map(str, item.options))
        for node_id, node in node_classes().items()
        for item in node.GET_SCHEMA().inputs
        if item.io_type == "COMBO"
    }
    translated = texts(language)
    for path, english in texts("en").items():
        wanted = set(re.findall(r"\d+(?:\.\d+)?|\b[\w/]+\.(?:json|pth|safetensors)\b|models/\w+", english))
        wanted |= {option for option in options.get(path, ()) if re.search(rf"\b{re.escape(option)}\b", english)}
        for word in wanted:
            assert word in translated[path], f"{language}: {'.'.join(path)} lacks {word}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_editor_reads_no_syntax_into_it(language):
    """The editor's message compiler gives {, }, @ and | a meaning."""
    for path, text in texts(language).items():
        assert not re.search(r"[{}@|]", text), f"{'.'.join(path)}: {text}"


def test_comfyui_finds_them(server):
    found = json.loads(urllib.request.urlopen(f"{server.url}/i18n", timeout=30).read())
    for language in LANGUAGES:
        assert found[language]["nodeDefs"] == build_locales.read(language)
