"""The blueprints of `subgraphs/`: a recipe of several nodes that the editor offers as one.

Written by `python -m scripts.build_workflows`, with the workflows.
"""

from __future__ import annotations

from .workflow_builder import Workflow, load_vector


def fair_blueprint(flow: Workflow) -> None:
    """Two concepts, one for each image."""
    flow.at(0)
    first, second = load_vector(flow, "woman"), load_vector(flow, "man")
    flow.at(1)
    (choice,) = flow.add("HSpaceChooseConcept", None, (300, 260), concept_1=first, concept_2=second)
    flow.at(2)
    steered, assignment = flow.add("HSpaceApplySteering", None, (320, 230), concept=choice, strength=1.0)
    flow.write_blueprint(
        "Fair generation, less bias (H-Space)",
        "Each image of a batch is allocated one of two concepts, in equal numbers, against the model's bias. "
        "Between the model and the sampler.",
        into=("model", steered.node, "model"),
        out_of=[steered, assignment],
        widgets=[
            (first, "concept_name"),
            (second, "concept_name"),
            (choice, "weights"),
            (choice, "seed"),
            (steered, "strength"),
        ],
    )


def safe_blueprint(flow: Workflow) -> None:
    """One anti-concept, always on."""
    flow.at(0)
    safe = load_vector(flow, "no_weapon")
    flow.at(1)
    steered, _ = flow.add("HSpaceApplySteering", None, (320, 230), concept=safe, strength=1.0)
    flow.write_blueprint(
        "Safe generation (H-Space)",
        "An anti-concept that is always on, whatever the prompt: a vector found with Discover's avoid. Between the "
        "model and the sampler.",
        into=("model", steered.node, "model"),
        out_of=[steered],
        widgets=[(safe, "concept_name"), (steered, "strength")],
    )


def slider_blueprint(flow: Workflow) -> None:
    """Half the difference of two opposite concepts."""
    flow.at(0)
    right, left = load_vector(flow, "woman"), load_vector(flow, "man")
    flow.at(1)
    (slider,) = flow.add(
        "HSpaceAddConcepts", None, (300, 130), concept_a=right, concept_b=left, weight_a=0.5, weight_b=-0.5
    )
    flow.at(2)
    steered, _ = flow.add("HSpaceApplySteering", None, (320, 230), concept=slider, strength=1.0)
    flow.write_blueprint(
        "Concept slider (H-Space)",
        "From the second concept (negative strength) to the first (positive strength). Between the model and the "
        "sampler.",
        into=("model", steered.node, "model"),
        out_of=[steered],
        widgets=[(right, "concept_name"), (left, "concept_name"), (steered, "strength")],
    )


BLUEPRINTS = (fair_blueprint, safe_blueprint, slider_blueprint)
