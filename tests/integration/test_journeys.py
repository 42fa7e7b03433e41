"""What people do on the page, in a real browser: one testbed, and one journey after the other.

Each leaves a picture in results/journeys, and figures.json there has what was measured on the way: how
long it took from the launch until the network was on the screen, and from an event until it was. Nothing is
asserted of them, as a machine that does other things is slow.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

import pytest

from controller.client import UpdaterClient
from controller.events import EventLog
from controller.inventory import Inventory, Role, Switch
from controller.monitoring import api as monitoring_api
from controller.monitoring.service import Monitoring
from controller.records import VipRecord
from controller.state import State
from controller.store import Contents, SqliteStore
from controller.updater import api as updater_api
from controller.updater.operations import Operations
from controller.updater.reconcile import Flows
from controller.updater.service import Updater
from controller.web import gateway
from controller.web.addresses import new_address
from controller.web.sessions import Rights, Sessions
from duet_p4 import results
from duet_p4.model import Dip, Group, MuxVip, Vip
from duet_p4.rest.app import create_app
from duet_p4.rest.client import RestError
from duet_p4.rest.server import serve_local
from mininet_topos import fattree
from mininet_topos.fattree import FatTree
from mininet_topos.testbed import vipfile
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.operation import running
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.protocol import Request, ask
from tests.integration import browser as browsers

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make setup")
from playwright.sync_api import Browser, BrowserContext, Page, expect  # noqa: E402

expect.set_options(timeout=browsers.WAIT_MS)

pytestmark = [
    pytest.mark.root,
    pytest.mark.testbed,
    pytest.mark.skipif(os.geteuid() != 0, reason="a testbed needs root"),
    pytest.mark.skipif(
        browsers.executable() is None,
        reason=f"no browser here: install one of {', '.join(browsers.NAMES)} (scripts/browser)",
    ),
]

SIZE = FatTree(containers=2, tors=2, aggs=2, cores=2, servers=2, dip_servers=8, smux_tors=(1, 3))
VIPS = """
vips:
  - {address: 10.0.0.1, name: shop, switch: agg1, dips: [100.1.1.17, 100.2.1.17]}
  - {address: 10.0.0.2, name: search, switch: core1, dips: [{address: 100.1.2.17, weight: 3}, 100.2.2.17]}
  - {address: 10.0.0.3, name: mail, switch: smux, dips: [100.1.1.33, 100.2.1.33],
     health: {kind: http, port: 80, path: /health},
     ports: [{protocol: udp, port: 7, dips: [100.2.1.33], health: {kind: tcp, port: 80}}]}
"""
MANY = 30_000

Result = TypeVar("Result")


def aside(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in a thread of its own: Playwright has this one's event loop."""
    found: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


