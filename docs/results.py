"""Keep docs/results/, and what the pages and README say of it: tables, sentences and rows.

python docs/results.py FOLDER...  take summaries and pictures of `duet simulate` and `duet experiment`
python docs/results.py            write pages and README anew
python docs/results.py --check    exit 1 where one of them is not what docs/results/ says
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kept.rows import rows
from kept.sentences import said
from kept.summaries import RESULTS, TESTBED
from kept.tables import table

from controller.simulation.figures import figures

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PAGES = (HERE / "simulation.md", HERE / "experiments.md")
BLOCK = re.compile(r"<!-- (table|said): ([a-z-]+) -->\n(.*?)<!-- end -->", re.DOTALL)
EXPERIMENTS = ("failover", "failures", "migration", "breakdown", "capacity", "consistency", "chaos")
WIDTH = 120


def collect(folder: Path) -> None:
    """Take summaries, rounded to five digits, and pictures of figures or of experiments."""
    of_figures = {name: (RESULTS, figure.file) for name, figure in figures().items()}
    of_experiments = {name: (TESTBED, name) for name in EXPERIMENTS}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        known = of_figures if "headline" in record else of_experiments
        if path.stem not in known:
            continue
        kept, picture = known[path.stem]
        kept.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_rounded(record), indent=1) + "\n"
        if variant := record.get("variant"):
            # Of what an experiment is when it is not the paper's, the numbers are enough.
            (kept / f"{path.stem}-{variant}.json").write_text(text, encoding="utf-8")
            continue
        (kept / path.name).write_text(text, encoding="utf-8")
        shutil.copy(folder / f"{picture}.png", HERE / "figures" / f"{picture}.png")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def page(text: str) -> str:
    """Return a page with every block as docs/results/ has it; what nothing is kept of stays as it is."""
    return BLOCK.sub(_block, text)


def _block(found: re.Match[str]) -> str:
    kind, name, before = found.groups()
    if kind == "table":
        inside = table(name) + "\n"
    else:
        sentences = said(name)
        inside = (
            before if sentences is None else textwrap.fill(sentences, WIDTH, break_on_hyphens=False) + "\n"
        )
    return f"<!-- {kind}: {name} -->\n{inside}<!-- end -->"


def readme(text: str) -> str:
    """Return README with every row as docs/results/ has it; a new one follows the one before it."""
    lines = text.split("\n")
    last = next(number for number, line in enumerate(lines) if line.startswith("| --- | --- |"))
    for row in rows():
        found = [number for number, line in enumerate(lines) if line.startswith(f"| {row.begins}")]
        if len(found) > 1:
            raise SystemExit(f"README.md: {len(found)} rows begin with {row.begins!r}")
        if found:
            (last,) = found
            lines[last] = str(row)
        else:
            last += 1
            lines.insert(last, str(row))
    return "\n".join(lines)


def main() -> int:
    """Do what the arguments say."""
    arguments = sys.argv[1:]
    check = arguments == ["--check"]
    if not check:
        for argument in arguments:
            collect(Path(argument))
    status = 0
    wanted_of: dict[Path, Callable[[str], str]] = {**dict.fromkeys(PAGES, page), README: readme}
    for path, write in wanted_of.items():
        text = path.read_text(encoding="utf-8")
        wanted = write(text)
        if check and wanted != text:
            sys.stderr.write(f"{path.name}: a number is not what docs/results/ says; run docs/results.py\n")
            status = 1
        elif not check:
            path.write_text(wanted, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
