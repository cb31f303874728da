"""A cluster client for the hot path: one connection per node, commands pipelined per node, scripts over many keys.

Keys are placed by CRC16 with {tags}; MOVED and ASK are followed; the topology is read again when it proves wrong.
"""

from __future__ import annotations

import asyncio
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import hiredis
import numpy as np
from numpy.typing import NDArray

from foundation.errors import Internal, Unavailable
from foundation.redis.connection import Connection, Outcome
from foundation.redis.scripts import Argument, Script, loaded_script
from foundation.redis.slots import SLOTS, Slots

Command = tuple[Argument, ...]
"""A command; its key is the second element, the fourth of EVALSHA and EVAL."""
ScriptItem = tuple[Argument, ...]
"""A key and its arguments."""
Places = NDArray[np.intp]
"""Places in an array of the caller's, ascending."""

MAX_REDIRECTS = 3
MAX_ITEMS_PER_CALL = 1_000
"""Items of one script call: a longer call would hold up the node's other clients (4 µs an item)."""
REFRESH_EVERY_S = 0.2
"""The topology is read at most this often."""
CONNECT_TIMEOUT_S = 1.0
"""A caller waits for a connection no longer than for its replies; the attempt goes on for the next one."""
START_TIMEOUT_S = 2.0
RECONNECT_EVERY_S = 0.05
"""After a failed attempt callers fail at once for so long."""

_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub knows tuples of one
_KEY_IS_FOURTH = frozenset({"EVALSHA", "EVAL"})
_NODE_STATES = ("CLUSTERDOWN", "LOADING", "READONLY", "TRYAGAIN", "MASTERDOWN", "BUSY ", "OOM ", "MOVED ", "ASK ")
"""Error replies that speak of a node's state and pass with time."""


class _Node:
    """One server and the connection to it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.connection: Connection | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._attempt_after = 0.0

    @property
    def usable(self) -> bool:
        return self.connection is not None and self.connection.usable

    def dial(self) -> None:
        """Begin to connect, unless that goes on or just failed. One attempt serves all callers."""
        loop = asyncio.get_running_loop()
        if self._attempt is None and loop.time() >= self._attempt_after:
            self._attempt = loop.create_task(self._connect(loop))

    async def dialled(self, deadline: float) -> bool:
        """Whether the attempt, if there is one, gave a usable connection by *deadline*."""
        attempt = self._attempt
        if attempt is not None:
            await asyncio.wait([attempt], timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        return self.usable

    def unavailable(self) -> Unavailable:
        name = f"{self.address[0]}:{self.address[1]}"
        return Unavailable("CACHE_UNAVAILABLE", f"cannot reach the cache node {name}", node=name)

    async def close(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])
        if self.connection is not None:
            self.connection.close()

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        name = f"{self.address[0]}:{self.address[1]}"
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, self.connection = await loop.create_connection(lambda: Connection(loop, name), *self.address)
        except (OSError, TimeoutError):
            self._attempt_after = loop.time() + RECONNECT_EVERY_S
        finally:
            self._attempt = None


class _Parcel:
    """What one node gets in one write, and where its replies belong."""

    __slots__ = ("commands", "places")

    def __init__(self) -> None:
        self.places: list[int] = []
        """Place of each reply in the caller's list; -1 for the reply to an ASKING of ours."""
        self.commands: list[Command] = []


