"""What only a GPU can show: half precision end to end, devices followed, the model offloaded again."""

import comfy.model_management
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from helpers import Notes, conditioning, random_vector, sample, tiny_model
from hspace.discovery import DiscoverySettings, PromptPairs, discover
from hspace.steering import apply_steering

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def cuda_model(dtype):
    model = tiny_model(dtype=dtype)
    model.load_device = comfy.model_management.get_torch_device()
    return model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_steered_sampling(dtype):
    model = cuda_model(dtype)
    plain, steered = sample(model), sample(apply_steering(model, random_vector(), 2.0))
    assert torch.isfinite(steered).all()
    assert not torch.equal(plain, steered)
    assert torch.equal(sample(apply_steering(model, random_vector(), 0.0)), plain)


@pytest.mark.parametrize("method", ["distilled", "paper"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_discovery_in_half_precision(method, dtype):
    settings = DiscoverySettings("test", method, steps=6, batch_size=2, sample_count=4, width=128, height=128)
    with torch.inference_mode():
        found = discover(cuda_model(dtype), PromptPairs(conditioning(1), conditioning(2)), settings)
    assert found.vector.tensor.device.type == "cpu"
    assert torch.isfinite(found.vector.tensor).all()
    assert found.vector.tensor.abs().mean() > 0


def in_one_order(*arguments, attention=torch.nn.functional.scaled_dot_product_attention, **options):
    with sdpa_kernel(SDPBackend.MATH):
        return attention(*arguments, **options)


def vector_of(model) -> torch.Tensor:
    settings = DiscoverySettings("test", steps=6, batch_size=2, sample_count=2, width=128, height=128)
    with torch.inference_mode():
        return discover(model, PromptPairs(conditioning(1), conditioning(2)), settings).vector.tensor


def test_a_model_larger_than_what_it_may_use(monkeypatch):
    """Loaded in part, as without dynamic VRAM: layers fetch their weights at every call, through shared buffers."""
    # Other kernels round or add in another order, and Adam makes much of it in its first steps.
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", in_one_order)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    wanted = vector_of(cuda_model(torch.float32))
    monkeypatch.setattr(comfy.model_management, "vram_state", comfy.model_management.VRAMState.NO_VRAM)
    model = cuda_model(torch.float32)
    sample(model, steps=1)
    torch.testing.assert_close(vector_of(model), wanted, rtol=1e-4, atol=1e-5)


def test_memory_that_runs_out_in_a_step():
    """Room for one image's activations and a half, where eight were asked for: fewer pass the model at a time."""

    def found(batch_size, observer=None):
        settings = DiscoverySettings("test", steps=3, batch_size=batch_size, sample_count=8, width=1024, height=1024)
        with torch.inference_mode():
            pairs = PromptPairs(conditioning(1), conditioning(2))
            return discover(cuda_model(torch.float32), pairs, settings, observer=observer)

    peaks = []
    for batch_size in (1, 8):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        plain = found(batch_size)
        peaks.append(torch.cuda.max_memory_allocated())
    torch.cuda.empty_cache()
    room = sum(peaks) // 2
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    try:
        observer = Notes()
        scarce = found(8, observer)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("Memory ran out" in text for text in observer.texts)
    torch.testing.assert_close(scarce.vector.tensor, plain.vector.tensor, rtol=0.05, atol=1e-3)
