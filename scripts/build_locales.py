"""Texts of the nodes in every language: `python -m scripts.build_locales`, after any change to a schema.

Writes `locales/en/nodeDefs.json` from the schemas. The other languages are translated by hand: their keys are put into
the same order, those of the schemas no more are dropped, and what is missing or whose English has changed is listed.
Ends with status 1 while a translation is missing.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator

from .comfyui import ROOT, load_pack

LOCALES = ROOT / "locales"
SOURCE, TRANSLATED = "en", ("zh", "ja")


def node_texts() -> dict:
    """The texts of every node in the editor, in the layout of a `nodeDefs.json`.

    An input without a display name is shown by its id; an output without one by its type, which ComfyUI translates.
    """
    import hspace_steering.nodes as package

    names = [found.name for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
    modules = [importlib.import_module(name) for name in names]
    schemas = [node.GET_SCHEMA() for module in modules for node in getattr(module, "NODES", ())]
    return {
        schema.node_id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {
                item.id: {"name": item.display_name or item.id, "tooltip": item.tooltip} for item in schema.inputs
            },
            "outputs": {str(index): output_texts(item) for index, item in enumerate(schema.outputs)},
        }
        for schema in sorted(schemas, key=lambda schema: schema.node_id)
    }


def output_texts(item) -> dict[str, str]:
    """Name, where it has one of its own, and tooltip of an output."""
    name = {"name": item.display_name} if item.display_name else {}
    return {**name, "tooltip": item.tooltip}


def read(language: str) -> dict:
    """A language's `nodeDefs.json`; empty where there is none."""
    path = LOCALES / language / "nodeDefs.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def write(language: str, texts: dict) -> None:
    """A language's `nodeDefs.json`."""
    path = LOCALES / language / "nodeDefs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(texts, ensure_ascii=False, indent=2) + "\n", "utf-8")


def flatten(texts: dict, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text with its path of keys."""
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from flatten(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def arranged(texts: dict, like: dict) -> dict:
    """Those of `texts` whose keys `like` has, in its order."""
    return {
        key: arranged(texts[key], value) if isinstance(value, dict) else texts[key]
        for key, value in like.items()
        if key in texts
    }


def main() -> None:
    """Write all languages and list what the translators have to look at."""
    load_pack()
    texts, before = node_texts(), dict(flatten(read(SOURCE)))
    write(SOURCE, texts)
    missing = False
    for language in TRANSLATED:
        translation = arranged(read(language), texts)
        write(language, translation)
        done = dict(flatten(translation))
        for path, text in flatten(texts):
            if path not in done:
                missing = True
                print(f"{language}: {'.'.join(path)} is missing: {text}")
            elif before.get(path, text) != text:
                print(f"{language}: {'.'.join(path)} was {done[path]}; the English is now: {text}")
    raise SystemExit(missing)


if __name__ == "__main__":
    main()
