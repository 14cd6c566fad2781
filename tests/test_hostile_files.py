"""Files that are made to hurt: each is refused in words, soon, and before memory of the claimed size is used."""

import collections
import contextlib
import io
import json
import multiprocessing
import os
import random
import resource
import signal
import stat
import threading
import time
import zipfile

import pytest
import safetensors.torch
import torch

from fuzz.runner import has_cure, run
from fuzz.targets import TARGETS
from hspace.concepts import Provenance, UnfinishedVector, Vector
from hspace.files import import_paper_concept, load_concept, save_concept
from hspace.files.paper_file import PAPER_KEY, concept_names

GOOD = {"format": "hspace-concept-vector", "format_version": "2", "name": "v", "base_model": "SD1"}
DIRECTION = torch.zeros(2, 2, 2)
SMALL = Vector(torch.ones(2, 1, 1), "woman", "SD1")
MEMORY = 300 * 10**6


@contextlib.contextmanager
def refused(name: str, words: str):
    """The block raises a ValueError with these words that names the file and a cure, in a second and little memory."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match=words) as caught:
        yield
    assert type(caught.value) is ValueError
    assert name in str(caught.value)
    assert has_cure(str(caught.value))
    assert time.process_time() - began < 1
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MEMORY


def raw(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def with_tensors(**tensors) -> dict:
    """A header with a direction and further tensors of which only the description counts."""
    return {"__metadata__": GOOD, "direction": entry("F32", [2, 2, 2], 32), **tensors}


def entry(dtype: str, shape: list[int], size: int = 0) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}


def with_text(key: str, text: str) -> bytes:
    return safetensors.torch.save({"direction": DIRECTION}, {**GOOD, key: text})


SAFETENSORS = {
    "a million empty tensors": (
        lambda: raw(b"{" + b'"state.a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, ' * 10**6),
        "header of",
    ),
    "more tensors than any vector": (
        lambda: raw(with_tensors(**{f"state.a{i}": entry("F32", [1]) for i in range(600)})),
        "tensors",
    ),
    "an unknown tensor": (lambda: safetensors.torch.save({"direction": DIRECTION, "x": DIRECTION + 1}, GOOD), "'x'"),
    "a site beyond all": (
        lambda: safetensors.torch.save({"direction": DIRECTION, "decoder.99": DIRECTION + 1}, GOOD),
        "'decoder.99'",
    ),
    "a site in version 1": (
        lambda: safetensors.torch.save(
            {"direction": DIRECTION, "decoder.1": DIRECTION + 1}, {**GOOD, "format_version": "1"}
        ),
        "version 1 does not know",
    ),
    "fp8 in the state": (lambda: raw(with_tensors(**{"state.step": entry("F8_E4M3", [1])})), "state.step"),
    "an empty step": (lambda: raw(with_tensors(**{"state.step": entry("F32", [0])})), "state.step"),
    "a negative size": (lambda: raw(with_tensors(**{"state.step": entry("F32", [-1])})), "state.step"),
    "terabytes that are not there": (
        lambda: raw(with_tensors(**{"state.x": entry("F32", [2**40])})),
        "more than 256 MiB",
    ),
    "a size of a thousand digits": (
        lambda: raw(json.dumps(with_tensors()).replace("[2, 2, 2]", "[" + "9" * 5000 + "]").encode()),
        "shape",
    ),
    "90 MB of metadata": (lambda: raw(b'{"__metadata__": {"note": "' + b"x" * 90_000_000), "header of"),
    "a million texts": (lambda: raw(b'{"__metadata__": {' + b'"0": "", ' * 10**6), "header of"),
    "a thousand texts": (
        lambda: safetensors.torch.save({"direction": DIRECTION}, {**GOOD, **{str(i): "" for i in range(1000)}}),
        "256 texts",
    ),
    "a long text": (lambda: with_text("concept_prompt", "x" * 70_000), "65536 characters"),
    "a name of 2 MB": (lambda: with_text("name", "x" * 1_900_000), "65536 characters"),
    "a long name": (lambda: with_text("name", "x" * 201), "name .*one line"),
    "a name of two lines": (lambda: with_text("name", "two\nlines"), "name .*one line"),
    "a name with a carriage return": (lambda: with_text("name", "a\rb"), "name .*one line"),
    "a blank name": (lambda: with_text("name", " \t"), "name .*one line"),
    "a name that is written backwards": (lambda: with_text("name", "a\u202eb"), "name .*one line"),
    "a model of no family": (lambda: with_text("base_model", ":0123"), "base_model"),
    "a long model": (lambda: with_text("base_model", "x" * 201), "base_model .*one line"),
    "a long version": (lambda: with_text("format_version", "9" * 60_000), "format version"),
    "a header longer than the file": (lambda: (2**62).to_bytes(8, "little") + b"{}", "incomplete"),
    "seven bytes": (lambda: b"1234567", "incomplete"),
    "nothing": (lambda: b"", "incomplete"),
    "lists in lists": (lambda: raw(b"[" * 1_000_000), "no JSON"),
    "lists in a few lists": (lambda: raw(b"[" * 40_000), "no JSON"),
    "a tensor twice": (
        lambda: raw(json.dumps(with_tensors()).replace('"direction"', '"direction": 1, "direction"').encode()),
        "no JSON",
    ),
    "metadata that are no texts": (
        lambda: raw({"__metadata__": {**GOOD, "name": 5}, "direction": entry("F32", [1, 1, 1])}),
        "no texts",
    ),
    "a header that is a list": (lambda: raw([]), "no list of tensors"),
    "tensors that overlap": (
        lambda: raw(with_tensors(**{"decoder.1": entry("F32", [2, 2, 2], 32)}), b"\0" * 32),
        "not a readable",
    ),
    "tensors cut off": (lambda: raw(with_tensors(), b"\0" * 31), "not a readable"),
    "offsets that are a novel": (
        lambda: raw(with_tensors(direction={**entry("F32", [2, 2, 2]), "data_offsets": "x" * 90_000})),
        "not a readable",
    ),
    "a dtype that is none": (
        lambda: raw({"__metadata__": GOOD, "direction": {"dtype": {}, "shape": [1, 1, 1], "data_offsets": [0, 4]}}),
        "no shapes",
    ),
}


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_a_hostile_vector_file(tmp_path, kind):
    make, words = SAFETENSORS[kind]
    path = tmp_path / "hurts.safetensors"
    path.write_bytes(make())
    with refused("hurts.safetensors", words):
        load_concept(path)


def test_numbers_of_thousands_of_digits_are_texts():
    for text in ("9" * 4000, "9" * 5000, "1e400", "nan"):
        assert Provenance.from_strings({"steps": text, "reach": text}).other == {"steps": text, "reach": text}


def archive(structure, compression=zipfile.ZIP_STORED, **records: bytes) -> bytes:
    """What torch.save writes, packed once more with other files in it."""
    saved, packed = io.BytesIO(), io.BytesIO()
    torch.save(structure, saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(packed, "w", compression) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
        for name, content in records.items():
            new.writestr(f"archive/{name}", content)
    return packed.getvalue()


class Call:
    """Is pickled as a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


