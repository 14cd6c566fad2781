"""ComfyUI's attention flags, which are read when it starts: each in a process of its own."""

import subprocess
import sys

import pytest
from hspace_test_helpers import ROOT

# flag: the function that ComfyUI then uses
FLAGS = {
    "use_split_cross_attention": "attention_split",
    "use_quad_cross_attention": "attention_sub_quad",
    "use_pytorch_cross_attention": "attention_pytorch",
}
SCRIPT = """
import importlib.util, sys
sys.path.insert(0, "scripts")
import run_module
run_module.add_comfyui_to_path()
from comfy.cli_args import args
setattr(args, "{flag}", True)
run_module.load_pack()

def by_path(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]

by_path("hspace_test_helpers", "tests/helpers.py")
b = by_path("hspace_composition", "tests/composition/builders.py")
import torch
from comfy.ldm.modules import attention
from hspace_steering.hspace.discovery import discover
from hspace_steering.hspace.settings import DiscoverySettings
from hspace_steering.hspace.steering import apply_steering

assert attention.optimized_attention.__name__ == "{function}", attention.optimized_attention
model = b.build("small")
v = b.vector_for(model)
steered = b.sample(apply_steering(model, v, 3.0))
with b.steered_by_hand(model, v, 3.0) as by_hand:
    torch.testing.assert_close(steered, b.sample(by_hand), rtol=1e-4, atol=1e-4)
with torch.inference_mode():
    settings = DiscoverySettings("test", steps=3, batch_size=2, sample_count=2, width=128, height=128)
    found = discover(model, b.conditioning(model, 1), b.conditioning(model, 2), settings)
assert found.direction.tensor.abs().mean() > 0
"""


@pytest.mark.parametrize("flag", FLAGS)
def test_attention_flag(flag):
    script = SCRIPT.format(flag=flag, function=FLAGS[flag])
    run = subprocess.run([sys.executable, "-P", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
