"""The page in the package: built from the sources that are here, and in need of nobody else."""

import hashlib
import json
import re
from pathlib import Path

from controller.web.page import STATIC

ROOT = Path(__file__).parents[3]
WEB = ROOT / "web"


def test_the_page_was_built_from_its_sources() -> None:
    digest = hashlib.sha256()
    files = [path for path in WEB.rglob("*") if path.is_file() and "node_modules" not in path.parts]
    for path in sorted(files, key=str):
        digest.update(str(path.relative_to(WEB)).encode() + b"\0" + path.read_bytes() + b"\0")
    built = (STATIC / "sources.sha256").read_text().strip()
    assert built == digest.hexdigest(), "web/ has changed: run `make page` (it needs Node.js), and commit"


def test_the_page_asks_nobody_else() -> None:
    assert len(list(STATIC.glob("*.js"))) >= 2
    for path in [*STATIC.glob("*.html"), *STATIC.glob("*.css")]:
        assert not re.search(r"(src|href)=\"(https?:)?//|url\((https?:)?//|@import", path.read_text()), (
            path.name
        )
    for path in STATIC.glob("*.js"):
        assert not re.search(r"(import|fetch)\([\"'`]https?:", path.read_text()), path.name


def test_the_lock_pins_every_package_and_names_no_registry() -> None:
    lock = json.loads((WEB / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    for name, entry in packages.items():
        assert entry["integrity"].startswith("sha512-"), name
        assert "resolved" not in entry, name


def test_every_picture_of_the_tour_is_taken_by_a_journey() -> None:
    shown = set(re.findall(r"pictures/([a-z0-9-]+)\.png", (ROOT / "docs" / "tour.md").read_text()))
    journeys = (ROOT / "tests" / "integration" / "test_journeys.py").read_text()
    taken = {name.replace("_", "-") for name in re.findall(r"^def test_(\w+)", journeys, re.MULTILINE)}
    taken |= set(re.findall(r'PICTURES / "([a-z0-9-]+)\.png"', journeys))
    assert shown
    assert shown <= taken
    assert shown == {path.stem for path in (ROOT / "docs" / "pictures").glob("*.png")}


def test_the_pictures_of_the_tour_are_of_the_page_as_it_is() -> None:
    taken = (ROOT / "docs" / "pictures" / "sources.sha256").read_text()
    built = (STATIC / "sources.sha256").read_text()
    assert taken == built, "the page has changed since the tour's pictures were taken: run `make journeys`"
