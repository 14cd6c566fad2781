"""Finding a node, reading its help, and its languages."""

import re

import pytest
import torch

from helpers import ROOT
from hspace import Provenance, Vector, save_concept

PAGES = sorted((ROOT / "web" / "docs").glob("*.md"))
SEARCHES = {
    "concept": {"Discover Concept Direction", "Add Concepts", "Load Concept Vector", "Concepts from Prompt"},
    "steer": {"Apply H-Space Steering"},
    "h-space": {"Apply H-Space Steering"},
    "fair": {"Fair generation, less bias (H-Space)"},
    "bias": {"Fair generation, less bias (H-Space)"},
    "safe": {"Safe generation (H-Space)"},
    "slider": {"Concept slider (H-Space)"},
    "hspace": {"Discover Concept Direction", "Apply H-Space Steering", "Prompt Rule", "Label Strip"},
}


def test_search_finds_what_people_type(editor):
    editor.open_search()
    for typed, wanted in SEARCHES.items():
        for name in wanted:
            editor.search(typed, name)
    editor.open()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_help_panel_shows_our_page_and_its_picture(editor, page):
    editor.command("Comfy.NewBlankWorkflow")
    browser = editor.page
    browser.evaluate(
        """kind => {
            const node = LiteGraph.createNode(kind);
            node.pos = [400, 300];
            app.graph.add(node);
            app.canvas.selectNode(node);
        }""",
        page.stem,
    )
    browser.get_by_test_id("info-button").click()
    heading = re.match(r"# (.+)", page.read_text())[1]
    sentence = re.sub(r"[*`\[\]]", "", page.read_text().split("\n\n")[1].split(". ")[0])
    panel = browser.locator(".node-help-content")
    panel.get_by_role("heading", name=heading).first.wait_for()
    assert sentence[:40] in re.sub(r"\s+", " ", panel.inner_text())
    pictures = panel.locator("img")
    assert pictures.count() >= 1
    browser.wait_for_function(
        "() => [...document.querySelectorAll('.node-help-content img')].every(i => i.complete && i.naturalWidth > 0)"
    )


def test_load_shows_what_a_vector_is_and_at_which_strengths_it_is_of_use(editor):
    editor.open_template("strength_strip")
    editor.set_widget("HSpaceLoadConcept", "concept_name", "emoji_medium_light_skin.safetensors")
    editor.set_widget("KSampler", "steps", 1)
    editor.press_run()
    editor.page.wait_for_function(
        """() => app.graph.nodes.find(n => n.type === 'HSpaceLoadConcept').widgets.some(
            widget => /^medium light skin\\nbase model: EmojiModel\\n.*from strength [0-9.]+ on.*\\nwith: .*\\nwithout/
                .test(widget.value))""",
        timeout=60_000,
    )
    editor.wait_for_images(timeout=60)


SENTINEL = "<img src=x onerror=window.strangers_script_ran=1><b>"


def test_text_on_a_node_is_text_and_no_html(editor):
    """A stranger's vector file and a stranger's workflow name their concept in HTML."""
    vector = Vector(torch.zeros(192, 4, 4), SENTINEL, "EmojiModel", Provenance(strength_saturates=0.5))
    save_concept(vector, editor.server.base / "models" / "concept_vectors" / "stranger")
    editor.open_template("discover_and_steer")
    small = {"steps": 4, "batch_size": 2, "sample_count": 2, "width": 64, "height": 64}
    for name, value in {**small, "name": SENTINEL}.items():
        editor.set_widget("HSpaceDiscoverConcept", name, value)
    editor.set_widget("KSampler", "steps", 1)
    editor.page.evaluate(
        """() => {
            const load = LiteGraph.createNode('HSpaceLoadConcept'), show = LiteGraph.createNode('HSpaceInspectConcept');
            app.graph.add(load);
            app.graph.add(show);
            load.connect(0, show, 0);
            const image = LiteGraph.createNode('PreviewImage');
            app.graph.add(image);
            show.connect(1, image, 0);
        }"""
    )
    editor.page.evaluate("() => app.refreshComboInNodes()")
    editor.set_widget("HSpaceLoadConcept", "concept_name", "stranger.safetensors")
    editor.press_run()
    shown = """kind => app.graph.nodes.find(n => n.type === kind).widgets.some(
        widget => typeof widget.value === 'string' && widget.value.startsWith('&lt;img'))"""
    for kind in ("HSpaceLoadConcept", "HSpaceDiscoverConcept"):
        editor.page.wait_for_function(shown, arg=kind, timeout=120_000)
    editor.wait_for_images(timeout=120)
    editor.page.get_by_text(SENTINEL).first.wait_for()
    assert editor.page.evaluate("() => window.strangers_script_ran") is None
