"""What is fuzzed. To add something that reads what strangers wrote, append a `Target`; see `runner.Target`."""

from __future__ import annotations

import io
import json
import pickle
import random
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import torch

from hspace.concepts import (
    Choice,
    Provenance,
    Response,
    Sweep,
    UnfinishedVector,
    Varied,
    Vector,
    image_labels,
    parse_weights,
)
from hspace.files import find_vector, is_name, list_vectors, load_concept, safe_concept_name, save_concept
from hspace.files import names as file_names
from hspace.files.paper_file import PAPER_KEY, import_paper_concept, parse_matrix, parse_names
from hspace.files.vector_file import parse_concept
from hspace.prompts import PairTemplates, concepts_from_prompt, expand_templates, make_rule, without_requests

from .mutate import broken_bytes, broken_text, broken_value, json_bytes
from .runner import Target

FOLDER = tempfile.TemporaryDirectory(prefix="hspace-fuzz-")
CONCEPTS = {"woman": 0, "man": 1, "dark skin": 2}


@cache
def good_files() -> tuple[bytes, ...]:
    """Vector files of every kind."""
    tensor = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(0))
    state = {"step": torch.tensor(3.0), "exp_avg": tensor, "exp_avg_sq.1": tensor[:, :1, :1]}
    provenance = Provenance.from_strings(
        {"base_model": "SD1:0123456789abcdef", "concept_prompt": "a woman", "steps": "125", "strength_saturates": "0.5"}
    )
    vectors = (
        Vector(tensor, "woman", "SD1", provenance),
        Vector(tensor, "woman", "SD1", provenance, {1: tensor[:, :1, :1], 2: tensor}),
        Vector(tensor, "woman", "SD1", provenance, {}, {0: Response(torch.ones(4, 2), torch.ones(2, 4))}),
        UnfinishedVector(tensor, "woman", "SD1", provenance, {1: tensor[:, :1, :1]}, state=state),
    )
    return tuple(save_concept(vector, Path(FOLDER.name) / "good").read_bytes() for vector in vectors)


def broken_vector_file(source: random.Random) -> bytes:
    """A vector file with a broken header, or broken anywhere."""
    content = source.choice(good_files())
    if source.random() < 0.4:
        return broken_bytes(source, content)
    length = int.from_bytes(content[:8], "little")
    header = broken_value(source, json.loads(content[8 : 8 + length]))
    encoded = json_bytes(source, header)
    return len(encoded).to_bytes(8, "little") + encoded + content[8 + length :]


def load_from_disk(content: bytes) -> Vector:
    """As the node does it."""
    path = Path(FOLDER.name) / "broken.safetensors"
    path.write_bytes(content)
    return load_concept(path)


class _Constant:
    """Something that is pickled as a call of what is named."""

    def __init__(self, call, arguments):
        self.reduced = call, arguments

    def __reduce__(self):
        return self.reduced


@cache
def good_matrices() -> tuple[bytes, ...]:
    """Archives as torch writes them: the published layout, and tensors of every other kind under its name."""
    matrix = torch.randn(1280, 3, generator=torch.Generator().manual_seed(0))
    one = torch.ones(1)
    states = [
        {PAPER_KEY: matrix},
        {PAPER_KEY: torch.nn.Parameter(matrix.half())},
        torch.nn.Linear(2, 2).state_dict(),
        {PAPER_KEY: matrix, "other": [1, "x", None, {2: 3.5}]},
        {PAPER_KEY: one.expand(1280 * 64, 30_000)},
        {PAPER_KEY: matrix[:8].to_sparse()},
        {PAPER_KEY: torch.nested.nested_tensor([matrix[:4], matrix[:2]])},
        {PAPER_KEY: matrix.to("meta")},
        {PAPER_KEY: matrix.to(torch.float8_e4m3fn)},
        {PAPER_KEY: _Constant(bytearray, (2**40,))},
        {PAPER_KEY: _Constant(torch.empty, (2**20, 2**20))},
    ]
    contents = []
    for state in states:
        file = io.BytesIO()
        torch.save(state, file)
        contents.append(file.getvalue())
    return *contents, pickle.dumps({PAPER_KEY: [1.0]})


def broken_matrix(source: random.Random) -> bytes:
    """An archive broken anywhere, or in one of its files, or compressed, or with files twice."""
    content = source.choice(good_matrices()) if source.random() < 0.3 else good_matrices()[source.randrange(2)]
    if source.random() < 0.3 or not zipfile.is_zipfile(io.BytesIO(content)):
        return broken_bytes(source, content)
    changed = io.BytesIO()
    compression = zipfile.ZIP_DEFLATED if source.random() < 0.05 else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w", compression) as new:
        for record in old.infolist():
            read = old.read(record)
            if record.filename.endswith("data.pkl") or source.random() < 0.05:
                read = broken_bytes(source, read)
            if source.random() < 0.02:
                read *= source.choice((0, 2))
            if source.random() > 0.01:
                new.writestr(record.filename, read)
    return changed.getvalue()


