"""Rows are found as a dict finds them, whatever the ids and however many there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.model.ids import MAX_ID
from rank_svc.adapters.row_index import LEAST_BITS, ROOM, UNKNOWN, RowIndex

ids = st.integers(1, 50) | st.integers(1, MAX_ID) | st.integers(0, 200).map(lambda n: (n << 22) + 1)


def check(index: RowIndex, rows: dict[int, int], wanted: list[int]) -> None:
    found, unknown = index.find(np.array(wanted, dtype="<i8"))
    assert found.tolist() == [rows.get(one, UNKNOWN) for one in wanted]
    assert unknown == [place for place, one in enumerate(wanted) if one not in rows]
    assert [index.get(one) for one in wanted] == found.tolist()


@given(st.lists(ids, unique=True), st.lists(ids, unique=True), st.lists(ids))
def test_every_id_has_its_row_and_others_have_none(there: list[int], more: list[int], wanted: list[int]) -> None:
    index = RowIndex(there)
    rows = {one: row for row, one in enumerate(there, start=1)}
    for one in more:
        if one not in rows:
            rows[one] = index.add(one)
    assert rows == {one: row for row, one in enumerate(rows, start=1)}
    assert len(index) == len(rows)
    check(index, rows, [*wanted, *rows])


@pytest.mark.parametrize("step", [1, 7, 1 << 22])
def test_it_grows(step: int) -> None:
    index, rows = RowIndex(), {}
    for one in range(1, 3 * (1 << LEAST_BITS) // ROOM):
        rows[one * step] = index.add(one * step)
    check(index, rows, [*rows, 0x7FFF, 3])
    assert index.newest(2) == sorted(rows, reverse=True)[:2]
