"""The documentation says what is so: references are current, examples run, and what it names is there."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mininet_topos.cli import main

ROOT = Path(__file__).parents[2]
GENERATED = {"cli.md", "rest.md"}
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name not in GENERATED)]
FOLDERS = ("docs", "p4src", "duet_p4", "controller", "mininet_topos", "ptf_tests", "tests", "scripts", ".ci")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"[A-Z][A-Z_0-9]+|\.\.\.")


def snippets(page: Path) -> Iterator[str]:
    """Yield what is code on a page: fenced and indented blocks line by line, and inline code."""
    text = page.read_text()
    for language, block in FENCED.findall(text):
        if language != "python":
            yield from block.replace("\\\n", " ").splitlines()
    prose = FENCED.sub("", text)
    yield from (line.strip() for line in prose.splitlines() if line.startswith("    "))
    yield from re.findall(r"`([^`\n]+)`", prose)


def wrong_words(words: list[str]) -> str:
    """Return what the `duet` command line does not know of these words, or nothing."""
    command: click.Command = main
    context = click.Context(main, info_name="duet")
    path = "duet"
    for word in words:
        if word.startswith("-"):
            known = {option for parameter in command.get_params(context) for option in parameter.opts}
            known |= {o for p in command.get_params(context) for o in p.secondary_opts}
            if word.partition("=")[0] not in known:
                return f"{path} has no option {word}"
        elif isinstance(command, click.Group) and not PLACEHOLDER.fullmatch(word):
            names = word.split("|")
            found = [command.get_command(context, name) for name in names]
            if None in found:
                return f"{path} has no command {names[found.index(None)]}"
            command = found[0]  # type: ignore[assignment]
            context = click.Context(command, info_name=word, parent=context)
            path += f" {word}"
    return ""


def test_the_cli_and_rest_references_are_what_the_code_says() -> None:
    command = [sys.executable, str(ROOT / "docs" / "reference.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_the_simulations_numbers_are_what_the_kept_results_say() -> None:
    command = [sys.executable, str(ROOT / "docs" / "results.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [code for language, code in FENCED.findall(page.read_text()) if language == "python"]
    if not blocks:
        return
    monkeypatch.chdir(ROOT)
    # A module of its own, because dataclasses look their module up.
    code = "\n".join(blocks)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, f"{page.name}:\n{code}\n{result.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in snippets(page):
        for target in re.findall(r"(?:^|\$ |&& )make ([a-z0-9]+)", line):
            assert target in targets, f"{page.name}: {line!r}: the Makefile has no target {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_duet_commands_exist(page: Path) -> None:
    for line in snippets(page):
        for words in re.findall(r"(?:^|\$ |sudo |/bin/)duet ([^#;&>]+)", line):
            # What follows the node in `testbed exec` is a command of the node's.
            own = re.sub(r"(testbed exec (?:--name \S+ )?\S+).*", r"\1", words)
            assert not (wrong := wrong_words(own.split())), f"{page.name}: {line!r}: {wrong}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_exist(page: Path) -> None:
    names = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
    names |= {path.name for path in ROOT.iterdir()}
    for line in snippets(page):
        for word in re.findall(r"[\w./-]+", line):
            if word.startswith(tuple(f"{folder}/" for folder in FOLDERS)):
                assert (ROOT / word).exists(), f"{page.name}: {line!r}: there is no {word}"
    for name in re.findall(r"`(\w[\w.-]*\.(?:py|p4|md|c|h|yaml|toml|sh))`", FENCED.sub("", page.read_text())):
        assert name in names, f"{page.name}: there is no file called {name}"
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
