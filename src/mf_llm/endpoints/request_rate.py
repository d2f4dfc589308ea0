"""How many requests may begin in a minute."""

from __future__ import annotations

import asyncio


class RequestRate:
    """Spaces requests evenly, so that a server's bound is kept in any minute, also in the first.

    Args:
        per_minute: requests in a minute; None: no bound.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._interval = 60.0 / per_minute if per_minute is not None else 0.0
        self._next = 0.0

    def reserve(self, now: float) -> float:
        """Takes the next free place.

        Args:
            now: seconds of any clock.

        Returns:
            Seconds until then.
        """
        place = max(now, self._next)
        self._next = place + self._interval
        return place - now

    async def wait(self) -> None:
        """Waits for the next free place."""
        if self._interval:
            await asyncio.sleep(self.reserve(asyncio.get_running_loop().time()))
