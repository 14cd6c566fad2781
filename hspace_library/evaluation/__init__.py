"""The paper's three experiments on any checkpoint: fair, safe, and heard (responsible text-enhancing)."""
