"""Shelf: cards and author records from Redis, misses from their owners; who wrote what is remembered in the process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feedmesh.post.v1 import post_internal_service_pb2 as post_pb
from feedmesh.post.v1.post_internal_service_pb2_grpc import (
    PostInternalServiceStub,
)

from foundation.cards import (
    AuthorCard,
    Card,
    author_key,
    card_key,
    decode_card,
)
from foundation.errors import DeadlineExceeded, Unavailable
from foundation.people import ReadThroughPeople, decode_authors
from foundation.redis.client import RedisCluster
from foundation.rpc.channels import InternalChannel

TIMEOUT_S = 0.3
_HEADER_BYTES = 20


class ReadThroughShelf:
    """feed_svc.ports.Shelf."""

    def __init__(
        self, redis: RedisCluster, *, posts: InternalChannel, people: ReadThroughPeople, capacity: int
    ) -> None:
        self._redis = redis
        self._posts = posts
        self._people = people
        self._post_stub = PostInternalServiceStub(posts.grpc)
        self._capacity = capacity
        self._author_of: dict[int, int] = {}

    async def fetch(self, post_ids: Sequence[int]) -> tuple[Mapping[int, Card], Mapping[int, AuthorCard]]:
        # Authors that are known already come in the same call as the cards: one round trip, not two.
        known = self._author_of
        expected = list({author for author in map(known.get, post_ids) if author is not None})
        keys = [card_key(post_id) for post_id in post_ids]
        keys += [author_key(author_id) for author_id in expected]
        try:
            records = await self._redis.execute([("GET", key) for key in keys])
        except Unavailable:
            records = [None] * len(keys)
        cards = {
            post_id: card
            for post_id, record in zip(post_ids, records, strict=False)
            if record is not None and (card := decode_card(record)) is not None
        }
        authors = decode_authors(expected, records[len(post_ids) :])
        if len(cards) < len(post_ids):
            await self._fill_cards(cards, [post_id for post_id in post_ids if post_id not in cards])
        wanted = {card.author_id for card in cards.values()}
        if not wanted <= authors.keys():
            authors |= await self._people.authors([author_id for author_id in wanted if author_id not in authors])
        self.learn(list(cards), [card.author_id for card in cards.values()])
        return cards, authors

    async def _fill_cards(self, cards: dict[int, Card], missing: Sequence[int]) -> None:
        request = post_pb.BatchGetPostsRequest(post_ids=missing)
        answer = await self._posts.call(self._post_stub.BatchGetPosts, request, TIMEOUT_S)
        for post_id, record in zip(answer.post_ids, answer.cards, strict=True):
            card = decode_card(record)
            if card is not None:
                cards[post_id] = card

    async def authors_of(self, post_ids: Sequence[int]) -> Sequence[int]:
        unknown = [post_id for post_id in post_ids if post_id not in self._author_of]
        if unknown:
            try:
                heads = await self._redis.execute(
                    [("GETRANGE", card_key(post_id), 0, _HEADER_BYTES - 1) for post_id in unknown]
                )
            except (Unavailable, DeadlineExceeded):
                heads = []
            for post_id, head in zip(unknown, heads, strict=False):
                card = decode_card(head)
                if card is not None:
                    self.learn([post_id], [card.author_id])
        return [self._author_of.get(post_id, 0) for post_id in post_ids]

    def learn(self, post_ids: Sequence[int], author_ids: Sequence[int]) -> None:
        if len(self._author_of) + len(post_ids) > self._capacity:
            self._author_of.clear()  # a fact is cheap to learn again; keeping an order of use is not
        pairs = zip(post_ids, author_ids, strict=True)
        self._author_of.update(pairs if all(author_ids) else [pair for pair in pairs if pair[1]])
