"""What BMv2 writes down of packets at log level trace: each one's way, as a trace tells it.

Every message about a packet has its number. The frame itself stands in no such message, so whoever reads
says which frame a packet was (`bmv2_events`, or the order in which they were sent).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from duet_p4.api.trace import Changed, PacketTrace, Step, Value
from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.compiler.shown import header_order, hexadecimal, line_of, lookup

BYTES_KEPT = 256
"""How much of a frame a trace shows."""

_BMV2_PRIORITIES = 2**31 - 1
"""P4Runtime's highest priority is BMv2's lowest."""

_MESSAGE = re.compile(
    r"\[(\d\d):(\d\d):(\d\d\.\d+)\] \[bmv2\] \[\w\] \[thread (\d+)\] (?:\[(\d+)\.(\d+)\] \[cxt \d+\] )?(.*)",
    re.DOTALL,
)
_NEXT = re.compile(r"\n(?=\[\d\d:\d\d:\d\d\.\d+\] \[bmv2\] )")
_RECEIVED = re.compile(r"Received packet of length (\d+) on port (\d+): ([0-9a-f]*)")
_SENDING = re.compile(r"Sending packet of length (\d+) on port (\d+): ([0-9a-f]*)")
_BEGINS = re.compile(r"Processing packet received on port (\d+)")
_TRANSMITS = re.compile(r"Transmitting packet of size (\d+) out of port (\d+)")
_DROPS = re.compile(r"Dropping packet at the end of (ingress|egress)")
_STATE = re.compile(r"Parser '[^']*' entering state '(.+)'")
_EXTRACTS = re.compile(r"Extracting header '(.+)'")
_EXTRACTS_NEXT = re.compile(r"Extracting to header stack \d+, next header is (\d+)")
_PARSED = re.compile(r"Bytes parsed: (\d+)")
_MALFORMED = re.compile(r"Exception while parsing: (\w+)")
_PARSER_ENDS = re.compile(r"Parser '[^']*': end")
_CONDITION = re.compile(r'.*Condition ".*" \((\w+)\) is (true|false)', re.DOTALL)
_TABLE = re.compile(r"Table '(.+)': (hit|miss)")
_ACTION = re.compile(r"Action entry is (\S+) - (.*)")
_COUNTS = re.compile(r"Updated counter '(.+)' at index (\d+)")
_HASH = re.compile(r"hash\(base=\d+, max=\d+\) = (\d+)")
_PIPELINE_ENDS = re.compile(r"Pipeline '(\w+)': end")
_DEPARSES = re.compile(r"Deparsing header '(.+)'")
_FIELD = re.compile(r"^\* (.*?) *: (.*)$", re.MULTILINE)
_PRIORITY = re.compile(r"^Priority: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Message:
    """A message of the log: when (seconds of the day), by which thread, about which packet, its text."""

    at: float
    thread: str
    packet: int | None
    copy: int
    text: str

    @classmethod
    def of(cls, raw: str) -> Message | None:
        """Read a message, None for what is none."""
        found = _MESSAGE.match(raw)
        if found is None:
            return None
        hours, minutes, seconds, thread, packet, copy, text = found.groups()
        at = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        return cls(at, thread, int(packet) if packet is not None else None, int(copy or 0), text)

    @property
    def received(self) -> bytes | None:
        """The frame that came in, as far as it was written down, where this is about one."""
        found = _RECEIVED.match(self.text)
        return bytes.fromhex(found[3]) if found else None


class Messages:
    """Cuts what is appended to a log into messages; the last one is whole once another follows it."""

    def __init__(self) -> None:
        self._rest = ""

    def cut(self, text: str) -> list[Message]:
        """Return the messages that are whole by now; without any more text, the last one is, too."""
        *whole, self._rest = _NEXT.split(self._rest + text)
        if not text and self._rest:
            whole, self._rest = [self._rest], ""
        return [message for raw in whole if (message := Message.of(raw)) is not None]


@dataclass
class Passage:
    """A packet's way through the switch: its messages, and how it left."""

    packet: int
    port: int
    began_at: float
    messages: list[str] = field(default_factory=list)
    ended_at: float = 0.0
    egress: int | None = None
    dropped: bool = False
    frame_out: bytes | None = None


