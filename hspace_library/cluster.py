"""Ray: start it or join it, and see what it has before anything long begins."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .comfyui import ROOT, comfyui_folder
from .spec import Workers

ANSWER_WITHIN = 5.0
"""Seconds that a Ray address may take to answer."""
MEMORY_OF_LOADED = 3
"""Memory of a worker on a CPU as a multiple of its checkpoint's file: fp16 there is fp32 in memory."""
LEAST_MEMORY = 1.5e9
OBJECT_STORE = 100 * 2**20
"""Bytes; paths and figures travel through Ray, never images or weights."""


@dataclass(frozen=True)
class Places:
    """What the workers of a run are.

    Attributes:
        count: how many.
        gpus: of each; 0 on CPUs.
        threads: of each on a CPU; 0 for torch's own choice.
    """

    count: int
    gpus: float
    threads: int

    def options(self) -> dict[str, Any]:
        """Ray's options of an actor."""
        variables = {"PYTHONPATH": _python_path()}
        for name in ("COMFYUI_PATH",):
            if name in os.environ:
                variables[name] = os.environ[name]
        if not self.gpus:
            variables |= {"OMP_NUM_THREADS": str(self.threads), "CUDA_VISIBLE_DEVICES": ""}
        return {
            "num_cpus": self.threads or 1,
            "num_gpus": self.gpus,
            "max_restarts": 0,
            "runtime_env": {"env_vars": variables},
        }

    def in_words(self) -> str:
        """ "2 workers on CPUs, 1 thread each"."""
        workers = f"{self.count} worker{'s' if self.count > 1 else ''}"
        if self.gpus:
            return f"{workers}, {self.gpus:g} GPU each"
        return f"{workers} on CPUs, {self.threads} thread{'s' if self.threads > 1 else ''} each"


def _python_path() -> str:
    """For workers: ComfyUI's folder first, which has a `nodes` as the checkout has."""
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([str(comfyui_folder()), str(ROOT), *filter(None, before)]))


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected; what was started is stopped afterwards, and what was joined is left alone.

    Args:
        address: "local" for a Ray of one's own on this machine, "auto" for the one that runs here or at RAY_ADDRESS and
            else one's own, or the address of one.

    Raises:
        ValueError: Ray is not installed, or does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ValueError("Ray is not installed: `pip install .[scale]` in a clone of the pack.") from error
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    own = {**quiet, "address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    try:
        if named == "local":
            ray.init(**own)
        elif named:
            _check_answers(named)
            ray.init(address=named, **quiet)
        else:
            try:
                ray.init(address="auto", **quiet)
            except ConnectionError:
                ray.init(**own)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise ValueError(f"--ray {address}: Ray cannot be reached ({str(error).splitlines()[0]}).") from error
    try:
        with _ended_as_by_hand():
            yield ray
    finally:
        ray.shutdown()


@contextmanager
def _ended_as_by_hand() -> Iterator[None]:
    """SIGTERM is taken for Ctrl-C: Ray's own handler aborts after three seconds, too few to keep workers' vectors."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def cancel(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _check_answers(address: str) -> None:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise ValueError(f"--ray {address}: neither auto nor local nor HOST:PORT.")
    try:
        socket.create_connection((host, port), ANSWER_WITHIN).close()
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise ValueError(f"--ray {address}: nothing answers ({reason}); start Ray, or use --ray local.") from error


def places_for(workers: Workers, resources: dict[str, float], tasks: int, largest: int) -> Places:
    """How many workers a run gets, and of what kind.

    Args:
        workers: what was asked for.
        resources: of the cluster, as Ray names them.
        tasks: how many there are to do; more workers are of no use.
        largest: bytes of the largest checkpoint file.

    Raises:
        ValueError: there is less than was asked for.
    """
    gpus, cpus = resources.get("GPU", 0), resources.get("CPU", 0)
    if workers.device == "gpu" and gpus < workers.gpus:
        raise ValueError(f"workers.device: gpu, but Ray sees {gpus:g} GPUs; use device: auto, or a machine with one.")
    on_gpu = workers.device != "cpu" and gpus >= workers.gpus
    each, there, what = (workers.gpus, gpus, "GPUs") if on_gpu else (workers.threads, cpus, "CPU cores")
    most = int(there / each + 1e-6)
    if not on_gpu and not workers.count and "memory" in resources:
        by_memory = int(resources["memory"] / max(MEMORY_OF_LOADED * largest, LEAST_MEMORY))
        most = min(most, max(1, by_memory))
    if workers.count > most or not most:
        raise ValueError(
            f"workers.count: {workers.count or 1} workers of {each:g} {what} each are more than Ray has ({there:g})."
        )
    count = min(workers.count or most, max(1, tasks))
    return Places(count, workers.gpus if on_gpu else 0, 0 if on_gpu else workers.threads)
