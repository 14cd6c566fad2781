"""Stage 0: a CLIP vocabulary and merge list that spells every word of the captions as one token."""

from __future__ import annotations

import itertools
import json

from transformers.models.clip.tokenization_clip import bytes_to_unicode

from ..architecture import END_TOKEN, START_TOKEN, TOKENIZER, VOCABULARY_SIZE
from ..captions import vocabulary


def _split(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    pieces = [*word[:-1], word[-1] + "</w>"]
    while len(pieces) > 1:
        pairs = [(ranks.get(pair, float("inf")), i) for i, pair in enumerate(itertools.pairwise(pieces))]
        rank, i = min(pairs)
        if rank == float("inf"):
            break
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces


def build() -> int:
    """Write `vocab.json` and `merges.txt`; returns the number of tokens.

    Merges are appended, so they rank below all earlier ones and cannot break a word that is already whole.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in vocabulary():
        while len(pieces := _split(word, ranks)) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
    letters = list(bytes_to_unicode().values())
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    tokens += list(dict.fromkeys("".join(pair) for pair in ranks))
    if len(tokens) > VOCABULARY_SIZE:
        raise ValueError(f"{len(tokens)} tokens do not fit VOCABULARY_SIZE = {VOCABULARY_SIZE}; raise it.")
    if (tokens[START_TOKEN], tokens[END_TOKEN]) != ("<|startoftext|>", "<|endoftext|>"):
        raise ValueError("START_TOKEN and END_TOKEN in architecture.py must be the first two tokens.")
    TOKENIZER.mkdir(exist_ok=True)
    (TOKENIZER / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    (TOKENIZER / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, ranks)) + "\n")
    return len(tokens)
