"""docs/p4runtime.md names a test for each requirement, and each test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[2]
PAGE = TESTS.parent / "docs" / "p4runtime.md"
NAMED = re.compile(r"`(test_\w+)::(test_\w+)`")


def rows() -> list[str]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [line for line in lines if not line.startswith(("| Requirement |", "| --- |"))]


def test_every_requirement_has_a_test() -> None:
    assert len(rows()) >= 144
    assert [row for row in rows() if not NAMED.search(row.rsplit("|", 2)[1])] == []


def test_what_is_done_only_partly_has_its_reason() -> None:
    partly = [row for row in rows() if "partly" in row]
    assert partly
    assert [row for row in partly if "for that reason" not in row] == []


def test_every_test_that_is_named_exists() -> None:
    functions = {
        (path.stem, name)
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    named = {pair for row in rows() for pair in NAMED.findall(row)}
    assert named - functions == set()
