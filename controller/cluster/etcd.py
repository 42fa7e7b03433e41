"""A client of etcd's version 3 interface, over its JSON gateway (gRPC's messages as JSON, bytes in Base64).

https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/. A request goes to one member; where that does not
answer soon, to the next as well, and the first answer counts. So a request may be carried out twice, or later
than its answer was given up: only requests for which that makes no difference are made here, in
`controller.cluster.lease` and in `controller.store.etcd`.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self

from controller.store.base import StoreError
from duet_p4.identity import Credentials
from duet_p4.rest.http import HttpError, Reply, Wire

ANSWER_S = 1.5
"""How long one member has for its answer."""

_SOON_S, _BYTES_PER_S = 0.25, 1e6
"""After how long without an answer the next member is asked as well: longer where there is much to write."""

_ROUNDS = 2
"""How often each member is asked: what one of them passed on to its leader just as that died is lost, and it
says nothing for as long as it would wait for a slow disk."""

_CONNECT_S = 0.5
_PAGE = 500
_JSON = {"Content-Type": "application/json"}
_UNAVAILABLE = {4, 8, 14}
_OUT_OF_RANGE = 11


class EtcdError(StoreError):
    """etcd refused a request; `code` is gRPC's."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class EtcdAwayError(StoreError):
    """No member of etcd answered, or none could: there is no majority. What was asked may have been done."""


class CompactedError(StoreError):
    """What happened since a revision is not known to etcd any more."""


@dataclass(frozen=True)
class KeyValue:
    """A key with its value. `version` counts the key's changes since it was made, from 1."""

    key: str
    value: str
    version: int
    created: int
    modified: int


@dataclass(frozen=True)
class KeyEvent:
    """A key that was put, or deleted: then `kv` has its name and the revision only."""

    kv: KeyValue
    deleted: bool


@dataclass
class Transaction:
    """Operations that are done all together where every comparison holds, else those of `otherwise`."""

    compare: list[dict[str, Any]] = field(default_factory=list)
    then: list[dict[str, Any]] = field(default_factory=list)
    otherwise: list[dict[str, Any]] = field(default_factory=list)

    def if_version(self, key: str, version: int) -> Self:
        """Require that a key has a version; 0: it is not there."""
        self.compare.append({"key": _b64(key), "target": "VERSION", "version": str(version)})
        return self

    def if_created(self, key: str, revision: int) -> Self:
        """Require that a key was made at a revision; 0: it is not there."""
        self.compare.append({"key": _b64(key), "target": "CREATE", "create_revision": str(revision)})
        return self

    def if_modified(self, key: str, revision: int) -> Self:
        """Require that a key was last put at a revision."""
        self.compare.append({"key": _b64(key), "target": "MOD", "mod_revision": str(revision)})
        return self

    def put(self, key: str, value: str) -> Self:
        """Put a key."""
        self.then.append({"request_put": {"key": _b64(key), "value": _b64(value)}})
        return self

    def delete(self, key: str, end: str | None = None) -> Self:
        """Delete a key, or all from it up to `end`."""
        self.then.append({"request_delete_range": _range(key, end)})
        return self

    def else_get(self, key: str) -> Self:
        """Read a key where a comparison does not hold."""
        self.otherwise.append({"request_range": _range(key, None)})
        return self


@dataclass(frozen=True)
class Answer:
    """What came of a transaction; `found` has the key that each operation read."""

    succeeded: bool
    revision: int
    found: list[KeyValue | None]


