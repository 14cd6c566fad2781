"""Apply H-Space Steering, Steer Conditioning."""

from comfy_api.latest import io

from ..hspace.steering import HALVES, SCHEDULES, apply_steering, steer_conditioning
from .base import CATEGORY, ConceptVector, SearchableNode, factor_input, schema
from .editor import check_known_window, validated

Floats = io.Custom("FLOATS")


def _strength_and_window() -> list[io.Input]:
    """The inputs that say how much and when, which both ways to steer have."""
    return [
        factor_input(
            "strength",
            1.0,
            "Factor on the vector. 0 is exactly no steering, negative steers away. Too high and the image breaks up.",
        ),
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="When steering begins, "
            "as a share of the noise schedule; 0 is pure noise, where the layout is decided.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="When steering ends. Ending at 0.6 or so keeps fine details of the unsteered image.",
        ),
    ]


def _over_the_window() -> list[io.Input]:
    """The inputs that say how the strength changes within the window, which both ways to steer have."""
    return [
        io.Combo.Input(
            "schedule",
            options=list(SCHEDULES),
            default="constant",
            optional=True,
            tooltip="How the strength goes between start_percent and end_percent. fade out: layout first, details "
            "left alone. fade in: the other way round. middle: rises and falls.",
        ),
        Floats.Input(
            "curve",
            optional=True,
            tooltip="Your own curve instead of schedule: factors on the strength, evenly spaced between start_percent "
            "and end_percent, linear between them.",
        ),
    ]


def _factors(schedule: str, curve: list[float] | None) -> list[float] | tuple[float, ...]:
    """The curve that the inputs of `_over_the_window` ask for."""
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: '{schedule}' is not one of {', '.join(SCHEDULES)}.")
    if curve is not None and not len(curve):
        raise ValueError("curve: the list is empty. Connect one or more factors, such as 1, 0.5, 0, or disconnect it.")
    return SCHEDULES[schedule] if curve is None else curve


class ApplySteering(SearchableNode):
    """Adds a concept vector in h-space while the model samples."""

    SEARCH_ALIASES = ("steer", "h-space", "slider", "concept", "fair", "bias", "safe", "responsible")

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="HSpaceApplySteering",
            display_name="Apply H-Space Steering",
            category=CATEGORY,
            description="Steers a model towards a concept, or away from it with a negative strength: the vector "
            "is added to the U-Net's bottleneck at every step. Works with any sampler, batch size and "
            "image size, and can be chained with other Apply nodes.",
            essentials_category=CATEGORY,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to steer. It is cloned, so the rest of the workflow keeps the unsteered model.",
                ),
                ConceptVector.Input(
                    "concept",
                    tooltip="A concept from Load, Import or Discover, or a combination; found on the same base model.",
                ),
                *_strength_and_window(),
                io.Combo.Input(
                    "apply_to",
                    options=list(HALVES),
                    default="positive",
                    tooltip="Which half of classifier-free guidance (CFG) is steered. positive, the conditional half, "
                    "is the paper's choice. negative steers the other half, which moves images the opposite "
                    "way. both is gentler, because CFG does not amplify it.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Steers only where the mask is white. It is shrunk to the bottleneck, so its edges are "
                    "soft. One mask, or one per image.",
                ),
                *_over_the_window(),
            ],
            outputs=[
                io.Model.Output(tooltip="The steered clone."),
                io.String.Output(
                    display_name="assignment",
                    tooltip="What each image is given: one line per image if they differ (first 64 images), otherwise "
                    "one line for all.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, start_percent=None, end_percent=None):
        return validated(cls, lambda: check_known_window(start_percent, end_percent))

    @classmethod
    def execute(
        cls,
        model,
        concept,
        strength,
        start_percent,
        end_percent,
        apply_to,
        mask=None,
        schedule="constant",
        curve=None,
    ) -> io.NodeOutput:
        factors = _factors(schedule, curve)
        steered = apply_steering(model, concept, strength, start_percent, end_percent, apply_to, mask, factors)
        return io.NodeOutput(steered, str(concept.assignment(strength)))


class SteerConditioning(SearchableNode):
    """Adds a concept vector in h-space where one prompt of several is denoised."""

    SEARCH_ALIASES = ("steer", "h-space", "slider", "concept", "regional", "area", "hook")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceSteerConditioning",
            display_name="Steer Conditioning",
            category=CATEGORY,
            description="Steers one prompt instead of the whole model: combine it with others or give it a mask "
            "or an area, and only this prompt is steered. Differently steered prompts run one after "
            "the other, which takes longer than Apply H-Space Steering.",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The prompt to steer, before Conditioning (Combine)."),
                ConceptVector.Input(
                    "concept",
                    tooltip="A concept from Load, Import or Discover, or a combination; found on the base model used "
                    "for sampling.",
                ),
                *_strength_and_window(),
                io.HookKeyframes.Input(
                    "hook_keyframes",
                    optional=True,
                    tooltip="Factors on the strength over the schedule, from Create Hook Keyframe.",
                ),
                *_over_the_window(),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt, steered wherever it is sampled.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, start_percent=None, end_percent=None):
        return validated(cls, lambda: check_known_window(start_percent, end_percent))

    @classmethod
    def execute(
        cls,
        conditioning,
        concept,
        strength,
        start_percent,
        end_percent,
        hook_keyframes=None,
        schedule="constant",
        curve=None,
    ) -> io.NodeOutput:
        factors = _factors(schedule, curve)
        return io.NodeOutput(
            steer_conditioning(conditioning, concept, strength, start_percent, end_percent, hook_keyframes, factors)
        )


NODES = [ApplySteering, SteerConditioning]
