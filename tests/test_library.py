"""Libraries of concepts: what is checked first, what workers find, and what a killed one costs."""

import importlib
import json
import os
import re
import shutil
import signal
import sys
from collections import Counter, namedtuple
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from helpers import ROOT, run_node
from hspace.files import load_concept
from hspace.steering import apply_steering
from hspace_library.__main__ import main
from hspace_library.checkpoints import check_checkpoint, load
from hspace_library.cluster import connected, places_for
from hspace_library.discovering import encoded_pairs, run_job
from hspace_library.engine import Engine, Listener
from hspace_library.evaluation.__main__ import main as evaluate
from hspace_library.jobs import State, jobs_of
from hspace_library.sampling import sample
from hspace_library.schedule import Schedule, Task
from hspace_library.spec import Checkpoint, Workers, read_library
from hspace_library.worker import Worker
from scripts.random_checkpoint import random_checkpoint

OWN = {
    "name": "<b>cook</b>",
    "with_concept": "a woman {subject}",
    "without": "a {subject}",
    "subjects": ["cook", "pilot"],
}
SETTINGS = {
    "steps": 8,
    "sample_count": 2,
    "batch_size": 2,
    "width": 128,
    "height": 128,
    "sites": "bottleneck",
    "seed": 5,
    "calibrate": False,
}
SPEC = {
    "checkpoints": ["demo"],
    "concepts": ["glasses", OWN],
    "settings": SETTINGS,
    "strips": {"prompts": ["a judge"], "strengths": [0, 1], "steps": 1},
    "workers": {"count": 1, "save_every": 0},
}


def written(folder: Path, **changes) -> Path:
    path = folder / "library.yaml"
    path.write_text(yaml.safe_dump({**SPEC, **changes}))
    return path


def jobs_in(spec: Path, out: Path):
    library = read_library(spec)
    return jobs_of(library, {one.path: "0" * 64 for one in library.checkpoints}, out)


def tensors(path: Path) -> list[torch.Tensor]:
    return list(load_concept(path).tensors.values())


def facts(path: Path) -> dict:
    """How a vector was found, as its record has it."""
    return json.loads(path.with_suffix(".json").read_text())["facts"]


def flux(path: Path, keep=lambda key: True) -> Path:
    keys = ["double_blocks.0.img_attn.norm.key_norm.scale", "guidance_in.in_layer.weight"]
    keys += [f"single_blocks.{i}.linear1.weight" for i in range(6)]
    shapes = {"img_in.weight": (64, 64), "vector_in.in_layer.weight": (64, 16), "txt_in.weight": (64, 16)}
    weights = {f"model.diffusion_model.{key}": torch.zeros(4) for key in keys}
    weights |= {f"model.diffusion_model.{key}": torch.zeros(shape) for key, shape in shapes.items()}
    save_file(weights, path)
    return path


