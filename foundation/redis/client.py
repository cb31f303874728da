"""A cluster client for the hot path: one connection per node, commands pipelined per node, scripts over many keys.

Keys are placed by CRC16 with {tags}; MOVED and ASK are followed; the topology is read again when it proves wrong, and
every few seconds, so that an idle process learns of a failover too.

**Failover and restart.** Replication is asynchronous: a replica that takes over may lack the newest writes of its
primary. Lists look whole then and are not, so whoever wrote them must write again: `on_primary_change`. A node that
comes back empty under the same address and id is another thing: it lost everything, its lists are cold and are rebuilt
complete by their readers, and nothing is to be written again. That holds for nodes that keep no RDB and no AOF, as
feed nodes are run.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import hiredis
import numpy as np
from numpy.typing import NDArray

from foundation.errors import DomainError, Internal, Unavailable
from foundation.redis.address import OPEN, Access
from foundation.redis.connection import Connection, Outcome
from foundation.redis.sampling import KeySampler
from foundation.redis.scripts import Argument, Script, load_script, source_of
from foundation.redis.slots import SLOTS, Slots
from foundation.telemetry.logging import logger

Command = tuple[Argument, ...]
"""A command; its key is the second element, the fourth of EVALSHA and EVAL."""
ScriptItem = tuple[Argument, ...]
"""A key and its arguments."""
Places = NDArray[np.intp]
"""Places in an array of the caller's, ascending."""
ScriptMode = Literal["auto", "cross-slot", "single"]
"""How a script is run over many items: by one call per node with keys of several slots (`cross-slot`); item by item,
its key declared, pipelined (`single`), for servers that refuse the former; `auto` asks each node what it takes."""

MAX_REDIRECTS = 3
MAX_ITEMS_PER_CALL = 1_000
"""Items of one script call: a longer call would hold up the node's other clients (4 µs an item)."""
REFRESH_EVERY_S = 0.2
"""The topology is read at most this often."""
LOOK_EVERY_S = 5.0
"""The topology is read at least this often."""
CONNECT_TIMEOUT_S = 1.0
"""A caller waits for a connection no longer than for its replies; the attempt goes on for the next one."""
START_TIMEOUT_S = 2.0
MAX_PROBE_KEYS = 1_000
RECONNECT_EVERY_S = 0.05
"""After a failed attempt callers fail at once for so long."""
SOUNDING_S = 0.1
"""Time for an answer to a PING before a node is known to be silent."""
PATIENCE_S = 0.01
"""A caller waits no longer for a new connection to a node that was silent on the last one."""

_PROBE = load_script("foundation.redis", "probe")
_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub knows tuples of one
_KEY_IS_FOURTH = frozenset({"EVALSHA", "EVAL"})
_NODE_STATES = (
    "CLUSTERDOWN", "LOADING", "READONLY", "TRYAGAIN", "MASTERDOWN", "BUSY ", "OOM ", "MOVED ", "ASK ", "NOAUTH ",
)  # fmt: skip
"""Error replies that speak of a node's state, not of the command, and pass with time or an operator's help."""
_ELSEWHERE = "non local key"
"""What a script is told about a key whose slot is on its way to another node."""


@dataclass(frozen=True, kw_only=True)
class _Dialling:
    """How nodes are connected to."""

    login: Command
    tls: ssl.SSLContext | None
    lost: Callable[[], None]
    """Called whenever a connection is lost."""


