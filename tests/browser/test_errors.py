"""What an artist can do wrong in the main workflow, done once: the editor shows it at the node, with what to do."""

import pytest
import safetensors.torch
import torch
from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT

from hspace import Vector, save_concept

QUICK = {
    "HSpaceDiscoverConcept": {"steps": 1, "batch_size": 1, "sample_count": 1, "measure_range": False},
    "KSampler": {"steps": 1},
    "EmptyLatentImage": {"batch_size": 1},
}
HANDS = """
const prompts = 'HSpaceConceptPrompts', discover = 'HSpaceDiscoverConcept', save = 'HSpaceSaveConcept';
const apply = 'HSpaceApplySteering', of = kind => app.graph.nodes.find(node => node.type === kind);
const fill = (node, values) => {
    for (const [name, value] of Object.entries(values)) node.widgets.find(w => w.name === name).value = value;
    return node;
};
const set = (kind, values) => fill(of(kind), values);
const input = (kind, name) => of(kind).inputs.findIndex(slot => slot.name === name);
const cut = (kind, name) => of(kind).disconnectInput(input(kind, name));
const link = (node, output, kind, name) =>
    node.connect(node.outputs.findIndex(slot => slot.name === output), of(kind), input(kind, name));
const add = (kind, values) => {
    const node = LiteGraph.createNode(kind);
    app.graph.add(node);
    return fill(node, values);
};
const load = (file, kind, name) => link(add('HSpaceLoadConcept', {concept_name: file}), 'concept', kind, name);
"""
PROMPTS, DISCOVER, SAVE = "HSpaceConceptPrompts", "HSpaceDiscoverConcept", "HSpaceSaveConcept"
LOAD, APPLY = "HSpaceLoadConcept", "HSpaceApplySteering"
WHEN_QUEUED = {
    "set(prompts, {with_concept: ' '})": (PROMPTS, "with_concept: there is no prompt; write one"),
    "set(prompts, {without: ''})": (PROMPTS, "without: there is no prompt; write one"),
    "set(prompts, {with_concept: 'a {subject}'})": (PROMPTS, "Name the concept in with_concept only, or write"),
    "set(prompts, {with_concept: 'a woman {subject}\\na lady'})": (
        PROMPTS,
        "'a lady' has no counterpart in without; write",
    ),
    "set(prompts, {without: 'a {person}'})": (PROMPTS, "'{person}' in 'a {person}' is not known; only {subject} is"),
    "set(prompts, {subjects: ''})": (PROMPTS, "'a woman {subject}' asks for one; write one a line"),
    "set(prompts, {with_concept: 'a woman', without: 'a man'})": (
        PROMPTS,
        "put it where the subject belongs, or leave",
    ),
    "set(prompts, {avoid: 'a\\nb\\nc'})": (PROMPTS, "avoid: 3 lines; write one for all templates"),
    "set(prompts, {keep: 'a pilot'})": (PROMPTS, "keep: 'a pilot' is a prompt of without as well"),
    "set(discover, {name: ' '})": (DISCOVER, "name: the concept needs a name, e.g. 'woman'"),
    "set(save, {filename_prefix: ''})": (SAVE, "filename_prefix: it is blank; give a file name"),
    "set(save, {filename_prefix: '../woman'})": (SAVE, "leads out of the folder for concept vectors"),
    "set(apply, {start_percent: 0.5, end_percent: 0.5})": (APPLY, "Lower start_percent or raise end_percent"),
    "load('gone.safetensors', apply, 'concept')": (LOAD, "put the file there, or choose another one"),
    "load('sd1.safetensors', apply, 'concept')": (
        LOAD,
        "Choose a vector that was found on EmojiModel, or load a model",
    ),
    "load('sd1.safetensors', discover, 'start_from')": (LOAD, "Choose a vector that was found on EmojiModel, or load"),
}
"""What is done, the node that says so as soon as Run is pressed, and what it says."""
WHEN_RUN = {
    "set(discover, {width: 32})": (
        DISCOVER,
        "width: 32 must be a multiple of 8, 64 at least, or 0 for the native size",
    ),
    "link(of('CLIPTextEncode'), 'CONDITIONING', discover, 'base')": (DISCOVER, "Combine as many prompts into one"),
    "link(of(prompts), 'base', discover, 'concept')": (DISCOVER, "Name the concept in one of them, or connect"),
    "link(add('UNETLoader', {unet_name: 'sd3.safetensors'}), 'MODEL', discover, 'model')": (
        DISCOVER,
        "load one of those",
    ),
    "link(add('UNETLoader', {unet_name: 'sd3.safetensors'}), 'MODEL', apply, 'model')": (APPLY, "load one of those"),
    """const sum = add('HSpaceAddConcepts', {});
    for (const name of ['concept_a', 'concept_b'])
        of(discover).connect(0, sum, sum.inputs.findIndex(slot => slot.name === name));
    link(sum, 'concept', save, 'concept')""": (SAVE, "Save the vectors it is made of, and combine them again"),
}
"""The same for what comes out when the node runs."""
COMFYUI_SAYS = {
    "cut(apply, 'concept')": (APPLY, "Required input is missing"),
    "cut(prompts, 'clip')": (PROMPTS, "Required input is missing"),
    "cut(discover, 'base')": (DISCOVER, "Required input is missing"),
    "set(apply, {strength: 'much'})": (APPLY, "Failed to convert an input value to a FLOAT value"),
    "set(apply, {strength: 100})": (APPLY, "Value 100.0 bigger than max of 20.0"),
    "set(discover, {batch_size: 0})": (DISCOVER, "Value 0 smaller than min of 1"),
}
"""What ComfyUI itself refuses."""
REFUSED = """([kind, words]) => Object.values(app.lastNodeErrors ?? {}).some(node => node.class_type === kind
    && node.errors.some(error => `${error.message} ${error.details}`.includes(words)))"""
