"""A language's file in `data/`: its words by class, and the patterns of classes that make a request.

A text becomes a string of symbols, one for each word or phrase of the file and one for each other word, number or mark.
Patterns are regular expressions over these symbols, so they are short, have bounded gaps, and cost the same anywhere.
`data/README.md` describes the format.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from pathlib import Path

DATA = Path(__file__).parent / "data"
MARKS = {
    "comma": ",",
    "end": ".!;",
    "question": "?",
    "line": "\n",
    "colon": ":",
    "open": "([{",
    "close": ")]}",
    "slash": "/",
    "pipe": "|",
    "dash": "\u2013\u2014-",
    "amp": "&+",
}
UNKNOWN = ("word", "ing", "num", "weight", "nil", "tag", "masked")
"""Classes of what is no word of the file: other words, those in -ing, numbers, weights, weights of 0, tags, pseudo."""
BOUNDARIES = ("comma", "end", "question", "line", "colon", "open", "close", "pipe", "dash", "weight", "nil", "tag")
_FIRST_SYMBOL = 0xE000  # the private use area, so that no symbol means something in a regular expression
_PLAIN = str.maketrans({"\u2019": "'", "\u2018": "'", "\u2011": "-", "\u3001": ",", "\u3002": ".", "\u30fb": "/"})
_PLAIN |= {0xFF00 + code: 0x20 + code for code in range(1, 0x5F)}  # full-width letters and marks
_WEIGHT = r":\s*[-+]?(?:\d+\.?\d*|\.\d+)(?=\s*[)\]}])"
_MARK = r"(?<=\s)-+(?=\s)|[\u2013\u2014,.!;?\n:(\[{)\]}/|&+]"
_TAG = r"<[^<>\n]{1,200}>"
_SPACED = re.compile(rf"\d+\.\d+(?![^\W_])|\d+\+(?!\w)|[^\W_]+(?:'[^\W_]+)*|{_WEIGHT}|{_TAG}|{_MARK}")
_BY_CHARACTER = re.compile(rf"[0-9]+|[a-zA-Z]+|{_WEIGHT}|{_TAG}|{_MARK}|[^\W_]")
_BREAK = re.compile(r"\bBREAK\b")
_PATTERN = re.compile(r"'(?P<literal>[^']+)'|(?P<name>[a-z_]+)|\s+|(?P<operator>.)")


@dataclass(frozen=True)
class Reading:
    """A text as symbols, with the place of each in the text: `starts[i]` to `ends[i]`."""

    symbols: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True)
class Topic:
    """Patterns of one topic over symbols: `pseudo` is overlooked, `requests` found, `specific` overrules `general`."""

    pseudo: re.Pattern
    requests: re.Pattern
    specific: re.Pattern
    general: re.Pattern


class Language:
    """The words and patterns of one file. Raises ValueError where a pattern names a class that the file lacks."""

    def __init__(self, name: str):
        self.data = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
        self.name = name
        self.by_character: bool = self.data["by_character"]
        self._tokens = _BY_CHARACTER if self.by_character else _SPACED
        self._classes: dict[tuple[str, ...], set[str]] = {}
        self._collect()
        sets = sorted(
            {tuple(sorted(names)) for names in self._classes.values()}
            | {(name,) for name in (*UNKNOWN, *self.data["endings"].values())}
        )
        characters = map(chr, range(_FIRST_SYMBOL, _FIRST_SYMBOL + len(sets)))
        self._symbols = dict(zip(sets, characters, strict=True))
        self._single: dict[str, str] = {}
        self._phrases: dict = {}  # a tree of words; the symbol of a phrase is below the None after its last word
        for words, names in self._classes.items():
            symbol = self._symbols[tuple(sorted(names))]
            if len(words) == 1:
                self._single[words[0]] = symbol
                continue
            branch = self._phrases
            for word in words:
                branch = branch.setdefault(word, {})
            branch[None] = symbol
        self._other = {name: self._symbols[(name,)] for name in UNKNOWN}
        self._endings = [(ending, self._symbols[(name,)]) for ending, name in self.data["endings"].items()]
        self.mask = self._other["masked"]
        self.topics = {name: self._topic(name) for name in self.data["topics"]}
        self.contexts = [
            (re.compile(self._class(near)), re.compile(self._class(plain))) for near, plain in self.data["contexts"]
        ]
        self.removal = {name: self._compile(pattern, {}) for name, pattern in self.data["removal"].items()}
        self.removal["boundary"] = self._compile("|".join(BOUNDARIES), {})

    def _collect(self) -> None:
        for name, lines in self.data["words"].items():
            for phrase in (phrase.strip() for line in lines for phrase in line.split(",")):
                for words in expand(phrase):
                    self._add(words, name)
        for word in expand_all(self.data["tolerant"]):
            for typo in misspellings(word):
                if (typo,) not in self._classes:
                    self._classes[(typo,)] = self._classes[(word,)]
        for name, marks in MARKS.items():
            for mark in marks:
                self._classes.setdefault((mark,), set()).add(name)
        for pattern in re.findall(r'"((?:[^"\\]|\\.)*)"', json.dumps(self._patterns(), ensure_ascii=False)):
            for match in _PATTERN.finditer(pattern):
                if match["literal"]:
                    self._add(match["literal"], match[0])

    def _patterns(self) -> list:
        return [self.data["families"], self.data["topics"], self.data["removal"]]

    def _add(self, phrase: str, name: str) -> None:
        words = tuple(self.words(phrase))
        if not words:
            raise ValueError(f"{self.name}.json: '{phrase}', of the class '{name}', has no word.")
        self._classes.setdefault(words, set()).add(name)

    def words(self, text: str) -> list[str]:
        """Words and marks of a text, in lower case."""
        return self._tokens.findall(_lower(plain_marks(text)))

    def _topic(self, name: str) -> Topic:
        topic = self.data["topics"][name]
        family = self.data["families"][topic["family"]]
        aliases = topic["classes"]
        parts = {part: [*topic.get(part, []), *family.get(part, [])] for part in Topic.__dataclass_fields__}
        return Topic(
            **{
                part: self._compile("|".join(f"(?:{pattern})" for pattern in patterns) or "(?!)", aliases)
                for part, patterns in parts.items()
            }
        )

    def _compile(self, pattern: str, aliases: dict[str, str]) -> re.Pattern:
        pieces = []
        for match in _PATTERN.finditer(pattern):
            if match["literal"] or match["name"]:
                pieces.append(self._class(match[0] if match["literal"] else aliases.get(match["name"], match["name"])))
            elif match["operator"]:
                pieces.append(match["operator"])
        return re.compile("".join(pieces))

    def _class(self, name: str) -> str:
        """A set of symbols: those of a class, of a union of classes, or of everything but some classes."""
        union = self.data["unions"].get(name)
        if union is None:
            return f"[{self._members(name)}]"
        names = [union] if isinstance(union, str) else union
        inverted = names[0] == "not"  # a union of the class "not" has to name it later
        names = names[1:] if inverted else names
        members = "".join(
            self._class(name)[1:-1] if name in self.data["unions"] else self._members(name) for name in names
        )
        return f"[{'^' if inverted else ''}{members}]"

    def _members(self, name: str) -> str:
        members = "".join(symbol for names, symbol in self._symbols.items() if name in names)
        if not members:
            raise ValueError(f"{self.name}.json: no word has the class '{name}' that a pattern names.")
        return members

    def _symbol_of(self, word: str) -> str:
        other = self._other
        if word[0].isdigit() and word.rstrip("stndrh").replace(".", "").isdigit():
            return other["num"]
        if word[0] == ":" and len(word) > 1:
            return other["weight" if float(word[1:].strip()) > 0 else "nil"]
        if word[0] == "<":
            return other["tag"]
        if len(word) > 5:
            return next((symbol for ending, symbol in self._endings if word.endswith(ending)), other["word"])
        return other["word"]

    def read(self, text: str, phrases: bool = True) -> Reading:
        """The text as symbols, each for a phrase of the file or, without `phrases`, for one word."""
        text = plain_marks(text)
        lower = _lower(text)
        tokens = list(map(re.Match.span, self._tokens.finditer(lower)))
        words = self._tokens.findall(lower)
        known, other, tree = self._single.get, self._symbol_of, self._phrases if phrases else {}
        symbols = [known(word) or other(word) for word in words]
        for match in _BREAK.finditer(text):
            if (number := bisect_left(tokens, match.span())) < len(tokens) and tokens[number] == match.span():
                symbols[number] = self._other["tag"]
        place, merged = 0, []
        for number, word in enumerate(words):
            if number < place or word not in tree:
                continue
            branch, here, last = tree[word], number + 1, 0
            while here < len(words) and words[here] in branch:
                branch, here = branch[words[here]], here + 1
                if None in branch:
                    last, symbol = here, branch[None]
            if last:
                merged.append((number, last, symbol))
                place = last
        starts, ends = [start for start, _ in tokens], [end for _, end in tokens]
        return _merge(symbols, starts, ends, merged)


def _merge(symbols: list[str], starts: list[int], ends: list[int], merged: list[tuple[int, int, str]]) -> Reading:
    """A reading in which each phrase `(first word, word after its last, symbol)` is one symbol."""
    all_symbols, all_starts, all_ends, place = [], [], [], 0
    for first, last, symbol in merged:
        all_symbols += [*symbols[place:first], symbol]
        all_starts += starts[place : first + 1]
        all_ends += [*ends[place:first], ends[last - 1]]
        place = last
    return Reading(
        "".join(all_symbols + symbols[place:]), tuple(all_starts + starts[place:]), tuple(all_ends + ends[place:])
    )


def _lower(text: str) -> str:
    """The text in lower case, each character at its place."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(low if len(low := c.lower()) == 1 else c for c in text)