class Coming:
    """A testbed that comes up in a thread of its own, while the browser already looks at it."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.began = time.monotonic()
        self._up, self._done = threading.Event(), threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            stated = vipfile.parse(VIPS, fattree.fattree(SIZE))
            with running(self.folder, Plan(size=SIZE, page=True).serving(stated), stated):
                self._up.set()
                self._done.wait()
        except BaseException as error:
            self._failed = error
        finally:
            self._up.set()

    def up(self) -> Folder:
        """Wait until it serves its VIPs."""
        self._up.wait()
        if self._failed is not None:
            raise self._failed
        return self.folder

    def address(self, rights: Rights) -> str:
        """Wait until the page is served, and return an address of it."""
        while not self._up.is_set():
            with suppress(RestError):
                return aside(new_address(self.folder.web_socket, rights))
            time.sleep(0.05)
        return aside(new_address(self.up().web_socket, rights))

    def down(self) -> None:
        self._done.set()
        self._thread.join()
        if self._failed is not None:
            raise self._failed


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, Any]]:
    """What is measured on the way."""
    found: dict[str, Any] = {}
    yield found
    delays = sorted(found.pop("delays", ()))
    if delays:
        middle = delays[len(delays) // 2]
        found["event_on_screen_ms"] = {"events": len(delays), "median": middle, "longest": delays[-1]}
    results.write_json(browsers.PICTURES / "figures.json", found)


@pytest.fixture(scope="module")
def coming(browser: Browser) -> Iterator[Coming]:
    coming = Coming(Folder(f"dtj{os.getpid()}"))
    try:
        yield coming
    finally:
        coming.down()


@pytest.fixture(scope="module")
def testbed(coming: Coming) -> Folder:
    return coming.up()


@contextmanager
def entered(browser: Browser, folder: Folder, rights: Rights, **options: Any) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1360, "height": 860}, **options)
    try:
        page = context.new_page()
        page.goto(aside(new_address(folder.web_socket, rights)))
        page.close()
        yield context
    finally:
        context.close()


@pytest.fixture(scope="module")
def context(testbed: Folder, browser: Browser) -> Iterator[BrowserContext]:
    with entered(browser, testbed, Rights.OPERATOR, reduced_motion="reduce") as context:
        context.add_init_script(f"({browsers.DELAYS})()")
        yield context


@pytest.fixture(scope="module")
def origin(testbed: Folder) -> str:
    return aside(new_address(testbed.web_socket, Rights.READER)).partition("/?")[0]


@pytest.fixture
def page(
    context: BrowserContext, origin: str, figures: dict[str, Any], request: pytest.FixtureRequest
) -> Iterator[Page]:
    name = request.node.name.removeprefix("test_").replace("_", "-")
    with browsers.Journey(context, name) as page:
        page.goto(f"{origin}/")
        expect(page.locator(".topology .node.core")).to_have_count(2)
        yield page
        figures.setdefault("delays", []).extend(page.evaluate("window.delays"))


def sees(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.get_by_text(text).first).to_be_visible()


def view(page: Page, name: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=name).click()


def answers(folder: Folder, vip: str) -> bool:
    command = ["nsenter", f"--net={folder.namespace('client1')}", "curl", "-s", "-m", "5", f"http://{vip}/"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_network_is_on_the_screen_while_it_comes_up(
    browser: Browser, coming: Coming, figures: dict[str, Any]
) -> None:
    context = browser.new_context(viewport={"width": 1360, "height": 860})
    with browsers.Journey(context, "the-network-comes-up") as page:
        page.goto(coming.address(Rights.READER))
        expect(page.locator(".topology .node.core")).to_have_count(2)
        figures["first_picture_s"] = round(time.monotonic() - coming.began, 2)
        expect(page.locator(".topology .node.tor")).to_have_count(4)
    context.close()


def records() -> dict[IPv4Address, tuple[VipRecord, int]]:
    group = Group.of((Dip(address=IPv4Address("100.1.1.17")), Dip(address=IPv4Address("100.1.2.17"))))
    first = IPv4Address("10.0.0.1")
    found: dict[IPv4Address, tuple[VipRecord, int]] = {}
    for n in range(MANY):
        # Nobody checks them: it takes seconds, and this is no test of that.
        spec = Vip.model_construct(address=first + n, name=f"service-{n}", dips=group.members)
        layout = MuxVip.model_construct(address=first + n, group=group)
        home = "tor1" if n % 3 == 0 else None
        found[first + n] = VipRecord.model_construct(spec=spec, layout=layout, switch=home), 1
    return found


@contextmanager
def controller_with_many(path: Path) -> Iterator[str]:
    """A controller that knows of 30,000 VIPs and does nothing about them; yields an address of its page."""
    switch = Switch(
        name="tor1", role=Role.TOR, agent="http://x", container=1, loopback=IPv4Address("172.30.0.1")
    )
    inventory = Inventory(
        switches=(switch,), vip_prefix=IPv4Network("10.0.0.0/16"), tip_prefix=IPv4Network("20.0.0.0/24")
    )
    address: list[str] = []
    ready, done = threading.Event(), threading.Event()

    async def no_flows(*_: object) -> Flows:
        return Flows()

    async def nowhere(*_: object) -> dict[IPv4Address, str | None]:
        return {}

    async def serve() -> None:
        store = SqliteStore(path / "controller.db")
        state = State(store, Contents(vips=records()), inventory)
        events = EventLog(store, 0)
        updater = Updater(state, events, inventory, {}, no_flows, nowhere)
        app = create_app("DUET controller", access=None)
        client = UpdaterClient("http://controller", app=app)
        monitoring = Monitoring(
            inventory, client, {}, {}, {}, health_s=1, traffic_s=10, misses=3, switch_hold_s=10
        )
        app.include_router(updater_api.router(updater, events, Operations()))
        app.include_router(monitoring_api.router(monitoring))
        socket = path / "controller.sock"
        async with (
            serve_local(app, socket),
            gateway.running(gateway.bind(0), Sessions(b"key"), [socket], path / "web.sock"),
        ):
            address.append(await new_address(path / "web.sock", Rights.OPERATOR))
            ready.set()
            await asyncio.to_thread(done.wait)
        await client.close()
        await store.close()

    thread = threading.Thread(target=lambda: (asyncio.run(serve()), None)[1])
    thread.start()
    try:
        assert ready.wait(120)
        yield address[0]
    finally:
        done.set()
        thread.join()


def test_30000_vips_in_one_list(browser: Browser, tmp_path: Path) -> None:
    with controller_with_many(tmp_path) as address:
        context = browser.new_context(viewport={"width": 1360, "height": 860})
        with browsers.Journey(context, "30000-vips-in-one-list") as page:
            page.goto(address)
            view(page, "VIPs")
            expect(page.get_by_role("heading", name="VIPs 30,000")).to_be_visible()
            assert page.locator(".body .vip-row").count() < 60
            page.get_by_role("link", name="10.0.0.1", exact=True).focus()
            page.keyboard.press("End")
            expect(page.get_by_role("link", name="10.0.117.48", exact=True)).to_be_focused()
            page.get_by_label("Search VIPs").fill("service-2999")
            expect(page.locator(".body .vip-row")).to_have_count(11)
            page.get_by_role("button", name="On HMuxes").click()
            expect(page.locator(".body .vip-row")).to_have_count(3)
        context.close()


def test_the_living_network_is_seen_at_once(page: Page, testbed: Folder) -> None:
    for kind, number in (("agg", 4), ("tor", 4), ("smux", 2), ("server", 8), ("client", 5)):
        expect(page.locator(f".topology .node.{kind}")).to_have_count(number)
    expect(page.locator(".topology .node.agg.ready")).to_have_count(4)
    expect(page.get_by_role("status").filter(has_text="live")).to_be_visible()
    sees(page, "all ready")
    sees(page, "20/20")
    expect(page.get_by_role("link", name="agg1, ready, 1 VIP or TIP")).to_be_visible()
    # That neighbours ask each other whether they are there is no traffic to look at.
    expect(page.locator(".topology .flow")).to_have_count(0)
    client = ["nsenter", f"--net={testbed.namespace('client4')}", "ping", "-q", "-s", "1000", "-i", "0.005"]
    with subprocess.Popen([*client, "-c", "2000", "10.0.0.1"], stdout=subprocess.DEVNULL) as ping:
        expect(page.locator(".topology a[href*='tor4'] .flow").first).to_be_attached()
        expect(page.locator(".topology a[href*='agg1'] .flow").first).to_be_attached()
        assert page.evaluate(browsers.CONTRASTS) == []
        page.screenshot(path=browsers.PICTURES / "traffic-is-seen.png", animations="disabled")
        ping.terminate()


def test_a_switch_fails_and_its_vip_lives_on(page: Page, testbed: Folder) -> None:
    page.get_by_role("link", name="agg1, ready").click()
    panel = page.get_by_role("complementary")
    expect(panel.get_by_role("heading", name="agg1")).to_be_visible()
    page.get_by_role("button", name="Fail agg1").click()
    expect(panel.get_by_text("failed on purpose")).to_be_visible()
    expect(page.locator(".topology .node.agg.lost")).to_have_count(1)
    deadline = time.monotonic() + 20
    while not answers(testbed, "10.0.0.1"):
        assert time.monotonic() < deadline, "10.0.0.1 is gone with its switch"
    expect(page.locator(".events .kind", has_text="link down").first).to_be_visible()
    expect(page.locator(".events .kind", has_text="device unreachable").first).to_be_visible()
    page.screenshot(path=browsers.PICTURES / "a-switch-has-failed.png")
    page.get_by_role("button", name="Restore agg1").click()
    expect(page.locator(".topology .node.agg.ready")).to_have_count(4)
    expect(page.locator(".events .kind", has_text="device back").first).to_be_visible()


def test_a_cut_cable_is_seen(page: Page) -> None:
    page.goto(page.url.split("#")[0] + "#/network/link/tor2-agg2")
    ends = page.get_by_role("complementary").get_by_role("row", name=re.compile(r"^(tor2|agg2) eth\d"))
    expect(ends).to_have_count(2)
    expect(ends.filter(has_text=re.compile(r"up\s*established"))).to_have_count(2)
    page.get_by_role("button", name="Fail tor2-agg2").click()
    sees(page, "failed on purpose")
    expect(ends.filter(has_text=re.compile(r"^\S+ \S+\s*down"))).to_have_count(2)
    expect(page.locator(".topology .link.down").first).to_be_attached()
    event = page.locator(".events li", has_text="link down").filter(has_text="tor2-agg2").first
    expect(event).to_be_visible()
    page.get_by_role("button", name="Restore tor2-agg2").click()
    expect(page.locator(".topology .link.down")).to_have_count(0)


def test_an_smux_is_drained(page: Page) -> None:
    page.goto(page.url.split("#")[0] + "#/network/node/smux2")
    page.get_by_role("button", name="Drain smux2").click()
    expect(page.get_by_role("complementary").get_by_text("draining", exact=True)).to_be_visible()
    expect(page.locator(".topology .node.smux.draining")).to_have_count(1)
    event = page.locator(".events li", has_text="smux2").filter(has_text="after draining true")
    expect(event.first).to_be_visible()
    page.screenshot(path=browsers.PICTURES / "smux2-is-drained.png")
    page.get_by_role("button", name="End the drain of smux2").click()
    expect(page.locator(".topology .node.draining")).to_have_count(0)


def test_a_vip_is_migrated_and_released(page: Page) -> None:
    view(page, "VIPs")
    page.get_by_role("link", name="10.0.0.2").click()
    sees(page, re.compile("Lives on core1"))
    page.get_by_label("Move it to").select_option("core2")
    page.get_by_role("button", name="Migrate").click()
    sees(page, re.compile("Lives on core2"))
    sees(page, re.compile(r"steps, \d+ table entries written"))
    expect(page.locator(".topology .node.carries.core")).to_have_count(1)
    expect(page.locator(".events .kind", has_text="vip placed").first).to_be_visible()
    page.get_by_role("button", name="Release to the engine").click()
    sees(page, "by the engine")


def test_a_vip_is_added_by_form_after_a_wrong_address(page: Page, testbed: Folder) -> None:
    view(page, "VIPs")
    page.get_by_role("link", name="Add a VIP").click()
    page.get_by_label("Address").fill("10.0.0.256")
    page.get_by_label("DIPs", exact=True).fill("100.1.1.17\n100.1.2.17*x")
    page.get_by_role("button", name="Add it").click()
    sees(page, "10.0.0.256 is no IPv4 address")
    sees(page, re.compile("a weight is 0 to 255, not x"))
    page.screenshot(path=browsers.PICTURES / "a-form-with-a-wrong-address.png")
    page.get_by_label("Address").fill("10.9.0.9")
    page.get_by_label("DIPs", exact=True).fill("100.1.1.17\n100.1.2.17*3")
    page.get_by_role("button", name="Add it").click()
    expect(page.get_by_role("alert")).to_contain_text("10.9.0.9")
    page.get_by_label("Address").fill("10.0.0.9")
    page.get_by_label("Where").select_option("tor1")
    page.get_by_role("button", name="Add it").click()
    sees(page, re.compile("Lives on tor1"))
    assert answers(testbed, "10.0.0.9")


def test_a_vip_is_changed_a_dip_drained_and_the_vip_removed(page: Page) -> None:
    page.goto(page.url.split("#")[0] + "#/vips/10.0.0.3")
    sees(page, re.compile("Lives on the SMuxes"))
    page.get_by_role("button", name="Drain").first.click()
    sees(page, "draining")
    page.get_by_role("link", name="Change").click()
    expect(page.get_by_label("DIPs", exact=True)).to_have_value(re.compile(r"100\.1\.1\.33\*0"))
    page.get_by_label("Health check").select_option("dns")
    expect(page.get_by_label("Name asked for")).to_have_value("localhost")
    page.get_by_label("Health check").select_option("http")
    page.get_by_label("Name", exact=True).fill("post")
    page.get_by_role("button", name="Change it").click()
    expect(page.get_by_role("heading", name="10.0.0.3 post")).to_be_visible()
    sees(page, re.compile("Checked by http on port 80, /health"))
    sees(page, re.compile("Those of udp/7 by tcp on port 80"))
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Remove it").click()
    expect(page.get_by_label("Search VIPs")).to_be_visible()
    expect(page.get_by_role("link", name="10.0.0.3")).to_have_count(0)


def test_a_shell_in_a_client(page: Page) -> None:
    page.goto(page.url.split("#")[0] + "#/network/node/client1")
    page.get_by_role("tab", name="Shell").click()
    terminal = page.locator(".shell")
    expect(terminal.locator(".xterm-screen")).to_be_visible()
    expect(terminal).to_contain_text("client1:")
    page.keyboard.type("curl -s http://10.0.0.1/ && echo answer $((6 * 7))\n")
    expect(terminal).to_contain_text("answer 42")
    expect(terminal).to_contain_text('"dip"')


def test_packets_are_captured(page: Page, testbed: Folder) -> None:
    page.goto(page.url.split("#")[0] + "#/network/link/client1-tor1")
    page.get_by_label("Seconds").fill("60")
    page.get_by_role("button", name="Show packets").click()
    packets = page.get_by_label("Packets", exact=True)
    deadline = time.monotonic() + 50
    # There and back: what the ToR takes by XDP, and what comes to the client.
    while not all(way in packets.inner_text() for way in ("> 10.0.0.1.80", "10.0.0.1.80 >")):
        assert time.monotonic() < deadline, packets.inner_text()
        assert answers(testbed, "10.0.0.1")
    page.get_by_role("button", name="Stop").click()
    page.get_by_label("Seconds").fill("1")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download pcap").click()
    content = Path(download.value.path()).read_bytes()
    assert content[:4] == b"\x4d\x3c\xb2\xa1", content[:16]


def test_flows_of_a_vip_are_seen_where_they_pass(page: Page, testbed: Folder) -> None:
    page.goto(page.url.split("#")[0] + "#/vips/10.0.0.1")
    client = ["nsenter", f"--net={testbed.namespace('client4')}", "ping", "-q", "-i", "0.002", "10.0.0.1"]
    with subprocess.Popen(client, stdout=subprocess.DEVNULL) as ping:
        row = page.locator(".records tr", has_text=re.compile("ICMP 100.2.2.1:"))
        expect(row.first).to_contain_text("agg1")
        row.first.get_by_role("link", name="agg1").click()
        page.get_by_role("tab", name="Flows").click()
        expect(page.get_by_role("complementary").locator(row).first).to_contain_text("10.0.0.1")
        ping.terminate()


def test_tables_counters_and_logs_of_a_switch(page: Page, testbed: Folder) -> None:
    assert answers(testbed, "10.0.0.1")
    page.goto(page.url.split("#")[0] + "#/network/node/agg1")
    sees(page, "tunneling")
    sees(page, "established")
    page.get_by_role("tab", name="Overview").press("ArrowRight")
    expect(page.get_by_role("tab", name="Counters")).to_be_focused()
    expect(page.get_by_role("row", name=re.compile(r"^10\.0\.0\.1 "))).to_be_visible()
    page.get_by_role("tab", name="Logs").click()
    sees(page, "agg1.agent.log")


def test_one_packet_is_followed_step_by_step(page: Page) -> None:
    page.goto(page.url.split("#")[0] + "#/vips/10.0.0.1")
    page.get_by_role("link", name="Trace a packet").click()
    page.get_by_label("From").select_option("client4")
    page.get_by_role("button", name="Send and trace").click()
    expect(
        page.get_by_label("Packets").get_by_role("button", name=re.compile("SYN-ACK back"))
    ).to_be_visible()
    sees(page, re.compile("answered by DIP"))
    way = page.get_by_label("Nodes on its way")
    expect(way.get_by_role("button", name="server")).to_be_visible()
    way.get_by_role("button", name="agg1").first.click()
    page.get_by_label("Steps in agg1").get_by_role("button", name="host_table").click()
    told = page.locator(".told")
    expect(told.get_by_role("row", name=re.compile("^dst_addr exact 10.0.0.1"))).to_be_visible()
    expect(told.locator("[aria-current]")).to_contain_text("table host_table")
    page.set_viewport_size({"width": 1360, "height": 960})
    page.screenshot(path=browsers.PICTURES / "one-packet.png")
    page.keyboard.press("ArrowRight")
    expect(told.get_by_role("heading", name="host_table")).to_have_count(0)
    page.keyboard.press("ArrowLeft")
    expect(told.get_by_role("heading", name="host_table")).to_be_visible()
    page.keyboard.press("Shift+ArrowRight")
    expect(told).to_contain_text("came in by port")
    page.keyboard.press("ArrowLeft")
    expect(told).to_contain_text("Slots and hash")
    expect(told.locator(".changed").filter(has_text="ttl").first).to_be_visible()
    assert page.evaluate(browsers.CONTRASTS) == []


def test_a_packet_to_no_vip_is_dropped_and_the_page_says_why(page: Page) -> None:
    page.goto(page.url.split("#")[0] + "#/trace")
    page.get_by_label("To VIP").fill("10.0.0.x")
    sees(page, "10.0.0.x is no IPv4 address")
    expect(page.get_by_role("button", name="Send and trace")).to_be_disabled()
    page.get_by_label("To VIP").fill("10.9.0.9")
    page.get_by_label("Protocol").select_option("icmp")
    page.get_by_role("button", name="Send and trace").click()
    expect(page.get_by_label("Packets").get_by_text("lost").first).to_be_visible()
    page.keyboard.press("End")
    expect(page.locator(".told")).to_contain_text("dropped")


def test_an_experiment_is_started_and_watched_and_its_figures_are_seen(page: Page) -> None:
    view(page, "Experiments")
    sees(page, re.compile("was not measured here yet"))
    page.get_by_role("button", name="attacks", exact=True).click()
    page.get_by_label("In the testbed that is shown").check()
    page.get_by_label("only").fill("reader-writes")
    page.get_by_role("button", name="Start attacks").click()
    sees(page, re.compile("runs for"))
    expect(page.get_by_role("button", name="Start attacks")).to_be_disabled()
    expect(page.get_by_label("What it says")).to_contain_text("reader-writes: stopped")
    sees(page, re.compile("done in"))
    expect(page.get_by_role("row", name=re.compile("^reader-writes .* 403 Forbidden"))).to_be_visible()


def test_the_engine_is_asked_and_its_assignment_carried_out(page: Page) -> None:
    view(page, "Assignment")
    page.get_by_label("Strategy").select_option("balanced")
    page.get_by_role("button", name="Compute").click()
    sees(page, re.compile("of the traffic on HMuxes"))
    page.get_by_text("Why every VIP goes where it goes").click()
    sees(page, re.compile("10.0.0.2"))
    sees(page, "Busiest links")
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=browsers.PICTURES / "an-assignment-is-computed.png")
    page.get_by_role("button", name="Compare all").click()
    expect(page.get_by_role("row", name=re.compile("^sticky"))).to_be_visible()
    page.get_by_label("Strategy").select_option("balanced")
    page.get_by_role("button", name="Carry out").click()
    sees(page, re.compile(r"steps done, \d+ table entries written"))


def test_events_are_scrubbed_to_what_the_network_was(page: Page) -> None:
    view(page, "Events")
    moment = page.get_by_role("slider", name="Moment")
    expect(moment).to_be_visible()
    rows = page.locator(".events li")
    expect(rows.first).to_be_visible()
    ids = page.evaluate("fetch('/v1/events?limit=1000').then((r) => r.json())")
    failed = next(
        n for n, e in enumerate(ids) if e["kind"] == "device-unreachable" and e["subject"] == "agg1"
    )
    moment.fill(str(failed))
    sees(page, re.compile("The network at"))
    page.screenshot(path=browsers.PICTURES / "the-network-as-it-was.png")
    expect(page.locator(".topology .node.agg.unreachable, .topology .node.agg.lost")).to_have_count(1)
    drained = next(n for n, e in enumerate(ids) if e["detail"].get("after") == {"draining": True})
    moment.fill(str(drained))
    expect(page.locator(".topology .node.draining")).to_have_count(1)
    expect(page.locator(".events")).not_to_contain_text("[object")
    page.get_by_role("button", name="Now").click()
    sees(page, "The network now")
    expect(page.locator(".topology .node.agg.ready")).to_have_count(4)


def test_the_controller_dies_and_comes_back(page: Page, testbed: Folder) -> None:
    processes = ask(testbed, Request(do="status")).processes
    pid = next(process.pid for process in processes if process.name == "controller")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    expect(page.get_by_role("alert")).to_contain_text("what was known before")
    expect(page.locator(".topology .node.core")).to_have_count(2)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator(".topology .node.core.ready")).to_have_count(2)


def test_by_keyboard_only(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="VIPs", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    search = page.get_by_label("Search VIPs")
    expect(search).to_be_visible()
    search.focus()
    page.keyboard.type("10.0.0.")
    expect(page.get_by_role("link", name="10.0.0.1", exact=True)).to_be_visible()
    for _ in range(6):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="10.0.0.1", exact=True)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("link", name="10.0.0.2", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="10.0.0.2 search")).to_be_visible()


PLACES = (
    "network/node/tor1",
    "network/link/tor1-agg1",
    "vips",
    "vips/10.0.0.1",
    "vips/new",
    "trace",
    "assignment",
    "events",
    "experiments",
    "network",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_small_screen(browser: Browser, testbed: Folder, origin: str, scheme: str) -> None:
    options: dict[str, Any] = {"color_scheme": scheme, "device_scale_factor": 2, "reduced_motion": "reduce"}
    with (
        entered(browser, testbed, Rights.OPERATOR, **options) as context,
        browsers.Journey(context, f"on-a-small-screen-{scheme}") as page,
    ):
        page.set_viewport_size({"width": 390, "height": 844})
        for where in PLACES:
            page.goto(f"{origin}/#/{where}")
            expect(page.get_by_role("heading").first).to_be_visible()
            expect(page.locator(".loading")).to_have_count(0)
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{where} is {wide} pixels wider than the screen"
            assert page.evaluate(browsers.CONTRASTS) == [], where
            if scheme == "dark":
                page.screenshot(path=browsers.PICTURES / f"small-{where.replace('/', '-')}.png")


ASK = """([method, path, body]) => fetch(path, {
  method, body: JSON.stringify(body), headers: {'Content-Type': 'application/json'}
}).then((reply) => reply.status)"""


def test_who_may_only_look_changes_nothing(browser: Browser, testbed: Folder, origin: str) -> None:
    with (
        entered(browser, testbed, Rights.READER) as context,
        browsers.Journey(context, "who-may-only-look") as page,
    ):
        page.goto(f"{origin}/#/network/node/tor1")
        sees(page, "reads only")
        expect(page.get_by_role("button", name="Fail tor1")).to_be_disabled()
        page.get_by_role("tab", name="Shell").click()
        sees(page, "A shell needs an operator's rights.")
        for where, button in (
            ("trace", "Send and trace"),
            ("experiments", re.compile("^Start ")),
            ("assignment", "Compute"),
            ("network/node/smux1", "Drain smux1"),
            ("vips/10.0.0.1", re.compile("^Drain$")),
            ("vips/10.0.0.1", "Migrate"),
        ):
            page.goto(f"{origin}/#/{where}")
            expect(page.get_by_role("button", name=button).first).to_be_disabled()
        for method, path, body in (
            ("PUT", "/v1/devices/smux1/draining", {"draining": True}),
            ("POST", "/testbed/v1/fail", {"what": "tor1"}),
        ):
            assert page.evaluate(ASK, [method, path, body]) == 403, path
        paths = ["/testbed/v1/nodes/client1/capture?port=eth1", "/testbed/v1/shells/1/output"]
        for path in paths:
            assert page.evaluate("(path) => fetch(path).then((reply) => reply.status)", path) == 403
        assert ask(testbed, Request(do="status")).failed == ()
