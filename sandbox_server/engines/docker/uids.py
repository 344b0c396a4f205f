"""Which host uids are taken, so that every live sandbox has one of its own."""

from __future__ import annotations

import random
from collections.abc import Iterable

from sandbox_server.engines.docker.hostconfig import UIDS
from sandbox_server.errors import EngineUnavailable


class Uids:
    """The uids of one engine object's sandboxes."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        # Not for secrecy: two servers on one host that start at the same moment should not
        # both begin at the lowest free one.
        self._random = random.SystemRandom()

    def take(self, others: Iterable[int]) -> int:
        """A uid that neither we nor `others` use. Raises EngineUnavailable when all are taken."""
        free = [uid for uid in UIDS if uid not in self._taken.union(others)]
        if not free:
            raise EngineUnavailable(
                f"all {len(UIDS)} sandbox users of this host are taken",
                hint="close sandboxes, or try again later",
            )
        uid = self._random.choice(free)
        self._taken.add(uid)
        return uid

    def release(self, uid: int) -> None:
        """The sandbox of `uid` is gone."""
        self._taken.discard(uid)
