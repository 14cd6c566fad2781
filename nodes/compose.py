"""Make concepts of concepts: add, choose per image, sweep, and let the prompt decide."""

from comfy_api.latest import io

from ..hspace.concept import Choice, Sum, Sweep
from ..hspace.draws import parse_weights
from ..hspace.prompt_rules import TOPICS, concepts_from_prompt, make_rule, without_wishes
from .types import CATEGORY, ConceptRules, ConceptVector, SearchableNode

CONCEPT_OUTPUT = "Connect to Apply H-Space Steering, or build further."


class AddConcepts(SearchableNode):
    """A weighted sum of two concepts."""

    SEARCH_ALIASES = ("h-space", "slider", "sum", "mix", "combine", "safe", "negative")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceAddConcepts",
            display_name="Add Concepts",
            category=CATEGORY,
            description="Adds two concepts, each with a weight; a negative weight steers away. Chain it for more. A sum of "
            "two choices (gender and skin tone, say) draws for each on its own.",
            inputs=[
                ConceptVector.Input("concept_a", tooltip="First concept: a vector, or anything made of vectors."),
                ConceptVector.Input("concept_b", tooltip="Second concept, of the same base model."),
                io.Float.Input("weight_a", default=1.0, min=-20.0, max=20.0, step=0.05, tooltip="How much of concept_a. "
                               "Negative steers away from it; beyond 2 or so images break up."),
                io.Float.Input("weight_b", default=1.0, min=-20.0, max=20.0, step=0.05, tooltip="How much of concept_b. "
                               "Negative steers away from it; beyond 2 or so images break up."),
            ],
            outputs=[ConceptVector.Output(display_name="concept", tooltip=CONCEPT_OUTPUT)],
        )  # fmt: skip

    @classmethod
    def execute(cls, concept_a, concept_b, weight_a, weight_b) -> io.NodeOutput:
        return io.NodeOutput(Sum(((weight_a, concept_a), (weight_b, concept_b))))


class ChooseConcept(SearchableNode):
    """Fair generation: each image draws one of several concepts."""

    SEARCH_ALIASES = ("h-space", "fair", "fairness", "bias", "debias", "diversity", "gender", "responsible")

    @classmethod
    def define_schema(cls):
        optional = [ConceptVector.Input(f"concept_{number}", optional=True, tooltip="One more to choose from.")
                    for number in range(3, 7)]  # fmt: skip
        return io.Schema(
            node_id="HSpaceChooseConcept",
            display_name="Choose Concept per Image",
            category=CATEGORY,
            description="Fair generation: each image of the batch draws one of the connected concepts, so that 'a doctor' "
            "is not always a man. Apply's 'assignment' says which image got what.",
            inputs=[
                ConceptVector.Input("concept_1", tooltip="First to choose from."),
                ConceptVector.Input("concept_2", tooltip="Second to choose from."),
                io.String.Input("weights", default="", tooltip="Empty: all are equally likely. '2,1': the first twice as "
                                "often. One number above 0 for each connected concept."),
                io.Combo.Input("mode", options=["balanced", "independent"], default="balanced", tooltip="balanced: in every batch, and with "
                               "single images over consecutive seeds, counts stay within one of what the weights promise. "
                               "independent: each image draws on its own, like tossing coins."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                             tooltip="The same seed draws the same. With batch size 1 set it to increment: the draws then "
                             "take turns."),
                *optional,
            ],
            outputs=[ConceptVector.Output(display_name="concept", tooltip=CONCEPT_OUTPUT)],
        )  # fmt: skip

    @classmethod
    def execute(cls, concept_1, concept_2, weights, mode, seed, **more) -> io.NodeOutput:
        options = (concept_1, concept_2, *(more[name] for name in sorted(more) if more[name] is not None))
        return io.NodeOutput(Choice(options, parse_weights(weights, len(options)), seed, balanced=mode == "balanced"))


