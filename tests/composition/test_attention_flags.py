"""ComfyUI's attention flags, which are read when it starts: each in a process of its own."""

import os
import subprocess
import sys

import pytest

from helpers import ROOT
from scripts.comfyui import comfyui_folder

# flag: the function that ComfyUI then uses
FLAGS = {
    "use_split_cross_attention": "attention_split",
    "use_quad_cross_attention": "attention_sub_quad",
    "use_pytorch_cross_attention": "attention_pytorch",
}
SCRIPT = """
from comfy.cli_args import args
setattr(args, "{flag}", True)
from scripts.comfyui import load_pack
load_pack()
from composition import builders as b
import torch
from comfy.ldm.modules import attention
from hspace.discovery import DiscoverySettings, PromptPairs, discover
from hspace.steering import apply_steering

assert attention.optimized_attention.__name__ == "{function}", attention.optimized_attention
model = b.build("small")
v = b.vector_for(model)
steered = b.sample(apply_steering(model, v, 3.0))
with b.steered_by_hand(model, v, 3.0) as by_hand:
    torch.testing.assert_close(steered, b.sample(by_hand), rtol=1e-4, atol=1e-4)
with torch.inference_mode():
    settings = DiscoverySettings("test", steps=3, batch_size=2, sample_count=2, width=128, height=128)
    discovery = discover(model, PromptPairs(b.conditioning(model, 1), b.conditioning(model, 2)), settings)
assert discovery.vector.tensor.abs().mean() > 0
"""


@pytest.mark.parametrize("flag", FLAGS)
def test_attention_flag(flag):
    script = SCRIPT.format(flag=flag, function=FLAGS[flag])
    path = os.pathsep.join(map(str, (comfyui_folder(), ROOT, ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