class EtcdClient:
    """Calls the members of one etcd cluster; an asynchronous context manager that keeps connections open."""

    def __init__(self, endpoints: Sequence[str], credentials: Credentials | None = None) -> None:
        """`credentials` are for members that are reached over TLS."""
        if not endpoints:
            raise ValueError("etcd needs at least one endpoint")
        self._endpoints = tuple(endpoints)
        self._credentials = credentials
        self._generation = credentials.generation if credentials else 0
        self._members = self._connect()
        self._retired: list[Wire] = []
        self._preferred = 0

    def another(self) -> EtcdClient:
        """Return a client of the same members, for another loop."""
        return EtcdClient(self._endpoints, self._credentials)

    def _connect(self) -> list[Wire]:
        tls = self._credentials.client() if self._credentials else None
        return [Wire(url, tls=tls, connect_s=_CONNECT_S) for url in self._endpoints]

    def _order(self) -> list[Wire]:
        """Return the ways to all members, in the order they are asked, with the credentials of the day."""
        if self._credentials is not None and self._credentials.generation != self._generation:
            self._generation = self._credentials.generation
            self._retired += self._members  # What they are asked now, a watch too, they still answer.
            self._members = self._connect()
        return self._members[self._preferred :] + self._members[: self._preferred]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        async with AsyncExitStack() as stack:
            for member in (*self._members, *self._retired):
                stack.push_async_callback(member.close)

    async def get(self, key: str) -> tuple[KeyValue | None, int]:
        """Return a key as a majority knows it, or None, and the revision of the store."""
        answer = await self._call("/v3/kv/range", _range(key, None))
        return _first(answer), _revision(answer)

    async def pages(
        self, start: str, end: str, revision: int = 0
    ) -> AsyncIterator[tuple[list[KeyValue], int]]:
        """Yield all keys from `start` up to `end`, some at a time, as they were at one revision (0: now)."""
        while True:
            body = _range(start, end) | {"limit": str(_PAGE), "revision": str(revision)}
            answer = await self._call("/v3/kv/range", body, ANSWER_S)  # Much to read takes its time.
            revision = revision or _revision(answer)
            found = [_key_value(kv) for kv in answer.get("kvs", ())]
            yield found, revision
            if not answer.get("more") or not found:
                return
            start = found[-1].key + "\0"

    async def newest(self, start: str, end: str, limit: int) -> list[KeyValue]:
        """Return the last `limit` keys from `start` up to `end`, the last one first."""
        body = _range(start, end) | {"limit": str(limit), "sort_order": "DESCEND", "sort_target": "KEY"}
        return [_key_value(kv) for kv in (await self._call("/v3/kv/range", body)).get("kvs", ())]

    async def transact(self, transaction: Transaction) -> Answer:
        """Carry a transaction out."""
        body = {
            "compare": transaction.compare,
            "success": transaction.then,
            "failure": transaction.otherwise,
        }
        answer = await self._call("/v3/kv/txn", body)
        found = [_first(response.get("response_range", {})) for response in answer.get("responses", ())]
        return Answer(bool(answer.get("succeeded")), _revision(answer), found)

    async def compact(self, revision: int) -> None:
        """Forget what was before a revision."""
        try:
            await self._call("/v3/kv/compaction", {"revision": str(revision)})
        except EtcdError as error:
            if error.code != _OUT_OF_RANGE:  # somebody was faster
                raise

    async def watch(
        self, start: str, end: str, revision: int, silent_s: float | None = None
    ) -> AsyncGenerator[list[KeyEvent]]:
        """Yield all changes of keys from `start` up to `end` since a revision, whole revisions at a time.

        The first is empty: the member listens. Ends with `CompactedError`, or with `EtcdAwayError`, also
        where nothing came for `silent_s`: then another member is asked first from now on.
        """
        member = self._order()[0]
        body = {"create_request": _range(start, end) | {"start_revision": str(revision)}}
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await member.open(
                    "POST", "/v3/watch", _JSON.items(), json.dumps(body).encode(), silent_s=silent_s
                )
            with closing(answer):
                async for line in answer.lines():
                    message = json.loads(line)
                    result = message.get("result", {})
                    if int(result.get("compact_revision", 0)):
                        raise CompactedError(f"etcd has forgotten what was after revision {revision}")
                    if "error" in message or result.get("canceled"):
                        raise EtcdAwayError(f"etcd ends the watch: {line[:200].decode(errors='replace')}")
                    yield [_event(event) for event in result.get("events", ())]
        except (HttpError, TimeoutError, ValueError) as error:
            self._shun(member)
            raise EtcdAwayError(f"{member.url}: {str(error) or type(error).__name__}") from error
        raise EtcdAwayError(f"{member.url} ended the watch")

    def _shun(self, member: Wire) -> None:
        if self._members[self._preferred] is member:
            self._preferred = (self._preferred + 1) % len(self._members)

    def _prefer(self, member: Wire) -> None:
        if member in self._members:
            self._preferred = self._members.index(member)

    async def _call(self, path: str, body: dict[str, Any], soon_s: float = _SOON_S) -> dict[str, Any]:
        """Ask one member, and others as well where it does not answer soon; the first answer counts."""
        content = json.dumps(body).encode()
        soon_s += len(content) / _BYTES_PER_S
        left = self._order() * _ROUNDS
        asked: dict[asyncio.Task[dict[str, Any]], Wire] = {}
        said = ""
        try:
            while left or asked:
                if left:
                    member = left.pop(0)
                    asked[asyncio.create_task(self._ask(member, path, content))] = member
                done, _ = await asyncio.wait(
                    asked, timeout=soon_s if left else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    member = asked[task]
                    try:
                        answer = task.result()
                    except EtcdAwayError as error:
                        del asked[task]
                        said = str(error)
                        self._shun(member)
                    else:
                        self._prefer(member)
                        return answer
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise EtcdAwayError(f"no member of etcd answers: {said}")

    async def _ask(self, member: Wire, path: str, content: bytes) -> dict[str, Any]:
        """Ask one member. Raises `EtcdAwayError` where another may know more."""
        try:
            async with asyncio.timeout(ANSWER_S):
                reply = await member.request("POST", path, _JSON, content)
            answer = json.loads(reply.content)
        except (HttpError, TimeoutError, ValueError) as error:
            raise EtcdAwayError(f"{member.url}: {str(error) or type(error).__name__}") from error
        if not isinstance(answer, dict):
            raise StoreError(f"{member.url}{path}: no answer of etcd's: {reply.text[:200]}")
        if reply.status < HTTPStatus.BAD_REQUEST and "error" not in answer:
            return answer
        code, text = _problem(answer, reply)
        if code in _UNAVAILABLE:
            raise EtcdAwayError(f"{member.url}: {text}")
        raise EtcdError(f"etcd refuses {path}: {text}", code)


def prefix_end(prefix: str) -> str:
    """Return the end of the range of all keys with a prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _b64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _text(encoded: str) -> str:
    return b64decode(encoded).decode()


def _range(key: str, end: str | None) -> dict[str, Any]:
    return {"key": _b64(key)} | ({"range_end": _b64(end)} if end is not None else {})


def _revision(answer: dict[str, Any]) -> int:
    return int(answer["header"]["revision"])


def _key_value(kv: dict[str, Any]) -> KeyValue:
    return KeyValue(
        _text(kv["key"]),
        _text(kv.get("value", "")),
        int(kv.get("version", 0)),
        int(kv.get("create_revision", 0)),
        int(kv.get("mod_revision", 0)),
    )


def _event(event: dict[str, Any]) -> KeyEvent:
    return KeyEvent(_key_value(event["kv"]), event.get("type") == "DELETE")


def _first(answer: dict[str, Any]) -> KeyValue | None:
    found = answer.get("kvs", ())
    return _key_value(found[0]) if found else None


def _problem(answer: dict[str, Any], reply: Reply) -> tuple[int, str]:
    """Return gRPC's code and text of an error, which streams and single answers put differently."""
    error = answer.get("error")
    said = error if isinstance(error, dict) else answer
    code = int(said.get("grpc_code") or said.get("code") or 2)
    return code, str(said.get("message") or error or reply.status)
