"""Read p4c's BMv2 JSON into `ir.Program`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.compiler.ir import Source, unsupported

Json = Any

_MISSHAPEN = (KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading runs into where a JSON has not the shape of a compiler's output. `check` finds the rest."""


def read(config: bytes) -> ir.Program:
    """Return the program of a BMv2 JSON.

    Raises ValueError where `config` is none, UnsupportedError where it holds what this switch cannot do.
    """
    try:
        document = json.loads(_unwrapped(config))
        version = tuple(document["__meta__"]["version"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        shown = f"{type(error).__name__}: {error}"[:200]
        raise ValueError(f"the pipeline config is no BMv2 JSON: {shown}") from None
    if version[0] != 2:
        raise ValueError(f"BMv2 JSON of version {version} is unknown, 2.x is expected")
    try:
        return _program(document)
    except _MISSHAPEN as error:
        raise ValueError(f"the BMv2 JSON contradicts itself: {error!r}") from error


def _unwrapped(config: bytes) -> bytes:
    """Return the JSON in a p4.tmp.P4DeviceConfig, which p4lang's clients wrap it in; `config` if it is none.

    The message has `bytes device_data` as its field 3, as BMv2 takes it beside the bare JSON.
    """
    at = 0
    found = config
    while at < len(config) and config[:1] != b"{":
        tag, at = _varint(config, at)
        if tag & 7 == 0:
            _, at = _varint(config, at)
        elif tag & 7 == 2:
            length, at = _varint(config, at)
            if at + length > len(config):
                return config
            if tag >> 3 == 3:
                found = config[at : at + length]
            at += length
        else:
            return config
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a protobuf varint and where it ends; one that runs out of bytes ends there."""
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 0x80:
            break
    return value, at


def _program(document: Json) -> ir.Program:
    for item in document.get("extern_instances", []):
        raise unsupported(f"extern instance {item['name']}", _source(item))
    types = {t["name"]: _header_type(t) for t in document["header_types"]}
    by_id = {item["id"]: item["name"] for item in document["headers"]}
    unions = {
        u["name"]: ir.Union(u["name"], {_member(by_id[i]): by_id[i] for i in u["header_ids"]})
        for u in document.get("header_unions", [])
    }
    union_of = {name: union for union in unions.values() for name in union.members.values()}
    headers: dict[str, ir.Header] = {}
    for item in document["headers"]:
        kind = types[item["header_type"]]
        metadata = bool(item["metadata"])
        if not metadata and kind.bits % 8:
            raise unsupported(f"header {item['name']} of {kind.bits} bits, no whole bytes,", kind.source)
        index = sum(1 for h in headers.values() if not h.metadata)
        name = item["name"]
        rivals = tuple(n for n in union_of[name].members.values() if n != name) if name in union_of else ()
        headers[name] = ir.Header(name, kind, metadata, index, rivals)
    stacks = {
        s["name"]: ir.Stack(s["name"], tuple(by_id[i] for i in s["header_ids"]))
        for s in document["header_stacks"]
    }
    union_by_id = {u["id"]: u["name"] for u in document.get("header_unions", [])}
    union_stacks = {
        s["name"]: ir.UnionStack(s["name"], tuple(union_by_id[i] for i in s["header_union_ids"]))
        for s in document.get("header_union_stacks", [])
    }
    actions = {a["id"]: _action(a) for a in document["actions"]}
    pipelines = {p["name"]: _pipeline(p, headers) for p in document["pipelines"]}
    if len(document["parsers"]) != 1 or len(document["deparsers"]) != 1:
        raise ValueError("a v1model program has one parser and one deparser")
    parser, deparser = document["parsers"][0], document["deparsers"][0]
    for item in deparser.get("primitives", []):
        raise unsupported(f"{item['op']} in a deparser", _source(item))
    return ir.Program(
        name=str(document.get("program", "")),
        headers=headers,
        stacks=stacks,
        errors=dict(document["errors"]),
        parser_start=parser["init_state"],
        parser={s["name"]: _state(s) for s in parser["parse_states"]},
        deparser=tuple(deparser["order"]),
        actions=actions,
        ingress=pipelines["ingress"],
        egress=pipelines["egress"],
        calculations={c["name"]: _calculation(c, headers) for c in document["calculations"]},
        checksums=tuple(_checksum(c) for c in document["checksums"]),
        counters={
            c["name"]: ir.CounterArray(c["name"], c.get("size", 0), c.get("binding"))
            for c in document["counter_arrays"]
        },
        registers={r["name"]: _register(r) for r in document["register_arrays"]},
        unions=unions,
        union_stacks=union_stacks,
        value_sets={
            v["name"]: ir.ValueSet(v["name"], v.get("max_size", 0)) for v in document.get("parse_vsets", [])
        },
        meters={m["name"]: _meter(m) for m in document.get("meter_arrays", [])},
        digests={d["id"]: _digest(d, headers) for d in document.get("learn_lists", [])},
        field_lists={
            f["id"]: tuple(ir.FieldRef(*e["value"]) for e in f["elements"] if e["type"] == "field")
            for f in document.get("field_lists", [])
        },
    )


def _member(header: str) -> str:
    """Return the name of a union's member, given its header's: `hdr.u.member`, `u[1].member`."""
    return header.rsplit(".", 1)[-1]


def _source(item: Json) -> Source:
    info = item.get("source_info")
    if not info:
        return Source()
    return Source(PurePath(info["filename"]).name, info["line"], info.get("source_fragment", ""))


def _header_type(item: Json) -> ir.HeaderType:
    fields: dict[str, ir.Field] = {}
    offset = 0
    for name, width, *rest in item["fields"]:
        varbit = width == "*"
        if varbit:
            width = 8 * item["max_length"] - sum(w for _, w, *_ in item["fields"] if w != "*")
            if offset % 8:
                raise unsupported(f"varbit field {item['name']}.{name} at bit {offset}", _source(item))
        fields[name] = ir.Field(name, width, bool(rest and rest[0]), offset, varbit)
        offset += width
    return ir.HeaderType(item["name"], fields, _source(item))


def _register(item: Json) -> ir.RegisterArray:
    if item["bitwidth"] > 64:
        raise unsupported(f"register {item['name']} of {item['bitwidth']} bits, more than 64,", _source(item))
    return ir.RegisterArray(item["name"], item["size"], item["bitwidth"])


def _meter(item: Json) -> ir.MeterArray:
    if item.get("rate_count", 2) != 2:
        raise unsupported(f"meter {item['name']} of {item['rate_count']} rates", _source(item))
    direct = bool(item["is_direct"])
    return ir.MeterArray(
        item["name"],
        item.get("size", 0) or 0,
        item["type"] == "bytes",
        item["binding"] if direct else None,
        ir.FieldRef(*item["result_target"]) if direct else None,
    )


def _digest(item: Json, headers: dict[str, ir.Header]) -> ir.Digest:
    pieces = tuple(_piece(e, headers, f"digest {item['name']}", _source(item)) for e in item["elements"])
    return ir.Digest(item["name"], item["id"], pieces)


def _expression(item: Json | None, source: Source) -> ir.Expr:
    if item is None:
        raise unsupported("an empty expression", source)
    kind, value = item["type"], item.get("value")
    if kind == "expression":
        if "op" not in value:
            return _expression(value, source)
        if value["op"] == "dereference_header_stack":
            return ir.Element(value["left"]["value"], _expression(value["right"], source))
        if value["op"] == "access_field":
            element = _expression(value["left"], source)
            if isinstance(element, ir.Element):
                return ir.ElementField(element, value["right"])
            raise unsupported(f"a field of {value['left']}", source)
        if value["op"] == "access_union_header":
            raise unsupported("a union of a stack at an index known only at run time", source)
        return ir.Op(
            value["op"],
            None if value["left"] is None else _expression(value["left"], source),
            None if value["right"] is None else _expression(value["right"], source),
            _expression(value["cond"], source) if value.get("cond") else None,
        )
    simple: dict[str, Callable[[Any], ir.Expr]] = {
        "hexstr": lambda v: ir.Const(int(v, 16)),
        "bool": lambda v: ir.Bool(bool(v)),
        "field": lambda v: _field(v, source),
        "stack_field": lambda v: ir.StackField(v[0], v[1]),
        "union_stack_field": lambda v: ir.StackField(v[0], v[2], v[1]),
        "union_stack": lambda v: ir.UnionNext(v[0], v[1]),
        "lookahead": lambda v: ir.Lookahead(v[0], v[1]),
        "runtime_data": ir.Param,
        "local": ir.Param,
        "string": lambda v: ir.Named("string", v),
        "parameters_vector": lambda v: ir.Named("parameters_vector", ""),
        **{
            name: (lambda v, name=name: ir.Named(name, v))  # type: ignore[misc]
            for name in (
                "header",
                "header_stack",
                "header_union",
                "header_union_stack",
                "calculation",
                "counter_array",
                "register_array",
                "meter_array",
                "regular",
                "stack",
            )
        },
    }
    if kind not in simple:
        raise unsupported(f"an operand of kind {kind}", source)
    return simple[kind](value)


def _field(value: Json, source: Source) -> ir.Expr:
    """Return a field; isValid() of an element at run time is one, of what p4c left of an expression."""
    header, name = value
    if isinstance(header, dict):
        element = _expression({"type": "expression", "value": header}, source)
        if isinstance(element, ir.Element):
            return ir.ElementField(element, name)
    return ir.FieldRef(header, name)


def _primitive(item: Json) -> ir.Primitive:
    source = _source(item)
    arguments = tuple(_expression(p, source) for p in item["parameters"])
    return ir.Primitive(item["op"], arguments, source)


def _action(item: Json) -> ir.Action:
    return ir.Action(
        item["id"],
        item["name"],
        tuple(ir.Parameter(p["name"], p["bitwidth"]) for p in item["runtime_data"]),
        tuple(_primitive(p) for p in item["primitives"]),
        _source(item),
    )


def _state(item: Json) -> ir.ParserState:
    operations = []
    for operation in item["parser_ops"]:
        if operation["op"] == "primitive":
            inner = operation["parameters"][0]
            merged = dict(inner, source_info=inner.get("source_info") or operation.get("source_info"))
            operations.append(_primitive(merged))
        else:
            operations.append(_primitive(operation))
    transitions = []
    for t in item["transitions"]:
        kind = t.get("type", "default" if t["value"] == "default" else "hexstr")
        if kind == "parse_vset":
            mask = None if t.get("mask") is None else int(t["mask"], 16)
            transitions.append(ir.Transition(0, mask, t["next_state"], t["value"]))
            continue
        if kind == "default":
            transitions.append(ir.Transition(0, None, t["next_state"]))
            continue
        digits = len(t["value"].removeprefix("0x"))
        mask = (1 << 4 * digits) - 1 if t.get("mask") is None else int(t["mask"], 16)
        transitions.append(ir.Transition(int(t["value"], 16) & mask, mask, t["next_state"]))
    return ir.ParserState(
        item["name"],
        tuple(operations),
        tuple(_expression(k, _source(item)) for k in item["transition_key"]),
        tuple(transitions),
        _source(item),
    )


def _pipeline(item: Json, headers: dict[str, ir.Header]) -> ir.Pipeline:
    return ir.Pipeline(
        item["name"],
        item["init_table"],
        {t["name"]: _table(t, headers) for t in item["tables"]}
        | {c["name"]: _call(c) for c in item.get("action_calls", [])},
        {
            c["name"]: ir.Conditional(
                c["name"],
                _expression(c["expression"], _source(c)),
                c["true_next"],
                c["false_next"],
                _source(c),
            )
            for c in item["conditionals"]
        },
        {p["name"]: _profile(p) for p in item["action_profiles"]},
    )


def _call(item: Json) -> ir.Table:
    """Return an action call as a table without a key."""
    number, following = item["action_id"], item["next_node"]
    return ir.Table(
        name=item["name"],
        keys=(),
        kind="exact",
        size=0,
        profile=None,
        with_counter=False,
        actions=(number,),
        next_by_action={number: following},
        next_hit=None,
        next_miss=None,
        default_next=following,
        default_action=number,
        default_arguments=(),
        default_const=True,
        entries=(),
        source=_source(item),
    )


def _profile(item: Json) -> ir.Profile:
    selector = item.get("selector")
    source = _source(item)
    return ir.Profile(
        item["name"],
        item["max_size"],
        selector["algo"] if selector else None,
        tuple(_expression(i, source) for i in selector["input"]) if selector else (),
        source,
    )


def _table(item: Json, headers: dict[str, ir.Header]) -> ir.Table:
    source = _source(item)
    name = item["name"]
    keys = []
    for key in item["key"]:
        header, member = key["target"]
        width = 1 if member == ir.VALID else headers[header].type.fields[member].width
        mask = int(key["mask"], 16) if key.get("mask") else None
        field = ir.FieldRef(header, member)
        keys.append(ir.KeyField(key.get("name", f"{header}.{member}"), key["match_type"], field, width, mask))
    names = item["actions"]
    following = item["next_tables"]
    default = item.get("default_entry")
    by_action = {
        number: following.get(action, item.get("base_default_next"))
        for number, action in zip(item["action_ids"], names, strict=True)
    }
    return ir.Table(
        name=name,
        keys=tuple(keys),
        kind=item["match_type"],
        size=item["max_size"],
        profile=item.get("action_profile"),
        with_counter=bool(item["with_counters"] and keys),
        actions=tuple(item["action_ids"]),
        next_by_action=by_action,
        next_hit=(following["__HIT__"],) if "__HIT__" in following else None,
        next_miss=(following["__MISS__"],) if "__MISS__" in following else None,
        default_next=item.get("base_default_next"),
        default_action=default["action_id"] if default else None,
        default_arguments=tuple(int(v, 16) for v in default["action_data"]) if default else (),
        default_const=bool(default and default.get("action_entry_const")),
        entries=_entries(item.get("entries", []), keys),
        source=source,
        meter=(item.get("direct_meters") or None) if keys else None,
        ages=bool(item.get("support_timeout") and keys),
    )


def _entries(items: Sequence[Json], keys: Sequence[ir.KeyField]) -> tuple[ir.Entry, ...]:
    lowest = max((e.get("priority", 0) for e in items), default=0) + 1
    entries = []
    for item in items:
        values: list[int | tuple[int, int] | None] = []
        for match, key in zip(item["match_key"], keys, strict=True):
            kind = match["match_type"]
            if kind == "exact":
                value = int(match["key"], 16)
                values.append(value)
            elif kind == "lpm":
                length = match["prefix_length"]
                mask = (1 << key.width) - (1 << key.width - length)
                values.append((int(match["key"], 16) & mask, length))
            elif kind == "ternary":
                mask = int(match["mask"], 16) & (1 << key.width) - 1
                value = int(match["key"], 16) & mask
                values.append((value if mask else None) if key.kind == "optional" else (value, mask))
            elif kind == "optional":
                values.append(int(match["key"], 16) if match.get("key") is not None else None)
            else:
                values.append((int(match["start"], 16), int(match["end"], 16)))
        action = item["action_entry"]
        entries.append(
            ir.Entry(
                tuple(values),
                lowest - item.get("priority", 0),
                action["action_id"],
                tuple(int(v, 16) for v in action["action_data"]),
            )
        )
    return tuple(entries)


def _calculation(item: Json, headers: dict[str, ir.Header]) -> ir.Calculation:
    source = _source(item)
    name = f"calculation {item['name']}"
    pieces = tuple(_piece(given, headers, name, source) for given in item["input"])
    # The custom CRCs are the standard ones until a Thrift client of BMv2 says otherwise: there is none here.
    algorithm = item["algo"].removesuffix("_custom")
    return ir.Calculation(item["name"], algorithm, pieces, source)


def _piece(given: Json, headers: dict[str, ir.Header], of: str, source: Source) -> ir.Piece:
    """Return an input of a calculation or a value of a digest."""
    kind, value = given["type"], given.get("value")
    if kind == "payload":
        return ir.Piece(ir.Named("payload", ""), 0)
    if kind == "hexstr":
        return ir.Piece(ir.Const(int(value, 16)), given.get("bitwidth", 4 * len(value.removeprefix("0x"))))
    if kind == "header":
        return ir.Piece(ir.Named("header", value), headers[value].type.bits)
    if kind == "field":
        header, member = value
        width = 1 if member == ir.VALID else headers[header].type.fields[member].width
        return ir.Piece(ir.FieldRef(header, member), width)
    raise unsupported(f"an input of kind {kind} of {of}", source)


def _checksum(item: Json) -> ir.Checksum:
    source = _source(item)
    condition = item.get("if_cond")
    return ir.Checksum(
        ir.FieldRef(*item["target"]),
        item["calculation"],
        item.get("verify", True),
        item.get("update", True),
        _expression(condition, source) if condition else None,
        source,
    )
