"""How many sandboxes may exist at once: decided before one is created, given back when it is gone."""

from __future__ import annotations

from sandbox_server.engines.profile import Profile
from sandbox_server.errors import LimitExceeded
from sandbox_server.execution.grants import Sizing


class Places:
    """Counts sandboxes and the sum of their memory limits against what the deployment has."""

    def __init__(self, sizing: Sizing) -> None:
        self._sizing = sizing
        self.taken = 0
        self.memory = 0

    def could_ever_take(self, profile: Profile) -> bool:
        """Whether there is room for one if nothing else exists."""
        return self._sizing.sandboxes > 0 and profile.limits.memory <= self._sizing.memory

    def check(self, profile: Profile) -> None:
        """Raises LimitExceeded if there can never be one."""
        if not self.could_ever_take(profile):
            raise LimitExceeded(
                f"one sandbox of image '{profile.image}' is larger than the deployment's whole memory",
                hint="the operator must raise deployment.memory or lower the limit",
            )

    def take(self, profile: Profile) -> bool:
        """Take a place for one, if there is one."""
        if not self.has_room(profile):
            return False
        self.taken += 1
        self.memory += profile.limits.memory
        return True

    def has_room(self, profile: Profile) -> bool:
        """Whether there is a place for one now."""
        memory = self.memory + profile.limits.memory
        return self.taken < self._sizing.sandboxes and memory <= self._sizing.memory

    def free(self, profile: Profile) -> None:
        """Give a place back."""
        self.taken -= 1
        self.memory -= profile.limits.memory
