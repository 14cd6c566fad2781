"""Start a real ComfyUI with the pack in it on a free loopback port, run workflow files on it, and stop it.

Needs the Python environment that ComfyUI runs in, and comfyui-autograph.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .comfyui import ROOT, comfyui_folder

START_TIMEOUT = 120.0


@dataclass
class Server:
    """A running server.

    Attributes:
        url: e.g. "http://127.0.0.1:43210".
        base: its base directory, a temporary one: `models/`, `output/`, `input/`, `user/`, `custom_nodes/`.
        log: file with everything it prints.
        process: the process.
    """

    url: str
    base: Path
    log: Path
    process: subprocess.Popen

    @property
    def output(self) -> Path:
        """The folder that SaveImage writes to."""
        return self.base / "output"

    def convert(self, workflow: Path) -> dict:
        """API-format prompt of an editor workflow file, by this server's own node definitions."""
        import autograph

        return autograph.convert(workflow, server_url=self.url)

    def queue(self, prompt: dict) -> str:
        """Queue a prompt and do not wait; returns its id.

        Raises:
            urllib.error.HTTPError: the server refused the prompt; its body says why.
        """
        body = json.dumps({"prompt": prompt}).encode()
        request = urllib.request.Request(f"{self.url}/prompt", body, {"Content-Type": "application/json"})
        return json.loads(urllib.request.urlopen(request, timeout=30).read())["prompt_id"]

    def run(self, prompt: dict, on_event: Callable[[dict], None] | None = None, timeout: float = 1800) -> dict:
        """Queue a prompt and wait for it; returns the outputs by node id.

        Raises:
            RuntimeError: the server refused the prompt, or a node failed; the message is the server's.
        """
        import autograph

        submission = autograph.ApiFlow(dict(prompt)).submit(
            server_url=self.url, wait=True, wait_timeout=int(timeout), on_event=on_event or (lambda event: None)
        )
        entry = (submission.get("history") or {}).get(submission.prompt_id)
        if entry is None:
            raise RuntimeError(f"ComfyUI did not finish within {timeout:.0f} s.")
        status = entry.get("status", {})
        for kind, message in status.get("messages", []):
            if kind == "execution_error":
                raise RuntimeError(f"{message['node_type']}: {message['exception_message']}")
            if kind == "execution_interrupted":
                raise RuntimeError(f"{message['node_type']}: interrupted")
        return entry.get("outputs", {})


@contextlib.contextmanager
def running_server(
    extra_arguments: tuple[str, ...] = (),
    prepare: Callable[[Path], None] = lambda base: None,
    models: Path | None = None,
) -> Iterator[Server]:
    """A server with the pack linked into its own temporary base directory; gone, with all it wrote, on leaving.

    Honours COMFYUI_PATH. A SIGTERM ends it like Ctrl+C does.

    Args:
        prepare: called with the base directory before the server starts.
        models: folder that takes the place of `models/` and stays.
    """
    comfyui = comfyui_folder()
    with tempfile.TemporaryDirectory(prefix="hspace-comfyui-") as temporary, _sigterm_as_exit():
        base = Path(temporary)
        for name in ("custom_nodes", "input", "output", "user", "temp"):
            (base / name).mkdir()
        if models is None:
            (base / "models").mkdir()
        else:
            (base / "models").symlink_to(models, target_is_directory=True)
        (base / "custom_nodes" / "h-space-steering").symlink_to(ROOT, target_is_directory=True)
        prepare(base)
        port = _free_port()
        log = base / "server.log"
        command = [
            sys.executable,
            str(comfyui / "main.py"),
            "--listen",
            "127.0.0.1",
            "--port",
            str(port),
            "--base-directory",
            str(base),
            "--database-url",
            f"sqlite:///{base}/comfyui.db",
            "--disable-auto-launch",
            "--disable-api-nodes",
            "--preview-method",
            "auto",
            *_device_arguments(),
            *extra_arguments,
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=comfyui, stdout=output, stderr=subprocess.STDOUT)
        server = Server(f"http://127.0.0.1:{port}", base, log, process)
        try:
            _wait_until_ready(server)
            yield server
        finally:
            _stop(process)


def _device_arguments() -> list[str]:
    import torch

    return [] if torch.cuda.is_available() else ["--cpu"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{server.url}/system_stats", timeout=5).read()
            return
        time.sleep(0.25)
    last = "\n".join(server.log.read_text(errors="replace").splitlines()[-15:])
    raise RuntimeError(f"ComfyUI did not start. Its last words:\n{last}")


def _stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    def leave(*_):
        raise SystemExit(143)

    try:
        previous = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not in the main thread, where no handler can be set
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