class SweepConcept(SearchableNode):
    """Interpolation strips: the strength moves along the batch."""

    SEARCH_ALIASES = ("h-space", "slider", "interpolate", "strip", "range")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceSweepConcept",
            display_name="Sweep Concept Strength",
            category=CATEGORY,
            description="The strength moves evenly along the batch, from the first image to the last: a strip that shows "
            "what a concept does. To compare images, give all the same noise: Latent Batch Seed Behavior set to 'fixed'.",
            inputs=[
                ConceptVector.Input("concept", tooltip="The concept to sweep."),
                io.Float.Input("from", default=0.0, min=-20.0, max=20.0, step=0.05,
                               tooltip="Factor for the first image of the batch; a single image gets this one."),
                io.Float.Input("to", default=2.0, min=-20.0, max=20.0, step=0.05,
                               tooltip="Factor for the last image of the batch. Apply's strength multiplies both."),
            ],
            outputs=[ConceptVector.Output(display_name="concept", tooltip=CONCEPT_OUTPUT)],
        )  # fmt: skip

    @classmethod
    def execute(cls, concept, to, **start) -> io.NodeOutput:
        return io.NodeOutput(Sweep(concept, start["from"], to))


class PromptRule(SearchableNode):
    """Which wording in a prompt switches a concept on."""

    SEARCH_ALIASES = ("h-space", "safe", "fair", "bias", "filter", "responsible", "topic")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpacePromptRule",
            display_name="Prompt Rule",
            category=CATEGORY,
            description="Says which wording of a prompt switches a concept on. The topics know how people write: 'of any "
            "gender', 'of diverse ethnicity', 'without any violence'. Chain rules through 'previous'.",
            inputs=[
                ConceptVector.Input("concept", tooltip="What to switch on: for gender, race and age a choice; for sexual and "
                                    "violence an anti-concept."),
                io.Combo.Input("topic", options=list(TOPICS), default=TOPICS[0], tooltip="gender, race, age: the prompt leaves it open or asks "
                               "for variety. sexual, violence: the prompt refuses it. custom: only your phrases."),
                io.String.Input("phrases", default="", multiline=True, tooltip="One phrase a line, whole words; a line between "
                                "slashes is a regular expression. Needed for custom, in addition for the other topics."),
                ConceptRules.Input("previous", optional=True, tooltip="Rules so far; this one is appended."),
            ],
            outputs=[ConceptRules.Output(display_name="rules", tooltip="Connect to the next Prompt Rule or to Concepts from Prompt.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, concept, topic, phrases, previous=()) -> io.NodeOutput:
        return io.NodeOutput((*previous, make_rule(concept, topic, phrases)))


class ConceptsFromPrompt(SearchableNode):
    """Responsible text-enhancing: the concepts that a prompt calls for."""

    SEARCH_ALIASES = ("h-space", "safe", "fair", "bias", "filter", "responsible", "enhance")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceConceptsFromPrompt",
            display_name="Concepts from Prompt",
            category=CATEGORY,
            description="Reads a prompt and switches on the concepts whose rules match, so that 'no violence' and 'of any "
            "gender' come true. If nothing matches, nothing is steered.",
            inputs=[
                io.String.Input("prompt", multiline=True, tooltip="The prompt to read; connect the same text to CLIP Text Encode."),
                ConceptRules.Input("rules", tooltip="From Prompt Rule."),
                io.Boolean.Input("remove_matched", default=False, optional=True, tooltip="Take the wishes that matched out of "
                                 "the prompt output where they stand by themselves ('a pilot, no weapon' -> 'a pilot'): "
                                 "models tend to draw what they are told not to."),
            ],
            outputs=[
                ConceptVector.Output(display_name="concept", tooltip="Sum of the concepts of all rules that match."),
                io.String.Output(display_name="matched", tooltip="One line a match: topic, words found, concept. Empty if none."),
                io.String.Output(display_name="prompt", tooltip="For CLIP Text Encode: the prompt as it came in, or without its wishes."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, prompt, rules, remove_matched=False) -> io.NodeOutput:
        concept, matched = concepts_from_prompt(prompt, rules)
        return io.NodeOutput(concept, matched, without_wishes(prompt, rules) if remove_matched else prompt)


NODES = [AddConcepts, ChooseConcept, SweepConcept, PromptRule, ConceptsFromPrompt]
