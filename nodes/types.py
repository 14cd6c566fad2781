"""Graph types of the pack."""

from comfy_api.latest import io

CATEGORY = "h-space"
ConceptVector = io.Custom("CONCEPT_VECTOR")
ConceptRules = io.Custom("CONCEPT_RULES")