MATRIX = torch.zeros(1280, 2)


def matrix(tensor) -> bytes:
    return archive({PAPER_KEY: tensor})


def bomb() -> bytes:
    """A tenth of a megabyte that expands to a hundred."""
    return archive({PAPER_KEY: MATRIX}, zipfile.ZIP_DEFLATED, bomb=bytes(10**8))


def overlapping() -> bytes:
    """An archive whose directory names one file many times, so that it declares more bytes than it has."""
    content = archive({PAPER_KEY: torch.zeros(1280, 200)})
    end = content.rindex(b"PK\5\6")
    start = int.from_bytes(content[end + 16 : end + 20], "little")
    directory = content[start:end]
    record = directory[directory.index(b"PK\1\2") :]
    many = bytearray(content[end:])
    count = 2 * directory.count(b"PK\1\2")
    many[8:12] = count.to_bytes(2, "little") * 2
    many[12:16] = (2 * len(directory)).to_bytes(4, "little")
    return content[:start] + 2 * record + many


def two_archives() -> bytes:
    """A good archive in front of one that torch would open instead, or the other way round."""
    return matrix(MATRIX) + archive({PAPER_KEY: Call(bytearray, 2**33)})


PTH = {
    "one number as a gigabyte": (lambda: matrix(torch.ones(1).expand(1280 * 64, 30_000)), "claims"),
    "rows that are one row": (lambda: matrix(torch.ones(100).expand(1280 * 64, 100)), "claims"),
    "a sparse matrix": (lambda: matrix(MATRIX.to_sparse()), "more than plain tensors"),
    "a nested matrix": (lambda: matrix(torch.nested.nested_tensor([MATRIX, MATRIX])), "more than plain tensors"),
    "a matrix without values": (lambda: matrix(MATRIX.to("meta")), "more than plain tensors"),
    "a quantised matrix": (
        lambda: matrix(torch.quantize_per_tensor(MATRIX, 1.0, 0, torch.qint8)),
        "more than plain tensors",
    ),
    "fp8": (lambda: matrix(MATRIX.to(torch.float8_e4m3fn)), "more than plain tensors"),
    "integers": (lambda: matrix(MATRIX.long()), "more than plain tensors"),
    "a vector": (lambda: matrix(torch.zeros(1280)), "no matrix"),
    "no columns": (lambda: matrix(torch.zeros(1280, 0)), "rows of 0"),
    "no tensor": (lambda: matrix("x"), "no matrix"),
    "memory of any size": (lambda: archive({PAPER_KEY: Call(bytearray, 2**33)}), "'__?builtin"),
    "an object": (lambda: matrix(collections.Counter("x")), "'collections Counter'"),
    "a compressed archive": (lambda: archive({PAPER_KEY: MATRIX}, zipfile.ZIP_DEFLATED), "no plain archive"),
    "a bomb": (bomb, "no plain archive"),
    "a directory that names files twice": (overlapping, "no plain archive"),
    "very many files": (lambda: archive({PAPER_KEY: MATRIX}, **{str(i): b"" for i in range(5000)}), "no plain archive"),
    "a long description": (lambda: archive({str(i): i for i in range(10_000)}), "no plain archive"),
    "two archives in one": (two_archives, "more than plain tensors"),
    "torch's older format": (lambda: legacy(), "no plain archive"),
    "no archive": (lambda: b"\x80\x02}.", "no plain archive"),
    "nothing": (lambda: b"", "no plain archive"),
}


