"""`duet testbed`: the life of a testbed from the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import IO, Any, ParamSpec

import click
from rich.console import Console

from controller.web import DEFAULT_PORT
from duet_p4.api.flows import MAX_SAMPLING
from mininet_topos import fattree
from mininet_topos.addresses import CONTROLLERS
from mininet_topos.fattree import PAPER, FatTree
from mininet_topos.testbed import complete
from mininet_topos.testbed.audit import note
from mininet_topos.testbed.folder import DEFAULT_NAME, Folder, TestbedError, in_the_way
from mininet_topos.testbed.names import hint
from mininet_topos.testbed.plan import Plan, SmuxPath, Target
from mininet_topos.testbed.protocol import Progress, Request, ask

Arguments = ParamSpec("Arguments")

_WIDTH = 120
_PAGE_S, _PAGE_POLL_S = 30.0, 0.1
_RECENT_S = 300.0
"""How long `status` tells of a process that has ended by itself and was started again."""

output = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
notes = Console(stderr=True, highlight=False)


class _Group(click.Group):
    """Says an error the user can act upon as one sentence, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TestbedError as error:
            raise click.ClickException(str(error)) from error
        except PermissionError as error:
            if os.geteuid() == 0:
                raise
            raise click.ClickException(in_the_way(error)) from error


class _Tors(click.ParamType[tuple[int, ...]]):
    """Numbers of ToRs, such as `1,2,3`; there may be none."""

    name = "N,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the numbers as a tuple."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(number) for number in value.split(",") if number)
        except ValueError:
            self.fail(f"{value!r} is no list of numbers of ToRs, such as 1,2,3", param, ctx)


@click.group(cls=_Group, short_help="The paper's FatTree, alive in namespaces.")
def testbed() -> None:
    """The paper's FatTree, alive in network namespaces: P4 switches, SMuxes, servers, clients.

    Several testbeds can be up at once under different names. Nothing outside of a testbed's own
    namespaces, /run/duet/NAME and the clone's build/ is touched. All commands need root.
    """


