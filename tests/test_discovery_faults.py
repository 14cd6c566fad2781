"""Discovery under faults: stopped anywhere, out of memory, watched by what fails."""

import logging
import subprocess
import sys
from dataclasses import replace

import comfy.model_management
import pytest
import torch
from hspace_steering.nodes.editor import NodeObserver

from helpers import ROOT, Notes, conditioning, run_node, tiny_model
from hspace.discovery import DiscoverySettings, PromptPairs, discover
from hspace.files import autosave, load_concept

FAST = {
    "steps": 12,
    "batch_size": 2,
    "sample_count": 4,
    "width": 128,
    "height": 128,
    "learning_rate": 1.0,
    "calibrate": False,
}
OUT_OF_MEMORY = comfy.model_management.OOM_EXCEPTION


class Killed(BaseException):
    """Stands for the end of the process: nothing of the pack runs after it."""


class Keeps(Notes):
    """Keeps what a run says, and the vector of a step as a process that is killed after it leaves it behind."""

    def __init__(self, step=None):
        super().__init__()
        self.kept, self.last = None, step

    def step(self, progress):
        if progress.step == self.last:
            self.kept = progress.vector()
            raise Killed


def find(observer=None, model=None, start_from=None, samples=None, **changes):
    settings = DiscoverySettings("test", **{**FAST, **changes})
    with torch.inference_mode():
        pairs = PromptPairs(conditioning(1, entries=2), conditioning(2, entries=2))
        return discover(model or tiny_model(), pairs, settings, samples, start_from, observer)


def stopped_at(step, **changes):
    observer = Keeps(step)
    with pytest.raises(Killed):
        find(observer, **changes)
    return observer.kept


def same(found, expected):
    assert torch.equal(found.vector.tensor, expected.vector.tensor)
    assert found.losses == expected.losses
    assert found.vector.provenance == expected.vector.provenance


@pytest.fixture(scope="module")
def whole():
    """A sampling run of eight states and half of another; the reach is measured over the last three."""
    found = find()
    assert found.vector.provenance.reach
    return found


@pytest.mark.parametrize("step", [1, 7, 8, 10])
def test_a_run_that_was_killed_after_any_step_goes_on_to_the_same_bits(step, whole, tmp_path):
    from hspace.files import save_concept

    path = save_concept(stopped_at(step), tmp_path / "vector.safetensors")
    same(find(start_from=load_concept(path)), whole)


def test_other_settings_begin_a_new_sampling_run_and_say_so():
    observer = Keeps()
    found = find(observer, start_from=stopped_at(4), batch_size=3)
    assert len(found.losses) == 12
    assert "new sampling runs" in " ".join(observer.texts)


def test_a_run_that_went_on_with_new_sampling_runs_goes_on_from_those_too():
    """Its sampling runs began with a step of their own, not with the first."""
    start, other = stopped_at(4), {"batch_size": 3}
    same(find(start_from=stopped_at(9, start_from=start, **other), **other), find(start_from=start, **other))


def test_fewer_steps_than_before_the_sampling_runs_began_anew():
    """Runs of 8 states began at step 9; one of two steps goes on at its last."""
    kept = stopped_at(11, start_from=stopped_at(9), batch_size=3)
    observer = Keeps()
    assert len(find(observer, start_from=kept, batch_size=3, steps=2).losses) == 2
    assert "new sampling runs" in " ".join(observer.texts)


@pytest.mark.parametrize("began", [float("nan"), -1.0, 0.5, 99.0])
def test_a_damaged_sampling_run_is_refused(began):
    partial = stopped_at(4)
    damaged = replace(partial, state={**partial.state, "began": torch.tensor(began).double()})
    with pytest.raises(ValueError, match="start_from: the saved sampling run"):
        find(start_from=damaged)


