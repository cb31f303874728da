"""Logging never fails what it tells about."""

from __future__ import annotations

import io

import structlog

from foundation.telemetry.logging import LossyFile


class FullDisk(io.BytesIO):
    full = False

    def write(self, line: bytes) -> int:  # type: ignore[override]
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(line)


def test_events_are_lost_while_the_disk_is_full_and_come_again_after() -> None:
    disk = FullDisk()
    log = structlog.BytesLoggerFactory(file=LossyFile(disk))()  # type: ignore[arg-type]
    log.msg(b"before")
    disk.full = True
    log.msg(b"lost")
    disk.full = False
    log.msg(b"after")
    assert disk.getvalue() == b"before\nafter\n"