def unet_alone(path: Path) -> Path:
    """The U-Net of SD 1.5's shape as diffusion model files have it: shapes alone decide."""
    shapes = {"input_blocks.0.0.weight": (320, 4, 3, 3), "out.2.weight": (4, 320, 3, 3)}
    shapes |= {"input_blocks.1.0.in_layers.0.weight": (320,), "input_blocks.1.0.out_layers.3.weight": (320, 320, 1, 1)}
    shapes |= {"input_blocks.1.1.proj_in.weight": (320, 320, 1, 1)}
    shapes |= {"input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768)}
    save_file({key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}, path)
    return path


@pytest.fixture(scope="module")
def ray():
    with pytest.MonkeyPatch.context() as environment:
        # Ray lowers the priority of its workers, to which the suite's other processes would leave nothing.
        environment.setenv("RAY_worker_niceness", "0")
        with connected("local") as module:
            yield module


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"checkpoints": []}, "checkpoints: List should have at least 1"),
        ({"checkpoints": ["gone.safetensors"]}, "gone.safetensors: there is no such file; correct the path"),
        ({"concepts": [{}]}, "concepts[0]: empty: name a preset, or write with_concept and without"),
        ({"concepts": ["womann"]}, "'womann' is no preset; there are woman, man"),
        ({"concepts": ["woman", {**OWN, "name": "Woman"}]}, "two concepts are called 'Woman'"),
        ({"concepts": [{**OWN, "subjects": []}]}, "subjects: empty, but 'a woman {subject}' asks for one"),
        ({"settings": {"width": 100}}, "settings.width: 100 must be a multiple of 8"),
        ({"settings": {"steps": 0.5}}, "settings.steps"),
        ({"settings": {"guidance": ".nan"}}, "settings.guidance"),
        ({"concepts": [{"preset": "man", "settings": {"stpes": 3}}]}, "'man', settings: stpes: not known"),
        ({"workers": {"gpus": 0}}, "workers.gpus: Input should be greater than 0"),
        ({"surprise": 1}, "surprise: not known; correct the spelling, or remove it"),
        ({"s" * 9000: 1}, "s" * 400),
    ],
)
def test_faults_of_a_specification_are_one_short_line_each(tmp_path, capsys, changes, said):
    assert main(["build", str(written(tmp_path, **changes)), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hspace-library: ")
    assert said in line
    assert len(line) < 1000
    assert not (tmp_path / "out").exists()


def test_what_is_no_yaml_is_quoted_shortly(tmp_path):
    spec = tmp_path / "library.yaml"
    spec.write_text("a: *" + "x" * 9000)
    with pytest.raises(ValueError, match="found undefined alias") as caught:
        read_library(spec)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (flux, "Flux has no U-Net, and so no bottleneck to steer. Supported are SD 1.x"),
        (unet_alone, "it has no text encoder; a complete checkpoint is needed"),
        (lambda path: path.write_bytes(b"\x01" * 99), "not a readable safetensors file"),
        (lambda path: path.write_bytes(flux(path).read_bytes()[:-9]), "the file is shorter than it says"),
        (lambda path: save_file({"a": torch.zeros(1)}, path), "no image model that ComfyUI knows"),
    ],
)
def test_checkpoints_are_looked_at_without_loading_them(tmp_path, capsys, make, said):
    make(tmp_path / "model.safetensors")
    spec = written(tmp_path, checkpoints=["demo", "model.safetensors"])
    assert main(["build", str(spec), "--out", str(tmp_path / "out"), "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.safetensors: " in line
    assert said in line


def test_a_dry_run_says_what_is_to_be_done_and_writes_nothing(tmp_path, capsys):
    assert main(["build", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "demo/glasses: new" in said
    assert "2 of 2 jobs to do, about 160 U-Net evaluations." in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:9", "nothing answers (Connection refused); start Ray, or use --ray local"),
        ("nowhere", "neither auto nor local nor HOST:PORT"),
    ],
)
def test_ray_that_does_not_answer(tmp_path, capsys, address, said):
    assert main(["build", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--ray", address]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_what_is_missing_on_the_machine(tmp_path, capsys, monkeypatch):
    arguments = ["build", str(written(tmp_path)), "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        assert main(arguments) == 2
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(2**20))
        assert main(arguments) == 2
    (tmp_path / "file").touch()
    assert main([*arguments[:-1], str(tmp_path / "file" / "out")]) == 2
    without, full, no_folder = capsys.readouterr().err.splitlines()
    assert "Ray is not installed: `pip install .[scale]`" in without
    assert "1 MiB are free" in full
    assert "--out: " in no_folder


@pytest.mark.parametrize(
    ("asked", "resources", "expected"),
    [
        ({"device": "gpu"}, {"CPU": 8}, "device: gpu, but Ray sees 0 GPUs"),
        ({"count": 3, "gpus": 1}, {"CPU": 8, "GPU": 2}, "3 workers of 1 GPUs each are more than Ray has (2)"),
        ({"count": 9}, {"CPU": 8}, "9 workers of 1 CPU cores each are more than Ray has (8)"),
        ({}, {"CPU": 16, "GPU": 2}, "2 workers, 1 GPU each"),
        ({"gpus": 0.5}, {"CPU": 16, "GPU": 2}, "4 workers, 0.5 GPU each"),
        ({"device": "cpu"}, {"CPU": 16, "GPU": 2}, "10 workers on CPUs, 1 thread each"),
        ({"threads": 4}, {"CPU": 16}, "4 workers on CPUs, 4 threads each"),
        ({}, {"CPU": 16, "memory": 14e9}, "2 workers on CPUs, 1 thread each"),
    ],
)
def test_how_many_workers_there_are(asked, resources, expected):
    try:
        said = places_for(Workers(**asked), resources, tasks=10, largest=2_000_000_000).in_words()
    except ValueError as error:
        said = str(error)
    assert expected in said


def test_workers_stay_with_their_checkpoint_and_go_where_most_waits():
    tasks = [Task("", name, None, f"{name}{i}") for name, count in {"a": 2, "b": 5}.items() for i in range(count)]
    schedule = Schedule(tasks)
    assert schedule.next("a", Counter()).label == "a0"
    assert schedule.next(None, Counter()).label == "b0"
    assert schedule.next(None, Counter(b=4)).label == "a1"
    assert schedule.next("a", Counter(b=4)).label == "b1"
    schedule.again(tasks[2])
    assert [task.label for task in schedule] == ["b0", "b2", "b3", "b4"]


def test_a_full_disk_is_told_from_other_errors(monkeypatch):
    worker = Worker()
    monkeypatch.setattr(worker, "_load", lambda checkpoint: None)
    for error, again, full in [
        (OSError(28, "No space left on device"), True, True),
        (RuntimeError("CUDA out of memory"), True, False),
        (ValueError("concept: does not fit"), False, False),
    ]:
        monkeypatch.setattr(worker, "_do", lambda *_, error=error: (_ for _ in ()).throw(error))
        answer = worker.run("discover", "demo", None)
        assert (answer["again"], answer["full"]) == (again, full)
        assert str(error) in answer["error"]


def test_a_worker_that_does_not_see_the_library_says_so(tmp_path):
    answer = Worker().begin(0, str(tmp_path / "mark"))
    assert f"does not see {tmp_path}; with several machines it must be on a disk that they share" in answer["error"]


def test_commands_are_those_of_the_package():
    section = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[1].split("[")[0]
    places = re.findall(r'^(\S+) = "(.+):(.+)"$', section, re.MULTILINE)
    assert [command for command, *_ in places] == ["hspace-library", "hspace-evaluate"]
    for _, module, name in places:
        assert callable(getattr(importlib.import_module(module), name))
    nodes = [*(ROOT / "nodes").glob("*.py"), *(ROOT / "hspace").rglob("*.py"), ROOT / "__init__.py"]
    assert not [path for path in nodes if re.search(r"\b(?:hspace_library|ray|pydantic)\b", path.read_text())]


@pytest.fixture(scope="module")
def library(ray, tmp_path_factory):
    """A library built by two workers, one of its checkpoints no checkpoint; its folder, and what the build returned."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "broken.ckpt").write_bytes(b"no checkpoint")
    workers = {"count": 2, "retries": 0}
    spec = written(folder, checkpoints=["demo", "broken.ckpt"], concepts=["glasses", OWN], workers=workers)
    return folder, main(["build", str(spec), "--out", str(folder / "out")])


def test_a_failed_job_is_reported_and_the_others_go_on(library):
    folder, status = library
    assert status == 1
    entries = json.loads((folder / "out" / "index.json").read_text())["concepts"]
    states = [(entry["checkpoint"], entry["concept"], entry["state"]) for entry in entries]
    assert states == [
        (name, concept, state)
        for name, state in (("demo", "finished"), ("broken", "failed"))
        for concept in ("glasses", "<b>cook</b>")
    ]
    assert all("broken.ckpt: ComfyUI cannot load this file (" in entry["error"] for entry in entries[2:])
    for entry in entries[:2]:
        assert load_concept(folder / "out" / entry["file"]).name == entry["concept"]
        assert len(entry["pictures"]) == 2
        assert all((folder / "out" / name).stat().st_size for name in entry["pictures"])


def test_reports_hold_their_pictures_and_no_markup_of_strangers(library):
    out = library[0] / "out"
    page, overview = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert page.count('src="data:image/') == 4
    assert not re.search(r"https?://|<script|<b>", page)
    assert "&lt;b&gt;cook&lt;/b&gt;" in page
    assert r"\<b\>cook" in overview
    assert "2 finished, 2 failed." in overview
    card = (out / "demo" / "glasses.md").read_text()
    assert "a firefighter wearing glasses" in card
    assert "![glasses.png](<glasses.png>)" in card


def test_prompts_to_keep_are_a_part_of_a_job(tmp_path, demo_model):
    """Those of a preset, and one's own; another one makes it another job."""
    (preset,) = jobs_in(written(tmp_path, concepts=["no weapon"]), tmp_path)
    pairs = encoded_pairs(demo_model[1], preset)
    assert len(pairs.keep) == len(pairs.base) == len(pairs.avoid) == 6
    assert pairs.texts["keep_prompt"].startswith("a firefighter | a cook")
    jobs = [jobs_in(written(tmp_path, concepts=[{**OWN, "keep": keep}]), tmp_path)[0] for keep in ("a mage", "a judge")]
    assert [job.keep for job in jobs] == [("a mage",), ("a judge",)]
    assert jobs[0].digest != jobs[1].digest
    with pytest.raises(ValueError, match="keep: 'a cook' is a prompt of without as well"):
        read_library(written(tmp_path, concepts=[{**OWN, "keep": "a cook"}]))


def test_the_vector_is_the_node_s(library, demo_model, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers have it
    prompts = run_node("HSpaceConceptPrompts", clip=demo_model[1], preset="glasses")
    names = ("concept", "base", "empty")
    inputs = {name: prompts[place] for name, place in zip(names, (0, 1, 3), strict=True)}
    vector, *_ = run_node("HSpaceDiscoverConcept", model=demo_model[0], name="glasses", **inputs, **SETTINGS)
    torch.set_num_threads(threads)
    found = library[0] / "out" / "demo" / "glasses.safetensors"
    assert torch.equal(load_concept(found).tensor, vector.tensor)
    assert facts(found) == vector.provenance.to_strings()


@pytest.mark.parametrize(
    ("kind", "family", "prediction", "channels_in"),
    [
        ("SD 1.5 reduced", "SD15", "EPS", 4),
        ("SD 1.5 inpainting reduced", "SD15", "EPS", 9),
        ("SD 2.1 v reduced", "SD20", "V_PREDICTION", 4),
        ("SDXL reduced", "SDXL", "EPS", 4),
    ],
)
def test_a_complete_checkpoint_file(tmp_path, kind, family, prediction, channels_in):
    """Its family's shape in a small U-Net, beside a text encoder of full size and a VAE: ComfyUI's own loader."""
    file = tmp_path / "sd.safetensors"
    save_file(random_checkpoint(kind), file)
    one_pair = {"name": "cook", "with_concept": "a cook", "without": "a person"}
    settings = {"steps": 2, "sample_count": 1, "batch_size": 1, "width": 64, "height": 64, "calibrate": False}
    spec = written(tmp_path, checkpoints=[str(file)], concepts=[one_pair], settings=settings, strips={})
    (job,) = jobs_in(spec, tmp_path / "out")
    check_checkpoint(Checkpoint(path=str(file)))
    loaded = load(str(file))
    record = run_job(loaded, job, lambda done, of: None)
    vector = load_concept(job.vector_path)
    assert (vector.family, vector.tensor.shape) == (family, (320, 1, 1))
    assert loaded.model.model.model_type.name == prediction
    assert loaded.model.model.diffusion_model.in_channels == channels_in
    assert torch.isfinite(vector.tensor).all()
    assert vector.tensor.any()
    assert record["facts"]["concept_prompt"] == "a cook"
    assert job.beside(".png").stat().st_size
    images = sample(
        loaded, apply_steering(loaded.model, vector, 1.0), "a cook", [0], width=64, height=64, steps=1, cfg=7
    )
    assert images.shape == (1, 64, 64, 3)


class Killer(Listener):
    """Kills the worker of the first task that is under way, once, as `kill -9` does."""

    def __init__(self):
        self.engine, self.workers, self.killed, self.said_texts = None, {}, "", []

    def began(self, task, worker):
        self.workers[task.label] = worker

    def progressed(self, task, done, of):
        if not self.killed and 2 <= done < of:
            os.kill(self.engine.workers[self.workers[task.label]]["pid"], signal.SIGKILL)
            self.killed = task.label

    def said(self, text):
        self.said_texts.append(text)


def test_a_killed_worker_costs_a_moment_and_not_a_bit(library, ray, tmp_path):
    """Another one goes on from what it left, and finds the vector that nobody interrupted."""
    job = jobs_in(written(tmp_path, strips={}), tmp_path)[0]
    (tmp_path / "mark").touch()
    killer = Killer()
    engine = killer.engine = Engine(
        ray, places_for(Workers(count=1), {"CPU": 2}, 1, 0), str(tmp_path / "mark"), 1, killer
    )
    (outcome,) = engine.run([Task("discover", job.checkpoint, job, job.label)])
    engine.close()
    assert killer.killed == job.label
    assert "its worker died" in killer.said_texts[0]
    assert (outcome.attempts, outcome.error) == (2, "")
    assert job.record()["resumed"] >= 2
    first = library[0] / "out" / "demo" / job.vector_path.name
    assert all(map(torch.equal, tensors(job.vector_path), tensors(first)))
    assert facts(job.vector_path) == facts(first)
    assert not list((tmp_path / ".unfinished").iterdir())


def test_an_evaluation_end_to_end(ray, tmp_path, capsys):
    """By one worker; again, it needs none."""
    arguments = ["fair", "--checkpoint", "demo", "--vectors", str(ROOT / "vectors"), "--out", str(tmp_path)]
    arguments += ["--attribute", "gender", "--profession", "judge", "--images", "2", "--steps", "1", "--workers", "1"]
    assert evaluate(arguments) == 0
    said = capsys.readouterr().out
    assert "3 of 3 rows to do: 6 images, 12 U-Net evaluations." in said
    assert re.search(r"1 worker on CPUs, 1 thread each: about .+ s and \d+\.\d GiB of memory a", said)
    table = (tmp_path / "fair.md").read_text()
    assert "| judge | " in table
    assert "| published (SD 1.4) | 0.68 | – | 0.17 |" in table
    figures = json.loads((tmp_path / "fair.json").read_text())
    assert len(figures["figures"]) == 6
    assert not figures["failed"]
    assert "<td>published (SD 1.4)</td>" in (tmp_path / "fair.html").read_text()
    assert evaluate([*arguments, "--ray", "127.0.0.1:9"]) == 0
    assert "0 of 3 rows to do" in capsys.readouterr().out


def test_what_is_finished_is_known_again(library, capsys):
    """No Ray is needed for it; what changed is found anew, and what is not a build's is never replaced."""
    folder, _ = library
    out, spec = folder / "out", written(folder)
    assert main(["build", str(spec), "--out", str(out), "--ray", "127.0.0.1:9"]) == 0
    assert "0 of 2 jobs to do" in capsys.readouterr().out
    changed = written(folder, settings={**SETTINGS, "seed": 6}, strips={})
    assert main(["build", str(changed), "--out", str(out), "--dry-run"]) == 0
    assert "demo/glasses: changed, found anew" in capsys.readouterr().out
    assert main(["build", str(written(folder, strips={})), "--out", str(out), "--dry-run"]) == 0
    assert f"demo/glasses: {State.PICTURES.value}" in capsys.readouterr().out
    vector = out / "demo" / "glasses.safetensors"
    content = vector.read_bytes()
    vector.write_bytes(content + b" ")
    assert main(["build", str(spec), "--out", str(out)]) == 2
    assert "it was changed since a build wrote it, and would be replaced" in capsys.readouterr().err
    vector.write_bytes(content)
