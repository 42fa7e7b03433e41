"""The testbed's shell, and any shell: what TAB offers."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from fastapi import FastAPI

from controller.cli import complete as controller_complete
from duet_p4.rest.server import serve_local
from mininet_topos.cli import main
from mininet_topos.testbed import complete
from mininet_topos.testbed import folder as folder_module
from mininet_topos.testbed import shell as shell_module
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.protocol import Answer
from mininet_topos.testbed.shell import Shell

ROOT = Path(__file__).parents[2]


def controller() -> FastAPI:
    """What completion asks a controller."""
    app = FastAPI()
    dips = [{"address": "100.1.1.17"}, {"address": "100.1.1.33", "weight": 2}]

    @app.get("/v1/listing")
    async def listing() -> dict[str, object]:
        return {"vips": [{"address": "10.0.0.1"}, {"address": "10.0.0.2"}]}

    @app.get("/v1/inventory")
    async def inventory() -> dict[str, object]:
        names = ("core1", "tor1")
        return {
            "switches": [{"name": name} for name in names],
            "smuxes": [{"name": "smux1"}, {"name": "smux2"}],
            "servers": [{"name": "server1", "dips": ["100.1.1.17", "100.2.1.17"]}],
        }

    @app.get("/v1/vips/10.0.0.1")
    async def vip() -> dict[str, object]:
        return {"spec": {"dips": dips, "ports": [{"dips": [{"address": "100.1.1.49"}]}]}}

    return app


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a testbed whose controller answers."""
    root = tmp_path_factory.mktemp("run")
    (root / "dt").mkdir()
    (root / "dt" / "plan.json").write_text(Plan().model_dump_json())
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serve_local(controller(), root / "dt" / "controller.sock"):
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(20)
    yield root
    done.set()
    thread.join()


@pytest.fixture
def shell(run: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr(folder_module, "ROOT", run)
    monkeypatch.setattr(controller_complete, "RUN", run / "paper")
    monkeypatch.setattr(shell_module, "ask", lambda *_: Answer())
    monkeypatch.setattr(complete, "ask", lambda *_: Answer(failed=("agg1", "tor1-agg2")))
    monkeypatch.setattr(shell_module.CLI, "__init__", lambda *_: None)
    monkeypatch.setenv("DUET_TESTBED", "dt")
    return Shell(SimpleNamespace(nameToNode={}), Folder("dt"))


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("vip mig", ["migrate"]),
        ("vip migrate ", ["10.0.0.1", "10.0.0.2"]),
        ("vip migrate 10.0.0.1 ", ["core1", "tor1", "smux"]),
        ("vip migrate --json 10.0.0.1 t", ["tor1"]),
        ("vip drain 10.0.0.1 ", ["100.1.1.17", "100.1.1.33", "100.1.1.49"]),
        ("vip drain 10.0.0.7 ", []),
        ("vip change 10.0.0.1 --drop 100.2", ["100.2.1.17"]),
        ("vip add --dip 100.2", ["100.2.1.17"]),
        ("vip add --switch s", ["smux"]),
        ("why 10.0.0.", ["10.0.0.1", "10.0.0.2"]),
        ("drain ", ["smux1", "smux2"]),
        ("flows --vip ", ["10.0.0.1", "10.0.0.2"]),
        ("flows --device s", ["smux1", "smux2", "server1"]),
        ("trace client", ["client1", "client2", "client3", "client4"]),
        ("trace client1 10", ["10.0.0.1", "10.0.0.2"]),
        ("why --testbed nosuch ", []),
        ("testbed fail agg", ["agg1", "agg2", "agg3", "agg4"]),
        ("testbed fail tor1-ag", ["tor1-agg1", "tor1-agg2"]),
        ("testbed restore ", ["agg1", "tor1-agg2"]),
        ("testbed logs ro", ["root"]),
        ("testbed capture smux1 ", ["eth1", "tor1"]),
        ("testbed logs --name nosuch t", []),
        ("testbed up --tar", ["--target"]),
        ("testbed up --target b", ["bmv2"]),
    ],
)
def test_what_may_follow_is_offered(shell: Shell, line: str, offered: list[str]) -> None:
    begin = line.rindex(" ") + 1
    command = line.split()[0]
    assert getattr(shell, f"complete_{command}")(line[begin:], line, begin, len(line)) == offered


_OF_THEIR_OWN = (click.Choice, click.File, click.Path)
"""Types that know their values."""


def test_every_argument_offers_its_values(shell: Shell) -> None:
    def walk(command: click.Command, words: str) -> Iterator[str]:
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                yield from walk(command.get_command(context, name) or command, f"{words} {name}")
            return
        for parameter in command.params:
            if not isinstance(parameter, click.Argument) or isinstance(parameter.type, _OF_THEIR_OWN):
                continue
            if parameter._custom_shell_complete is None:
                yield f"{words} {parameter.name}"

    context = click.Context(main)
    # A new VIP's address is nobody's yet; what runs in a node is any command.
    assert set(walk(main, "duet")) == {"duet vip add address", "duet testbed exec command"}


def test_the_page_does_the_same_things_by_the_same_names(shell: Shell) -> None:
    """Verbs of the page's buttons and of the testbed's service are commands of the shell."""
    root = click.Context(main)
    vip, testbed = (main.get_command(root, name) for name in ("vip", "testbed"))
    assert isinstance(vip, click.Group) and isinstance(testbed, click.Group)
    views = "".join(path.read_text() for path in sorted((ROOT / "web" / "src").rglob("*.tsx")))
    for verb in {*vip.list_commands(root)} - {"list", "show"}:
        assert re.search(rf"[\s\"`>]{verb.capitalize()}\b", views), f"no button says {verb.capitalize()}"
    services = [
        path.read_text() for path in sorted((ROOT / "mininet_topos" / "testbed" / "web").glob("*.py"))
    ]
    paths = re.findall(r'@api\.(?:get|post)\(\s*"([^"]+)"', "".join(services))
    verbs = {next(word for word in reversed(path.split("/")) if not word.startswith("{")) for path in paths}
    told = {verb.removesuffix("s") if verb not in ("logs", "status") else verb for verb in verbs}
    # What is only looked at, and the keys of a shell.
    told -= {"layout", "source", "summary", "file", "input", "output", "size"}
    assert told <= {*main.list_commands(root), *testbed.list_commands(root)}
    assert {*main.list_commands(root)} <= {*shell.commands}
