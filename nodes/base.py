"""Graph types of the pack."""

from comfy_api.latest import io

CATEGORY = "h-space"
ConceptVector = io.Custom("CONCEPT_VECTOR")
ConceptRules = io.Custom("CONCEPT_RULES")


class SearchableNode(io.ComfyNode):
    """A node that the editor's search finds by more words than its name has.

    ComfyUI sends `search_aliases` to editors that know them; schemas of ComfyUI 0.3.75 have no place for it yet.
    """

    SEARCH_ALIASES: tuple[str, ...] = ()

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict:
        return {**super().GET_NODE_INFO_V1(), "search_aliases": list(cls.SEARCH_ALIASES)}