def legacy() -> bytes:
    file = io.BytesIO()
    torch.save({PAPER_KEY: MATRIX}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", PTH)
def test_a_hostile_matrix(tmp_path, kind):
    make, words = PTH[kind]
    (tmp_path / "hurts.pth").write_bytes(make())
    with refused("hurts.pth", words):
        import_paper_concept(tmp_path / "hurts.pth", "0")


@pytest.mark.parametrize(
    "tensor", [MATRIX.half(), MATRIX.double(), MATRIX.bfloat16(), torch.nn.Parameter(MATRIX), MATRIX.T.contiguous().T]
)
def test_what_torch_saves_of_a_matrix_is_read(tmp_path, tensor):
    torch.save(collections.OrderedDict({PAPER_KEY: tensor + 1}), tmp_path / "unet.pth")
    assert torch.equal(import_paper_concept(tmp_path / "unet.pth", "1").tensor, torch.ones(1280, 1, 1))


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "[" * 40_000 + "]" * 40_000,
        '{"woman": ' + "9" * 5000 + "}",
        '{"' + "9" * 5000 + '": "woman"}',
        '{"woman": 0, "woman": 1}',
        '{"woman": true}',
        '{"woman": 1e5}',
        '["two\\nlines"]',
        '["<img>", ""]',
        '["' + "x" * 300 + '"]',
        '["\\ud800"]',
        "[1, 2]",
        "\xff",
        "",
        " " * (2**20 + 1),
    ],
    ids=lambda content: ascii(content[:20]),
)
def test_a_hostile_list_of_concepts(tmp_path, content):
    torch.save({PAPER_KEY: MATRIX}, tmp_path / "unet.pth")
    (tmp_path / "concept_dict.json").write_bytes(content.encode("latin-1"))
    with refused("concept_dict.json", "."):
        concept_names(tmp_path / "unet.pth")


@pytest.mark.parametrize("concept", ["9" * 5000, "-1", "٣", "²", "1e5", " ", "x" * 10**6, "<img>\n", None, 3.0])
def test_a_hostile_concept_name(tmp_path, concept):
    torch.save({PAPER_KEY: MATRIX}, tmp_path / "unet.pth")
    with refused("unet.pth", "concept_name: "):
        import_paper_concept(tmp_path / "unet.pth", concept)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("pipe", "zero", "folder"):
        with refused(f"{name}.safetensors", "is not there"):
            load_concept(tmp_path / f"{name}.safetensors")
    for name, read in (("huge.safetensors", load_concept), ("huge.pth", lambda path: import_paper_concept(path, "0"))):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**40)
        with refused(name, "larger than 256 MiB"):
            read(tmp_path / name)