class _Node:
    """One server and the connection to it."""

    def __init__(self, address: tuple[str, int], dialling: _Dialling) -> None:
        self.address = address
        self.connection: Connection | None = None
        self.takes_many_slots: bool | None = None
        """Whether it runs scripts over keys of several slots; None: not known yet."""
        self._dialling = dialling
        self._attempt: asyncio.Task[None] | None = None
        self._attempt_after = 0.0
        self._refusal = ""

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
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
            await asyncio.wait([attempt], timeout=min(left_s, PATIENCE_S) if self._was_silent else left_s)
        return self.usable

    @property
    def _was_silent(self) -> bool:
        return self.connection is not None and self.connection.silent

    def unavailable(self) -> Unavailable:
        name = f"{self.address[0]}:{self.address[1]}"
        why = self._refusal and f": {self._refusal}"
        return Unavailable("CACHE_UNAVAILABLE", f"cannot reach the cache node {name}{why}", node=name)

    async def close(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])
        if self.connection is not None:
            self.connection.close()

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        name = f"{self.address[0]}:{self.address[1]}"
        dialling = self._dialling
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, name, dialling.lost), *self.address, ssl=dialling.tls
                )
                if dialling.login and not await self._let_in(connection, loop.time() + CONNECT_TIMEOUT_S):
                    return
                # The kernel takes connections for a process that hangs: it is asked before anybody may send.
                if self._was_silent and not await self._heard(connection, loop.time() + CONNECT_TIMEOUT_S):
                    return
                self.connection = connection
                self._refusal = ""
        except ssl.SSLError as failure:
            self._refusal = f"TLS failed: {failure.reason or failure}"
        except (OSError, TimeoutError):
            self._refusal = ""
        finally:
            if not self.usable:
                self._attempt_after = loop.time() + RECONNECT_EVERY_S
            self._attempt = None

    async def _let_in(self, connection: Connection, deadline: float) -> bool:
        """Log in before anybody else may send."""
        outcome: Outcome = Unavailable("CACHE_UNAVAILABLE")  # of an attempt that was cancelled
        try:
            outcome = await connection.send(_pack(self._dialling.login), 1, deadline)
        finally:
            if outcome != [b"OK"]:
                self._refusal = "it did not answer" if isinstance(outcome, Unavailable) else str(outcome[0])
                connection.close()
        return outcome == [b"OK"]

    @staticmethod
    async def _heard(connection: Connection, deadline: float) -> bool:
        outcome: Outcome = Unavailable("CACHE_UNAVAILABLE")
        try:
            outcome = await connection.send(_pack(("PING",)), 1, deadline)
        finally:
            if isinstance(outcome, Unavailable):
                connection.close()
        return not isinstance(outcome, Unavailable)


class _Parcel:
    """What one node gets in one write, and where its replies belong."""

    __slots__ = ("_loads", "commands", "places")

    def __init__(self) -> None:
        self.places: list[int] = []
        """Place of each reply in the caller's list; -1 for the reply to a command of ours."""
        self.commands: list[Command] = []
        self._loads: set[Argument] = set()

    def add(self, place: int, command: Command) -> None:
        self.places.append(place)
        self.commands.append(command)

    def load_first(self, command: Command) -> None:
        """The node may not know the script that *command* names: tell it, once."""
        if command[0] == "EVALSHA" and command[1] not in self._loads:
            self._loads.add(command[1])
            source = source_of(str(command[1]))
            if source is not None:
                self.add(-1, ("SCRIPT", "LOAD", source))


