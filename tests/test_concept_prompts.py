"""Concept Prompts: templates to pairs, and pairs to what CLIP Text Encode would make of them."""

import re

import pytest
import torch
from hspace_steering.nodes.pairs import CUSTOM, ConceptPrompts

from helpers import node_classes, run_node
from hspace.prompts import PAIR_PRESETS, PairTemplates, TextPair, expand_kept, expand_templates

INPUTS = {"subjects": "judge\npilot", "avoid": "", "shared": "", "preset": CUSTOM}


def pairs(with_concept="a woman {subject}", without="a {subject}", shared="", **changes):
    values = {"subjects": "judge\npilot", "avoid": "", **changes}
    return expand_templates(PairTemplates(with_concept, without, values["subjects"], values["avoid"]), shared)


def test_lines_times_subjects():
    found = pairs("a woman {subject}\na photo of a woman {subject}\n", "a {subject}\n\na photo of a {subject}")
    assert found == [
        TextPair("a woman judge", "a judge"),
        TextPair("a woman pilot", "a pilot"),
        TextPair("a photo of a woman judge", "a photo of a judge"),
        TextPair("a photo of a woman pilot", "a photo of a pilot"),
    ]
    assert pairs("a woman", "a person", subjects="") == [TextPair("a woman", "a person")]


def test_one_avoid_for_all_or_one_a_template():
    assert pairs("a {subject}", "a {subject}", avoid="a sad {subject}")[1] == TextPair(
        "a pilot", "a pilot", "a sad pilot"
    )
    both = pairs("a {subject}\nthe {subject}", "a {subject}\nthe {subject}", avoid="a sad {subject}\nthe sad {subject}")
    assert [pair.avoid for pair in both] == ["a sad judge", "a sad pilot", "the sad judge", "the sad pilot"]


