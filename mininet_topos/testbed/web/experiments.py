"""Experiments on the page: `duet experiment` by a click, what it says as it goes, and what came out.

One at a time, and under the name of a testbed of its own, so that it does not touch the one that is shown
(but for attacks, if they are to be on that one). Results are kept with the testbed's state.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from asyncio.subprocess import STDOUT, Process
from collections import deque
from functools import cache
from pathlib import Path as File
from typing import Annotated, Any, Literal, Self

import click
from fastapi import APIRouter, Path
from fastapi.responses import FileResponse
from pydantic import Field

from duet_p4.api.problems import ConflictError, InvalidError, UnknownError
from duet_p4.model import Model
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.web import commands

TESTBED = "experiment"
"""What an experiment calls its testbed."""

_LINES = 400
_PICTURES = ("svg", "png", "csv", "json")
_OF_THE_PAGE = frozenset({"out", "name", "as_json", "help"})

Name = Annotated[str, Path(pattern=r"^[a-z]{1,32}$")]


class Option(Model):
    """What can be said about an experiment. `here` is the testbed that is shown."""

    name: str
    kind: Literal["number", "flag", "here", "words"]
    default: float | bool | None = None
    least: float | None = None
    most: float | None = None
    about: str


class Experiment(Model):
    """An experiment, and what came out when it last ended well."""

    name: str
    about: str
    options: tuple[Option, ...]
    measured_at: float | None = None
    """Unix seconds; None where nothing was measured yet."""
    files: tuple[str, ...] = ()
    """Kinds of the files that were written: svg, png, csv, json."""


class Run(Model):
    """The experiment that runs, or ran last: what it has said, and how it ended."""

    name: str
    began: float
    ended: float | None = None
    code: int | None = None
    """Its exit code; None while it runs."""
    stopped: bool = False
    lines: tuple[str, ...] = ()


class Experiments(Model):
    """All experiments, and the one that runs or ran last."""

    experiments: tuple[Experiment, ...]
    run: Run | None = None


class Wanted(Model):
    """What is said about an experiment: by option, a number, a flag, or words."""

    options: dict[str, float | bool | str] = Field(default_factory=dict, max_length=16)


class Bench:
    """Where experiments are run. Leaving it ends the one that runs."""

    def __init__(self, folder: Folder) -> None:
        """Keep results in the state of a testbed."""
        self._testbed = folder.name
        self._out = folder.state("web") / "experiments"
        self._run: Run | None = None
        self._said: deque[str] = deque(maxlen=_LINES)
        self._process: Process | None = None
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin with none running."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the one that runs."""
        await self.stop()

    async def all(self) -> Experiments:
        """Return all experiments and the state of the run."""
        known = await asyncio.to_thread(_known)
        run = self._run and self._run.model_copy(update={"lines": tuple(self._said)})
        return Experiments(experiments=tuple(self._measured(one) for one in known.values()), run=run)

    async def start(self, name: str, wanted: Wanted) -> None:
        """Start one. Raises ConflictError while one runs, UnknownError, InvalidError naming an option."""
        known = await asyncio.to_thread(_known)
        if name not in known:
            raise UnknownError(f"there is no experiment {name!r}; there are {', '.join(known)}")
        words, here = _words(known[name], wanted, self._testbed)
        if self._run is not None and self._run.ended is None:
            raise ConflictError(
                f"experiment {self._run.name} is running: stop it, or wait for its end", "busy"
            )
        own = Folder(TESTBED)
        if not here and own.path.exists():
            raise ConflictError(f"an experiment runs elsewhere: {own.in_use()}", "busy")
        self._run = Run(name=name, began=time.time())
        self._said.clear()
        out = str(self._out)
        try:
            self._process = await commands.begin(
                *("experiment", name, "--out", out, "--name", TESTBED, *words), errors=STDOUT
            )
        except OSError as error:
            self._run = self._run.model_copy(update={"ended": time.time(), "code": -1})
            raise ConflictError(f"experiment {name} cannot be started: {error}", "busy") from error
        self._following = asyncio.create_task(self._follow(self._run, self._process))

    async def stop(self) -> None:
        """End the one that runs, as Ctrl-C would, so that it takes its testbed down."""
        process, run = self._process, self._run
        if process is None or run is None or self._following is None or self._following.done():
            return
        self._run = run.model_copy(update={"stopped": True})
        await commands.end(process, signal.SIGINT)
        await self._following

    def file(self, name: str, kind: str) -> File:
        """Return a file that an experiment has written. Raises UnknownError."""
        path = self._out / f"{name}.{kind}"
        if kind not in _PICTURES or not path.is_file():
            raise UnknownError(f"experiment {name!r} has written no {kind}")
        return path

    async def _follow(self, run: Run, process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self._said.append(line.decode(errors="replace").rstrip())
        code = await process.wait()
        assert self._run is not None
        self._run = self._run.model_copy(update={"ended": time.time(), "code": code})

    def _measured(self, one: Experiment) -> Experiment:
        files = tuple(kind for kind in _PICTURES if (self._out / f"{one.name}.{kind}").is_file())
        at = (self._out / f"{one.name}.json").stat().st_mtime if "json" in files else None
        return one.model_copy(update={"measured_at": at, "files": files})


def router(bench: Bench) -> APIRouter:
    """Return the paths."""
    api = APIRouter(prefix="/testbed/v1")

    @api.get("/experiments")
    async def get_experiments() -> Experiments:
        """Return all experiments, what they take, and how far the one goes that runs."""
        return await bench.all()

    @api.post("/experiments/{name}", status_code=202)
    async def start(name: Name, body: Wanted) -> Experiments:
        """Start an experiment, in a testbed of its own."""
        await bench.start(name, body)
        return await bench.all()

    @api.delete("/experiments", status_code=204)
    async def stop() -> None:
        """End the experiment that runs, and its testbed."""
        await bench.stop()

    @api.get("/experiments/{name}/summary")
    async def get_summary(name: Name) -> dict[str, Any]:
        """Return the summary of an experiment's last run."""
        found: dict[str, Any] = json.loads(bench.file(name, "json").read_text(encoding="utf-8"))
        return found

    @api.get("/experiments/{name}/files/{kind}")
    async def get_file(name: Name, kind: Annotated[str, Path(pattern=r"^[a-z]{1,8}$")]) -> FileResponse:
        """Return a figure or a table that an experiment has written."""
        return FileResponse(
            bench.file(name, kind), filename=f"{name}.{kind}", content_disposition_type="inline"
        )

    return api


@cache
def _known() -> dict[str, Experiment]:
    # What it imports draws figures, which is slow to import: it is, when it is first wanted.
    from mininet_topos.experiments.cli import experiment

    return {
        name: Experiment(
            name=name,
            about=" ".join((command.help or "").split("\n\n")[0].split()),
            options=tuple(_option(one) for one in command.params if one.name not in _OF_THE_PAGE),
        )
        for name, command in sorted(experiment.commands.items())
        if name != "all"
    }


def _option(parameter: click.Parameter) -> Option:
    assert isinstance(parameter, click.Option) and parameter.name is not None
    kind, limits = parameter.type, {}
    if isinstance(kind, click.IntRange | click.FloatRange):
        limits = {"least": kind.min, "most": kind.max}
    about = parameter.help or ""
    if parameter.name == "testbed":
        return Option(name="testbed", kind="here", default=False, about=about)
    if parameter.is_flag:
        return Option(name=parameter.name, kind="flag", default=False, about=about)
    if parameter.multiple:
        return Option(name=parameter.name, kind="words", about=about)
    default = parameter.default
    assert default is None or isinstance(default, int | float)
    return Option(name=parameter.name, kind="number", default=default, about=about, **limits)


def _words(experiment: Experiment, wanted: Wanted, testbed: str) -> tuple[list[str], bool]:
    """Return the command's words for what is wanted, and whether it is to be done in the shown testbed."""
    options = {one.name: one for one in experiment.options}
    words: list[str] = []
    here = False
    for name, value in wanted.options.items():
        option = options.get(name)
        if option is None:
            raise InvalidError(f"experiment {experiment.name} takes no {name!r}, but {', '.join(options)}")
        words += _word(option, value, testbed)
        here |= option.kind == "here" and value is True
    return words, here


def _word(option: Option, value: float | bool | str, testbed: str) -> list[str]:
    if option.kind == "number":
        if isinstance(value, bool | str):
            raise InvalidError(f"{option.name} is a number, not {value!r}")
        if (option.least is not None and value < option.least) or (
            option.most is not None and value > option.most
        ):
            raise InvalidError(f"{option.name} is {option.least:g} to {_most(option)}, not {value:g}")
        return [f"--{option.name}", f"{value:g}"]
    if option.kind == "words":
        if not isinstance(value, str):
            raise InvalidError(f"{option.name} is words, not {value!r}")
        # Joined, so that what begins with a dash is no option.
        return [f"--{option.name}={word}" for word in value.split(",") if word.strip()]
    if not isinstance(value, bool):
        raise InvalidError(f"{option.name} is true or false, not {value!r}")
    return ([f"--{option.name}", testbed] if option.kind == "here" else [f"--{option.name}"]) if value else []


def _most(option: Option) -> str:
    return "any" if option.most is None else f"{option.most:g}"
