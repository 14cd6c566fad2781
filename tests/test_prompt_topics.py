"""The presets of Prompt Rule: figures on labelled prompts, each fault that was found with its kind, and time."""

import time

import pytest

from hspace.prompts import without_requests
from hspace.prompts.language import language
from hspace.prompts.topics import PRESETS, find_topic
from prompt_sets import OTHER_LANGUAGES, RULES, SETS, counts, interval, labelled, removals, words


def heard(prompt: str) -> set[str]:
    return {topic for topic in PRESETS if find_topic(topic, prompt)}


@pytest.mark.parametrize("name", [*SETS, *OTHER_LANGUAGES])
def test_figures(name):
    """`python -m pytest -q -s tests/test_prompt_topics.py -k figures` prints them, a set and a topic a line."""
    right, wrong, missed = counts(name)
    print(f"\n{name}: {len(labelled(name))} prompts")
    for topics in (PRESETS, *((topic,) for topic in PRESETS)):
        hits, false, lost = counts(name, topics)
        if hits + lost:
            print(
                f"  {', '.join(topics)}: precision {interval(hits, hits + false)}, recall {interval(hits, hits + lost)}"
            )
    if name not in ("prompts_seen", "prompts_unseen"):
        found, gone, harmed = removals(name)
        print(f"  removable requests removed {interval(gone, found)}, prompts harmed {len(harmed)}")
        assert gone >= 0.95 * found
        assert len(harmed) == 0  # not the prompts: unseen ones stay unread
    if name == "prompts_unseen":  # what the first patterns had on this set
        assert right >= 0.958 * (right + wrong)
        assert right >= 0.954 * (right + missed)
    elif name in OTHER_LANGUAGES:
        assert right >= 0.9 * (right + max(wrong, missed))
    else:
        assert right >= 0.97 * (right + wrong)
        assert right >= 0.95 * (right + missed)


@pytest.mark.parametrize(
    "prompt",
    [
        "Men and women, dancing at a wedding",
        "Women and men, dancing",
        "Diverse students, oil painting",
        "a diverse group of people",
        "children and grandparents, picnic",
        "a woman of Nigerian descent",
        "a portrait of a woman with Korean features",
        "a man with Peruvian roots, llama",
        "a mixed-race woman, linen dress",
        "a pilot, any age, 40 years old",
        "a nurse, any gender, female",
        "not safe for work",
        "not suitable for all ages",
        "not a family-friendly film",
        "far from non-violent",
        "a knight never without his sword",
        "do not leave out the blood",
        "isn't weapon-free, this arsenal",
        "young trees and cheese",
        "young and old furniture",
        "old furniture",
        "fabric in all skin tones",
        "male and female connectors",
        "male or female connectors",
        "gender-neutral clothes",
        "mixed-race greyhounds",
        "a flow diagram, no arrows",
        "chicken without breasts",
        "blood orange slices, no seeds",
    ],
)
def test_no_request(prompt):
    assert heard(prompt) == set()
    assert without_requests(prompt, RULES) == prompt


@pytest.mark.parametrize(
    ("prompt", "topics", "left"),
    [
        ("a doctor, any gender, age 50", {"gender"}, "a doctor, age 50"),
        ("a doctor, any gender, race: Korean", {"gender"}, "a doctor, race: Korean"),
        ("a knight, no weapons, armour or helmet", {"violence"}, "a knight"),
        ("a knight, no weapons or armour, dusk", {"violence"}, "a knight, dusk"),
        ("a knight, no nudity, violence", {"sexual", "violence"}, "a knight"),
        ("((no weapons)), knight", {"violence"}, "knight"),
        ("(nsfw:0.0), portrait", {"sexual"}, "portrait"),
        ("((nude:0)), portrait", {"sexual"}, "portrait"),
        ("[no weapons]", {"violence"}, ""),
        ("{no weapons}, knight", {"violence"}, "knight"),
        ("a knight \\(no weapons\\), oil", {"violence"}, "a knight, oil"),
        ("a knight\nno weapons", {"violence"}, "a knight"),
        ("a knight\nno weapons\noil painting", {"violence"}, "a knight\noil painting"),
        ("a  knight,\n\nno weapons, dusk", {"violence"}, "a  knight,\n\ndusk"),
        ("a crowd, no guns | sunset", {"violence"}, "a crowd | sunset"),
        ("a crowd, all colours of people", {"race"}, None),
        ("two men, one black and one white", {"race"}, None),
        ("1girl or 1boy", {"gender"}, "1girl or 1boy"),
        ("1girl, no_nudity", {"sexual"}, "1girl"),
        ("1girl, rating:safe", {"sexual"}, "1girl"),
        ("a knight, no weopons", {"violence"}, "a knight"),
        ("a doctor, any gneder", {"gender"}, "a doctor"),
        ("a doctor, without nuditty", {"sexual"}, "a doctor"),
        ("a siren, there should be no nudity", {"sexual"}, "a siren"),
        ("a saloon, with no weapons depicted", {"violence"}, "a saloon"),
        ("a detective while avoiding violence", {"violence"}, "a detective"),
        ("a warrior, peaceful rather than violent", {"violence"}, "a warrior, peaceful"),
    ],
)
def test_requests(prompt, topics, left):
    assert heard(prompt) == topics
    if left is not None:
        assert without_requests(prompt, RULES) == left