def test_shared_is_added_to_both_sides():
    (pair,) = pairs(shared="masterpiece", subjects="judge", avoid="ugly")
    assert pair == TextPair("a woman judge, masterpiece", "a judge, masterpiece", "ugly, masterpiece")
    (pair,) = pairs(shared="score_9, {prompt}, detailed", subjects="judge")
    assert pair.concept == "score_9, a woman judge, detailed"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"with_concept": "a woman {subject}\nan old woman {subject}"},
            "with_concept: line 'an old woman {subject}' has",
        ),
        ({"without": "a {subject}\nthe {subject}"}, "without: line 'the {subject}' has no counterpart"),
        ({"with_concept": "a woman {name}"}, "with_concept: '{name}' in 'a woman {name}' is not known"),
        ({"with_concept": "a woman {subject"}, "with_concept: '{' in"),
        ({"without": "a {judge|pilot}"}, "without: '{judge|pilot}'"),
        ({"shared": "{subject}"}, "shared: '{subject}'"),
        ({"without": "a woman {subject}"}, "'a woman {subject}' says the same on both sides"),
        ({"with_concept": " "}, "with_concept: there is no prompt"),
        ({"subjects": ""}, "subjects: empty, but 'a woman {subject}' asks for one"),
        ({"with_concept": "a woman", "without": "a person"}, "subjects: 2 lines, but no template says"),
        ({"avoid": "x\ny"}, "avoid: 2 lines"),
        ({"subjects": "judge\n" * 300}, "subjects: 300 subjects"),
    ],
)
def test_errors_show_the_line(changes, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        pairs(**changes)


@pytest.mark.parametrize(
    ("keep", "shared", "expected"),
    [
        ("", "", []),
        ("a cat\n\n  a dog ", "", ["a cat", "a dog"]),
        ("a man {subject}\na cat", "", ["a man judge", "a man pilot", "a cat"]),
        ("a cat\na cat", "oil painting", ["a cat, oil painting"]),
    ],
)
def test_prompts_to_keep(keep, shared, expected):
    templates = PairTemplates("a woman {subject}", "a {subject}", "judge\npilot", keep=keep)
    assert expand_kept(templates, shared) == expected


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ("a cat\na judge", "keep: 'a judge' is a prompt of without as well"),
        ("a {cat}", "keep: '{cat}' in 'a {cat}' is not known"),
        ("\n".join(f"cat {number}" for number in range(300)), "keep: more than 256 prompts"),
    ],
)
def test_errors_about_prompts_to_keep(keep, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        expand_kept(PairTemplates("a woman {subject}", "a {subject}", "judge\npilot", keep=keep))


def test_subjects_to_keep_need_subjects():
    with pytest.raises(ValueError, match=r"subjects: empty, but 'a \{subject\}' asks for one"):
        expand_kept(PairTemplates("a woman", "a person", keep="a {subject}"))


def test_every_preset_expands():
    for name, templates in PAIR_PRESETS.items():
        kept = expand_kept(templates, "masterpiece")
        assert len(kept) == (6 if templates.avoid else 0), name
        assert all("{" not in text for text in kept), name
        found = expand_templates(templates, "masterpiece")
        assert 6 <= len(found) <= 16, name
        assert all(pair.concept != pair.base for pair in found), name
        assert all("{" not in pair.concept + pair.base + pair.avoid for pair in found), name


@pytest.mark.parametrize("name", ["woman", "man", "dark skin", "no weapon"])
def test_presets_use_words_that_the_demo_model_knows(name):
    from demo.captions import vocabulary

    words = set(vocabulary())
    texts = [f"{pair.concept} {pair.base}" for pair in expand_templates(PAIR_PRESETS[name])]
    for text in [*texts, *expand_kept(PAIR_PRESETS[name])]:
        assert set(text.replace(",", " ,").split()) <= words


def test_encodes_as_clip_text_encode_does(demo_model):
    from nodes import CLIPTextEncode

    _, clip, _ = demo_model
    templates = {"with_concept": "a (woman:1.2) {subject}", "without": "a {subject}"}
    outputs = run_node("HSpaceConceptPrompts", clip=clip, **templates, **INPUTS, keep="a mage\na cook")
    concept, base, avoid, empty, text, keep = outputs
    assert text == "a (woman:1.2) judge | a judge\na (woman:1.2) pilot | a pilot\na mage\na cook"
    assert not avoid
    prompts = ["a (woman:1.2) judge", "a (woman:1.2) pilot", "a judge", "a pilot", "", "a mage", "a cook"]
    for entry, prompt in zip(concept + base + empty + keep, prompts, strict=True):
        ((expected, options),) = CLIPTextEncode().encode(clip, prompt)[0]
        assert torch.equal(entry[0], expected)
        assert torch.equal(entry[1]["pooled_output"], options["pooled_output"])


def test_discovers_from_it_and_notes_the_words(demo_model):
    model, clip, _ = demo_model
    with_preset = {**INPUTS, "with_concept": "", "without": "", "preset": "no weapon"}
    concept, base, avoid, empty, _, keep = run_node("HSpaceConceptPrompts", clip=clip, **with_preset)
    small = {"steps": 1, "batch_size": 2, "sample_count": 2, "name": "no weapon", "calibrate": False}
    prompts = {"concept": concept, "base": base, "avoid": avoid, "empty": empty, "keep": keep}
    vector, *_ = run_node("HSpaceDiscoverConcept", model=model, **prompts, **small)
    assert vector.provenance.base_prompt.startswith("a detective, with a weapon | a farmer, with a weapon")
    assert vector.provenance.concept_prompt.startswith("a detective | a farmer")
    assert vector.provenance.latent_width == 16  # the native size
    assert vector.provenance.keep_prompt.startswith("a firefighter | a cook")
    nothing = run_node("HSpaceConceptPrompts", clip=clip, **{**with_preset, "preset": "woman"})
    prompts |= {"avoid": nothing[2], "keep": nothing[5]}
    provenance = run_node("HSpaceDiscoverConcept", model=model, **prompts, **small)[0].provenance
    assert (provenance.avoid_prompt, provenance.keep_prompt) == ("", "")


def test_refused_at_queue_time_where_it_is_known():
    node = node_classes()["HSpaceConceptPrompts"]
    known = {**INPUTS, "with_concept": "a {subject}", "without": "a {subject}"}
    assert "says the same on both sides" in node.validate_inputs(**known)
    assert node.validate_inputs(**{**known, "subjects": None}) is True
    assert node.validate_inputs(**{**known, "preset": "woman"}) is True
    assert "a prompt of without as well" in node.validate_inputs(**{**known, "avoid": "a {subject}", "keep": "a judge"})
    assert ConceptPrompts.validate_inputs(**{**known, "with_concept": "a woman {subject}"}) is True