class RedisCluster:
    """Made by `connect`, for one event loop."""

    def __init__(
        self, seeds: Sequence[tuple[str, int]], *, access: Access, scripts: ScriptMode, timeout_s: float
    ) -> None:
        self._seeds = list(seeds)
        self._dialling = _Dialling(login=access.login(), tls=access.context(), lost=self._doubt)
        self._scripts = scripts
        self._timeout_s = timeout_s
        self._nodes: dict[tuple[str, int], _Node] = {}
        self._slots: list[_Node] = []
        self._only: _Node | None = None
        """The node of a cluster of one: no key needs to be hashed."""
        self._numbered: tuple[list[_Node], NDArray[np.int16]] | None = None
        """The nodes, and for each slot which of them serves it; made when it is asked for."""
        self._refreshing: asyncio.Task[Exception | None] | None = None
        self._refresh_after = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._closed = False
        self._epoch = 0
        """The greatest of the cluster's configuration epochs that a topology came with."""
        self._primaries: list[bytes | None] = []
        """The id of each slot's primary."""
        self._listeners: list[Callable[[], None]] = []
        self.sampler: KeySampler | None = None
        """Looks at the keys of some of the commands and items; those of run_shares are writes and pass unseen."""
        self.primary_changes = 0
        """How often a primary was replaced unplanned, as far as this process saw."""

    def on_primary_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have *listener* called, on the loop, after every unplanned change of a primary; returns what ends that.

        Then the newest writes may be lost, at most those of the seconds before (see the module): write them again.
        It is noticed within LOOK_EVERY_S of the promotion, at once where commands fail. A planned change of primary,
        and the end of a node that gave all its slots away, look alike and are told too; slots that move are not.
        """
        self._listeners.append(listener)

        def end() -> None:
            with contextlib.suppress(ValueError):  # ended twice
                self._listeners.remove(listener)

        return end

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
        sampler = self.sampler
        if sampler is not None:
            sampler.left -= len(commands)
            if sampler.left < 0:
                sampler.look([_key_of(command) for command in commands])
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
                parcel.places.append(place)  # not by add(): a call for each command of the hot path
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
        refuses one by one, because their slots moved, are run again alone, by their declared keys; on nodes that take
        no scripts over several slots, all are.
        """
        if not items:
            return []
        sampler = self.sampler
        if sampler is not None:
            sampler.left -= len(items)
            if sampler.left < 0:
                sampler.look([item[0] for item in items])
        deadline = self._deadline(timeout_s)
        head = ("EVALSHA", script.sha, 0, len(common), *common)
        shares = self._places_by_node(items)
        replies: list[Any] = [None] * len(items)
        alone: list[int] = []
        for node in [node for node in shares if self._runs_singly(node)]:
            alone.extend(shares.pop(node))
        calls: list[tuple[_Node, Sequence[int], Command]] = [
            (node, part, (*head, *chain.from_iterable([items[place] for place in part])))
            for node, places in shares.items()
            for part in _cut(places)
        ]
        answers = await self._call_all([(node, command) for node, _, command in calls], script, deadline)
        for (_, places, _), answer in zip(calls, answers, strict=True):
            if isinstance(answer, list) and len(answer) == len(places):
                for place, reply in zip(places, answer, strict=True):
                    replies[place] = reply
                    if isinstance(reply, Exception):
                        alone.append(place)
                continue
            fault = answer if isinstance(answer, Exception) else Internal("CACHE_REPLY", f"{script.name} misanswered")
            for place in places:
                replies[place] = fault
            if isinstance(answer, hiredis.ReplyError) and not str(answer).startswith(_NODE_STATES):
                alone.extend(places)
        await self._run_alone(script, items, tuple(common), alone, replies, deadline)
        for place, reply in enumerate(replies):
            if isinstance(reply, Exception):
                self._doubt()
                replies[place] = _translated(reply)
        return replies

    def _runs_singly(self, node: _Node) -> bool:
        return node.takes_many_slots is False and self._scripts != "cross-slot"

    def _places_by_node(self, items: Sequence[ScriptItem]) -> dict[_Node, Sequence[int]]:
        """The places of each node's items."""
        if self._only is not None:
            return {self._only: range(len(items))}
        slots = self._slots
        places_of: dict[_Node, list[int]] = {}
        for place, item in enumerate(items):
            places_of.setdefault(slots[slot_of_key(item[0])], []).append(place)
        return dict(places_of)

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
        with the script's answer, or with Unavailable or Internal where the call failed as a whole; Internal where the
        node takes no scripts over several slots.
        """
        deadline = self._deadline(timeout_s)
        head = ("EVALSHA", script.sha, 0, len(common), *common)
        every = self._shares_of(slots)
        refusal = Internal("CACHE_REPLY", "the node takes no scripts over several slots")
        told: list[tuple[Places, Any]] = [(places, refusal) for node, places in every if self._runs_singly(node)]
        shares = [(node, places) for node, places in every if not self._runs_singly(node)]
        calls: list[tuple[_Node, Command]] = [(node, (*head, *arguments(places))) for node, places in shares]
        answers = await self._call_all(calls, script, deadline)
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
        self._closed = True
        tasks = [task for task in (self._looking, self._refreshing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in self._nodes.values():
            await node.close()
        await asyncio.sleep(0)  # transports report their loss in the next turn

    async def start(self) -> None:
        """Read the topology, and go on looking at it. Raises Unavailable when no node answers."""
        failure = await self._refresh(START_TIMEOUT_S)
        if failure is not None:
            raise failure
        self._looking = asyncio.get_running_loop().create_task(self._look(), name="redis topology")

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
        elif not error.startswith("NOSCRIPT"):
            return
        parcel = parcels.setdefault(node, _Parcel())
        parcel.load_first(command)
        if asking:
            parcel.add(-1, ("ASKING",))
        parcel.add(place, command)

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
            node = self._nodes[address] = _Node(address, self._dialling)
        return node

    def _doubt(self) -> None:
        """Something does not fit the topology as known: read it again, in the background, not too often."""
        loop = asyncio.get_running_loop()
        if self._refreshing is None and loop.time() >= self._refresh_after and not self._closed:
            self._refreshing = loop.create_task(self._refresh())
            self._refreshing.add_done_callback(self._refreshed)
            # Where one node is silent others may be: found out now, they cost the next callers nothing.
            for node in self._nodes.values():
                if node.connection is not None and node.connection.usable:
                    node.connection.send(_pack(("PING",)), 1, loop.time() + SOUNDING_S)

    def _refreshed(self, _: asyncio.Task[Exception | None]) -> None:
        self._refreshing = None
        self._refresh_after = asyncio.get_running_loop().time() + REFRESH_EVERY_S

    async def _look(self) -> None:
        """A failover that no command of ours ran into is noticed all the same."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._doubt()

    async def _refresh(self, timeout_s: float | None = None) -> Exception | None:
        """Adopt what the first node says that is not behind the others; why no node answered, else None.

        A node that was cut off still tells the topology of before a failover, and an epoch of before it. Where no node
        knows the epoch that we do, the cluster was made anew: the newest of its topologies is adopted.
        """
        failure: Exception = Unavailable("CACHE_UNAVAILABLE", "no cache node answered")
        newest: tuple[int, list[Any], str] | None = None
        asked = [("CLUSTER", "SLOTS"), ("CLUSTER", "INFO")]
        for address in dict.fromkeys([*sorted(self._nodes, key=lambda a: not self._nodes[a].usable), *self._seeds]):
            node = self._node_at(address)
            (outcome,) = await self._exchange([(node, asked)], self._deadline(timeout_s))
            reply, info = outcome if isinstance(outcome, list) else (outcome, b"")
            if isinstance(reply, list) and reply:
                epoch = _epoch_in(info)
                if newest is None or epoch > newest[0]:
                    newest = (epoch, reply, address[0])
                if epoch >= self._epoch:
                    break
            elif isinstance(reply, Exception):
                failure = _translated(reply)
        if newest is None:
            return failure
        self._epoch = newest[0]
        self._adopt(newest[1], newest[2])
        if self._scripts != "cross-slot":
            await self._probe(timeout_s)
        return None

    async def _probe(self, timeout_s: float | None) -> None:
        """Find out which nodes run scripts over keys of several slots."""
        unknown = {node for node in self._slots if node.takes_many_slots is None}
        if self._scripts == "single":
            for node in unknown:
                node.takes_many_slots = False
            return
        calls: list[tuple[_Node, Command]] = [
            (node, ("EVALSHA", _PROBE.sha, 0, 0, *keys)) for node in unknown if (keys := self._two_keys_of(node))
        ]
        answers = await self._call_all(calls, _PROBE, self._deadline(timeout_s))
        for (node, _), answer in zip(calls, answers, strict=True):
            if isinstance(answer, list):
                refusals = [reply for reply in answer if isinstance(reply, Exception) and _ELSEWHERE not in str(reply)]
            else:
                refusals = [answer]
            if any(isinstance(r, DomainError) or str(r).startswith(_NODE_STATES) for r in refusals):
                continue  # it did not say; asked again with the next topology
            node.takes_many_slots = not refusals
            if refusals:
                logger.info("scripts_run_singly", node=f"{node.address[0]}:{node.address[1]}", why=str(refusals[0]))

    def _two_keys_of(self, node: _Node) -> tuple[str, ...]:
        """Two keys of different slots of *node*; fewer if it is hard to find them."""
        keys = (f"probe:{n}" for n in range(MAX_PROBE_KEYS))
        mine = {slot: key for key in keys if self._slots[slot := slot_of_key(key)] is node}
        return tuple(mine.values())[:2]

    def _adopt(self, ranges: list[Any], asked_host: str) -> None:
        slots: list[_Node | None] = [None] * SLOTS
        ids: list[bytes | None] = [None] * SLOTS
        primaries: dict[_Node, None] = {}
        for start, end, primary, *_ in ranges:
            host = (primary[0] or b"").decode()
            node = self._node_at((asked_host if host in ("", "?") else host, primary[1]))
            primaries[node] = None
            slots[start : end + 1] = [node] * (end + 1 - start)
            ids[start : end + 1] = [primary[2]] * (end + 1 - start)
        # A slot that nobody serves is asked for anywhere: the answer is CLUSTERDOWN, thus Unavailable.
        fallback = next(iter(primaries))
        self._slots = [node or fallback for node in slots]
        self._numbered = None
        self._only = fallback if len(primaries) == 1 else None
        for address, node in list(self._nodes.items()):
            if node not in primaries and node.connection is not None and node.connection.idle:
                node.connection.close()
                del self._nodes[address]
        self._compare(ids)

    def _compare(self, ids: list[bytes | None]) -> None:
        """Tell the listeners if slots went from a primary that is one no more to another."""
        before, self._primaries = self._primaries, ids
        gone = set(before) - set(ids) - {None}
        if gone and any(old in gone and new is not None for old, new in zip(before, ids, strict=True)):
            self.primary_changes += 1
            logger.warning("primary_changed", primaries=sorted(id_.decode() for id_ in gone if id_ is not None))
            for listener in list(self._listeners):
                listener()


def slot_of_key(key: Argument) -> int:
    """The cluster slot of *key*: CRC16 of what stands between the first { and the next }, or of all of it."""
    raw = key.encode() if isinstance(key, str) else key if isinstance(key, bytes) else str(key).encode()
    start = raw.find(b"{") + 1
    if start:
        end = raw.find(b"}", start)
        if end > start:
            raw = raw[start:end]
    return crc_hqx(raw, 0) % SLOTS


async def connect(
    addresses: Sequence[tuple[str, int]],
    *,
    access: Access = OPEN,
    scripts: ScriptMode = "auto",
    timeout_s: float = 0.2,
) -> RedisCluster:
    """A client of the cluster that the nodes at *addresses* belong to.

    Raises Unavailable when none answers or lets us in, OSError for a file of no certificates.
    """
    cluster = RedisCluster(addresses, access=access, scripts=scripts, timeout_s=timeout_s)
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


def _epoch_in(info: Any) -> int:
    """The cluster's epoch in an answer to CLUSTER INFO; 0 where it is not told."""
    if not isinstance(info, bytes):
        return 0
    _, _, rest = info.partition(b"cluster_current_epoch:")
    return int(rest.split(b"\r", 1)[0] or 0)