@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_memory_that_runs_out_takes_smaller_parts_and_then_recomputes(method, monkeypatch):
    """More than one image at a time, or an image whose activations are kept, is too much from step 3 on."""
    from hspace.discovery import run

    samples = torch.randn(6, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    options = {"method": method, "samples": samples, "steps": 6, "batch_size": 3}
    plain, observer, parts = find(**options), Keeps(), []
    backward = run.Run.backward

    def scarce(self, errors, *more):
        parts.append(len(errors))
        if self.optimiser.step >= 2 and (len(errors) > 1 or self.recompute is not None):
            raise OUT_OF_MEMORY("simulated")
        backward(self, errors, *more)

    monkeypatch.setattr(run.Run, "backward", scarce)
    found = find(observer, **options)
    assert parts[:7] == [3, 3, 3, 2, 1, 1, 1]
    assert set(parts[7:]) == {1}
    assert len(observer.texts) == 4  # the first one is on the empty prompt
    assert "2 images pass the model at a time" in " ".join(observer.texts)
    assert "gradient_checkpointing was switched on" in observer.texts[-1]
    expected = plain.vector.tensor
    assert (found.vector.tensor - expected).norm() < 0.05 * expected.norm()


def test_too_little_memory_for_one_image_stops_with_the_vector_so_far(monkeypatch, vector_folder):
    from hspace.discovery import run

    backward = run.Run.backward

    def none_left(self, errors, *more):
        if self.optimiser.step >= 3:
            raise OUT_OF_MEMORY("simulated")
        backward(self, errors, *more)

    monkeypatch.setattr(run.Run, "backward", none_left)
    with pytest.raises(OUT_OF_MEMORY):
        find(NodeObserver(tiny_model(), 12, "test", 0, None))
    (path,) = vector_folder.glob("partial/*.safetensors")
    assert load_concept(path).provenance.steps == 3


def test_an_autosave_that_fails_is_one_warning_and_the_run_goes_on(monkeypatch, vector_folder, caplog, whole):
    monkeypatch.setattr(autosave, "EVERY", 0.0)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(autosave, "save_concept", full)
    with caplog.at_level(logging.WARNING):
        same(find(NodeObserver(tiny_model(), 12, "test", 0, None)), whole)
    assert sum("No space left" in record.message for record in caplog.records) == 1
    assert not list(vector_folder.rglob("*.safetensors"))


class Interrupts(NodeObserver):
    def step(self, progress):
        super().step(progress)
        if progress.step == 3:
            comfy.model_management.interrupt_current_processing()


def test_a_cancel_stays_a_cancel_where_the_vector_cannot_be_saved(monkeypatch, vector_folder):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(autosave, "save_concept", full)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        find(Interrupts(tiny_model(), 12, "test", 0, None))


@pytest.mark.parametrize("method", ["stopped", "finished"])
def test_an_observer_that_fails_hides_neither_vector_nor_reason(method, whole, caplog):
    class Broken(Keeps):
        pass

    def broken(self, vector):
        raise RuntimeError("the observer is broken")

    setattr(Broken, method, broken)
    if method == "finished":
        same(find(Broken()), whole)
    else:
        with pytest.raises(Killed):
            find(Broken(3))
    assert "could not be reported" in caplog.text


def test_a_partial_file_that_cannot_be_removed_is_a_warning(monkeypatch, vector_folder, caplog, whole):
    def locked(self):
        raise PermissionError("held by another program")

    monkeypatch.setattr(autosave.PartialFile, "discard", locked)
    same(find(NodeObserver(tiny_model(), 12, "test", 0, None)), whole)
    assert "held by another program" in caplog.text


KILLED = """
import sys
import torch
from scripts.comfyui import load_pack
load_pack()
sys.path.insert(0, "tests")
import folder_paths
folder_paths.add_model_folder_path("concept_vectors", sys.argv[1], is_default=True)
from hspace_steering.nodes.editor import NodeObserver
from helpers import tiny_model
from hspace.files import autosave
from test_discovery_faults import find
autosave.EVERY = 0.0
class Tells(NodeObserver):
    def step(self, progress):
        super().step(progress)
        print(progress.step, flush=True)
find(Tells(tiny_model(), 12, "test", 0, None))
"""


@pytest.mark.parametrize("step", [2, 10])
def test_kill_9_leaves_a_file_that_goes_on_to_the_same_bits(step, whole, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        for line in process.stdout:
            if line.strip() == str(step):
                process.kill()
                break
    partial = load_concept(tmp_path / "partial" / "test.safetensors")
    assert partial.provenance.steps in (step, step + 1)
    same(find(start_from=partial), whole)


@pytest.mark.parametrize(
    "name", ["x" * 300, "é" * 150, "\N{GRINNING FACE}" * 80, "..", ".", "CON", "two\nlines", "a/b\\c", "\ud800"]
)
def test_any_name_is_made_safe_before_the_first_step(name, vector_folder, monkeypatch):
    monkeypatch.setattr(autosave, "EVERY", 0.0)
    prompts = {"concept": conditioning(1), "base": conditioning(2)}
    sizes = {"steps": 1, "batch_size": 1, "sample_count": 1, "width": 64, "height": 64}
    saved, save = [], autosave.PartialFile.save
    monkeypatch.setattr(autosave.PartialFile, "save", lambda self, vector: saved.append(save(self, vector)))
    vector, *_ = run_node("HSpaceDiscoverConcept", model=tiny_model(), name=name, **prompts, **sizes)
    assert 0 < len(vector.name) <= 200
    assert "\n" not in vector.name
    (path,) = saved
    assert path.parent == vector_folder / "partial"
    assert len(path.name.encode()) <= 255


def test_a_folder_that_cannot_be_written_is_said_before_the_first_step(monkeypatch, vector_folder, caplog):
    (vector_folder / "partial").write_text("not a folder")
    monkeypatch.setattr(autosave, "EVERY", 0.0)
    with caplog.at_level(logging.WARNING):
        observer = NodeObserver(tiny_model(), 12, "test", 0, None)
        assert "cannot be saved while it runs" in caplog.text
        assert find(observer).vector.provenance.steps == 12
    assert sum("cannot be saved" in record.message for record in caplog.records) == 1
