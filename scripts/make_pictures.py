"""Make the pictures of the documentation from real runs and the real editor: `make pictures`.

Thumbnails of the workflows (`workflows/*.jpg`), the images of the main one (`docs/strip.jpg`) and the editor after its
run (`docs/editor.jpg`), and every node as it looks on the canvas (`web/docs/images/*.jpg`).
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .build_workflows import NAMES, start_here
from .comfy_server import Server, running_server
from .comfyui import ROOT
from .editor import SIZE, Editor, open_editor
from .paired_strip import paired_strip

WORKFLOWS = ROOT / "workflows"
NODE_PICTURES = ROOT / "web" / "docs" / "images"
START = NAMES[start_here]
SIDE = 512  # pixels of a thumbnail
PER_ROW, ROWS = 4, 2
NODE_SCALE = 1.3
MARGIN = 14
TOP = 200  # below the menus, and high enough for the tallest node


def main() -> None:
    with running_server() as server, open_editor(server) as editor:
        for workflow in sorted(WORKFLOWS.glob("*.json")):
            pictures = run(editor, server, workflow.stem)
            images = editor.page.evaluate(
                """() => app.graph.nodes.find(n => n.type === 'EmptyLatentImage')
                    .widgets.find(w => w.name === 'batch_size').value"""
            )
            picture = thumbnail(pictures, images)
            save(marked(picture) if workflow.stem == START else picture, WORKFLOWS / f"{workflow.stem}.jpg")
            if workflow.stem == "discover_and_steer":
                save(paired_strip(pictures), ROOT / "docs" / "strip.jpg")
                bottom = editor.fit()
                save(screenshot(editor, [0, 0, SIZE["width"], bottom]), ROOT / "docs" / "editor.jpg")
        NODE_PICTURES.mkdir(exist_ok=True)
        for page in sorted(NODE_PICTURES.parent.glob("*.md")):
            save(node_picture(editor, page.stem), NODE_PICTURES / f"{page.stem}.jpg")


def run(editor: Editor, server: Server, name: str) -> list[list[Image.Image]]:
    """Open a workflow, press Run, and wait: the images of each SaveImage in the order of the graph, but plots."""
    editor.open_template(name)
    savers = editor.page.evaluate(
        "() => app.graph.nodes.filter(n => n.type === 'SaveImage').map(n => [n.title, n.widgets[0].value])"
    )
    editor.press_run()
    editor.wait_for_images(timeout=900)
    prefixes = [prefix for title, prefix in savers if title != "Loss plot"]
    return [
        [Image.open(path).convert("RGB") for path in sorted(server.output.glob(f"{prefix}_*.png"))]
        for prefix in prefixes
    ]


def thumbnail(columns: list[list[Image.Image]], images: int) -> Image.Image:
    """A square: plain images above a line, steered ones below; on white a page, or a strip of `images` cells."""
    sheet = Image.new("RGB", (SIDE, SIDE), "white")
    if len(columns) == 1 and columns[0][0].width < 2 * columns[0][0].height:  # a page
        page = ImageOps.contain(columns[0][0], (SIDE, SIDE))
        sheet.paste(page, ((SIDE - page.width) // 2, (SIDE - page.height) // 2))
    elif len(columns) == 1:
        strip = columns[0][0]
        width, rows = strip.width / images, -(-images // PER_ROW)
        height = round(strip.height * SIDE / (PER_ROW * width))
        for row in range(rows):
            cells = min(PER_ROW, images - row * PER_ROW)
            part = strip.crop((round(row * PER_ROW * width), 0, round((row * PER_ROW + cells) * width), strip.height))
            part = part.resize((cells * SIDE // PER_ROW, height))
            sheet.paste(part, (0, (SIDE - rows * height) // 2 + row * height))
        return sheet
    cell = SIDE // PER_ROW
    for half, images in enumerate(columns):
        for number, image in enumerate(images[: PER_ROW * ROWS]):
            row, column = divmod(number, PER_ROW)
            sheet.paste(image.resize((cell, cell)), (column * cell, (half * ROWS + row) * cell))
    ImageDraw.Draw(sheet).line([(0, SIDE // 2), (SIDE, SIDE // 2)], fill="#3f789e", width=5)
    return sheet


def marked(picture: Image.Image) -> Image.Image:
    """The thumbnail that says where to begin, in whatever order the template browser shows them."""
    middle, draw = (SIDE // 2, SIDE // 2), ImageDraw.Draw(picture)
    draw.rounded_rectangle([SIDE // 4, SIDE // 2 - 32, SIDE * 3 // 4, SIDE // 2 + 32], 32, fill="#3f789e")
    draw.text(middle, "Start here", fill="white", anchor="mm", font=ImageFont.load_default(40))
    return picture


def node_picture(editor: Editor, kind: str) -> Image.Image:
    """One node as it looks on the canvas."""
    editor.command("Comfy.NewBlankWorkflow")
    editor.page.wait_for_function("() => app.graph.nodes.length === 0")
    box = editor.page.evaluate(
        """([kind, scale, margin, top]) => {
            const node = LiteGraph.createNode(kind);
            node.pos = [200, 200];
            node.size[0] = Math.max(node.size[0], 320);
            app.graph.add(node);
            const title = LiteGraph.NODE_TITLE_HEIGHT;
            const [x, y, width, height] = [node.pos[0], node.pos[1] - title, node.size[0], node.size[1] + title];
            const ds = app.canvas.ds;
            ds.scale = scale;
            ds.offset[0] = 300 / scale - x;
            ds.offset[1] = top / scale - y;
            app.canvas.setDirty(true, true);
            return [300 - margin, top - margin, width * scale + 2 * margin, height * scale + 2 * margin];
        }""",
        [kind, NODE_SCALE, MARGIN, TOP],
    )
    editor.page.wait_for_timeout(500)
    return screenshot(editor, box)


def screenshot(editor: Editor, box: list[float] | None = None) -> Image.Image:
    """The page, or a part of it."""
    clip = dict(zip(("x", "y", "width", "height"), box, strict=True)) if box else None
    return Image.open(io.BytesIO(editor.page.screenshot(clip=clip))).convert("RGB")


def save(picture: Image.Image, path: Path) -> None:
    """Write a JPEG, and say so."""
    picture.save(path, quality=85, optimize=True)
    print(path.relative_to(ROOT), flush=True)


if __name__ == "__main__":
    main()
