"""Requests in prompts, and the rules by which they switch concepts on."""

from .rules import TOPICS, PromptRule, concepts_from_prompt, make_rule, without_requests
from .trace import prompt_texts

__all__ = ["TOPICS", "PromptRule", "concepts_from_prompt", "make_rule", "prompt_texts", "without_requests"]
