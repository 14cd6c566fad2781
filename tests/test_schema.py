"""The promise of ids, names and order, and that every input and output says what it is for."""

import pytest
from hspace_test_helpers import ROOT, node_classes

PROMISED = {
    "HSpaceLoadDemoModel": ("Load Emoji Demo Model", "", "MODEL CLIP VAE"),
    "HSpaceDiscoverConcept": (
        "Discover Concept Direction",
        "model concept base name method steps batch_size learning_rate guidance sample_count width height seed samples "
        "avoid start_from preview_every calibrate measure_range gradient_checkpointing spatial_mean",
        "CONCEPT_VECTOR IMAGE LATENT",
    ),
    "HSpaceSaveConcept": ("Save Concept Vector", "concept filename_prefix", "STRING"),
    "HSpaceLoadConcept": ("Load Concept Vector", "concept_name", "CONCEPT_VECTOR"),
    "HSpaceImportConcept": ("Import Concept Vector", "file concept_name", "CONCEPT_VECTOR"),
    "HSpaceApplySteering": (
        "Apply H-Space Steering",
        "model concept strength start_percent end_percent apply_to mask",
        "MODEL STRING",
    ),
    "HSpaceSteerConditioning": (
        "Steer Conditioning",
        "conditioning concept strength start_percent end_percent hook_keyframes",
        "CONDITIONING",
    ),
    "HSpaceAddConcepts": ("Add Concepts", "concept_a concept_b weight_a weight_b", "CONCEPT_VECTOR"),
    "HSpaceChooseConcept": (
        "Choose Concept per Image",
        "concept_1 concept_2 weights mode seed concept_3 concept_4 concept_5 concept_6",
        "CONCEPT_VECTOR",
    ),
    "HSpaceSweepConcept": ("Sweep Concept Strength", "concept from to", "CONCEPT_VECTOR"),
    "HSpacePromptRule": ("Prompt Rule", "concept topic phrases previous", "CONCEPT_RULES"),
    "HSpaceConceptsFromPrompt": ("Concepts from Prompt", "prompt rules remove_matched", "CONCEPT_VECTOR STRING STRING"),
    "HSpaceConceptBalance": ("Concept Balance", "images clip clip_vision labels", "STRING IMAGE FLOAT"),
    "HSpaceLabelStrip": ("Label Strip", "images assignment", "IMAGE"),
    "HSpaceInspectConcept": ("Inspect Concept Vector", "concept compare", "STRING IMAGE"),
}
OPTIONAL = {
    "compare", "samples", "avoid", "start_from", "preview_every", "calibrate", "measure_range", "gradient_checkpointing", "spatial_mean", "remove_matched", "mask", "hook_keyframes", "previous",
    *(f"concept_{n}" for n in range(3, 7)),
}  # fmt: skip


def test_every_node_is_promised():
    assert set(node_classes()) == set(PROMISED)


@pytest.mark.parametrize("node_id", PROMISED)
def test_node(node_id):
    schema = node_classes()[node_id].GET_SCHEMA()
    display_name, inputs, outputs = PROMISED[node_id]
    assert schema.display_name == display_name
    assert schema.category.startswith("h-space")
    assert len(schema.description) > 40
    assert " ".join(item.id for item in schema.inputs) == inputs
    assert " ".join(item.io_type for item in schema.outputs) == outputs
    assert {item.id for item in schema.inputs if item.optional} == OPTIONAL & set(inputs.split())
    for item in [*schema.inputs, *schema.outputs]:
        assert item.tooltip, f"{node_id}: no tooltip"
    for item in schema.inputs:
        if item.io_type in ("INT", "FLOAT"):
            assert item.min <= item.default <= item.max


@pytest.mark.parametrize("node_id", PROMISED)
def test_help_page(node_id):
    page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text()
    schema = node_classes()[node_id].GET_SCHEMA()
    assert page.startswith(f"# {schema.display_name}\n")
    for item in schema.inputs:
        named = {"model", "seed", "name", "concept"} | ({"base"} if "`base`" in page else set())
        assert f"`{item.id}`" in page or item.id in named, item.id


@pytest.mark.parametrize("node_id", PROMISED)
def test_editors_are_sent_words_to_search_by(node_id):
    info = node_classes()[node_id].GET_NODE_INFO_V1()
    assert info["name"] == node_id
    assert "h-space" in info["search_aliases"]


@pytest.mark.parametrize("typed", ["concept", "steer", "fair", "bias", "safe", "slider", "h-space"])
def test_what_people_type_leads_somewhere(typed):
    infos = [node.GET_NODE_INFO_V1() for node in node_classes().values()]
    assert any(typed in " ".join([info["display_name"].lower(), *info["search_aliases"]]) for info in infos)
