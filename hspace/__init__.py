"""The science of the pack: torch and comfy, no node schema."""