def broken_list(source: random.Random) -> bytes:
    """A concept_dict.json that is none."""
    return json_bytes(source, broken_value(source, source.choice((CONCEPTS, {"0": "woman", "1": "man"}, ["woman"]))))


@cache
def matrix_file() -> Path:
    """A good `.pth` file with its list of concepts."""
    path = Path(FOLDER.name) / "unet.pth"
    path.write_bytes(good_matrices()[0])
    path.with_name("concept_dict.json").write_text(json.dumps(CONCEPTS))
    return path


def save_and_load(name: str) -> None:
    """Whatever its name and texts, what Save writes can be loaded again."""
    provenance = Provenance.from_strings({"concept_prompt": name, "steps": name, "other": name})
    vector = Vector(torch.zeros(2, 1, 1), name, "SD1", provenance)
    path = save_concept(vector, Path(FOLDER.name) / file_names.safe_name(name))
    assert load_concept(path).name == safe_concept_name(name)
    assert len(path.name.encode()) <= 255
    assert path.parent == Path(FOLDER.name)
    path.unlink()


def safe_names(text: str) -> None:
    """Safe names are safe, and stay as they are."""
    prefix = file_names.safe_prefix(text)
    for part in prefix.split("/"):
        assert part == file_names.safe_name(part)
        assert 0 < len(part.encode()) <= file_names.MAX_FILE_NAME
        assert part.strip(". ")
    assert is_name(safe_concept_name(text))


def people() -> tuple[Vector, Vector]:
    """Two vectors."""
    return Vector(torch.zeros(1, 1, 1), "woman", "SD1"), Vector(torch.zeros(1, 1, 1), "man", "SD1")


@cache
def assignments() -> tuple[str, ...]:
    """Texts of Apply's output, of a sum, a choice, a sweep and varied strengths."""
    woman, man = people()
    concepts = (woman + 0.5 * man, Choice((woman, man), (1, 1)), Sweep(woman, -1.0, 2.0), Varied(man, -1.0, 2.0))
    return tuple(str(concept.assignment(1.5, 4)) for concept in concepts)


def weighted(text: str) -> None:
    """Weights as Choose Concept takes them, and what they cost an image."""
    Choice(people(), parse_weights(text, 2)).coefficients(64)


def labelled(text: str) -> None:
    """The lines of Label Strip."""
    assert len(image_labels(text, 4)) == 4


def ruled(text: str) -> None:
    """Phrases and regular expressions of a Prompt Rule, on a prompt."""
    rules = (make_rule(people()[0], "custom", text),)
    concepts_from_prompt("a knight, no weapons aaaaaaaaaaaaaaaaaaaaaaaaaaaa!", rules)
    without_requests("a knight, no weapons", rules)


def templated(text: str) -> None:
    """Templates of Concept Prompts."""
    expand_templates(PairTemplates(text, "a {subject}\na {subject}", "judge"))


PHRASES = ("no weapons\n/no (guns|swords)/", "/(a+)+$/", "gentle, calm")
TARGETS = [
    Target("vector file", broken_vector_file, lambda content: parse_concept(content, "'broken.safetensors'")),
    Target("vector file on disk", broken_vector_file, load_from_disk, share=0.2),
    Target("paper's matrix", broken_matrix, lambda content: parse_matrix(content, "'unet.pth'")),
    Target("concept_dict.json", broken_list, lambda content: parse_names(content, "concept_dict.json")),
    Target(
        "concept of the matrix",
        lambda source: broken_text(source, source.choice(("woman", "0"))),
        lambda text: import_paper_concept(matrix_file(), text),
    ),
    Target(
        "library file name",
        lambda source: broken_text(source, source.choice(list_vectors(".safetensors"))),
        lambda text: find_vector(text, "concept_name", ".safetensors"),
    ),
    Target("weights", lambda source: broken_text(source, source.choice(("2,1", "0.7, 0.3", "1,1,1"))), weighted),
    Target("assignment text", lambda source: broken_text(source, source.choice(assignments())), labelled),
    Target("phrases of a rule", lambda source: broken_text(source, source.choice(PHRASES)), ruled, share=0.3),
    Target("templates", lambda source: broken_text(source, "a {subject}, smiling\nthe {subject}"), templated),
    Target("name to save under", lambda source: broken_text(source, "sd15/woman"), safe_names),
    Target("save and load", lambda source: broken_text(source, "woman"), save_and_load, share=0.1),
]