class RedisCluster:
    """Made by `connect`, for one event loop."""

    def __init__(self, seeds: Sequence[tuple[str, int]], timeout_s: float) -> None:
        self._seeds = list(seeds)
        self._timeout_s = timeout_s
        self._nodes: dict[tuple[str, int], _Node] = {}
        self._slots: list[_Node] = []
        self._only: _Node | None = None
        """The node of a cluster of one: no key needs to be hashed."""
        self._numbered: tuple[list[_Node], NDArray[np.int16]] | None = None
        """The nodes, and for each slot which of them serves it; made when it is asked for."""
        self._refreshing: asyncio.Task[Exception | None] | None = None
        self._refresh_after = 0.0

    async def execute(self, commands: Sequence[Command], *, timeout_s: float | None = None) -> list[Any]:
        """Replies (bytes, int, list or None) in the order of *commands*, pipelined, one write per node.

        Raises Unavailable(CACHE_UNAVAILABLE) if any node did not answer; the commands of other nodes took effect.
        Raises Internal(CACHE_REPLY) for an error reply.
        """
        replies = await self.try_execute(commands, timeout_s=timeout_s)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def try_execute(self, commands: Sequence[Command], *, timeout_s: float | None = None) -> list[Any]:
        """Like execute, with Unavailable or Internal in the place of each reply that failed; raises for neither."""
        if not commands:
            return []
        deadline = self._deadline(timeout_s)
        only = self._only
        if only is not None:
            connection = only.connection
            if connection is not None and connection.usable:
                outcome: Outcome = await connection.send(b"".join(map(_pack, commands)), len(commands), deadline)
            else:
                (outcome,) = await self._exchange([(only, commands)], deadline)
            replies = outcome if isinstance(outcome, list) else [outcome] * len(commands)
        else:
            parcels: dict[_Node, _Parcel] = {}
            slots = self._slots
            for place, command in enumerate(commands):
                node = slots[slot_of_key(_key_of(command))]
                parcel = parcels.get(node)
                if parcel is None:
                    parcel = parcels[node] = _Parcel()
                parcel.places.append(place)
                parcel.commands.append(command)
            replies = [None] * len(commands)
            await self._deliver(parcels, replies, deadline)
        for reply in replies:
            if isinstance(reply, Exception):
                return await self._mend(commands, replies, deadline)
        return replies

    async def run(
        self,
        script: Script,
        items: Sequence[ScriptItem],
        *,
        common: Sequence[Argument] = (),
        timeout_s: float | None = None,
    ) -> list[Any]:
        """Run *script* once per node over its share of *items*; its answer, one value per item, in order of *items*.

        An item whose node failed has Unavailable in its place, one that the script refused Internal. Items that a node
        refuses one by one, because their slots moved, are run again alone, by their declared keys.
        """
        if not items:
            return []
        deadline = self._deadline(timeout_s)
        head = ("EVALSHA", script.sha, 0, len(common), *common)
        shares: dict[_Node, Sequence[int]] = {}
        if self._only is not None:
            shares[self._only] = range(len(items))
        else:
            slots = self._slots
            places_of: dict[_Node, list[int]] = {}
            for place, item in enumerate(items):
                places_of.setdefault(slots[slot_of_key(item[0])], []).append(place)
            shares.update(places_of)
        calls: list[tuple[_Node, Sequence[int], Command]] = [
            (node, part, (*head, *chain.from_iterable([items[place] for place in part])))
            for node, places in shares.items()
            for part in _cut(places)
        ]
        answers = await self._call_all([(node, command) for node, _, command in calls], script, deadline)
        replies: list[Any] = [None] * len(items)
        refused: list[int] = []
        for (_, places, _), answer in zip(calls, answers, strict=True):
            if isinstance(answer, list) and len(answer) == len(places):
                for place, reply in zip(places, answer, strict=True):
                    replies[place] = reply
                    if isinstance(reply, Exception):
                        refused.append(place)
                continue
            fault = answer if isinstance(answer, Exception) else Internal("CACHE_REPLY", f"{script.name} misanswered")
            for place in places:
                replies[place] = fault
            if isinstance(answer, hiredis.ReplyError) and not str(answer).startswith(_NODE_STATES):
                refused.extend(places)
        await self._run_alone(script, items, tuple(common), refused, replies, deadline)
        for place, reply in enumerate(replies):
            if isinstance(reply, Exception):
                self._doubt()
                replies[place] = _translated(reply)
        return replies

    async def run_shares(
        self,
        script: Script,
        slots: Slots,
        arguments: Callable[[Places], Sequence[Argument]],
        *,
        common: Sequence[Argument] = (),
        timeout_s: float | None = None,
    ) -> list[tuple[Places, Any]]:
        """Run *script* once per node for the keys whose *slots* it serves: for work that is too much for an item each.

        *arguments* makes, from the places of a share in *slots*, what follows the common arguments. Each share comes
        with the script's answer, or with Unavailable or Internal where the call failed as a whole.
        """
        deadline = self._deadline(timeout_s)
        head = ("EVALSHA", script.sha, 0, len(common), *common)
        shares = self._shares_of(slots)
        calls: list[tuple[_Node, Command]] = [(node, (*head, *arguments(places))) for node, places in shares]
        answers = await self._call_all(calls, script, deadline)
        told: list[tuple[Places, Any]] = []
        for (_, places), answer in zip(shares, answers, strict=True):
            if isinstance(answer, Exception):
                self._doubt()
                told.append((places, _translated(answer)))
            else:
                told.append((places, answer))
        return told

    async def flush_all(self) -> None:
        """Empty every node: for tests."""
        deadline = asyncio.get_running_loop().time() + 5.0
        for outcome in await self._exchange([(node, [("FLUSHALL",)]) for node in set(self._slots)], deadline):
            reply = outcome[0] if isinstance(outcome, list) else outcome
            if isinstance(reply, Exception):
                raise _translated(reply)

    async def close(self) -> None:
        """Hang up; what is in flight fails with Unavailable."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        for node in self._nodes.values():
            await node.close()
        await asyncio.sleep(0)  # transports report their loss in the next turn

    async def start(self) -> None:
        """Read the topology. Raises Unavailable when no node answers."""
        failure = await self._refresh(START_TIMEOUT_S)
        if failure is not None:
            raise failure

    def _deadline(self, timeout_s: float | None) -> float:
        return asyncio.get_running_loop().time() + (self._timeout_s if timeout_s is None else timeout_s)

    async def _exchange(self, parcels: Sequence[tuple[_Node, Sequence[Command]]], deadline: float) -> list[Outcome]:
        """Send all parcels, then wait for all: nodes work in parallel without a task each."""
        flights: list[asyncio.Future[Outcome] | None] = []
        for node, commands in parcels:
            flights.append(self._launch(node, commands, deadline))
        outcomes: list[Outcome] = []
        for (node, commands), flight in zip(parcels, flights, strict=True):
            if flight is None and await node.dialled(deadline):
                flight = self._launch(node, commands, deadline)  # noqa: PLW2901 - it took off late
            outcomes.append(node.unavailable() if flight is None else await flight)
        return outcomes

    @staticmethod
    def _launch(node: _Node, commands: Sequence[Command], deadline: float) -> asyncio.Future[Outcome] | None:
        connection = node.connection
        if connection is None or not connection.usable:
            node.dial()
            return None
        return connection.send(b"".join(map(_pack, commands)), len(commands), deadline)

    async def _deliver(self, parcels: dict[_Node, _Parcel], replies: list[Any], deadline: float) -> None:
        outcomes = await self._exchange([(node, parcel.commands) for node, parcel in parcels.items()], deadline)
        for parcel, outcome in zip(parcels.values(), outcomes, strict=True):
            answers: Iterable[Any] = outcome if isinstance(outcome, list) else [outcome] * len(parcel.places)
            for place, reply in zip(parcel.places, answers, strict=True):
                if place >= 0:
                    replies[place] = reply

    async def _mend(self, commands: Sequence[Command], replies: list[Any], deadline: float) -> list[Any]:
        """Follow redirections, load forgotten scripts, and put our errors where something failed for good."""
        for _ in range(MAX_REDIRECTS):
            parcels: dict[_Node, _Parcel] = {}
            for place, reply in enumerate(replies):
                if isinstance(reply, hiredis.ReplyError):
                    self._readdress(commands[place], place, str(reply), parcels)
            if not parcels or asyncio.get_running_loop().time() >= deadline:
                break
            await self._deliver(parcels, replies, deadline)
        for place, reply in enumerate(replies):
            if isinstance(reply, Exception):
                if not isinstance(reply, hiredis.ReplyError) or str(reply).startswith(_NODE_STATES):
                    self._doubt()
                replies[place] = _translated(reply)
        return replies

    def _readdress(self, command: Command, place: int, error: str, parcels: dict[_Node, _Parcel]) -> None:
        key = _key_of(command)
        node = self._slots[slot_of_key(key)]
        asking = False
        if error.startswith(("MOVED ", "ASK ")):
            kind, _, where = error.split(" ", 2)
            host, _, port = where.rpartition(":")
            node = self._node_at((host or node.address[0], int(port)))
            asking = kind == "ASK"
            if not asking:
                self._only = None
                self._slots[slot_of_key(key)] = node
                self._numbered = None
                self._doubt()
        elif error.startswith("NOSCRIPT"):
            script = loaded_script(str(command[1]))
            if script is None:
                return
            command = ("EVAL", script.source, *command[2:])
        else:
            return
        parcel = parcels.setdefault(node, _Parcel())
        if asking:
            parcel.places.append(-1)
            parcel.commands.append(("ASKING",))
        parcel.places.append(place)
        parcel.commands.append(command)

    async def _call_all(self, calls: Sequence[tuple[_Node, Command]], script: Script, deadline: float) -> list[Any]:
        answers = await self._call_once(calls, deadline)
        forgotten = [
            place
            for place, answer in enumerate(answers)
            if isinstance(answer, hiredis.ReplyError) and str(answer).startswith("NOSCRIPT")
        ]
        if forgotten:
            loads = {calls[place][0]: [("SCRIPT", "LOAD", script.source)] for place in forgotten}
            await self._exchange(list(loads.items()), deadline)
            again = await self._call_once([calls[place] for place in forgotten], deadline)
            for place, answer in zip(forgotten, again, strict=True):
                answers[place] = answer
        return answers

    async def _call_once(self, calls: Sequence[tuple[_Node, Command]], deadline: float) -> list[Any]:
        outcomes = await self._exchange([(node, (command,)) for node, command in calls], deadline)
        return [outcome[0] if isinstance(outcome, list) else outcome for outcome in outcomes]

    async def _run_alone(
        self,
        script: Script,
        items: Sequence[ScriptItem],
        common: tuple[Argument, ...],
        places: Sequence[int],
        replies: list[Any],
        deadline: float,
    ) -> None:
        if not places:
            return
        # EVALSHA with its key declared gets MOVED or ASK from a node that lost the slot, and is followed.
        left_s = deadline - asyncio.get_running_loop().time()
        again = await self.try_execute([script.on(items[place], common) for place in places], timeout_s=left_s)
        for place, answer in zip(places, again, strict=True):
            replies[place] = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer

    def _shares_of(self, slots: Slots) -> list[tuple[_Node, Places]]:
        if self._only is not None:
            return [(self._only, np.arange(len(slots)))]
        if self._numbered is None:
            nodes = list(dict.fromkeys(self._slots))
            number_of = {node: number for number, node in enumerate(nodes)}
            self._numbered = nodes, np.array([number_of[node] for node in self._slots], dtype=np.int16)
        nodes, number_of_slot = self._numbered
        numbers = number_of_slot[slots]
        shares = ((node, np.flatnonzero(numbers == number)) for number, node in enumerate(nodes))
        return [(node, places) for node, places in shares if len(places)]

    def _node_at(self, address: tuple[str, int]) -> _Node:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = _Node(address)
        return node

    def _doubt(self) -> None:
        """Something does not fit the topology as known: read it again, in the background, not too often."""
        loop = asyncio.get_running_loop()
        if self._refreshing is None and loop.time() >= self._refresh_after:
            self._refreshing = loop.create_task(self._refresh())
            self._refreshing.add_done_callback(self._refreshed)

    def _refreshed(self, _: asyncio.Task[Exception | None]) -> None:
        self._refreshing = None
        self._refresh_after = asyncio.get_running_loop().time() + REFRESH_EVERY_S

    async def _refresh(self, timeout_s: float | None = None) -> Exception | None:
        """Adopt what the first node that answers says; why none did, else None."""
        failure: Exception = Unavailable("CACHE_UNAVAILABLE", "no cache node answered")
        for address in dict.fromkeys([*sorted(self._nodes, key=lambda a: not self._nodes[a].usable), *self._seeds]):
            node = self._node_at(address)
            (outcome,) = await self._exchange([(node, [("CLUSTER", "SLOTS")])], self._deadline(timeout_s))
            reply = outcome[0] if isinstance(outcome, list) else outcome
            if isinstance(reply, list) and reply:
                self._adopt(reply, address[0])
                return None
            if isinstance(reply, Exception):
                failure = _translated(reply)
        return failure

    def _adopt(self, ranges: list[Any], asked_host: str) -> None:
        slots: list[_Node | None] = [None] * SLOTS
        primaries: dict[_Node, None] = {}
        for start, end, primary, *_ in ranges:
            host = (primary[0] or b"").decode()
            node = self._node_at((asked_host if host in ("", "?") else host, primary[1]))
            primaries[node] = None
            slots[start : end + 1] = [node] * (end + 1 - start)
        # A slot that nobody serves is asked for anywhere: the answer is CLUSTERDOWN, thus Unavailable.
        fallback = next(iter(primaries))
        self._slots = [node or fallback for node in slots]
        self._numbered = None
        self._only = fallback if len(primaries) == 1 else None
        for address, node in list(self._nodes.items()):
            if node not in primaries and node.connection is not None and node.connection.idle:
                node.connection.close()
                del self._nodes[address]


def slot_of_key(key: Argument) -> int:
    """The cluster slot of *key*: CRC16 of what stands between the first { and the next }, or of all of it."""
    raw = key.encode() if isinstance(key, str) else key if isinstance(key, bytes) else str(key).encode()
    start = raw.find(b"{") + 1
    if start:
        end = raw.find(b"}", start)
        if end > start:
            raw = raw[start:end]
    return crc_hqx(raw, 0) % SLOTS


async def connect(addresses: Sequence[tuple[str, int]], *, timeout_s: float = 0.2) -> RedisCluster:
    """A client of the cluster that the nodes at *addresses* belong to. Raises Unavailable when none answers."""
    cluster = RedisCluster(addresses, timeout_s)
    try:
        await cluster.start()
    except BaseException:
        await cluster.close()
        raise
    return cluster


def _key_of(command: Command) -> Argument:
    return command[3] if command[0] in _KEY_IS_FOURTH else command[1]


def _cut(places: Sequence[int]) -> Iterable[Sequence[int]]:
    if len(places) <= MAX_ITEMS_PER_CALL:
        return (places,)
    return [places[start : start + MAX_ITEMS_PER_CALL] for start in range(0, len(places), MAX_ITEMS_PER_CALL)]


def _translated(failure: Exception) -> Exception:
    if isinstance(failure, hiredis.ReplyError):
        if str(failure).startswith(_NODE_STATES):
            return Unavailable("CACHE_UNAVAILABLE", str(failure))
        return Internal("CACHE_REPLY", str(failure))
    return failure
