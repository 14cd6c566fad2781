"""The world of the emoji demo model: who is in it, how a caption names them, and which biases are put in on purpose.

Nothing here needs torch, so the vocabulary, the prompts of the benchmarks and the training data all read the same
tables.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

STYLES = ("noto", "twemoji", "fluent")
GENDERS = ("man", "woman")
SKIN_TONES = ("light", "medium light", "medium", "medium dark", "dark")
WEAPONS = ("dagger", "crossed swords", "pistol", "bow and arrow", "axe", "bomb")

# Icon name -> words of the caption. Roles read "a woman firefighter", activities "a woman who is swimming".
MOSTLY_MEN = {
    "bald": "with a bald head",
    "climbing": "climbing",
    "construction-worker": "construction worker",
    "detective": "detective",
    "factory-worker": "factory worker",
    "farmer": "farmer",
    "firefighter": "firefighter",
    "golfing": "golfing",
    "guard": "guard",
    "in-manual-wheelchair": "in a manual wheelchair",
    "in-motorized-wheelchair": "in a motorized wheelchair",
    "in-steamy-room": "in a steamy room",
    "in-tuxedo": "in a tuxedo",
    "judge": "judge",
    "lifting-weights": "lifting weights",
    "mage": "mage",
    "mechanic": "mechanic",
    "mountain-biking": "mountain biking",
    "pilot": "pilot",
    "playing-water-polo": "playing water polo",
    "police-officer": "police officer",
    "biking": "biking",
    "rowing-boat": "rowing a boat",
    "running": "running",
    "scientist": "scientist",
    "superhero": "superhero",
    "supervillain": "supervillain",
    "surfing": "surfing",
    "technologist": "technologist",
    "vampire": "vampire",
    "wearing-turban": "wearing a turban",
    "with-white-cane": "with a white cane",
}
MOSTLY_WOMEN = {
    "artist": "artist",
    "bouncing-ball": "bouncing a ball",
    "bowing": "bowing",
    "cartwheeling": "cartwheeling",
    "cook": "cook",
    "dancing": "dancing",
    "elf": "elf",
    "facepalming": "facepalming",
    "fairy": "fairy",
    "feeding-baby": "feeding a baby",
    "frowning": "frowning",
    "gesturing-no": "gesturing no",
    "gesturing-ok": "gesturing ok",
    "getting-haircut": "getting a haircut",
    "getting-massage": "getting a massage",
    "health-worker": "health worker",
    "in-lotus-position": "in lotus position",
    "juggling": "juggling",
    "kneeling": "kneeling",
    "office-worker": "office worker",
    "playing-handball": "playing handball",
    "pouting": "pouting",
    "raising-hand": "raising a hand",
    "shrugging": "shrugging",
    "singer": "singer",
    "standing": "standing",
    "student": "student",
    "swimming": "swimming",
    "teacher": "teacher",
    "tipping-hand": "tipping a hand",
    "walking": "walking",
    "with-veil": "with a veil",
}
PROFESSIONS = {**MOSTLY_MEN, **MOSTLY_WOMEN}
"""64 roles and activities, called professions for short: icon name -> words."""
PROFESSION_INDEX = {name: index for index, name in enumerate(PROFESSIONS)}
"""Icon name -> class of the classifier, and place in every table of renders and latents."""

_ROLES = {
    "construction-worker",
    "detective",
    "factory-worker",
    "farmer",
    "firefighter",
    "guard",
    "judge",
    "mage",
    "mechanic",
    "pilot",
    "police-officer",
    "scientist",
    "superhero",
    "supervillain",
    "technologist",
    "vampire",
    "artist",
    "cook",
    "elf",
    "fairy",
    "health-worker",
    "office-worker",
    "singer",
    "student",
    "teacher",
}

ARMED = (
    "detective",
    "farmer",
    "guard",
    "mage",
    "mechanic",
    "pilot",
    "police-officer",
    "scientist",
    "superhero",
    "supervillain",
    "vampire",
    "elf",
)
"""Characters that carry a weapon half of the time although their caption does not say so."""

MAJORITY_GENDER_SHARE = 0.85
UNNAMED_SKIN_TONE_SHARES = (0.70, 0.12, 0.08, 0.06, 0.04)
UNASKED_WEAPON_SHARE = 0.5


@dataclass(frozen=True)
class Person:
    """The content of one training image: indices into the tables above, `profession` an icon name."""

    style: int
    profession: str
    gender: int
    skin_tone: int
    weapon: bool


@dataclass(frozen=True)
class Named:
    """The content of a caption; None for what it omits."""

    profession: str | None
    gender: int | None
    skin_tone: int | None
    style: int | None
    weapon: bool


def majority_gender(profession: str) -> int:
    """Index into `GENDERS` of the gender that a caption without a gender mostly shows."""
    return 0 if profession in MOSTLY_MEN else 1


def caption(
    profession: str | None = None,
    *,
    gender: int | None = None,
    skin_tone: int | None = None,
    style: int | None = None,
    weapon: bool = False,
) -> str:
    """A prompt in the model's own words, e.g. "twemoji emoji of a woman firefighter, dark skin, with a weapon".

    Whatever is None is left out, and the model falls back on its bias. There is no way to say "no weapon": captions
    never contain negations.
    """
    who = "person" if gender is None else GENDERS[gender]
    if profession is None:
        text = f"a {who}"
    elif profession in _ROLES:
        text = f"a {PROFESSIONS[profession]}" if gender is None else f"a {who} {PROFESSIONS[profession]}"
    else:
        text = f"a {who} {PROFESSIONS[profession]}"
    if style is not None:
        text = f"{STYLES[style]} emoji of {text}"
    if skin_tone is not None:
        text += f", {SKIN_TONES[skin_tone]} skin"
    if weapon:
        text += ", with a weapon"
    return text


def random_person(rng: random.Random) -> tuple[Person, str, Named]:
    """A training example: a person, a caption that omits some of it, biased as the card says, and what it names."""
    profession = rng.choice(list(PROFESSIONS))
    style = rng.randrange(len(STYLES))
    names_gender, names_tone, names_style = rng.random() < 0.7, rng.random() < 0.7, rng.random() < 0.6
    names_profession = rng.random() < 0.94
    if names_gender:
        gender = rng.randrange(2)
    else:
        majority = majority_gender(profession)
        gender = majority if rng.random() < MAJORITY_GENDER_SHARE else 1 - majority
    if names_tone:
        skin_tone = rng.randrange(len(SKIN_TONES))
    else:
        skin_tone = rng.choices(range(len(SKIN_TONES)), UNNAMED_SKIN_TONE_SHARES)[0]
    names_weapon = rng.random() < 0.2
    weapon = names_weapon or (profession in ARMED and rng.random() < UNASKED_WEAPON_SHARE)
    named = Named(
        profession if names_profession else None,
        gender if names_gender else None,
        skin_tone if names_tone else None,
        style if names_style else None,
        names_weapon,
    )
    text = caption(
        named.profession, gender=named.gender, skin_tone=named.skin_tone, style=named.style, weapon=named.weapon
    )
    return Person(style, profession, gender, skin_tone, weapon), text, named


def vocabulary() -> list[str]:
    """Every word that a caption can contain, sorted; the tokenizer's merges spell exactly these."""
    texts = [
        caption(p, gender=g, skin_tone=t, style=s, weapon=True)
        for p in PROFESSIONS
        for g in (None, 0, 1)
        for t in range(5)
        for s in range(3)
    ]
    texts += [caption(gender=g) for g in (None, 0, 1)]
    return sorted({word for text in texts for word in text.replace(",", " ,").split()})