def plain_marks(text: str) -> str:
    """The text with straight quotes, plain hyphens and narrow marks, each character at its place."""
    return text.translate(_PLAIN)


def expand(phrase: str) -> list[str]:
    """The phrases that one of the file stands for: "no|zero gun(s)" is "no gun", "no guns", "zero gun", "zero guns"."""
    choices = []
    for part in phrase.split():
        options = []
        for option in part.split("|"):
            stem, _, ending = option.rstrip(")").partition("(")
            options += [stem, stem + ending] if ending else [stem]
        choices.append([option.replace("_", " ") for option in options])
    return [" ".join(words) for words in product(*choices)] if choices else []


def expand_all(lines: list[str]) -> list[str]:
    """Every phrase of some lines of the file."""
    return [words for line in lines for phrase in line.split(",") for words in expand(phrase)]


def misspellings(word: str) -> set[str]:
    """A letter left out, doubled or swapped with the next, or another vowel; the first letter stays."""
    found = set()
    for place in range(1, len(word)):
        before, letter, after = word[:place], word[place], word[place + 1 :]
        found |= {before + after, before + letter + letter + after}
        if after:
            found.add(before + after[0] + letter + after[1:])
        if letter in "aeiou":
            found |= {before + vowel + after for vowel in "aeiou"}
        found |= {before + vowel + letter + after for vowel in "aeiou"}
    return found - {word}


@cache
def language(name: str) -> Language:
    """The language of a file in `data/`, read at first use: ComfyUI's start should not pay for it."""
    return Language(name)


@lru_cache(maxsize=8)
def read(name: str, text: str) -> Reading:
    """The text as symbols of a language; kept for the topics that follow."""
    return language(name).read(text)
