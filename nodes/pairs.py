"""Concept Prompts: pairs of prompts from templates."""

from comfy_api.latest import io

from ..hspace.concepts import quoted
from ..hspace.prompts import PAIR_PRESETS, PROMPT_TEXT, PairTemplates, TextPair, expand_kept, expand_templates
from .base import CATEGORY, SearchableNode
from .editor import validated

CUSTOM = "custom"
SHOWN_TEMPLATES = PAIR_PRESETS["woman"]


class ConceptPrompts(SearchableNode):
    """Writes and encodes the pairs of prompts that Discover learns from."""

    SEARCH_ALIASES = ("h-space", "pairs", "template", "wildcard", "subjects", "train", "slider", "preset")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceConceptPrompts",
            display_name="Concept Prompts",
            category=CATEGORY,
            description="Pairs of prompts for Discover Concept Direction: each subject once with the concept and once "
            "without it. Choose a preset, or write templates of your own.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model that Discover gets."),
                io.String.Input(
                    "with_concept",
                    default=SHOWN_TEMPLATES.with_concept,
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="The prompt with the concept; 'subject' in curly brackets stands for each subject in turn. "
                    "Several lines are several templates.",
                ),
                io.String.Input(
                    "without",
                    default=SHOWN_TEMPLATES.without,
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="The same prompt without the concept, line by line. The vector learns the difference.",
                ),
                io.String.Input(
                    "subjects",
                    default=SHOWN_TEMPLATES.subjects,
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="One a line, six or more in all: the more there are, the better the vector generalises "
                    "to others, at the same cost. Empty for templates that name none.",
                ),
                io.String.Input(
                    "avoid",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="What the concept must lack, as a third template; may be empty. To take something away, "
                    "ask for it here and in without.",
                ),
                io.String.Input(
                    "shared",
                    default="",
                    tooltip="Added to every prompt: quality tags, a style. Say 'prompt' in curly brackets where the "
                    "prompt should not come first.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[CUSTOM, *PAIR_PRESETS],
                    default=CUSTOM,
                    tooltip="A preset takes the place of templates, subjects, avoid and keep; shared stays. custom: "
                    "what is written here.",
                ),
                io.String.Input(
                    "keep",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    optional=True,
                    tooltip="Prompts whose images the vector must not change, one a line; may be empty. For a concept "
                    "that takes something away, about as many subjects without it as there are pairs.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="concept", tooltip="Connect to concept of Discover."),
                io.Conditioning.Output(display_name="base", tooltip="Connect to base of Discover."),
                io.Conditioning.Output(
                    display_name="avoid",
                    tooltip="Connect to avoid of Discover; it may hold nothing.",
                ),
                io.Conditioning.Output(
                    display_name="empty", tooltip="The encoded empty prompt. Connect to empty of Discover."
                ),
                io.String.Output(
                    display_name="pairs",
                    tooltip="The prompts as they were encoded: a pair a line, then the prompts to keep.",
                ),
                io.Conditioning.Output(
                    display_name="keep", tooltip="Connect to keep of Discover; it may hold nothing."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls, with_concept=None, without=None, subjects=None, avoid=None, shared=None, preset=None, keep=""
    ):
        """Refuse at queue time what is wrong; None stands for what another node will say."""
        texts = [with_concept, without, subjects, avoid, shared, preset, keep]
        return validated(cls, lambda: None not in texts and written_prompts(*texts))

    @classmethod
    def execute(cls, clip, with_concept, without, subjects, avoid, shared, preset, keep="") -> io.NodeOutput:
        if clip is None:
            raise ValueError("clip: this checkpoint has no text encoder; load one with Load CLIP and connect it.")
        pairs, kept = written_prompts(with_concept, without, subjects, avoid, shared, preset, keep)
        avoided = [entry for pair in pairs for entry in encoded(clip, pair.avoid)] if pairs[0].avoid else []
        return io.NodeOutput(
            [entry for pair in pairs for entry in encoded(clip, pair.concept)],
            [entry for pair in pairs for entry in encoded(clip, pair.base)],
            avoided,
            encoded(clip, ""),
            "\n".join([*(" | ".join(filter(None, (p.concept, p.base, p.avoid))) for p in pairs), *kept]),
            [entry for text in kept for entry in encoded(clip, text)],
        )


def written_prompts(
    with_concept: str, without: str, subjects: str, avoid: str, shared: str, preset: str, keep: str
) -> tuple[list[TextPair], list[str]]:
    """The pairs of the node's inputs, and the prompts to keep."""
    if preset not in (CUSTOM, *PAIR_PRESETS):
        raise ValueError(f"preset: {quoted(preset)} is not known. Choose one of the list, or {CUSTOM}.")
    custom = PairTemplates(with_concept, without, subjects, avoid, keep)
    templates = custom if preset == CUSTOM else PAIR_PRESETS[preset]
    return expand_templates(templates, shared), expand_kept(templates, shared)


def encoded(clip, text: str) -> list:
    """CONDITIONING of one prompt as CLIP Text Encode makes it; Discover reads its words for the vector's file."""
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    if len(conditioning) != 1:
        raise ValueError(
            f"clip: its hooks make {len(conditioning)} conditionings of '{text}', and a pair needs one; connect the "
            "text encoder without scheduled hooks."
        )
    return [[conditioning[0][0], {**conditioning[0][1], PROMPT_TEXT: text}]]


NODES = [ConceptPrompts]