def _named(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command `--name`, as the testbed's folder."""

    @click.option(
        "--name", default=DEFAULT_NAME, envvar="DUET_TESTBED", show_default=True, help="Which testbed."
    )
    @wraps(command)
    def with_folder(name: str, **rest: Any) -> None:
        command(folder=Folder(name), **rest)

    return with_folder


def _size_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command the options that make a plan."""
    options = [
        click.option("--target", type=click.Choice([target.value for target in Target]), default="xdp",
                     show_default=True, help="What runs the P4 program."),
        click.option("--vips", type=click.Path(path_type=Path, dir_okay=False),
                     help="The VIP file; by default the example of the paper's size, else a few VIPs."),
        click.option("--containers", type=int, default=PAPER.containers, show_default=True),
        click.option("--tors", type=int, default=PAPER.tors, show_default=True, help="ToRs per container."),
        click.option("--aggs", type=int, default=PAPER.aggs, show_default=True, help="Aggs per container."),
        click.option("--cores", type=int, default=PAPER.cores, show_default=True),
        click.option("--servers", type=int, default=PAPER.servers, show_default=True, help="Per ToR."),
        click.option("--dips", type=int, help="Servers with DIPs; by default 34, or all."),
        click.option("--smux-tors", type=_Tors(),
                     help="ToRs with an SMux, from 1; by default those of 1,2,3 that there are."),
        click.option("--smux-path", type=click.Choice([path.value for path in SmuxPath]), default="xdp",
                     show_default=True, help="The SMuxes' data path."),
        click.option("--controllers", type=click.IntRange(0, len(CONTROLLERS)), default=1, show_default=True,
                     help="Several keep their state in etcd; without any, VIPs are placed once."),
        click.option("--page/--no-page", default=True, show_default=True, help="Serve the web page."),
        click.option("--page-port", type=click.IntRange(1, 65_535),
                     help=f"Its port on 127.0.0.1; by default {DEFAULT_PORT}, or any that is free."),
        click.option("--flow-sampling", type=click.IntRange(0, MAX_SAMPLING), default=16, show_default=True,
                     help="One packet in so many is looked at for flow records; 0: none."),
        click.option("--packet-log/--no-packet-log", default=True, show_default=True,
                     help="Have BMv2 write down what it does with each packet, for `duet trace`."),
        click.option("--log-level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), default="INFO",
                     show_default=True),
    ]  # fmt: skip

    @wraps(command)
    def with_plan(
        target: str,
        containers: int,
        tors: int,
        aggs: int,
        cores: int,
        servers: int,
        dips: int | None,
        smux_tors: tuple[int, ...] | None,
        smux_path: str,
        controllers: int,
        page: bool,
        page_port: int | None,
        flow_sampling: int,
        packet_log: bool,
        log_level: str,
        **rest: Any,
    ) -> None:
        if smux_tors is None:
            smux_tors = tuple(tor for tor in PAPER.smux_tors if tor <= containers * tors)
        try:
            size = FatTree(
                containers=containers,
                tors=tors,
                aggs=aggs,
                cores=cores,
                servers=servers,
                dip_servers=min(PAPER.dip_servers, containers * tors * servers) if dips is None else dips,
                smux_tors=smux_tors,
            )
        except ValueError as error:
            raise TestbedError(str(error)) from error
        plan = Plan(
            size=size,
            target=Target(target),
            smux_path=SmuxPath(smux_path),
            controllers=controllers,
            page=page,
            page_port=page_port,
            flow_sampling=flow_sampling,
            packet_log=packet_log,
            log_level=log_level,
        )
        command(plan=plan, **rest)

    wrapped: Callable[..., None] = with_plan
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")


@testbed.command()
@_named
@_size_options
@_json
def up(folder: Folder, plan: Plan, vips: Path | None, as_json: bool) -> None:
    """Bring a testbed up and check it; it stays up. Exit code 1 if any check fails."""
    advice = (
        f"The testbed is left as it is: `duet testbed logs NODE --name {folder.name}` shows why, "
        f"`duet testbed down --name {folder.name}` removes it"
    )
    ok = _up(folder, plan, vips, advice, as_json=as_json)
    if not as_json:
        _page(folder)
    if not ok:
        sys.exit(1)


@testbed.command()
@_named
@_size_options
@click.option("--shell/--no-shell", "shell", default=None, help="By default a shell opens on a terminal.")
def run(folder: Folder, plan: Plan, vips: Path | None, shell: bool | None) -> None:
    """Bring a testbed up, check it, show it, open its shell; then take it down (`make testbed`).

    Without a terminal the verdict of the check is the exit code.
    """
    from mininet_topos.testbed import lifecycle
    from mininet_topos.testbed.shell import interact

    def take_down() -> None:
        lifecycle.down(folder)
        notes.print(f"testbed {folder.name!r} is down, nothing of it is left")

    advice = f"`duet testbed up --name {folder.name}` leaves it as it is, to be looked into"
    interactive = sys.stdin.isatty() and sys.stdout.isatty() if shell is None else shell
    with _ending_in_order(), ExitStack() as afterwards:
        # Not before it is launched: what is up under this name until then is another's.
        ok = _up(folder, plan, vips, advice, launched=lambda: afterwards.callback(take_down))
        _show(folder)
        if interactive:
            _page(folder)
            interact(folder, leaving="takes it all down")
    if not interactive and not ok:
        sys.exit(1)


@testbed.command()
@_named
@_json
def down(folder: Folder, as_json: bool) -> None:
    """Take a testbed down: all that is left of it, also after a crash, and nothing else."""
    from mininet_topos.testbed import lifecycle

    started = time.monotonic()
    found = lifecycle.down(folder)
    seconds = time.monotonic() - started
    if as_json:
        click.echo(json.dumps({"ok": True, "found": found, "seconds": round(seconds, 3)}))
    elif found:
        output.print(f"testbed {folder.name!r} is down after {seconds:.1f} s, nothing of it is left")
    else:
        output.print(f"there is no testbed named {folder.name!r}")


@testbed.command()
@_named
@_json
def status(folder: Folder, as_json: bool) -> None:
    """Show switches, BGP sessions, VIPs, and processes that have ended."""
    from mininet_topos.testbed import tables

    answer = ask(folder, Request(do="status"))
    now = asyncio.run(tables.view(folder, fattree.fattree(Plan.load(folder).size), answer))
    if as_json:
        click.echo(
            json.dumps(
                {
                    "muxes": {name: status.model_dump(mode="json") for name, status in now.statuses.items()},
                    "vips": [row.model_dump(mode="json") for row in now.vips],
                    **answer.model_dump(mode="json", include={"processes", "crashes", "failed"}),
                }
            )
        )
        return
    tables.show(output, now)
    since = time.time() - _RECENT_S
    for crash in [crash for crash in answer.crashes if crash.at >= since][-5:]:
        output.print(f"[red]{time.strftime('%H:%M:%S', time.localtime(crash.at))}[/] {crash.text()}")


@testbed.command()
@_named
@_json
def check(folder: Folder, as_json: bool) -> None:
    """Check a running testbed from its clients; exit code 1 if anything fails."""
    started = time.monotonic()
    if not _check(folder, as_json, started):
        sys.exit(1)


@testbed.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_named
@click.argument("node", shell_complete=complete.nodes)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec(folder: Folder, node: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in a node; `root` is the testbed's own namespace, where the controller is."""
    from mininet_topos.testbed import namespaces

    path = folder.namespace(node)
    if not namespaces.is_bound(path):
        raise _no_node(folder, node)
    with suppress(TestbedError):  # Where the launcher is gone, a node is still there to be looked into.
        if node in ask(folder, Request(do="status")).failed:
            raise click.ClickException(
                f"{node} has failed, so nothing runs there: `duet testbed restore {node}` brings it back"
            )
    namespaces.enter(path)
    command = command[1:] if command[0] == "--" and len(command) > 1 else command
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise TestbedError(f"cannot run {command[0]!r}: {error.strerror}") from error


@testbed.command()
@_named
@click.argument("node", shell_complete=complete.nodes)
@click.option("--lines", "-n", default=40, show_default=True, help="How many of each log.")
@click.option("--follow", "-f", is_flag=True, help="Go on as lines come.")
def logs(folder: Folder, node: str, lines: int, follow: bool) -> None:
    """Show the logs of a node's processes; `launcher` is a node here too."""
    files = sorted(folder.logs.glob(f"{node}.*.log"))
    files += sorted(folder.state(node).glob("*.log"))
    if not files:
        raise _no_node(folder, node)
    if follow:
        os.execvp("tail", ["tail", "-n", str(lines), "-F", *map(str, files)])
    os.execvp("tail", ["tail", "-v", "-n", str(lines), *map(str, files)])


@testbed.command()
@_named
@click.argument("node", shell_complete=complete.nodes)
@click.argument("port", shell_complete=complete.ports)
@click.option("--output", "-o", type=click.File("wb", lazy=False), help="A pcap; `-` is stdout.")
@click.option("--count", "-c", type=click.IntRange(1), help="Stop after this many packets.")
@click.option("--seconds", "-s", type=click.FloatRange(min=0), help="Stop after this time.")
def capture(
    folder: Folder, node: str, port: str, output: IO[bytes] | None, count: int | None, seconds: float | None
) -> None:
    """Capture the packets on a port (`eth1`, or the neighbour's name), both ways, also those in XDP.

    Without an output file they are printed as they come; Ctrl-C ends it.
    """
    from mininet_topos.testbed import capture as capturing

    graph = fattree.fattree(Plan.load(folder).size)
    ends = capturing.ends(folder, graph, node, port)
    with ExitStack() as stack:
        if output is None:
            # In a session of its own: Ctrl-C is for this process, and tcpdump prints what it has got.
            viewer = subprocess.Popen(
                ["tcpdump", "-n", "-l", "-r", "-"], stdin=subprocess.PIPE, start_new_session=True
            )
            stack.callback(viewer.wait)
            assert viewer.stdin is not None
            output = stack.enter_context(viewer.stdin)
        written = capturing.capture(ends, output, count, seconds)
    notes.print(f"{written} packets")


@testbed.command()
@_named
@click.argument("what", shell_complete=complete.nodes_and_links)
def fail(folder: Folder, what: str) -> None:
    """Let a node (`tor1`) or link (`tor1-agg1`) fail, as if by power or cable."""
    ask(folder, Request(do="fail", what=what))
    asyncio.run(note(folder, what, {"failed": False}, {"failed": True}))
    output.print(f"{what} has failed; `duet testbed restore {what}` brings it back")


@testbed.command()
@_named
@click.argument("what", required=False, shell_complete=complete.failed)
def restore(folder: Folder, what: str | None) -> None:
    """Bring back a node or link that was made to fail; without one, all."""
    failed = [what] if what else ask(folder, Request(do="status")).failed
    ask(folder, Request(do="restore", what=what))
    for one in failed:
        asyncio.run(note(folder, one, {"failed": True}, {"failed": False}))
    output.print(f"{what or 'everything'} is restored")


@testbed.command()
@_named
def shell(folder: Folder) -> None:
    """Open the shell of a running testbed: the Mininet CLI and these commands, with completion."""
    from mininet_topos.testbed.shell import interact

    interact(folder, leaving="leaves the testbed up")


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let a terminal that is closed, and `kill`, end this as Ctrl-C does: what was begun is cleared away."""

    def end(number: int, _: object) -> None:
        for each in taken:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    # What is ignored already, as under nohup, stays so.
    taken = [each for each in (signal.SIGHUP, signal.SIGTERM) if signal.getsignal(each) is signal.SIG_DFL]
    try:
        for each in taken:
            signal.signal(each, end)
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


def _up(
    folder: Folder,
    plan: Plan,
    vips: Path | None,
    advice: str,
    *,
    launched: Callable[[], object] = lambda: None,
    as_json: bool = False,
) -> bool:
    """Launch a testbed, call `launched`, have it serve its VIPs, and check it.

    Raises `TestbedError` before `launched` if nothing of it is there, and with `advice` afterwards.
    """
    from mininet_topos.testbed import lifecycle, vipfile
    from mininet_topos.testbed.operation import operate

    started = time.monotonic()
    graph = fattree.fattree(plan.size)
    source = vips or (vipfile.EXAMPLE if plan.size == PAPER else None)
    stated = vipfile.read(source, graph) if source else vipfile.sample(graph)
    plan = plan.serving(stated)
    told = ""
    with notes.status(f"testbed {folder.name!r} ...") as line:

        def tell(progress: Progress) -> None:
            nonlocal told
            count = f" {progress.done}/{progress.total}" if progress.done else ""
            count = count or (f" {progress.total}" if progress.total else "")
            text = f"{progress.step}{count}"
            timed = f"{time.monotonic() - started:5.1f} s  {text}"
            line.update(timed)
            if text != told and not notes.is_terminal:
                notes.print(timed)
            told = text

        lifecycle.launch(folder, plan, tell)
        launched()
        if plan.page:
            # It shows how all that follows comes alive.
            threading.Thread(target=_page_early, args=(folder,), daemon=True).start()
        try:
            asyncio.run(operate(folder, plan, stated, tell))
        except TestbedError as error:
            raise TestbedError(f"{error}\n{advice}") from error
    return _check(folder, as_json, started)


def _check(folder: Folder, as_json: bool, started: float) -> bool:
    from mininet_topos.testbed import tables

    verdicts = _verdicts(folder)
    ok = all(check.ok for check in verdicts)
    seconds = time.monotonic() - started
    tables.show_checks(notes if as_json else output, verdicts)
    if as_json:
        rows = [check.model_dump() for check in verdicts]
        click.echo(json.dumps({"ok": ok, "seconds": round(seconds, 2), "checks": rows}))
    else:
        failed = sum(not check.ok for check in verdicts)
        said = (
            f"[red]{failed} of {len(verdicts)} checks fail[/]"
            if failed
            else f"all {len(verdicts)} checks pass"
        )
        output.print(f"{said} after {seconds:.1f} s")
    return ok


def _verdicts(folder: Folder) -> Sequence[Any]:
    from mininet_topos.testbed import checks

    graph = fattree.fattree(Plan.load(folder).size)
    return checks.run(folder, graph, ask(folder, Request(do="status")))


def _page_early(folder: Folder) -> None:
    """Print where the page is as soon as it is served."""
    from controller.web.addresses import new_address
    from controller.web.sessions import Rights
    from duet_p4.rest.client import RestError

    until = time.monotonic() + _PAGE_S
    while time.monotonic() < until:
        with suppress(RestError):
            notes.print(
                f"page: {asyncio.run(new_address(folder.web_socket, Rights.OPERATOR))}", soft_wrap=True
            )
            return
        time.sleep(_PAGE_POLL_S)


def _page(folder: Folder) -> None:
    """Print where the page is, if the testbed serves it."""
    from controller.web.addresses import new_address
    from controller.web.sessions import Rights
    from duet_p4.rest.client import RestError

    if not Plan.load(folder).page:
        return
    try:
        address = asyncio.run(new_address(folder.web_socket, Rights.OPERATOR))
    except RestError as error:
        notes.print(f"[red]the page does not answer[/]: {error}; `duet testbed logs root`")
        return
    name = "" if folder.name == DEFAULT_NAME else f" --testbed {folder.name}"
    output.print(f"page: {address}", soft_wrap=True)
    output.print(f"      (works once; `duet web{name}` prints another)", soft_wrap=True)


def _show(folder: Folder) -> None:
    from mininet_topos.testbed import tables

    graph = fattree.fattree(Plan.load(folder).size)
    now = asyncio.run(tables.view(folder, graph, ask(folder, Request(do="status"))))
    tables.show(output, now)


def _no_node(folder: Folder, node: str) -> TestbedError:
    if not folder.path.exists():
        return folder.not_up()
    return TestbedError(
        f"testbed {folder.name!r} has no node {node!r}: {hint(node, (path.name for path in folder.bound()))}"
    )
