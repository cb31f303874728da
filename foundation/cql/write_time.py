"""Write times: what was decided later wins, however late or often it is written."""

from __future__ import annotations

from foundation.model.ids import created_ms

_SEQUENCE = 2**9 - 1


def write_time(snowflake: int) -> int:
    """The timestamp, in µs, of every cell that the change with this id writes (`USING TIMESTAMP`)."""
    return created_ms(snowflake) * 1_000 + (snowflake & _SEQUENCE)
