"""The promise of CONTRIBUTING.md, held against `tests/data/schema.json`, and that all of it says what it is for."""

import json

import pytest

from helpers import ROOT, node_classes

SCHEMA = json.loads((ROOT / "tests" / "data" / "schema.json").read_text("utf-8"))
"""Nodes by id: inputs in their order, outputs in theirs, and what of a node decides how it is called."""
DISPLAY_NAMES = {
    "HSpaceLoadDemoModel": "Load Emoji Demo Model",
    "HSpaceConceptPrompts": "Concept Prompts",
    "HSpaceDiscoverConcept": "Discover Concept Direction",
    "HSpaceSaveConcept": "Save Concept Vector",
    "HSpaceLoadConcept": "Load Concept Vector",
    "HSpaceImportConcept": "Import Concept Vector",
    "HSpaceApplySteering": "Apply H-Space Steering",
    "HSpaceSteerConditioning": "Steer Conditioning",
    "HSpaceProbe": "Probe Concepts",
    "HSpaceProbeReport": "Probe Report",
    "HSpaceAddConcepts": "Add Concepts",
    "HSpaceChooseConcept": "Choose Concept per Image",
    "HSpaceSweepConcept": "Sweep Concept Strength",
    "HSpaceVaryStrength": "Vary Concept Strength",
    "HSpacePromptRule": "Prompt Rule",
    "HSpaceConceptsFromPrompt": "Concepts from Prompt",
    "HSpaceConceptBalance": "Concept Balance",
    "HSpaceConceptCard": "Concept Card",
    "HSpaceLabelStrip": "Label Strip",
    "HSpaceInspectConcept": "Inspect Concept Vector",
}
# What a saved workflow depends on. A widget that comes or goes (force_input, control_after_generate) moves the values
# of those after it.
OF_AN_INPUT = ("default", "min", "max", "step", "options", "multiselect", "force_input", "control_after_generate")
OF_A_NODE = ("is_input_list", "is_output_node", "is_deprecated")
FILES = {("HSpaceLoadConcept", "concept_name"), ("HSpaceImportConcept", "file")}
"""Combo boxes whose options are the files of this machine."""
ALLOWED = "If CONTRIBUTING.md allows the change, write it into tests/data/schema.json: "


def described(schema) -> dict:
    """A node as `schema.json` has it; what is unset or false is left out."""
    return {
        "inputs": {item.id: described_input(schema.node_id, item) for item in schema.inputs},
        "outputs": [
            {"name": item.display_name or item.io_type, "type": item.io_type}
            | ({"is_output_list": True} if item.is_output_list else {})
            for item in schema.outputs
        ],
    } | {key: True for key in OF_A_NODE if getattr(schema, key)}


def described_input(node_id: str, item) -> dict:
    """Type, whether it may be left out, default, range and options of an input."""
    found = {key: getattr(item, key, None) for key in OF_AN_INPUT}
    if (node_id, item.id) in FILES:
        del found["options"]
    kept = {key: value for key, value in found.items() if key == "default" or value is not False}
    kept = {key: value for key, value in kept.items() if value is not None}
    return {"type": item.io_type} | ({"optional": True} if item.optional else {}) | kept


def test_every_node_is_promised():
    assert set(node_classes()) == set(SCHEMA) == set(DISPLAY_NAMES)


@pytest.mark.parametrize("node_id", SCHEMA)
def test_inputs_keep_their_name_order_type_default_and_range(node_id):
    promised, found = SCHEMA[node_id]["inputs"], described(node_classes()[node_id].GET_SCHEMA())["inputs"]
    missing = [name for name in promised if name not in found]
    assert not missing, f"{node_id} has lost {', '.join(missing)}, which saved workflows set"
    for name, was in promised.items():
        assert found[name] == was, f"{node_id}.{name} was {was}, is {found[name]}. {ALLOWED}{json.dumps(found[name])}"
    order = list(found)
    assert order[: len(promised)] == list(promised), (
        f"{node_id}: saved workflows store values by position; new inputs come last, the order stays {list(promised)}"
    )
    new = {name: found[name] for name in order[len(promised) :]}
    assert all(item.get("optional") for item in new.values()), f"{node_id}: a new input is optional, or old files break"
    assert not new, f"{node_id} has new inputs. {ALLOWED}{json.dumps(new)}"


@pytest.mark.parametrize("node_id", SCHEMA)
def test_outputs_and_the_way_of_calling_stay(node_id):
    promised, found = dict(SCHEMA[node_id]), described(node_classes()[node_id].GET_SCHEMA())
    was, now = promised.pop("outputs"), found.pop("outputs")
    assert now[: len(was)] == was, f"{node_id}: outputs keep name, type and order, for links are stored by position"
    assert now == was, f"{node_id} has new outputs. {ALLOWED}{json.dumps(now[len(was) :])}"
    del promised["inputs"], found["inputs"]
    assert found == promised


def test_snapshot_holds_what_is_promised():
    """So that a snapshot which was shortened by mistake is noticed."""
    inputs = [item for node in SCHEMA.values() for item in node["inputs"].values()]
    for item in inputs:
        assert item["type"] not in ("INT", "FLOAT") or {"default", "min", "max"} <= set(item)
        assert item["type"] != "BOOLEAN" or "default" in item
    combos = {
        (node_id, name): item.get("options")
        for node_id, node in SCHEMA.items()
        for name, item in node["inputs"].items()
        if item["type"] == "COMBO"
    }
    assert {key for key, options in combos.items() if options is None} == FILES


@pytest.mark.parametrize("node_id", SCHEMA)
def test_node(node_id):
    schema = node_classes()[node_id].GET_SCHEMA()
    assert schema.display_name == DISPLAY_NAMES[node_id]
    assert schema.category.startswith("h-space")
    assert len(schema.description) > 40
    for item in [*schema.inputs, *schema.outputs]:
        assert item.tooltip, f"{node_id}: no tooltip"
    for item in schema.inputs:
        if item.io_type in ("INT", "FLOAT"):
            assert item.min <= item.default <= item.max


@pytest.mark.parametrize("node_id", SCHEMA)
def test_help_page(node_id):
    page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text()
    schema = node_classes()[node_id].GET_SCHEMA()
    assert page.startswith(f"# {schema.display_name}\n")
    for item in schema.inputs:
        named = {"model", "seed", "name", "concept"} | ({"base"} if "`base`" in page else set())
        assert f"`{item.id}`" in page or item.id in named, item.id


@pytest.mark.parametrize("node_id", SCHEMA)
def test_editors_are_sent_words_to_search_by(node_id):
    info = node_classes()[node_id].GET_NODE_INFO_V1()
    assert info["name"] == node_id
    assert "h-space" in info["search_aliases"]


@pytest.mark.parametrize("typed", ["concept", "steer", "fair", "bias", "safe", "slider", "h-space"])
def test_what_people_type_leads_somewhere(typed):
    infos = [node.GET_NODE_INFO_V1() for node in node_classes().values()]
    assert any(typed in " ".join([info["display_name"].lower(), *info["search_aliases"]]) for info in infos)
