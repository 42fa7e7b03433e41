"""A real browser on the page: Playwright with the Chromium of the system."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PICTURES = Path(__file__).parents[2] / "results" / "journeys"
WAIT_MS = 60_000.0
"""How long a journey waits for what shall be on the page: this machine may be busy with ninety processes."""
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def executable() -> str | None:
    """Return a Chromium of this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browsing() -> Iterator[Browser]:
    """Run a browser without a screen."""
    path = executable()
    assert path is not None
    with sync_playwright() as playwright:
        # As root in a container there is no sandbox for it; it sees no page but ours.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Journey:
    """A page that is to be without errors, and is looked at as a picture in the end, and for its contrasts.

    What the browser itself says of answers that are errors (4xx, 5xx) is no error of the page.
    """

    def __init__(self, context: BrowserContext, name: str) -> None:
        self.name = name
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._heard)

    def __enter__(self) -> Page:
        return self.page

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{self.name}.png", animations="disabled")
        if kind is None:
            for scheme in SCHEMES:
                self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                found = self.page.evaluate(CONTRASTS)
                assert found == [], f"{self.name}, {scheme}: {found}"
        self.page.close()
        if kind is None:
            assert self.errors == []

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)


CONTRASTS = """() => {
  const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const opaque = (colour) => colour.length === 3 || colour[3] === 1;
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length && opaque(colour)) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const hold = (element, colour, other, least, what) => {
    const [one, two] = [luminance(colour), luminance(other)];
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    const name = `${element.tagName} ${element.getAttribute("class") ?? ""}`;
    const says = element.textContent.slice(0, 60);
    if (ratio < least) found.push(`${what} of ${name} "${says}" ${ratio.toFixed(2)}`);
  };
  const hidden = ":disabled, .visually-hidden, .skip";
  const seen = (element) => element.checkVisibility() && !element.closest(hidden);
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!text || element.closest("svg, noscript, option, .xterm") || !seen(element)) continue;
    hold(element, parse(getComputedStyle(element).color), behind(element), 4.5, "text");
  }
  for (const element of document.querySelectorAll("svg text")) {
    const box = element.parentElement.querySelector("rect");
    const filled = box ? parse(getComputedStyle(box).fill) : [];
    const ground = filled.length && opaque(filled) ? filled : behind(element.closest("svg").parentElement);
    hold(element, parse(getComputedStyle(element).fill), ground, 4.5, "text");
  }
  const mixed = (colour, ground, share) =>
    colour.slice(0, 3).map((c, n) => share * c + (1 - share) * ground[n]);
  const box = document.querySelector(".topology .container");
  const grounds = box ? [parse(getComputedStyle(box).fill), behind(box.closest("svg").parentElement)] : [];
  const marks = ".topology .node:not(.faded, .idle) rect, .topology .link:not(.faded), .topology .flow";
  for (const element of document.querySelectorAll(marks)) {
    const style = getComputedStyle(element);
    const drawn = style.stroke === "none" ? style.fill : style.stroke;
    for (const ground of grounds) {
      hold(element, mixed(parse(drawn), ground, Number(style.opacity)), ground, 3, "mark");
    }
  }
  for (const element of document.querySelectorAll("input, select, textarea")) {
    // What a terminal types into is not seen.
    if (!seen(element) || element.matches("[type=range], [type=checkbox], .xterm *")) continue;
    hold(element, parse(getComputedStyle(element).borderTopColor), behind(element.parentElement), 3, "edge");
  }
  return found;
}"""
"""What has less contrast than WCAG's AA asks for: texts (4.5), and marks and edges that say something (3)."""

DELAYS = """() => {
  window.delays = [];
  new MutationObserver((changes) => {
    for (const change of changes) for (const node of change.addedNodes) {
      const told = node.nodeName === "LI" ? node.querySelector("time") : null;
      const at = told && node.parentElement?.matches(".events") ? Date.parse(told.dateTime) : 0;
      // What happened before the page was there is no news. A frame after the next one, it is painted.
      if (at < performance.timeOrigin + 1000) continue;
      requestAnimationFrame(() => requestAnimationFrame(() => window.delays.push(Date.now() - at)));
    }
  }).observe(document, { childList: true, subtree: true });
}"""
"""Notes in `window.delays` how many ms after it happened each event was on the screen."""
