"""Shelf: cards and author records from the process, from Redis, or from their owners; who wrote what is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feedmesh.post.v1 import post_internal_service_pb2 as post_pb
from feedmesh.post.v1.post_internal_service_pb2_grpc import (
    PostInternalServiceStub,
)

from feed_svc.adapters.kept_cards import KeptCards
from feed_svc.degradation import note
from feed_svc.model import Degraded, Records
from foundation.cards import (
    AuthorCard,
    Card,
    author_key,
    card_key,
    decode_card,
)
from foundation.errors import DomainError
from foundation.people import ReadThroughPeople, decode_authors
from foundation.redis.client import RedisCluster
from foundation.rpc.channels import InternalChannel

TIMEOUT_S = 0.2
"""Seed section 10.2."""
_HEADER_BYTES = 20


class ReadThroughShelf:
    """feed_svc.ports.Shelf."""

    def __init__(
        self,
        redis: RedisCluster,
        *,
        posts: InternalChannel,
        people: ReadThroughPeople,
        kept: KeptCards,
        capacity: int,
        read_within_s: float,
    ) -> None:
        self._redis = redis
        self._read_within_s = read_within_s
        self._posts = posts
        self._people = people
        self._kept = kept
        self._post_stub = PostInternalServiceStub(posts.grpc)
        self._capacity = capacity
        self._author_of: dict[int, int] = {}

    async def fetch(self, post_ids: Sequence[int], author_ids: Sequence[int] = ()) -> Records:
        kept = self._kept
        if not kept.checked:
            return await self._read_and_keep(post_ids, author_ids)
        cards: dict[int, Card] = {}
        authors: dict[int, AuthorCard] = {}
        kept_cards, kept_authors = kept.cards, kept.authors
        missing: list[int] = []  # places
        for place, post_id in enumerate(post_ids):
            card = kept_cards.get(post_id)
            author = kept_authors.get(card.author_id) if card is not None else None
            if card is None or author is None:
                missing.append(place)
            else:
                cards[post_id], authors[card.author_id] = card, author
        if not missing:
            return Records(cards, authors)
        # Authors that are known come with the cards in one call.
        known = [author_ids[place] for place in missing] if len(author_ids) == len(post_ids) else ()
        read = await self._read_and_keep([post_ids[place] for place in missing], known)
        return Records({**cards, **read.cards}, {**authors, **read.authors}, read.whole)

    async def _read_and_keep(self, post_ids: Sequence[int], author_ids: Sequence[int] = ()) -> Records:
        generation = self._kept.generation
        records = await self._fetch(post_ids, author_ids)
        self._kept.keep(records.cards, records.authors, generation=generation)
        return records

    async def _fetch(self, post_ids: Sequence[int], author_ids: Sequence[int]) -> Records:
        # Authors that are known already come in the same call as the cards: one round trip, not two.
        expected = [author for author in {*(author_ids or map(self._author_of.get, post_ids))} if author]
        read = await self._read([card_key(post_id) for post_id in post_ids] + [author_key(one) for one in expected])
        cards = {
            post_id: card
            for post_id, record in zip(post_ids, read, strict=False)
            if record is not None and (card := decode_card(record)) is not None
        }
        authors = decode_authors(expected, read[len(post_ids) :])
        whole = True
        if len(cards) < len(post_ids):
            whole = await self._fill_cards(cards, [post_id for post_id in post_ids if post_id not in cards])
        wanted = {card.author_id for card in cards.values()}
        if not wanted <= authors.keys():
            whole &= await self._fill_authors(authors, [one for one in wanted if one not in authors], known=expected)
        self._learn(cards)
        return Records(cards, authors, whole)

    async def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Records, None for those that are not there or whose node did not answer: their owners have them."""
        replies = await self._redis.try_execute([("GET", key) for key in keys], timeout_s=self._read_within_s)
        if any(isinstance(reply, Exception) for reply in replies):
            note(Degraded.CACHE_UNAVAILABLE)
        return [reply if isinstance(reply, bytes) else None for reply in replies]

    async def _fill_cards(self, cards: dict[int, Card], missing: Sequence[int]) -> bool:
        """Whether the owner answered."""
        request = post_pb.BatchGetPostsRequest(post_ids=missing)
        try:
            answer = await self._posts.call(self._post_stub.BatchGetPosts, request, TIMEOUT_S)
        except DomainError:
            return False
        if answer is None or len(answer.post_ids) != len(answer.cards):
            return False  # nonsense; grpc.aio has None for bytes that are no message
        for post_id, record in zip(answer.post_ids, answer.cards, strict=True):
            card = decode_card(record)
            if card is not None:
                cards[post_id] = card
        return True

    async def _fill_authors(
        self, authors: dict[int, AuthorCard], missing: Sequence[int], *, known: Sequence[int]
    ) -> bool:
        unread = [author_id for author_id in missing if author_id not in known]
        authors |= decode_authors(unread, await self._read([author_key(author_id) for author_id in unread]))
        rest = [author_id for author_id in missing if author_id not in authors]
        if rest:
            try:
                authors |= await self._people.authors_from_rows(rest)
            except DomainError:
                return False
        return True

    async def authors_of(self, post_ids: Sequence[int]) -> Sequence[int]:
        unknown = [post_id for post_id in post_ids if post_id not in self._author_of]
        if unknown:
            try:
                heads = await self._redis.execute(
                    [("GETRANGE", card_key(post_id), 0, _HEADER_BYTES - 1) for post_id in unknown],
                    timeout_s=self._read_within_s,
                )
            except DomainError:
                heads = []
            for post_id, head in zip(unknown, heads, strict=False):
                card = decode_card(head)
                if card is not None:
                    self._learn({post_id: card})
        return [self._author_of.get(post_id, 0) for post_id in post_ids]

    def _learn(self, cards: Mapping[int, Card]) -> None:
        if len(self._author_of) + len(cards) > self._capacity:
            self._author_of.clear()  # a fact is cheap to learn again; keeping an order of use is not
        for post_id, card in cards.items():
            self._author_of[post_id] = card.author_id