class Passages:
    """Follows packets through the log. Copies of a packet (clones, multicast) have no passage."""

    def __init__(self) -> None:
        self._under_way: dict[int, Passage] = {}
        self._leaving: dict[str, Passage] = {}

    def take(self, message: Message) -> list[Passage]:
        """Take the next message; returns the packets that have left by it."""
        left = []
        if (leaving := self._leaving.pop(message.thread, None)) is not None:
            left.append(leaving)
            if sent := _SENDING.match(message.text):
                leaving.frame_out = bytes.fromhex(sent[3])
        if message.packet is None or message.copy:
            return left
        if begins := _BEGINS.match(message.text):
            self._under_way[message.packet] = Passage(message.packet, int(begins[1]), message.at)
        elif (passage := self._under_way.get(message.packet)) is not None:
            passage.messages.append(message.text)
            passage.ended_at = message.at
            if transmits := _TRANSMITS.match(message.text):
                # The frame stands in what the same thread says next.
                passage.egress = int(transmits[2])
                self._leaving[message.thread] = self._under_way.pop(message.packet)
            elif _DROPS.match(message.text):
                passage.dropped = True
                left.append(self._under_way.pop(message.packet))
        return left

    def rest(self) -> list[Passage]:
        """Return the packets that have left, though nothing was said since."""
        left, self._leaving = list(self._leaving.values()), {}
        return left


class Reader:
    """Reads passages by a program's own types."""

    def __init__(self, program: ir.Program) -> None:
        self._program = program
        self._tables = program.tables()
        # p4c numbers them as it lists them.
        self._headers = list(program.headers)
        self._conditions = {**program.ingress.conditionals, **program.egress.conditionals}

    def trace(self, passage: Passage, frame: bytes) -> PacketTrace:
        """Return the trace of a packet that came in as `frame`."""
        told = _Told(self._program, frame)
        began, ended = _monotonic_ns(passage.began_at, passage.ended_at)
        for text in passage.messages:
            self._read(told, text)
        verdict = "dropped" if passage.dropped else "sent" if passage.egress is not None else "lost"
        left = passage.frame_out
        counted = [name for step in told.steps for name in step.counters if "drop" in name.lower()]
        reason = "; ".join(["the program marked it to drop", *(f"counted as {name}" for name in counted)])
        last = {
            "dropped": (Step(kind="drop", name="by_program"),),
            "sent": (Step(kind="sent", name=str(passage.egress)),),
            "lost": (),
        }
        return PacketTrace(
            began_ns=began,
            ended_ns=ended,
            ingress=str(passage.port),
            frame=frame[:BYTES_KEPT].hex(),
            length=len(frame),
            headers_in=tuple(
                value
                for name in header_order(self._program)
                if name in told.extracted
                for value in _values(self._program, [name], told.extracted[name])
            ),
            headers_out=tuple(_values(self._program, told.deparsed, left)) if left is not None else (),
            steps=(*told.steps, *last[verdict]),
            verdict=verdict,
            egress=str(passage.egress) if verdict == "sent" else None,
            frame_out=left[:BYTES_KEPT].hex() if left is not None else None,
            reason=reason if passage.dropped else None,
        )

    def _read(self, told: _Told, text: str) -> None:
        if found := _STATE.match(text):
            state = self._program.parser[found[1]]
            told.steps.append(Step(kind="state", name=state.name, line=line_of(state.source)))
            told.rename(state)
        elif found := _EXTRACTS.match(text):
            told.extract(found[1])
        elif found := _EXTRACTS_NEXT.match(text):
            told.extract(self._headers[int(found[1])])
        elif found := _PARSED.match(text):
            told.at = int(found[1])
        elif found := _MALFORMED.match(text):
            told.error = found[1]
        elif _PARSER_ENDS.match(text):
            told.steps.append(Step(kind="parsed", name=told.error))
        elif found := _CONDITION.match(text):
            source = self._conditions[found[1]].source
            told.steps.append(
                Step(
                    kind="branch",
                    name=source.fragment or found[1],
                    line=line_of(source),
                    taken=found[2] == "true",
                )
            )
        elif text.startswith("Looking up key:"):
            told.key = [value for _, value in _FIELD.findall(text)]
        elif found := _TABLE.match(text):
            values = [int(value, 16) for value in told.key]
            told.steps.append(lookup(self._tables[found[1]], values, hit=found[2] == "hit"))
        elif text.startswith("Dumping entry"):
            told.amend(self._with_entry(told.steps[-1], text))
        elif found := _ACTION.match(text):
            told.act(self._tables[told.steps[-1].name], found[1], found[2])
        elif found := _COUNTS.match(text):
            last = told.steps[-1]
            told.amend(last.model_copy(update={"counters": (*last.counters, f"{found[1]}[{found[2]}]")}))
        elif found := _HASH.match(text):
            told.hashed(int(found[1]))
        elif found := _PIPELINE_ENDS.match(text):
            told.steps.append(Step(kind="done", name=found[1]))
        elif found := _DEPARSES.match(text):
            told.deparsed.append(found[1])

    def _with_entry(self, step: Step, text: str) -> Step:
        keys = self._tables[step.name].keys
        wants = [_wanted(told, key) for (_, told), key in zip(_FIELD.findall(text), keys, strict=False)]
        key = [one.model_copy(update={"wanted": want}) for one, want in zip(step.key, wants, strict=False)]
        found = _PRIORITY.search(text)
        priority = _BMV2_PRIORITIES - int(found[1]) if found else None
        return step.model_copy(update={"key": tuple(key), "priority": priority})


