"""Whole recipes in one node, found among the nodes by what people type."""

import pytest

from helpers import ROOT

RECIPES = {
    "fair": ("Fair generation, less bias (H-Space)", "fair_generation"),
    "safe": ("Safe generation (H-Space)", "safe_generation"),
    "slider": ("Concept slider (H-Space)", "fair_generation"),
}
HIGHLIGHTED = "[role=option]:is([data-p-focus=true], [aria-selected=true])"
"""The result that Enter takes: the first attribute is that of older editors."""
SAME_AS_ITS_WORKFLOW = ("fair", "safe")


def steered(editor) -> list:
    """Pixels of the last SaveImage of a workflow, the steered one, and of the one before it."""
    plain, changed = [[image["pixels"] for image in saved["images"]] for saved in editor.images()][-2:]
    assert changed != plain
    return changed


@pytest.mark.parametrize("typed", RECIPES)
def test_found_by_search_put_in_place_of_apply_and_run(editor, typed):
    name, workflow = RECIPES[typed]
    open_small(editor, workflow)
    before = steered(editor)
    open_small(editor, workflow, lambda: put_in(editor, typed, name))
    if typed in SAME_AS_ITS_WORKFLOW:
        assert steered(editor) == before
    else:
        assert steered(editor) != before
    editor.open()


def open_small(editor, workflow: str, change=lambda: None) -> None:
    """Open a shipped workflow, change it, and run it for two images."""
    editor.open_template(workflow)
    editor.set_widget("EmptyLatentImage", "batch_size", 2)
    change()
    editor.press_run()
    editor.wait_for_images(timeout=60)


def put_in(editor, typed: str, name: str) -> None:
    """Take the first result of a search, and connect it where Apply was."""
    editor.open_search()
    editor.search(typed, name)
    editor.page.locator(HIGHLIGHTED).filter(has_text=name).wait_for()  # a busy machine highlights late
    editor.page.keyboard.press("Enter")
    editor.page.wait_for_function("() => app.graph.nodes.some(node => node.subgraph)")
    widgets = editor.page.evaluate("""() => {
        const blueprint = app.graph.nodes.find(node => node.subgraph);
        const apply = app.graph.nodes.find(node => node.type === 'HSpaceApplySteering');
        apply.getInputNode(0).connect(0, blueprint, 0);
        for (const link of [...apply.outputs[0].links]) {
            const {target_id, target_slot} = app.graph.getLink(link);
            blueprint.connect(0, app.graph.getNodeById(target_id), target_slot);
        }
        app.graph.remove(apply);
        return blueprint.widgets.map(widget => widget.name.split(': ').pop());
    }""")
    assert {"concept_name", "strength"} <= set(widgets)


def test_every_blueprint_is_found_by_some_word():
    assert {name for name, _ in RECIPES.values()} == {path.stem for path in (ROOT / "subgraphs").glob("*.json")}
