"""Prompt rules: presets against labelled prompts, custom phrases, and the nodes."""

import time

import pytest
from hspace_steering.hspace.concept import Choice
from hspace_steering.hspace.prompt_rules import concepts_from_prompt, make_rule
from hspace_steering.hspace.topics import PRESETS, find_topic
from hspace_test_helpers import ROOT, direction, run_node

WOMAN, MAN, CALM = direction(name="woman"), direction(name="man", seed=1), direction(name="calm", seed=2)


def labelled_prompts(name: str) -> list[tuple[set[str], str]]:
    lines = (ROOT / "tests" / "data" / name).read_text(encoding="utf-8").splitlines()[1:]
    return [(set(filter(None, topics.split(","))), prompt) for topics, prompt in (line.split("\t") for line in lines)]


@pytest.mark.parametrize("name", ["prompts_seen.tsv", "prompts_unseen.tsv"])
def test_precision_and_recall(name):
    """The patterns were written with the seen prompts at hand; the unseen ones were written apart and never looked at."""
    wanted = [(topic, topic in labels, prompt) for labels, prompt in labelled_prompts(name) for topic in PRESETS]
    outcomes = [(want, find_topic(topic, prompt) is not None) for topic, want, prompt in wanted]
    both = sum(want and found for want, found in outcomes)
    precision, recall = both / sum(found for _, found in outcomes), both / sum(want for want, _ in outcomes)
    print(f"{name}: {len(wanted) // len(PRESETS)} prompts, precision {precision:.3f}, recall {recall:.3f}")
    assert precision >= 0.95
    assert recall >= 0.95


@pytest.mark.parametrize(
    "text", ["no " * 3000, "children, " * 1000, "of Xa Xb " * 1000, "any skin any race and " * 500]
)
def test_long_prompts_take_no_time(text):
    start = time.perf_counter()
    for topic in PRESETS:
        find_topic(topic, text)
    assert time.perf_counter() - start < 5


def test_rules_add_up_and_say_what_matched():
    rules = (make_rule(Choice((WOMAN, MAN), (1, 1)), "gender"), make_rule(CALM, "violence"))
    concept, matched = concepts_from_prompt("A pilot of ANY gender, no weapons", rules)
    assert concept.directions() == (WOMAN, MAN, CALM)
    assert matched.splitlines() == ["gender: 'ANY gender' -> one of (woman, man)", "violence: 'no weapons' -> calm"]


def test_a_scene_that_only_mentions_violence_is_left_alone():
    concept, matched = concepts_from_prompt("a bloody battle, no horses", (make_rule(CALM, "violence"),))
    assert concept.directions() == ()
    assert matched == ""


def test_custom_phrases_are_whole_words_or_regular_expressions():
    rule = make_rule(CALM, "custom", "keep it  calm\n/seren(e|ity)/\n")
    assert rule.find("Please keep it calm.") == "keep it calm"
    assert rule.find("utter SERENITY") == "SERENITY"
    assert rule.find("keep it calmer") is None
    assert rule.find("no violence") is None


def test_phrases_add_to_a_preset():
    rule = make_rule(CALM, "violence", "cosy")
    assert rule.find("a cosy inn") == "cosy"
    assert rule.find("no gore")


@pytest.mark.parametrize(
    ("topic", "phrases", "words"),
    [
        ("custom", " \n", "phrases: a custom rule"),
        ("custom", "/a(/", "phrases: '/a\\(/'"),
        ("weather", "", "topic: 'weather'"),
    ],
)
def test_bad_rules_name_the_input(topic, phrases, words):
    with pytest.raises(ValueError, match=words):
        make_rule(CALM, topic, phrases)


def test_nodes():
    (rules,) = run_node("HSpacePromptRule", concept=CALM, topic="violence")
    (rules,) = run_node("HSpacePromptRule", concept=WOMAN, topic="custom", phrases="heroine", previous=rules)
    concept, matched, prompt = run_node("HSpaceConceptsFromPrompt", prompt="a heroine, no violence", rules=rules)
    assert concept.directions() == (CALM, WOMAN)
    assert len(matched.splitlines()) == 2
    assert prompt == "a heroine, no violence"