FAILED = """([kind, words]) => app.lastExecutionError?.node_type === kind
    && app.lastExecutionError.exception_message.includes(words)"""
ON_THE_NODE = """([kind, words]) => app.graph.nodes.some(node => node.type === kind
    && node.widgets.some(widget => typeof widget.value === 'string' && widget.value.includes(words)))"""
WAIT = 60_000


@pytest.fixture(scope="module")
def workflow(editor):
    """The main workflow at the least amounts, and files that do not suit it; returns it as the editor saves it."""
    models = editor.server.base / "models"
    save_concept(Vector(torch.zeros(1280, 8, 8), "woman", "SD1"), models / "concept_vectors" / "sd1")
    (models / "diffusion_models").mkdir(exist_ok=True)
    prompt = {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 64}}
    sizes = {"depth": 1, "in_channels": 16, "adm_in_channels": 8, "num_patches": 16, "pos_embed_max_size": 4}
    transformer = MMDiT(**sizes, context_embedder_config=prompt, dtype=torch.float32, operations=torch.nn)
    safetensors.torch.save_file(transformer.state_dict(), models / "diffusion_models" / "sd3.safetensors")
    editor.open_template("discover_and_steer")
    for kind, values in QUICK.items():
        for name, value in values.items():
            editor.set_widget(kind, name, value)
    return editor.page.evaluate("() => app.graph.serialize()")


@pytest.fixture
def do(editor, workflow):
    """Does something to the workflow as it was, and presses Run; waits for the end of what runs, afterwards."""

    def do_and_run(what: str) -> None:
        editor.page.evaluate(
            "workflow => app.loadGraphData(workflow, true, true, app.extensionManager.workflow.activeWorkflow)",
            workflow,
        )
        editor.page.evaluate(f"() => {{ {HANDS} {what}; }}")
        editor.press_run()

    yield do_and_run
    editor.page.keyboard.press("Escape")
    assert editor.idle_within(60)


@pytest.mark.parametrize("what", WHEN_QUEUED)
def test_said_on_the_node_when_it_is_queued(editor, do, what):
    do(what)
    for where in (REFUSED, ON_THE_NODE):
        editor.page.wait_for_function(where, arg=WHEN_QUEUED[what], timeout=WAIT)


@pytest.mark.parametrize("what", WHEN_RUN)
def test_said_when_the_node_runs(editor, do, what):
    do(what)
    for where in (FAILED, ON_THE_NODE):
        editor.page.wait_for_function(where, arg=WHEN_RUN[what], timeout=WAIT)


@pytest.mark.parametrize("what", COMFYUI_SAYS)
def test_comfyui_says_it(editor, do, what):
    do(what)
    editor.page.wait_for_function(REFUSED, arg=COMFYUI_SAYS[what], timeout=WAIT)


def test_the_node_says_it_no_more_once_it_is_mended(editor, do):
    what = "set(prompts, {without: ''})"
    do(what)
    editor.page.wait_for_function(ON_THE_NODE, arg=WHEN_QUEUED[what], timeout=WAIT)
    editor.page.evaluate(f"() => {{ {HANDS} set(prompts, {{without: 'a {{subject}}'}}); }}")
    editor.press_run()
    editor.page.wait_for_function(f"found => !({ON_THE_NODE})(found)", arg=WHEN_QUEUED[what], timeout=WAIT)
