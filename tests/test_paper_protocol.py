"""`method = paper` against what the authors' code does: amounts, start, order of the images, sampler, empty prompt."""

from dataclasses import replace
from itertools import chain

import comfy.sample
import comfy.samplers
import diffusers
import pytest
import torch

from helpers import Notes, conditioning, tiny_model
from hspace.discovery import PAPER, DiscoverySettings, PromptPairs, discover
from hspace.discovery.samples import SampleBatches, published_sigmas


def find(observer=None, samples=None, empty=None, recipe=None, **changes):
    values = {"method": "paper", "steps": 1, "batch_size": 2, "sample_count": 2, "width": 64, "height": 64, **changes}
    with torch.inference_mode():
        pairs = PromptPairs(conditioning(1), conditioning(2), empty=empty)
        return discover(tiny_model(), pairs, DiscoverySettings("test", **values), samples, None, observer, recipe)


def test_choosing_it_gives_the_published_amounts():
    settings = DiscoverySettings("test", method="paper")
    assert (settings.sample_count, settings.steps, settings.batch_size) == (1000, 2500, 8)
    assert settings.learning_rate == 0.1
    distilled = DiscoverySettings("test")
    assert (distilled.sample_count, distilled.steps) == (112, 125)


def test_noise_levels_are_those_of_the_authors_sampler():
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    scheduler.set_timesteps(30)
    timesteps = list(dict.fromkeys(scheduler.timesteps.tolist()))  # the second one comes twice
    alphas = [*scheduler.alphas_cumprod[timesteps].tolist(), scheduler.final_alpha_cumprod.item()]
    expected = [((1 - alpha) / alpha) ** 0.5 for alpha in alphas]
    sampling = tiny_model().get_model_object("model_sampling")
    assert published_sigmas(sampling).tolist()[:-1] == pytest.approx(expected[:-1], rel=1e-3)
    assert len(expected) == 31


def test_starts_from_a_uniform_distribution():
    starts = []

    def states(run, samples):
        starts.append(run.optimiser.tensors[0].detach().clone())
        return PAPER.states(run, samples)

    for seed in (0, 0, 1):
        find(recipe=replace(PAPER, states=states), seed=seed)
    assert 0.09 < starts[0].abs().max() <= 0.1
    assert starts[0].mean().abs() < 0.02
    assert starts[0].std() == pytest.approx(0.1 / 3**0.5, rel=0.1)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_every_image_comes_once_an_epoch_in_another_order_each_time():
    drawn = []

    def states(run, samples):
        batches = SampleBatches(run, samples)
        while not run.finished:
            x0, _, _ = batches.next()
            drawn.append((x0[:, 0, 0, 0] / 0.18215).round().int().tolist())
            run.optimiser.losses.append(0.0)
        return batches.first

    samples = torch.arange(7.0).view(7, 1, 1, 1).expand(7, 4, 8, 8).clone()
    find(recipe=replace(PAPER, states=states), samples=samples, steps=8)
    epochs = [list(chain(*drawn[:4])), list(chain(*drawn[4:]))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 2
    assert epochs[0] != epochs[1]
    assert [len(batch) for batch in drawn].count(1) == 2


def test_images_are_sampled_against_the_empty_prompt(monkeypatch):
    calls = []
    sample_custom = comfy.sample.sample_custom

    def watched(model, noise, cfg, sampler, sigmas, positive, negative, *args, **kwargs):
        calls.append((cfg, sampler.sampler_function.__name__, len(sigmas) - 1, negative))
        return sample_custom(model, noise, cfg, sampler, sigmas[-2:], positive, negative, *args, **kwargs)

    monkeypatch.setattr(comfy.sample, "sample_custom", watched)
    empty = conditioning(7)
    find(empty=empty)
    find()
    assert [call[:3] for call in calls] == [(7.5, "sample_ipndm", 30)] * 2
    assert calls[0][3] is empty
    assert calls[1][3][0][0].abs().max() == 0


@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_the_empty_prompt_is_the_unconditional_half(method):
    """Discovery's own guidance takes it too, so that another one gives another vector."""
    samples = None if method == "distilled" else torch.zeros(2, 4, 8, 8)
    options = {"method": method, "samples": samples, "steps": 12, "sample_count": 2}
    same = [find(**options).vector.tensor, find(empty=conditioning(7), **options).vector.tensor]
    assert torch.equal(*same) is (method == "paper")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "2 images, 1 steps of 2; published: 1000 images of one pair, 2500 steps of 8"),
        ({"sites": "decoder", "learning_rate": 0.2}, "sites, learning_rate: not as published"),
        ({"method": "distilled"}, "zeros stand for the empty prompt"),
    ],
)
def test_says_what_it_does_otherwise(changes, words):
    observer = Notes()
    find(observer, **changes)
    assert words in " ".join(observer.texts)
    observer = Notes()
    find(observer, empty=conditioning(7), method="distilled")
    assert not observer.texts
