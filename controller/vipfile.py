"""The VIP file: the operator's statement of which VIPs there are and which DIPs serve them, in YAML.

    vips:
      - address: 10.0.0.1           # within 10.0.0.0/16
        name: web                   # optional, for people
        dips:                       # a DIP is an address, a prefix (every address in it), or a mapping
          - 100.1.1.17
          - 100.1.2.16/28
          - {address: 100.2.1.17, weight: 3}
        ports:                      # optional: ports with DIPs of their own
          - {protocol: tcp, port: 21, dips: [100.2.2.17]}
        snat: true                  # optional: the DIPs may open connections as the VIP
        health: {kind: http, port: 80, path: /}     # or tcp, https, udp, dns, grpc
        switch: tor1                # optional: the HMux that carries it, or `smux` for none

A file that is wrong is refused whole, with the line and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from duet_p4.model import Model, Vip

Place = tuple[str | int, ...]
"""Where something stands in a document: the keys and positions that lead there."""

_SHORTEST_PREFIX = 16
_DEEPEST = 8  # An alias may name what it is part of.
_MOST_REPEATED = 100_000  # A few aliases of aliases of aliases are billions of values.
_YAML_TAG = "tag:yaml.org,2002:"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""With LibYAML, thirty thousand VIPs take seconds."""


class StatedVip(Model):
    """A VIP of the file, and where the file puts it; no `switch` leaves that to whoever places VIPs."""

    vip: Vip
    switch: str | None = None


class VipFileError(ValueError):
    """A VIP file that cannot be used; the text names file, line and reason."""


Check = Callable[[Sequence[StatedVip], "Document"], None]
"""Notes as errors of a document what a single VIP cannot know."""


def read(path: Path, check: Check | None = None) -> list[StatedVip]:
    """Read a VIP file. Raises `VipFileError` naming every line that is wrong."""
    try:
        text = path.read_text()
    except OSError as error:
        raise VipFileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise VipFileError(f"{path} is no text file") from None
    return parse(text, str(path), check)


def parse(text: str, source: str = "VIP file", check: Check | None = None) -> list[StatedVip]:
    """Read the text of a VIP file; `source` is its name in errors."""
    document = Document(source)
    try:
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise _no_yaml(text, source, error) from None
    content = document.value(root, ()) if root is not None else None
    if document.errors and content is None:
        raise VipFileError("\n".join(document.errors))
    if not isinstance(content, dict) or not isinstance(content.get("vips"), list) or len(content) != 1:
        raise VipFileError(f"{source}, line 1: expected one key, `vips`, with a list of VIPs")
    stated = [document.vip(entry, ("vips", index)) for index, entry in enumerate(content["vips"])]
    found = [vip for vip in stated if vip is not None]
    if len(found) == len(stated):
        _check_twice(found, document)
        if check is not None:
            check(found, document)
    if document.errors:
        raise VipFileError("\n".join(document.errors))
    return found


class Document:
    """The plain values of a YAML document, the line each stands on, and what is wrong with it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Place, int] = {}
        self.errors: list[str] = []
        self._values = yaml.SafeLoader("")
        self._seen: set[int] = set()
        self._repeated = 0

    def error(self, path: Place, text: str) -> None:
        """Note what is wrong with what stands at `path`."""
        while path and path not in self.lines:
            path = path[:-1]
        self.errors.append(f"{self.source}, line {self.lines.get(path, 1)}: {text}")

    def value(self, node: yaml.Node, path: Place) -> Any:
        """Return the plain value of a node, and note its line."""
        if len(path) > _DEEPEST:
            raise VipFileError(f"{self.source}, line {node.start_mark.line + 1}: nested too deeply")
        self._repeated += id(node) in self._seen
        self._seen.add(id(node))
        if self._repeated > _MOST_REPEATED:
            line = node.start_mark.line + 1
            raise VipFileError(
                f"{self.source}, line {line}: aliases repeat more than {_MOST_REPEATED:,} values"
            )
        self.lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = str(key_node.value)
                if key in mapping:
                    self.lines[(*path, key)] = key_node.start_mark.line + 1
                    self.error((*path, key), f"{key} is stated twice")
                mapping[key] = self.value(value_node, (*path, key))
            return mapping
        if isinstance(node, yaml.SequenceNode):
            if path and path[-1] == "dips":
                return self._dips(node, path)
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return self._values.construct_object(node)
        except (yaml.YAMLError, ValueError):
            # A tag that YAML does not know, or a value that is none of its tag, such as a 13th month.
            self.error(path, f"{node.value!r} is no {node.tag.removeprefix(_YAML_TAG)}")
            return None

    def _dips(self, node: yaml.SequenceNode, path: Place) -> list[Any]:
        """Spell out the short forms of DIPs; each keeps the line of what it came from."""
        dips: list[Any] = []
        for item in node.value:
            line = item.start_mark.line + 1
            stated = self.value(item, (*path, len(dips)))
            mapping = stated if isinstance(stated, dict) else {"address": stated}
            address = mapping.get("address")
            if isinstance(address, str) and "/" in address:
                try:
                    prefix = IPv4Network(address)
                    if prefix.prefixlen < _SHORTEST_PREFIX:
                        raise ValueError(f"a prefix of DIPs is a /{_SHORTEST_PREFIX} at the largest")
                    spelled = [mapping | {"address": str(one)} for one in prefix]
                except ValueError as error:
                    self.error((*path, len(dips)), f"DIPs {address}: {error}")
                    continue
            else:
                spelled = [mapping]
            for one in spelled:
                self.lines[(*path, len(dips))] = line
                dips.append(one)
        return dips

    def vip(self, entry: Any, path: Place) -> StatedVip | None:
        """Return a VIP; None where something is wrong with it, which is noted."""
        if not isinstance(entry, dict):
            self.error(path, f"expected a VIP with `address` and `dips`, not {entry!r}")
            return None
        own = {key: value for key, value in entry.items() if key != "switch"}
        switch = entry.get("switch")
        if switch is not None and not isinstance(switch, str):
            self.error((*path, "switch"), f"switch: {switch!r} is no name")
            return None
        try:
            return StatedVip(vip=Vip.model_validate(own), switch=switch)
        except ValidationError as error:
            for problem in error.errors():
                where = ".".join(str(part) for part in problem["loc"])
                text = problem["msg"].removeprefix("Value error, ")
                given = "" if isinstance(problem["input"], dict | list) else f", not {problem['input']!r}"
                prefix = f"VIP {entry.get('address', '(no address)')}: {where}: " if where else ""
                self.error((*path, *problem["loc"]), f"{prefix}{text}{given}")
            return None


def _no_yaml(text: str, source: str, error: yaml.YAMLError) -> VipFileError:
    """Return what is wrong with a text, as the slow loader puts it: that says more, and the right line."""
    try:
        yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as said:
        error = said
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark else 1
    return VipFileError(f"{source}, line {line}: {getattr(error, 'problem', error)}")


def _check_twice(vips: Sequence[StatedVip], document: Document) -> None:
    seen: dict[object, int] = {}
    for index, stated in enumerate(vips):
        for value, key in ((stated.vip.address, "address"), (stated.vip.name, "name")):
            if value is not None and value in seen:
                line = document.lines[("vips", seen[value])]
                document.error(("vips", index, key), f"VIP {value} is stated already, on line {line}")
            seen[value] = index
