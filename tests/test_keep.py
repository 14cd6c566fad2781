"""Prompts to keep: what a vector must leave as it is has no say in anything but that."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import pytest
import torch

from helpers import Stop, conditioning, tiny_model
from hspace.discovery import DISTILLED, DiscoverySettings, Observer, PromptPairs, discover, distilled
from hspace.discovery.objective import alike, relative_reach, squared_error
from hspace.discovery.prompt_pairs import PreparedPairs
from hspace.discovery.run import Run

KEPT = conditioning(7)
SMALL = {"batch_size": 4, "sample_count": 8, "width": 128, "height": 128, "calibrate": False}


def find(keep, observer=None, start_from=None, recipe=None, samples=None, avoid=None, **changes):
    """A discovery of one pair inside inference mode, as a node runs it."""
    pairs = PromptPairs(conditioning(1), conditioning(2), avoid, keep=keep)
    settings = DiscoverySettings("test", **{**SMALL, "steps": 4, **changes})
    with torch.inference_mode():
        return discover(tiny_model(), pairs, settings, samples, start_from, observer, recipe)


@pytest.mark.parametrize("avoid", [None, conditioning(9)])
def test_a_teacher_asks_for_no_change_of_them(avoid):
    asked = []

    def target(predictions, guidance):
        wanted = DISTILLED.target(predictions, guidance)
        asked.append((wanted - predictions["base"]).flatten(1).norm(dim=1))
        return wanted

    find(KEPT, recipe=replace(DISTILLED, target=target), avoid=avoid)
    for change in asked:
        least, most = change.sort().values.chunk(2)
        assert least.max() < 1e-4 * most.min()


def test_the_reach_is_that_of_the_pairs(monkeypatch):
    """Half of the images have no concept to reach; counted in, they would halve it."""
    measured = []

    def spy(predicted, *others):
        measured.append(len(predicted))
        return relative_reach(predicted, *others)

    monkeypatch.setattr(distilled, "relative_reach", spy)
    find(KEPT, steps=8)
    assert measured == [2, 2]  # of four images, in the last quarter of the steps


def test_ranges_are_measured_and_previews_made_without_them(monkeypatch):
    batches, asked = [], []
    of_batch, prompts_of = PreparedPairs.of_batch, PreparedPairs.prompts_of

    def spy_of_batch(self, *args, keep=True):
        batches.append((keep, of_batch(self, *args, keep=keep)))
        return batches[-1][1]

    def spy_prompts_of(self, role, pairs):
        asked.append((role, pairs))
        return prompts_of(self, role, pairs)

    class WithPreviews(Observer):
        preview_every = 1

    monkeypatch.setattr(PreparedPairs, "of_batch", spy_of_batch)
    monkeypatch.setattr(PreparedPairs, "prompts_of", spy_prompts_of)
    find(KEPT, WithPreviews(), measure_range=True, batch_size=8, width=64, height=64)
    assert asked[0] == ("base", [0, 0])  # the preview's images
    learnt = [pair for keep, pairs in batches if keep for pair in pairs]
    measured = [pair for keep, pairs in batches if not keep for pair in pairs]
    assert set(learnt) == {0, 1}
    assert set(measured) == {0}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_image_to_keep_counts_alike_by_itself_and_beside_others(batch_size):
    """Of a step that holds nothing else, no share of what is asked could be taken."""
    found = find(KEPT, batch_size=batch_size, steps=24 // batch_size, sample_count=4)
    assert max(found.losses) < 100
    assert found.vector.tensor.abs().mean() > 0


def test_one_image_at_a_time_is_the_same(monkeypatch):
    """To the last digits where errors are no shares, and about so where small changes count by those of their part."""

    def in_parts(self, work, images):
        return torch.cat([work(slice(image, image + 1)) for image in range(images)])

    recipe = replace(DISTILLED, error=squared_error, weight=alike)
    whole, exact = find(KEPT), find(KEPT, recipe=recipe)
    monkeypatch.setattr(Run, "in_parts", in_parts)
    parts, exact_parts = find(KEPT), find(KEPT, recipe=recipe)
    assert exact_parts.losses == pytest.approx(exact.losses, rel=1e-3)
    assert parts.losses == pytest.approx(whole.losses, rel=0.3)
    torch.testing.assert_close(parts.vector.tensor, whole.vector.tensor, rtol=0.5, atol=0.1)


def test_a_stopped_discovery_goes_on_to_the_same_bits():
    observer, whole = Stop(2), find(KEPT)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        find(KEPT, observer)
    resumed = find(KEPT, start_from=observer.unfinished)
    assert resumed.losses == whole.losses
    for site, tensor in whole.vector.tensors.items():
        assert torch.equal(resumed.vector.tensors[site], tensor)
    for sums in (
        {"asked": torch.tensor([-1.0, 4.0])},
        {"clear_reach": torch.tensor([1.0, -4.0])},
        {"reach": torch.tensor([torch.nan, 4.0])},
        {"clear_reach": torch.ones(3)},
    ):
        damaged = replace(observer.unfinished, state={**observer.unfinished.state, **sums})
        with pytest.raises(ValueError, match="the file is damaged"):
            find(KEPT, start_from=damaged)


def test_more_to_keep_than_there_are_pairs_and_one_avoid_for_all():
    pairs = PromptPairs(
        conditioning(1, entries=2), conditioning(2, entries=2), conditioning(9), keep=conditioning(7, entries=3)
    )
    assert len(pairs.with_roles()) == 3 * 5
    found = find(conditioning(7, entries=3), avoid=conditioning(9))
    assert found.vector.tensor.abs().mean() > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep": conditioning(2)}, "keep: prompt 1 is one of base"),
        ({"samples": torch.zeros(2, 4, 16, 16)}, "keep: works where discovery samples its own"),
        ({"method": "paper"}, "keep: works where discovery samples its own"),
        ({"keep": [[torch.ones(1, 7, 24), {}]]}, "keep: .* 24 wide, .* 16. Connect the CLIP of"),
        ({"keep": [[torch.zeros(1, 7, 16), {"mask": torch.ones(1, 8, 8)}]]}, "keep: .*mask"),
    ],
)
def test_errors_name_the_input(changes, words):
    with pytest.raises(ValueError, match=words):
        find(**{"keep": KEPT, **changes})
