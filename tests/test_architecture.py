"""The house: arrows between the rooms of hspace go one way, and the picture in the docs is the code."""

import ast
import re

import pytest

from helpers import ROOT

HSPACE = ROOT / "hspace"
ROOMS = {path.name for path in HSPACE.iterdir() if (path / "__init__.py").is_file()}
PARTS = ROOMS | {"bottleneck", "comfy_compat", "comfy_weights", "version"}
FILES = sorted(path for path in HSPACE.rglob("*.py") if path != HSPACE / "__init__.py")


def part_of(path) -> str:
    return path.relative_to(HSPACE).parts[0].removesuffix(".py")


def imported(path) -> set[tuple[str, ...]]:
    """Modules of hspace that a file imports, as paths below hspace."""
    package = path.relative_to(HSPACE).parts[:-1]
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package[: len(package) - node.level + 1]
            names = (node.module or "").split(".") if node.module else []
            targets = [names] if names else [[alias.name] for alias in node.names]
            modules |= {(*above, *target) for target in targets}
    return modules


def arrows() -> set[tuple[str, str]]:
    return {(part_of(path), module[0]) for path in FILES for module in imported(path) if module[0] != part_of(path)}


def test_a_room_imports_no_inside_of_another():
    inside = [
        (path.relative_to(HSPACE).as_posix(), module)
        for path in FILES
        for module in imported(path)
        if module[0] in ROOMS and module[0] != part_of(path) and len(module) > 1
    ]
    assert not inside


def test_rooms_know_what_is_below_them_and_not_one_another():
    below = {
        "concepts": set(),
        "comfy_compat": set(),
        "comfy_weights": {"comfy_compat"},
        "version": set(),
        "bottleneck": {"concepts", "comfy_compat"},
    }
    for start, end in arrows():
        assert end in below.get(start, PARTS - ROOMS | {"concepts"}), f"{start} -> {end}"


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_circles_inside_a_room(room):
    """Imports for type checkers alone do not count."""
    graph = {}
    for path in (HSPACE / room).glob("*.py"):
        tree = ast.parse(path.read_text())
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node))]
        names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1}
        graph[path.stem] = {name for name in names if name and path.stem != "__init__"}
    while leaves := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph


def test_the_picture_shows_every_arrow():
    diagram = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    drawn = {
        (start, end)
        for start, ends in re.findall(r'^ +(\w+)\[".*?"\] --> (.+)$', diagram, re.MULTILINE)
        for end in ends.split(" & ")
    }
    assert drawn == {(start, end) for start, end in arrows() if end != "version"}


def test_nothing_reaches_up():
    for path in FILES:
        assert not re.search(r"^\s*(?:from|import) \.*(?:nodes|demo|hspace_steering)\b", path.read_text(), re.MULTILINE)


def test_what_is_not_public_in_comfyui_is_in_two_files():
    """Private names, and modules that stock nodes do not use."""
    private = re.compile(
        r"comfy\.(?:ldm|model_patcher|conds|cli_args|ops)\b|latent_preview"
        r"|\.(?:cond_stage_model\.\w|model_config|diffusion_model)\b"
    )
    for path in FILES:
        code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)
        assert path.stem in ("comfy_compat", "comfy_weights") or not private.search(code), path.name


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "nodes").glob("*.py"))], ids=lambda path: path.stem)
def test_files_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 300
