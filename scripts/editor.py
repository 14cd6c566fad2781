"""ComfyUI's editor in a real Chromium, for the browser tests and the pictures of the documentation.

Needs the package playwright and a Chromium: the system's, one that CHROMIUM=/path points at, or playwright's own.
"""

from __future__ import annotations

import contextlib
import json
import re
import urllib.request
from collections.abc import Iterator

from playwright.sync_api import Locator, Page, TimeoutError, sync_playwright

from .browser import launch
from .comfy_server import Server

PACK = "h-space-steering"
SIZE = {"width": 1600, "height": 1000}
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # no template browser over the first page
    "Comfy.OnboardingCoachmarks.Seen": ["appMode", "firstRun"],  # nor tours
    "Comfy.Minimap.Visible": False,
    "Comfy.Workflow.WarnBlueprintOverwrite": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # titles and widgets readable at every zoom
}


class Editor:
    """The editor's page, with what tests and pictures do to it."""

    def __init__(self, page: Page, server: Server):
        self.page, self.server = page, server
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, **settings) -> None:
        """Load the page afresh with these settings on top of the usual ones."""
        request = urllib.request.Request(
            f"{self.server.url}/settings",
            json.dumps({**SETTINGS, **settings}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).read()
        self.page.goto(self.server.url, timeout=60_000)
        self.page.wait_for_function("window.app?.graph && window.app.vueAppReady", timeout=60_000)
        banner = self.page.get_by_text(re.compile("^Introducing Nodes 2.0"))
        if banner.count():
            banner.locator("xpath=ancestor::div[contains(@class, 'gradient')]").get_by_role("button").last.click()

    def browse_templates(self) -> Locator:
        """The cards of the pack's workflows in the template browser."""
        self.command("Comfy.BrowseTemplates")
        self.page.get_by_role("dialog").get_by_text(PACK, exact=True).first.click()
        cards = self.page.locator('[data-testid^="template-workflow-"]')
        cards.first.wait_for()
        return cards

    def open_template(self, name: str) -> None:
        """Open a shipped workflow the way a user does."""
        self.browse_templates()
        card = self.page.get_by_test_id(f"template-workflow-{name}")
        card.click()
        is_open = (
            "name => app.extensionManager.workflow.activeWorkflow?.path?.includes(name) && app.graph.nodes.length > 3"
        )
        try:
            self.page.wait_for_function(is_open, arg=name, timeout=20_000)
        except TimeoutError:
            if card.is_visible():  # on a busy machine the cards were drawn anew under the click
                card.click()
            self.page.wait_for_function(is_open, arg=name, timeout=60_000)
        self.page.wait_for_timeout(500)

    def command(self, name: str) -> None:
        """Run one of the editor's commands."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def open_search(self) -> None:
        """The node search, ready to be typed into."""
        self.command("Workspace.SearchBox.Toggle")
        self.page.wait_for_function("() => document.activeElement.tagName === 'INPUT'")

    def search(self, typed: str, name: str) -> None:
        """Type into the open node search, and wait for a result with that name."""
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(typed)
        self.page.get_by_role("option").filter(has_text=name).first.wait_for(timeout=15_000)

    def set_widget(self, kind: str, widget: str, value) -> None:
        """Type a value into a widget of every node of a kind."""
        self.page.evaluate(
            """([kind, name, value]) => {
                for (const node of app.graph.nodes.filter(n => n.type === kind))
                    node.widgets.find(w => w.name === name).value = value;
            }""",
            [kind, widget, value],
        )

    def press_run(self) -> None:
        """The Run button."""
        element = self.page.get_by_test_id("queue-button")  # the button, or what it is in
        inner = element.get_by_role("button")
        (inner.first if inner.count() else element.first).click()

    def press_stop(self) -> None:
        """The button beside it that interrupts what runs."""
        self.page.get_by_role("button", name="Cancel current run").first.click()

    def idle_within(self, seconds: float) -> bool:
        """Wait until nothing runs and nothing is queued; False where that takes longer."""
        # A loop of its own: wait_for_function takes the promise of an async condition for a true one.
        return self.page.evaluate(
            """async seconds => {
                for (const end = Date.now() + 1000 * seconds; Date.now() < end;) {
                    const {queue_running, queue_pending} = await (await fetch('/queue')).json();
                    if (!queue_running.length && !queue_pending.length) return true;
                    await new Promise(resolve => setTimeout(resolve, 50));
                }
                return false;
            }""",
            seconds,
        )

    def wait_for_images(self, kind: str = "SaveImage", timeout: float = 300) -> None:
        """Wait until every node of a kind shows its images."""
        self.page.wait_for_function(
            """kind => app.graph.nodes.filter(n => n.type === kind).every(
                n => n.imgs?.length && n.imgs.every(i => i.naturalWidth > 0))""",
            arg=kind,
            timeout=timeout * 1000,
        )

    def images(self, kind: str = "SaveImage") -> list[dict]:
        """Titles of the nodes of a kind, with sizes and pixel values of the images they show."""
        return self.page.evaluate(
            """kind => app.graph.nodes.filter(n => n.type === kind).map(node => ({
                title: node.title,
                images: node.imgs.map(image => {
                    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
                    const context = canvas.getContext('2d');
                    context.drawImage(image, 0, 0);
                    const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
                    return {width: canvas.width, height: canvas.height, pixels: Array.from(data)};
                }),
            }))""",
            kind,
        )

    def fit(self, margin: int = 40) -> float:
        """Zoom so that the whole graph is seen between the menus; returns the page's y below it."""
        below = self.page.evaluate(
            """margin => {
                const boxes = [...app.graph.nodes, ...app.graph.groups].map(n => n.boundingRect ?? n.getBounding());
                const left = Math.min(...boxes.map(b => b[0])), right = Math.max(...boxes.map(b => b[0] + b[2]));
                const top = Math.min(...boxes.map(b => b[1])), bottom = Math.max(...boxes.map(b => b[1] + b[3]));
                const [x0, y0] = [90, 130], [width, height] = [innerWidth - x0 - margin, innerHeight - y0 - margin];
                const scale = Math.min(width / (right - left), height / (bottom - top), 1);
                app.canvas.ds.scale = scale;
                app.canvas.ds.offset[0] = x0 / scale - left;
                app.canvas.ds.offset[1] = y0 / scale - top;
                app.canvas.setDirty(true, true);
                return y0 + (bottom - top) * scale + margin;
            }""",
            margin,
        )
        self.page.wait_for_timeout(800)
        return below


@contextlib.contextmanager
def open_editor(server: Server, size: dict = SIZE) -> Iterator[Editor]:
    """The editor of a running server in a headless browser."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        try:
            editor = Editor(browser.new_page(viewport=size, reduced_motion="reduce"), server)
            editor.open()
            yield editor
        finally:
            browser.close()