def in_a_process(function, *arguments) -> multiprocessing.Process:
    """The function in a process of its own, forked from this one."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def load_often(path, seconds: float) -> None:
    """Load a file again and again, and use what was loaded; anything but a vector or a ValueError ends the process."""
    torch.set_num_threads(1)
    kept, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(ValueError):
            kept = [*kept[-20:], load_concept(path)]
        assert all(torch.isfinite(vector.tensor).all() for vector in kept)


def test_a_file_that_is_cut_off_and_overwritten_while_it_is_read_kills_nothing(tmp_path):
    path = save_concept(Vector(torch.ones(64, 64, 64), "woman", "SD1"), tmp_path / "woman")
    content = path.read_bytes()
    process = in_a_process(load_often, path, 3.0)
    changes = 0
    while process.is_alive():
        with path.open("r+b") as file:
            file.truncate(random.randrange(len(content)))
            file.seek(0)
            file.write(content)
        changes += 1
    assert process.exitcode == 0
    assert changes > 50


def test_a_state_of_tensors_that_share_memory_is_saved(tmp_path):
    one = torch.ones(4)
    state = {"step": one[0], "a": one, "b": one, "c": one.expand(3, 4), "seed": torch.tensor([2**62])}
    loaded = load_concept(save_concept(UnfinishedVector(torch.ones(2, 1, 1), "v", "SD1", state=state), tmp_path / "v"))
    assert all(torch.equal(loaded.state[key], state[key]) for key in state)


def test_what_would_not_load_is_not_saved(tmp_path):
    save_concept(SMALL, tmp_path / "v")
    for state in ({"step": torch.zeros(0)}, {"Step": torch.zeros(1)}, {f"a{i}": torch.zeros(1) for i in range(600)}):
        with pytest.raises(ValueError, match=r"'v.safetensors'"):
            save_concept(UnfinishedVector(torch.zeros(2, 1, 1), "v", "SD1", state=state), tmp_path / "v")
    assert load_concept(tmp_path / "v.safetensors") == SMALL


def test_a_loaded_vector_does_not_change_with_its_file(tmp_path):
    state = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 1, 1)}
    path = save_concept(UnfinishedVector(torch.ones(2, 1, 1), "v", "SD1", state=state), tmp_path / "v")
    loaded = load_concept(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"\xff" * size)
        file.truncate(0)
    assert torch.equal(loaded.tensor, torch.ones(2, 1, 1))
    assert torch.equal(loaded.state["exp_avg"], torch.ones(2, 1, 1))
    if os.path.exists("/proc/self/maps"):
        with open("/proc/self/maps") as maps:
            assert str(path) not in maps.read()


def save_often(folder, process: int, count: int) -> None:
    for number in range(count):
        save_concept(Vector(torch.full((2, 1, 1), 1000.0 * process + number), "v", "SD1"), folder / "woman", False)


def test_two_processes_that_save_under_one_name_lose_nothing(tmp_path):
    processes = [in_a_process(save_often, tmp_path, process, 100) for process in (1, 2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    found = {load_concept(path).tensor[0, 0, 0].item() for path in tmp_path.iterdir()}
    assert found == {1000.0 * process + number for process in (1, 2) for number in range(100)}
    assert len(list(tmp_path.iterdir())) == 200


def test_kills_leave_whole_files_only(tmp_path):
    source = random.Random(0)
    for _ in range(15):
        process = in_a_process(save_often, tmp_path, 1, 10**6)
        time.sleep(0.01 + 0.05 * source.random())
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    leftovers = list(tmp_path.glob(".hspace-*"))
    save_concept(SMALL, tmp_path / "after")
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}, leftovers
    for path in tmp_path.iterdir():
        load_concept(path)


def test_a_file_that_is_being_written_is_not_taken_for_abandoned(tmp_path, monkeypatch):
    sync, others = os.fsync, []

    def save_meanwhile(descriptor):
        if not others:
            others.append(None)
            process = in_a_process(save_concept, SMALL, tmp_path / "other")
            process.join()
            assert process.exitcode == 0
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", save_meanwhile)
    save_concept(SMALL, tmp_path / "slow", overwrite=False)
    assert {path.name for path in tmp_path.iterdir()} == {"slow.safetensors", "other.safetensors"}


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_have_the_mode_that_the_umask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        paths = [save_concept(SMALL, tmp_path / "v", overwrite=overwrite) for overwrite in (False, False, True)]
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o666 & ~mask}


def test_two_threads_save_under_one_name(tmp_path):
    threads = [threading.Thread(target=save_often, args=(tmp_path, number, 20)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 40


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_fuzzing_finds_nothing_in_a_few_inputs(target):
    """`python -m tests.fuzz` runs many more."""
    assert not run(target, seed=7, seconds=0.5, count=500).faults
