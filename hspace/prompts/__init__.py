"""Requests in prompts, and the rules by which they switch concepts on."""

from .pairs import PAIR_PRESETS, PROMPT_TEXT, PairTemplates, TextPair, expand_kept, expand_templates, noted_texts
from .rules import TOPICS, PromptRule, concepts_from_prompt, make_rule, without_requests
from .trace import prompt_texts

__all__ = [
    "PAIR_PRESETS",
    "PROMPT_TEXT",
    "TOPICS",
    "PairTemplates",
    "PromptRule",
    "TextPair",
    "concepts_from_prompt",
    "expand_kept",
    "expand_templates",
    "make_rule",
    "noted_texts",
    "prompt_texts",
    "without_requests",
]
