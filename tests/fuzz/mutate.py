"""Broken bytes, JSON and text, made from good ones by a source of random numbers."""

from __future__ import annotations

import copy
import json
import random

NUMBERS = (
    0,
    1,
    -1,
    2,
    255,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    -(2**63),
    0.5,
    1e308,
)
TEXTS = (
    "",
    " ",
    "\n",
    "\x00",
    "a\nb",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\x",
    "..\\x",
    "CON",
    "aux.v1",
    "nul.safetensors",
    "<img src=x onerror=alert(1)>",
    "\ud800",
    "\udcff",
    "\u202egnp",
    "é" * 150,
    "😀" * 80,
    "x" * 300,
    "x" * 70_000,
    "9" * 5000,
    "1e99999999",
    "-1",
    "nan",
    "Infinity",
    "٣",
    "²",
    "%s%n{0}",
    "._x.safetensors",
    "a/" * 200,
    "true",
    "null",
    "{}",
)
ALPHABET = 'ab9 ./\\:*?"<>|\x00\n\t\r\u2028\ud83d\ude00é漢\u200d'


def broken_bytes(source: random.Random, good: bytes) -> bytes:
    """Some bytes changed, removed, repeated, inserted or cut off; numbers of eight bytes set to extremes."""
    data = bytearray(good)
    for _ in range(source.choice((1, 1, 1, 2, 4, 16))):
        place = source.randrange(len(data) + 1)
        kind = source.randrange(7)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << source.randrange(8)
        elif kind == 1 and data:
            data[place % len(data)] = source.randrange(256)
        elif kind == 2:
            del data[place : place + source.choice((1, 8, 64))]
        elif kind == 3:
            data[place:place] = data[place : place + source.choice((1, 8, 64, 512))]
        elif kind == 4:
            data[place:place] = source.randbytes(source.choice((1, 8, 64)))
        elif kind == 5:
            number = int(source.choice(NUMBERS)) % 2**64
            data[place : place + 8] = number.to_bytes(8, source.choice(("little", "big")))
        else:
            del data[place:]
    return bytes(data)


def broken_value(source: random.Random, good: object) -> object:
    """A value of JSON in which some part is another number, text or container, gone, or there twice."""
    value = copy.deepcopy(good)
    for _ in range(source.choice((1, 1, 2, 4))):
        value = _break_once(source, value)
    return value


def _break_once(source: random.Random, value):
    if isinstance(value, dict) and value and source.random() < 0.85:
        key = source.choice(list(value))
        kind = source.randrange(6)
        if kind == 0:
            del value[key]
        elif kind == 1:
            value[broken_text(source, key)] = value[key]
        elif kind == 2:
            value[broken_text(source, key)] = value.pop(key)
        elif kind == 3 and is_small(value[key]):
            for number in range(source.choice((3, 40, 300))):
                value[f"{key}{number}"] = copy.deepcopy(value[key])
        else:
            value[key] = _break_once(source, value[key])
        return value
    if isinstance(value, list) and value and source.random() < 0.85:
        place = source.randrange(len(value))
        if source.random() < 0.2 and is_small(value):
            return [copy.deepcopy(item) for _ in range(source.choice((0, 2, 100))) for item in value]
        value[place] = _break_once(source, value[place])
        return value
    if isinstance(value, str) and source.random() < 0.5:
        return broken_text(source, value)
    return source.choice(
        [source.choice(NUMBERS), source.choice(TEXTS), None, True, [], {}, [1], {"a": 1}, nested(source)]
    )


def is_small(value: object) -> bool:
    """True where a value may be repeated; what repeats repeats would fill the memory."""
    return len(json.dumps(value)) < 1000


def nested(source: random.Random) -> list:
    """Lists inside of lists."""
    value: list = []
    for _ in range(source.choice((3, 100))):
        value = [value]
    return value


def json_bytes(source: random.Random, value: object) -> bytes:
    """The value as JSON, now and then broken as text too, or nested beyond all bounds."""
    text = json.dumps(value)
    if source.random() < 0.02:
        text = "[" * 100_000
    if source.random() < 0.02:
        text = text.replace("0", "9" * 5000, 3)
    data = text.encode()
    return broken_bytes(source, data) if source.random() < 0.2 else data


def broken_text(source: random.Random, good: str = "") -> str:
    """A text that people do not write."""
    kind = source.randrange(5)
    if kind == 0:
        return source.choice(TEXTS)
    if kind == 1:
        return "".join(source.choices(ALPHABET, k=source.choice((1, 5, 30, 300))))
    if kind == 2:
        return "".join(chr(source.randrange(0x110000)) for _ in range(source.choice((1, 5, 80))))
    place = source.randrange(len(good) + 1)
    if kind == 3:
        return good[:place] + source.choice(TEXTS) + good[place:]
    return good[:place] + good[place + 1 :]
