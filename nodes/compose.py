"""Make concepts of concepts: add, choose per image, and let the prompt decide."""

from comfy_api.latest import io

from ..hspace.concepts import Choice, NormalisedSum, Sum, parse_weights
from ..hspace.prompts import TOPICS, concepts_from_prompt, make_rule, without_requests
from .base import CATEGORY, ConceptRules, ConceptVector, SearchableNode, factor_input

CONCEPT_OUTPUT = "Connect to Apply H-Space Steering, or combine further."


class AddConcepts(SearchableNode):
    """A weighted sum of two concepts."""

    SEARCH_ALIASES = ("h-space", "slider", "sum", "mix", "combine", "safe", "negative")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceAddConcepts",
            display_name="Add Concepts",
            category=CATEGORY,
            description="Adds two concepts, each with a weight; a negative weight steers away. Chain nodes to add "
            "more. In a sum of two choices (gender and skin tone, for example), each is allocated "
            "independently of the other.",
            inputs=[
                ConceptVector.Input("concept_a", tooltip="First concept: a vector, or a combination of vectors."),
                ConceptVector.Input("concept_b", tooltip="Second concept, for the same base model."),
                factor_input(
                    "weight_a",
                    1.0,
                    "Weight of concept_a. Negative steers away from it; beyond about 2 images break up.",
                ),
                factor_input(
                    "weight_b",
                    1.0,
                    "Weight of concept_b. Negative steers away from it; beyond about 2 images break up.",
                ),
                io.Boolean.Input(
                    "normalise",
                    default=False,
                    optional=True,
                    tooltip="Scales the sum so that it goes no further than the stronger of the two. For stacks of "
                    "many concepts, which break images together though each alone does not.",
                ),
            ],
            outputs=[ConceptVector.Output(display_name="concept", tooltip=CONCEPT_OUTPUT)],
        )

    @classmethod
    def execute(cls, concept_a, concept_b, weight_a, weight_b, normalise=False) -> io.NodeOutput:
        kind = NormalisedSum if normalise else Sum
        return io.NodeOutput(kind(((weight_a, concept_a), (weight_b, concept_b))))


class ChooseConcept(SearchableNode):
    """Fair generation: each image is allocated one of several concepts."""

    SEARCH_ALIASES = ("h-space", "fair", "fairness", "bias", "debias", "diversity", "gender", "responsible")

    @classmethod
    def define_schema(cls):
        optional = [
            ConceptVector.Input(f"concept_{number}", optional=True, tooltip="One more to choose from.")
            for number in range(3, 7)
        ]
        return io.Schema(
            node_id="HSpaceChooseConcept",
            display_name="Choose Concept per Image",
            category=CATEGORY,
            description="Fair generation: allocates one of the connected concepts to each image of the batch, so "
            "that 'a doctor' is not always a man. Apply's 'assignment' says which image got what.",
            inputs=[
                ConceptVector.Input("concept_1", tooltip="First concept to choose from."),
                ConceptVector.Input("concept_2", tooltip="Second concept to choose from."),
                io.String.Input(
                    "weights",
                    default="",
                    tooltip="Leave empty for equal shares; '2,1' gives the first twice the share. One number above 0 "
                    "for each connected concept.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["balanced", "independent"],
                    default="balanced",
                    tooltip="balanced: counts stay within one of what the weights promise, in every batch and over "
                    "single images with consecutive seeds. independent: picks at random for each image, like "
                    "tossing a coin.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives the same allocation. With batch size 1, set it to increment: the "
                    "concepts then take turns.",
                ),
                *optional,
            ],
            outputs=[ConceptVector.Output(display_name="concept", tooltip=CONCEPT_OUTPUT)],
        )

    @classmethod
    def execute(cls, concept_1, concept_2, weights, mode, seed, **more) -> io.NodeOutput:
        options = (concept_1, concept_2, *(more[name] for name in sorted(more) if more[name] is not None))
        return io.NodeOutput(Choice(options, parse_weights(weights, len(options)), seed, balanced=mode == "balanced"))


class PromptRule(SearchableNode):
    """A concept with the wording in a prompt that switches it on."""

    SEARCH_ALIASES = ("h-space", "safe", "fair", "bias", "filter", "responsible", "topic")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpacePromptRule",
            display_name="Prompt Rule",
            category=CATEGORY,
            description="Defines which wording in a prompt switches a concept on. The topics recognise common "
            "wording: 'of any gender', 'of diverse ethnicity', 'without any violence'. Chain rules "
            "through 'previous'.",
            inputs=[
                ConceptVector.Input(
                    "concept",
                    tooltip="The concept to switch on: a choice for gender, race and age, an anti-concept for sexual "
                    "and violence.",
                ),
                io.Combo.Input(
                    "topic",
                    options=list(TOPICS),
                    default=TOPICS[0],
                    tooltip="gender, race, age: the prompt explicitly leaves it open or asks for variety. sexual, "
                    "violence: the prompt refuses it. custom: only your phrases.",
                ),
                io.String.Input(
                    "phrases",
                    default="",
                    multiline=True,
                    tooltip="One phrase per line, whole words; a line between slashes is a regular expression. "
                    "Required for custom, in addition for the other topics.",
                ),
                ConceptRules.Input("previous", optional=True, tooltip="Rules so far; this one is appended."),
            ],
            outputs=[
                ConceptRules.Output(
                    display_name="rules", tooltip="Connect to the next Prompt Rule or to Concepts from Prompt."
                )
            ],
        )

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
            description="Reads a prompt and switches on the concepts whose rules match, so that requests such as "
            "'no violence' and 'of any gender' take effect. If nothing matches, nothing is steered.",
            inputs=[
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt to read. CLIP Text Encode needs the same text, or this node's prompt output.",
                ),
                ConceptRules.Input("rules", tooltip="From Prompt Rule: one rule or a chain."),
                io.Boolean.Input(
                    "remove_matched",
                    default=False,
                    optional=True,
                    tooltip="Removes matched requests from the prompt output if they stand alone ('a pilot, no "
                    "weapon' -> 'a pilot'): models tend to show what they are told to leave out.",
                ),
            ],
            outputs=[
                ConceptVector.Output(display_name="concept", tooltip="Sum of the concepts of all matching rules."),
                io.String.Output(
                    display_name="matched",
                    tooltip="One line per match: topic, words found, concept. Empty if nothing matches.",
                ),
                io.String.Output(
                    display_name="prompt",
                    tooltip="For CLIP Text Encode: the prompt as it came in, or without its requests.",
                ),
            ],
        )

    @classmethod
    def execute(cls, prompt, rules, remove_matched=False) -> io.NodeOutput:
        concept, matched = concepts_from_prompt(prompt, rules)
        return io.NodeOutput(concept, matched, without_requests(prompt, rules) if remove_matched else prompt)


NODES = [AddConcepts, ChooseConcept, PromptRule, ConceptsFromPrompt]
