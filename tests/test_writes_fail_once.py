"""Every call to the file system fails once: Save, autosave and discard say so, and no half file is ever there."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers import random_vector, run_node
from hspace.concepts import Vector
from hspace.files import PartialFile, load_concept, save_concept

CALLS = ("mkdir", "open", "write", "fsync", "rename", "replace", "link", "unlink")
OLD, NEW = (Vector(torch.full((2, 1, 1), value), name, "SD1") for value, name in ((1.0, "old"), (2.0, "new")))


class Failing:
    """Lets the n-th of these calls fail, counted together; a write that fails writes a part first."""

    def __init__(self, monkeypatch, names: tuple[str, ...]):
        self.patch, self.names = monkeypatch, names
        self.calls, self.at = 0, 0

    def __call__(self, number: int, action: Callable[[], object]) -> OSError | None:
        """What the action raises where the call of this number, counted from 1, fails."""
        self.calls, self.at = 0, number
        with self.patch.context() as patch:
            for name in self.names:
                patch.setattr(os, name, self.failing(name, getattr(os, name)))
            try:
                action()
            except OSError as error:
                return error
        return None

    @property
    def failed(self) -> bool:
        return self.calls >= self.at

    def failing(self, name: str, call: Callable) -> Callable:
        def instead(*arguments, **named):
            self.calls += 1
            if self.calls != self.at:
                return call(*arguments, **named)
            if name == "write":
                call(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise OSError(errno.ENOSPC if name in ("write", "open") else errno.EIO, "No luck")

        return instead


def whole(folder: Path) -> dict[str, str]:
    """Names of the vectors by file; fails where a file that could be taken for a vector is none."""
    return {path.name: load_concept(path).name for path in folder.rglob("*.safetensors")}


def empty(folder: Path) -> None:
    """Remove the vectors: the more there are of one name, the more calls a save makes."""
    for path in folder.rglob("*.safetensors"):
        path.unlink()


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob("*.partial"))


def every_failure(failing: Failing, action: Callable[[], object], check: Callable[[OSError | None], None]) -> int:
    """Do the action once for each of its calls, each time another one failing; returns how many calls there were."""
    number = 1
    while True:
        error = failing(number, action)
        check(error)
        if not failing.failed:
            assert error is None
            return number - 1
        number += 1


def words_of(error: OSError, folder: Path) -> str:
    text = str(error)
    assert "try again" in text
    assert str(folder) in text
    return text


@pytest.mark.parametrize("names", [CALLS, *((name,) for name in ("open", "write", "fsync", "link"))], ids="+".join)
def test_save(vector_folder, monkeypatch, names):
    """An error leaves what was there; a file is new and whole, or not there. The node before it keeps the vector."""
    concept, failures = random_vector(name="new"), []

    def save():
        run_node("HSpaceSaveConcept", concept=concept, filename_prefix="sd15/people/woman")

    def check(error):
        assert set(whole(vector_folder).values()) <= {"new"}
        if error is not None:
            failures.append(words_of(error, vector_folder))
        empty(vector_folder)

    calls = every_failure(Failing(monkeypatch, names), save, check)
    assert calls >= 1
    assert failures
    save()
    assert not leftovers(vector_folder)


def test_save_over_an_old_file(tmp_path, monkeypatch):
    def check(error):
        (name,) = whole(tmp_path).values()
        assert error is not None or name == "new"
        save_concept(OLD, tmp_path / "v")
        assert not leftovers(tmp_path)

    save_concept(OLD, tmp_path / "v")
    assert every_failure(Failing(monkeypatch, CALLS), lambda: save_concept(NEW, tmp_path / "v"), check) >= 5


def test_autosave(vector_folder, monkeypatch):
    """First and later saves: the file is the old or the new vector, the failure is an error, and the next one works."""
    failing, number = Failing(monkeypatch, CALLS), 0
    while number == 0 or failing.failed:
        number += 1
        partial = PartialFile("test")
        error = failing(number, lambda partial=partial: (partial.check(), partial.save(OLD), partial.save(NEW)))
        found = whole(vector_folder)
        assert len(found) <= 1
        if error is not None:
            words_of(error, vector_folder / "partial")
            assert partial.path is None or found == {partial.path.name: "old"} or found == {partial.path.name: "new"}
            assert not partial.due
        partial.save(NEW)
        assert whole(vector_folder)[partial.path.name] == "new"
        assert not leftovers(vector_folder)
        empty(vector_folder)
    assert number > 15


def test_discard(vector_folder, monkeypatch):
    partial = PartialFile("test")

    def discard():
        partial.save(NEW)
        partial.discard()

    def check(error):
        assert set(whole(vector_folder).values()) <= {"new"}
        if error is not None:
            words_of(error, vector_folder / "partial")
        empty(vector_folder)

    assert every_failure(Failing(monkeypatch, CALLS), discard, check) >= 5
    partial.discard()
    partial.discard()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_systems_without_hard_links(tmp_path, monkeypatch, number):
    """The name is taken by an empty file for a moment; whatever fails, no empty file stays, and none is overwritten."""

    def link(*_):
        raise OSError(number, "No links here")

    monkeypatch.setattr(os, "link", link)
    paths = [save_concept(vector, tmp_path / "v", overwrite=False) for vector in (OLD, NEW)]
    assert [load_concept(path).name for path in paths] == ["old", "new"]
    empty(tmp_path)
    failing = Failing(monkeypatch, tuple(name for name in CALLS if name != "link"))

    def check(error):
        assert set(whole(tmp_path).values()) <= {"new"}
        empty(tmp_path)

    assert every_failure(failing, lambda: save_concept(NEW, tmp_path / "v", overwrite=False), check) >= 5


def test_file_systems_whose_folders_cannot_be_synced(tmp_path, monkeypatch):
    sync = os.fsync

    def refusing(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "No folders")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    assert load_concept(save_concept(NEW, tmp_path / "v", overwrite=False)) == NEW


def test_a_name_that_may_not_be_on_the_disk_is_a_warning(tmp_path, monkeypatch, caplog):
    """The file is there and whole; an error would hide where."""
    failing = Failing(monkeypatch, ("fsync",))
    assert failing(2, lambda: save_concept(NEW, tmp_path / "v", overwrite=False)) is None
    assert whole(tmp_path) == {"v.safetensors": "new"}
    assert "No luck" in caplog.text


def test_content_and_name_are_synced_in_this_order(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "link", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, call=call: (events.append(name), call(*args))[1])
    save_concept(OLD, tmp_path / "v", overwrite=False)
    save_concept(NEW, tmp_path / "v")
    assert events == ["fsync", "link", "fsync", "fsync", "replace", "fsync"]


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else False, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write(vector_folder):
    (vector_folder / "partial").mkdir(mode=0o555)
    with pytest.raises(PermissionError, match="No vector could be written"):
        PartialFile("test").check()


def test_a_partial_that_is_no_folder_is_found_before_the_first_step(vector_folder):
    (vector_folder / "partial").touch()
    with pytest.raises(OSError, match="No vector could be written"):
        PartialFile("test").check()
