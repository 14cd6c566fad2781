"""What only a GPU can show: half precision end to end, devices followed, the model offloaded again."""

import comfy.model_management
import pytest
import torch

from helpers import conditioning, random_vector, sample, tiny_model
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