class _Told:
    """What has been read of a packet so far."""

    def __init__(self, program: ir.Program, frame: bytes) -> None:
        self._program = program
        self._frame = frame
        self.steps: list[Step] = []
        self.at = 0
        self.error = "NoError"
        self.key: list[str] = []
        self.extracted: dict[str, bytes] = {}
        self.deparsed: list[str] = []
        self._hashes: list[ir.FieldRef] = []

    def amend(self, step: Step) -> None:
        """Have the last step be another."""
        self.steps[-1] = step

    def extract(self, header: str) -> None:
        """Note a header that the parser takes out of the frame, unless the frame ends before it does."""
        size = self._program.headers[header].type.bytes
        if self._program.headers[header].type.varbit is None and len(self._frame) >= self.at + size:
            fields = _values(self._program, [header], self._frame[self.at :])
            self._change(Changed(field=header, before="0x0", after="0x1", width=1))
            for value in fields:
                self._change(Changed(field=value.name, before=None, after=value.value, width=value.width))
            self.extracted[header] = self._frame[self.at : self.at + size]
            self.at += size

    def rename(self, state: ir.ParserState) -> None:
        """Note headers that a state assigns to others before it takes more out of the frame."""
        for step in state.operations:
            if step.op == "extract":
                return
            if step.op == "assign_header":
                target, source = (ir.named(argument) for argument in step.arguments)
                if source in self.extracted:
                    self.extracted[target] = self.extracted[source]

    def act(self, table: ir.Table, name: str, data: str) -> None:
        """Note the action that runs."""
        action = next(a for number in table.actions if (a := self._program.actions[number]).name == name)
        values = [int(value, 16) for value in data.split(",") if value.strip()]
        self._hashes = [
            step.arguments[0]
            for step in action.primitives
            if "hash" in step.op and isinstance(step.arguments[0], ir.FieldRef)
        ]
        self.amend(
            self.steps[-1].model_copy(
                update={
                    "action": action.name,
                    "action_line": line_of(action.source),
                    "arguments": tuple(
                        Value(name=one.name, value=hexadecimal(value, one.width), width=one.width)
                        for one, value in zip(action.parameters, values, strict=True)
                    ),
                }
            )
        )

    def hashed(self, value: int) -> None:
        """Note what a hash came to."""
        if self._hashes:
            target = self._hashes.pop(0)
            width = self._program.field(target).width
            name = f"{target.header}.{target.field}"
            self._change(Changed(field=name, before=None, after=hexadecimal(value, width), width=width))

    def _change(self, change: Changed) -> None:
        last = self.steps[-1]
        self.amend(last.model_copy(update={"changes": (*last.changes, change)}))


def _values(program: ir.Program, headers: Sequence[str], frame: bytes) -> Iterator[Value]:
    """Yield the fields of headers that a frame begins with, up to one of variable length."""
    at = 0
    for name in headers:
        kind = program.headers[name].type
        if kind.varbit is not None or len(frame) < at + kind.bytes:
            return
        whole = int.from_bytes(frame[at : at + kind.bytes], "big")
        for member in kind.fields.values():
            value = whole >> (8 * kind.bytes - member.offset - member.width) & ((1 << member.width) - 1)
            yield Value(
                name=f"{name}.{member.name}", value=hexadecimal(value, member.width), width=member.width
            )
        at += kind.bytes


def _wanted(told: str, key: ir.KeyField) -> str:
    """Return what an entry wants of a field, from such as `LPM       64000000/16`."""
    _, _, text = told.partition(" ")
    text = text.strip()
    for between, ours in ((" &&& ", " &&& "), (" -> ", " .. ")):
        if between in text:
            first, second = (int(value, 16) for value in text.split(between))
            if between == " &&& " and not second:
                return "any"
            return hexadecimal(first, key.width) + ours + hexadecimal(second, key.width)
    value, _, length = text.partition("/")
    return hexadecimal(int(value, 16), key.width) + (f"/{length}" if length else "")


def _monotonic_ns(*moments: float) -> list[int]:
    """Return times of the day, of the last 24 hours, by the machine's monotonic clock."""
    monotonic, now = time.monotonic_ns(), time.time()
    local = time.localtime(now)
    today = local.tm_hour * 3600 + local.tm_min * 60 + local.tm_sec + now % 1
    return [monotonic - round((today - at) % 86_400 * 1e9) for at in moments]
