"""The shipped workflows as a stranger meets them: in the template browser, on the canvas, and from the Run button."""

import json

import numpy as np
import pytest
from PIL import Image

from helpers import ROOT

NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
GRAPH = """() => ({
    missing: app.graph.nodes.filter(n => !(n.type in LiteGraph.registered_node_types)).map(n => n.type),
    red: app.graph.nodes.filter(n => n.has_errors).map(n => n.type),
    nodes: app.graph.nodes.map(n => ({type: n.type, title: n.title, box: Array.from(n.boundingRect)})),
    groups: app.graph.groups.map(g => ({title: g.title, box: Array.from(g.boundingRect ?? g._bounding)})),
})"""
THUMBNAIL = """async card => {
    const image = card.querySelector('img');
    await image.decode();
    const canvas = new OffscreenCanvas(8, 8), context = canvas.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage(image, 0, 0, 8, 8);
    return Array.from(context.getImageData(0, 0, 8, 8).data);
}"""


def test_template_browser_shows_every_workflow_with_its_own_thumbnail(editor):
    cards = editor.browse_templates()
    assert sorted(card.get_attribute("data-testid").removeprefix("template-workflow-") for card in cards.all()) == NAMES
    for card in cards.all():
        name = card.get_attribute("data-testid").removeprefix("template-workflow-")
        card.scroll_into_view_if_needed()  # only pictures that are in view are kept
        card.locator("img").wait_for()
        pixels = np.array(card.evaluate(THUMBNAIL))
        with Image.open(ROOT / "workflows" / f"{name}.jpg") as picture:
            wanted = np.asarray(picture.convert("RGBA").resize((8, 8), Image.Resampling.BOX)).ravel()
        assert np.abs(pixels - wanted.astype(float)).mean() < 12, f"{name} shows another picture"
    editor.page.keyboard.press("Escape")


def overlap(a, b) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def inside(a, b) -> bool:
    return b[0] <= a[0] and a[0] + a[2] <= b[0] + b[2] and b[1] <= a[1] and a[1] + a[3] <= b[1] + b[3]


@pytest.mark.parametrize("name", NAMES)
def test_opens_cleanly_and_runs_from_the_run_button(editor, name):
    editor.open_template(name)
    graph = editor.page.evaluate(GRAPH)
    assert not graph["missing"]
    assert not graph["red"]
    assert_tidy(graph)
    if name == "discover_and_steer":  # a real discovery, at a fraction of its steps; test_server measures its range
        editor.set_widget("HSpaceDiscoverConcept", "measure_range", False)
        editor.set_widget("HSpaceDiscoverConcept", "steps", 16)
        editor.set_widget("HSpaceDiscoverConcept", "batch_size", 2)
        editor.set_widget("HSpaceDiscoverConcept", "sample_count", 4)
    editor.set_widget("KSampler", "steps", 6)
    editor.press_run()
    editor.wait_for_images()
    shown = {node["title"]: [look(image) for image in node["images"]] for node in editor.images()}
    for title, images in shown.items():
        for image in images:
            assert image.std() > 5, f"{title} is blank"
    if len(shown) == 2:
        plain, steered = shown.values()
        assert len(plain) == len(steered)
        assert any(np.abs(a - b).mean() > 2 for a, b in zip(plain, steered, strict=True)), "steering changed nothing"
    assert not editor.page.evaluate(GRAPH)["red"]
    assert_tidy(editor.page.evaluate(GRAPH))


def assert_tidy(graph):
    """No node on another, all in titled frames that nothing sticks out of, one note to a frame."""
    nodes = graph["nodes"]
    for number, node in enumerate(nodes):
        for other in nodes[number + 1 :]:
            assert not overlap(node["box"], other["box"]), f"{node['title']} and {other['title']} overlap"
        assert any(inside(node["box"], group["box"]) for group in graph["groups"]), f"{node['title']} is in no group"
    for number, group in enumerate(graph["groups"]):
        assert group["title"]
        assert all(not overlap(group["box"], other["box"]) for other in graph["groups"][number + 1 :])
        notes = [n for n in nodes if n["type"] == "MarkdownNote" and inside(n["box"], group["box"])]
        assert len(notes) == 1, f"group '{group['title']}' has {len(notes)} notes"


def test_the_start_is_an_app_where_the_editor_knows_apps(editor):
    editor.open_template("1_start_here")
    widgets = editor.page.evaluate("""() => app.graph.extra.linearData.inputs.map(([id, name]) =>
        app.graph.getNodeById(id).widgets.find(widget => widget.name === name)?.name)""")
    assert widgets == ["concept_name", "strength", "text"]
    if not editor.page.evaluate("() => 'Comfy.AppBuilder.VueNodeSwitchDismissed' in app.ui.settings.settingsLookup"):
        return
    editor.command("Comfy.ToggleLinear")
    editor.page.get_by_test_id("builder-widget-label").nth(2).wait_for()
    assert editor.page.get_by_test_id("builder-widget-label").all_inner_texts() == [
        "concept_name",
        "strength",
        "prompt",
    ]
    editor.page.get_by_test_id("linear-run-button").get_by_role("button", name="Run").click()
    editor.page.wait_for_function(
        "() => document.querySelectorAll('[data-testid=linear-center-panel] img').length > 0", timeout=120_000
    )
    editor.command("Comfy.ToggleLinear")
    editor.wait_for_images()


def look(image) -> np.ndarray:
    return np.array(image["pixels"], dtype=float).reshape(image["height"], image["width"], 4)[..., :3]


def test_discover_shows_previews_and_stop_stops_it(editor):
    editor.open_template("discover_and_steer")
    editor.set_widget("HSpaceDiscoverConcept", "steps", 3000)
    editor.set_widget("HSpaceDiscoverConcept", "sample_count", 4000)
    editor.press_run()
    page = editor.page
    page.wait_for_function(
        "() => app.graph.nodes.find(n => n.type === 'HSpaceDiscoverConcept').imgs?.[0]?.naturalWidth > 0",
        timeout=120_000,
    )
    progress = "() => app.graph.nodes.find(n => n.type === 'HSpaceDiscoverConcept').progress"
    first = page.evaluate(progress)
    page.wait_for_function(f"first => ({progress})() > first", arg=first, timeout=60_000)
    editor.press_stop()
    assert editor.idle_within(30), "the run went on for half a minute after Stop"
    partial = editor.server.base / "models" / "concept_vectors" / "partial"
    assert list(partial.glob("*.safetensors"))
    history = json.loads(
        page.evaluate("async () => JSON.stringify(await (await fetch('/history?max_items=1')).json())")
    )
    (entry,) = history.values()
    assert "execution_interrupted" in [kind for kind, _ in entry["status"]["messages"]]