@pytest.mark.parametrize(
    "prompt",
    [
        "photo of a man or a woman",
        "man or woman, portrait",
        "portrait, man or woman, bokeh",
        "people of every colour, chalk drawing",
        "The gender of the violinist does not matter",
        # What is refused would be left: a list that may go on, or half of a compound word.
        "a knight, no weapons, armour and helmet",
        "a knight without blood stains",
    ],
)
def test_what_has_to_stay(prompt):
    assert heard(prompt)
    assert without_requests(prompt, RULES) == prompt


@pytest.mark.parametrize(
    "negation", ["no", "without any", "without", "please do not show", "avoid", "free of", "with no"]
)
@pytest.mark.parametrize(
    "items",
    [
        "weapons, armour or helmet",
        "armour, weapons or helmet",
        "weapons, armour and helmet",
        "armour, weapons and helmet",
        "weapons and armour",
        "armour and weapons",
        "weapons or any armour",
        "weapons, armour, or a big helmet",
        "weapons/armour",
        "weapons nor armour",
        "blood, weapons, nudity or armour",
        "weapons, nudity",
    ],
)
@pytest.mark.parametrize(
    "end", ["", ", misty forest", ". Misty forest.", "\nmisty forest", " in a misty forest", " (misty:1.2)"]
)
def test_a_list_under_one_negation_goes_whole_or_stays_whole(negation, items, end):
    """Otherwise what was refused is asked for."""
    prompt = f"a knight, {negation} {items}{end}"
    left = without_requests(prompt, RULES)
    assert left == prompt or not set(words(left)) & {"weapons", "armour", "helmet", "nudity", "blood"}, left
    assert left.startswith("a knight")
    assert "misty" in left.lower() or not end


CHUNKS = (
    "no ",
    "no guns, knives or blood, ",
    "children, ",
    "of Xa Xb ",
    "any skin any race and ",
    "gender, ",
    "do not show the ",
    "negative: a, ",
    "((((",
    ",",
    "a knight in a forest, oil painting, no weapons, ",
)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_time_grows_with_length_only(chunk):
    """A tenth of a megabyte in a tenth of what a whole one may take: two seconds a topic, and two to remove."""
    text = (chunk * 100_000)[:100_000]
    find_topic("gender", "warm")
    for topic in PRESETS:
        start = time.process_time()
        find_topic(topic, text)
        assert time.process_time() - start < 0.5
    start = time.process_time()
    without_requests(text, RULES)
    assert time.process_time() - start < 0.5


def test_a_megabyte_through_every_topic():
    text = ("a knight, no guns, a doctor of any gender, young and old, " * 20_000)[:1_000_000]
    find_topic("gender", "warm")
    for topic in PRESETS:
        start = time.process_time()
        assert find_topic(topic, text) or topic in ("race", "sexual")
        assert time.process_time() - start < 2


@pytest.mark.parametrize("text", ["guns and " * 64_000, "no guns and " + "guns and " * 64_000])
def test_removing_from_a_long_list(text):
    start = time.process_time()
    without_requests(text, RULES)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("name", ["en", "zh", "ja"])
def test_the_files_of_languages_have_every_topic(name):
    assert set(language(name).topics) == set(PRESETS)
