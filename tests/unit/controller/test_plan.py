from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from controller.inventory import Inventory, Role, Server, SMux, Switch
from controller.records import VipRecord
from controller.updater.plan import Action, DeviceState, Wave, plan_update
from controller.updater.wanted import Wanted, wanted_states
from duet_p4.model import Dip, MuxVip, Vip

SWITCHES = ["s1", "s2"]
INVENTORY = Inventory(
    switches=tuple(
        Switch(name=name, role=Role.TOR, agent="http://x", loopback=IPv4Address("172.30.0.1"))
        for name in SWITCHES
    ),
    smuxes=(SMux(name="m1", agent="http://x", switch="s1", address=IPv4Address("100.0.0.9")),),
    vip_prefix=IPv4Network("10.0.0.0/16"),
    tip_prefix=IPv4Network("20.0.0.0/24"),
)


def record(number: int, switch: str | None, dip_count: int = 2) -> VipRecord:
    spec = Vip(
        address=IPv4Address("10.0.0.0") + number,
        dips=tuple(Dip(address=IPv4Address("100.0.0.1") + i) for i in range(dip_count)),
    )
    return VipRecord(spec=spec, layout=MuxVip.of(spec), switch=switch)


def states(*records: VipRecord) -> dict[str, DeviceState]:
    return wanted_states(records, INVENTORY)


def test_what_is_right_gets_no_step() -> None:
    wanted = states(record(1, "s1"), record(2, None))
    assert plan_update(wanted, states(record(1, "s1"), record(2, None))).steps == ()


def test_a_migration_withdraws_before_it_announces() -> None:
    plan = plan_update(states(record(1, "s2")), states(record(1, "s1")))
    assert [(step.wave, step.device, step.action) for step in plan.steps] == [
        (Wave.WITHDRAW, "s1", Action.DELETE),
        (Wave.ANNOUNCE, "s2", Action.PUT),
    ]


def test_a_new_vip_is_programmed_while_the_smuxes_learn_of_it_and_announced_after() -> None:
    plan = plan_update(states(record(1, "s1")), states())
    assert [(step.wave, step.device, step.action) for step in plan.steps] == [
        (Wave.BACK_UP, "s1", Action.PROGRAM),
        (Wave.BACK_UP, "m1", Action.PUT),
        (Wave.ANNOUNCE, "s1", Action.ANNOUNCE),
    ]


def test_a_new_vip_waits_for_a_switch_that_has_something_to_give_up() -> None:
    plan = plan_update(states(record(1, "s1"), record(2, None)), states(record(2, "s1")))
    assert [(step.wave, step.device, step.action) for step in plan.steps] == [
        (Wave.BACK_UP, "m1", Action.PUT),
        (Wave.WITHDRAW, "s1", Action.DELETE),
        (Wave.ANNOUNCE, "s1", Action.PUT),
    ]


def test_a_removed_vip_leaves_the_switch_before_the_smuxes() -> None:
    plan = plan_update(states(), states(record(1, "s1")))
    assert [(step.wave, step.device) for step in plan.steps] == [(Wave.WITHDRAW, "s1"), (Wave.CLEAN, "m1")]


def test_a_mux_out_of_reach_gets_no_step() -> None:
    observed = states()
    del observed["s1"]
    assert {step.device for step in plan_update(states(record(1, "s1")), observed).steps} == {"m1"}


placements = st.dictionaries(st.integers(1, 12), st.sampled_from([None, *SWITCHES]), max_size=8)


@given(placements, placements)
def test_every_plan_converges_and_never_holds_a_vip_on_two_switches(
    before: dict[int, str | None], after: dict[int, str | None]
) -> None:
    wanted = states(*(record(n, s) for n, s in after.items()))
    held = states(*(record(n, s) for n, s in before.items()))
    plan = plan_update(wanted, held)
    for step in plan.steps:
        state = held[step.device]
        if step.action is Action.DELETE:
            del state.entries[step.address]
            state.announced.discard(step.address)
        if step.action in (Action.PUT, Action.PROGRAM):
            state.entries[step.address] = wanted[step.device].entries[step.address]
        if step.action in (Action.PUT, Action.ANNOUNCE):
            state.announced.add(step.address)
        holders = [name for name in SWITCHES if step.address in held[name].entries]
        assert len(holders) <= 1, f"{step.address} is on {holders}"
        announced = any(step.address in held[name].announced for name in SWITCHES)
        assert not announced or step.address in held["m1"].entries, f"{step.address} has no backstop"
    assert held == wanted


def test_what_a_server_holds_of_a_vip_is_made_anew_when_its_layout_changes_and_not_when_it_moves() -> None:
    dips = tuple(IPv4Address("100.0.0.1") + i for i in range(4))
    server = Server(name="h1", agent="http://x", switch="s1", dips=dips)
    inventory = Inventory.model_validate({**INVENTORY.model_dump(), "servers": (server,)})
    wanted = Wanted(inventory)
    first = record(1, None)
    held = dict(wanted.of(first))
    assert set(held) == {"h1", "m1"}
    moved = dict(wanted.of(first.model_copy(update={"switch": "s1"})))
    assert moved["h1"] is held["h1"] and "s1" in moved
    for changed in (record(1, None, 3), record(1, None)):
        assert dict(wanted.of(changed)) == dict(Wanted(inventory).of(changed))
    wanted.forget(first.address)
    assert dict(wanted.of(first)) == held
