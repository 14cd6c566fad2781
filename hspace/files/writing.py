"""Write files whole or not at all: neither a full disk nor a kill leaves half of one, and none takes another's place.

The bytes go to a file of another name, which is locked while it is written, onto the disk, and then under their own
name. What a killed process leaves is not locked any more, and the next save into that folder removes it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

UNFINISHED = ".hspace-*.partial"
"""Names of files that are being written."""
LONGEST_WRITE = 3600.0
"""Seconds after which such a file is taken for abandoned, where files cannot be locked."""
_UNSUPPORTED = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
"""What file systems without hard links, or without folders that can be synced, answer."""


def replace_file(path: Path, content: bytes) -> None:
    """Write a file; an older one of that name stays until the new one is whole.

    Raises:
        OSError: says in which folder, and why.
    """
    with _written(path.parent, content) as unfinished:
        os.replace(unfinished, path)


def create_file(path: Path, content: bytes) -> Path:
    """Write a file under a name that no file has: `path`, or else the same with `_2`, `_3` and so on before the suffix.

    However many processes create files of one name at once, each gets its own.

    Raises:
        OSError: says in which folder, and why.
    """
    with _written(path.parent, content) as unfinished:
        number, free = 2, path
        while not _moved(unfinished, free):
            number, free = number + 1, path.with_name(f"{path.stem}_{number}{path.suffix}")
        return free


def create_if_free(path: Path, content: bytes) -> bool:
    """Write a file under a name; False, and nothing written, where a file has it.

    Raises:
        OSError: says in which folder, and why.
    """
    with _written(path.parent, content) as unfinished:
        return _moved(unfinished, path)


def remove_file(path: Path) -> None:
    """Remove a file, where there is one.

    Raises:
        OSError: says in which folder, and why.
    """
    with _explained(f"{path.name} could not be removed from {path.parent}"):
        path.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Make a folder where there is none, and raise OSError where no file can be written to it."""
    with _written(folder, b"\0"):
        pass


@contextlib.contextmanager
def _written(folder: Path, content: bytes) -> Iterator[Path]:
    """A file of a name of its own with the content, on the disk; removed afterwards, where it still has that name."""
    with _explained(f"No vector could be written to {folder}"):
        _make_folder(folder)
        _remove_abandoned(folder)
        path, descriptor = _open_new(folder)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            if fcntl is None:  # Windows gives no other name to a file that is open
                os.close(descriptor)
                descriptor = None
            yield path
        finally:
            with contextlib.suppress(OSError):  # the next save tries again
                path.unlink(missing_ok=True)
            if descriptor is not None:
                os.close(descriptor)
        try:
            _sync_folder(folder)
        except OSError as error:  # the file is there and whole: an error would hide where
            logging.warning("[H-Space Steering] A power cut may still lose the last file in %s: %s", folder, error)


@contextlib.contextmanager
def _explained(failure: str) -> Iterator[None]:
    """What fails inside says so in words, as an OSError of the same number."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OSError(
            error.errno or errno.EIO,
            f"{failure} ({reason}). Free some space, close what uses the folder, or allow ComfyUI to write there, and "
            "try again.",
        ) from error


def _make_folder(folder: Path) -> None:
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        _sync_folder(made.parent)


def _open_new(folder: Path) -> tuple[Path, int]:
    """A new, locked file with the permissions that the user's umask leaves, and its descriptor."""
    while True:
        path = folder / UNFINISHED.replace("*", secrets.token_hex(8))
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
        _lock(descriptor)
        if os.fstat(descriptor).st_nlink:  # else it was taken for abandoned before it was locked
            return path, descriptor
        os.close(descriptor)


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left. It is in nobody's way, so that a failure to remove it is none to save."""
    for path in folder.glob(UNFINISHED):
        with contextlib.suppress(OSError):
            if fcntl is None:
                if time.time() - path.stat().st_mtime > LONGEST_WRITE:
                    path.unlink()
                continue
            descriptor = os.open(path, os.O_WRONLY)
            try:
                if _lock(descriptor):
                    path.unlink()
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a file until it is closed; False where another process has, or where there are no locks."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _moved(source: Path, target: Path) -> bool:
    """Give a file another name; False, and nothing done, where a file has that name."""
    try:
        if os.name == "nt":
            os.rename(source, target)  # which replaces no file on Windows
        else:
            os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return _reserved_and_moved(source, target)
    return True


def _reserved_and_moved(source: Path, target: Path) -> bool:
    """The same on file systems without hard links: the name is taken by an empty file, which is then replaced."""
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    try:
        os.replace(source, target)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return True


def _sync_folder(folder: Path) -> None:
    """Put names onto the disk, where folders can be synced."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
