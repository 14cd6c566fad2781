"""Prompt rules: presets against labelled prompts, custom phrases, and the nodes."""

import re
import time

import pytest

from helpers import node_classes, random_vector, run_node
from hspace.concepts import Choice
from hspace.prompts import concepts_from_prompt, make_rule, without_requests
from hspace.prompts.language import plain_marks
from hspace.prompts.topics import PRESETS
from prompt_sets import REFUSED, labelled

WOMAN, MAN, CALM = random_vector(name="woman"), random_vector(name="man", seed=1), random_vector(name="calm", seed=2)


def test_rules_add_up_and_say_what_matched():
    rules = (make_rule(Choice((WOMAN, MAN), (1, 1)), "gender"), make_rule(CALM, "violence"))
    concept, matched = concepts_from_prompt("A pilot of ANY gender, no weapons", rules)
    assert concept.vectors() == (WOMAN, MAN, CALM)
    assert matched.splitlines() == ["gender: 'ANY gender' -> one of (woman, man)", "violence: 'no weapons' -> calm"]


def test_a_scene_that_only_mentions_violence_is_left_alone():
    concept, matched = concepts_from_prompt("a bloody battle, no horses", (make_rule(CALM, "violence"),))
    assert concept.vectors() == ()
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
        ("custom", "calm\n\n/a(/", "phrases: line 3, '/a\\(/'"),
        ("violence", "cosy\n" + "x" * 1001, "phrases: line 2, 'x+…', has 1001 characters"),
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
    assert concept.vectors() == (CALM, WOMAN)
    assert len(matched.splitlines()) == 2
    assert prompt == "a heroine, no violence"


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("a detective, no weapon", "a detective"),
        ("a pilot, either man or woman, oil on canvas", "a pilot, oil on canvas"),
        ("a detective without any violence", "a detective"),
        ("no guns, knives or blood, a knight", "a knight"),
        ("a judge of any gender", "a judge"),
        ("A doctor. Don't show blood or gore. Soft light.", "A doctor. Soft light."),
        ("a knight (no violence:1.2), oil", "a knight, oil"),
        ("crowd, peaceful, not a riot, no violence, dusk", "crowd, peaceful, dusk"),
        ("Sirens luring a ship, PG, neither sexual nor violent", "Sirens luring a ship"),
        ("patients of every gender, ethnic origin and age", "patients"),
        # Without these words there would be no sentence.
        ("A photo of a man or a woman reading", "A photo of a man or a woman reading"),
        ("let him or her wear a yellow coat", "let him or her wear a yellow coat"),
        # Nothing matches, so not even spaces change.
        ("a bloody  battle , no horses", "a bloody  battle , no horses"),
    ],
)
def test_requests_are_removed_where_they_stand_by_themselves(prompt, left):
    rules = tuple(make_rule(CALM, topic) for topic in PRESETS)
    assert without_requests(prompt, rules) == left


@pytest.mark.parametrize(
    ("line", "call"),
    [("/(a+)+$/", concepts_from_prompt), (r"/(\w+\s?)+$/", concepts_from_prompt), ("/(.*a){20}$/", without_requests)],
)
def test_an_expression_cannot_hang_the_server(line, call):
    """It ends within half a second of computing, and the error names the line."""
    rules = (make_rule(CALM, "custom", f"calm waters\n{line}"),)
    start = time.process_time()
    with pytest.raises(ValueError, match=rf"phrases: line 2, '{re.escape(line)}'"):
        call("a" * 5000 + "!", rules)
    assert time.process_time() - start < 3


def test_an_expression_that_matches_nothing_is_no_request():
    assert make_rule(CALM, "custom", "/z*/").find("a knight") is None
    assert make_rule(CALM, "custom", "/z*/").find("a jazz band") == "zz"


def test_custom_phrases_are_found_across_spaces_and_lines():
    rules = (make_rule(CALM, "custom", "keep it calm\n/no  ?rush/"),)
    assert without_requests("a heroine,\nkeep  it\ncalm, dusk", rules) == "a heroine,\ndusk"
    assert without_requests("a heroine, (no rush:1.2), dusk", rules) == "a heroine, dusk"


def test_dynamic_prompts_are_resolved_in_the_editor():
    """The editor chooses between "{man|woman}" only in boxes that say so."""
    (box,) = [item for item in node_classes()["HSpaceConceptsFromPrompt"].GET_SCHEMA().inputs if item.id == "prompt"]
    assert box.dynamic_prompts


def test_custom_phrases_are_taken_out():
    rules = (make_rule(CALM, "custom", "keep it calm"),)
    assert without_requests("a heroine, keep it calm, dusk", rules) == "a heroine, dusk"


def test_removing_requests_never_leaves_half_a_refusal():
    """The rest of a prompt contains nothing that a request in it refused: whole clauses go, or nothing does."""
    rules = tuple(make_rule(CALM, topic) for topic in REFUSED)
    for item in labelled("prompts_seen"):
        left = without_requests(item.prompt, rules)
        if item.topics & REFUSED and left != item.prompt:
            assert not find_bare_refusals(item.prompt, left), (item.prompt, left)


def find_bare_refusals(prompt: str, left: str) -> list[str]:
    """Clauses that were not in the prompt as they are: pieces of one that a removal cut in two."""
    clauses = {clause.strip().lower() for clause in re.split(r"[,;:.!?()\u2013\u2014]| - ", plain_marks(prompt))}
    pieces = (clause.strip().lower() for clause in re.split(r"[,;:.!?()\u2013\u2014]| - ", left))
    return [piece for piece in pieces if piece and not any(clause.startswith(piece) for clause in clauses)]


def test_the_node_removes_requests_only_when_asked():
    (rules,) = run_node("HSpacePromptRule", concept=CALM, topic="violence")
    text = "a heroine, no violence"
    assert run_node("HSpaceConceptsFromPrompt", prompt=text, rules=rules)[2] == text
    assert run_node("HSpaceConceptsFromPrompt", prompt=text, rules=rules, remove_matched=True)[2] == "a heroine"
