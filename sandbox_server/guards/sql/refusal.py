"""Why a statement may not run. Raised and caught within this package only."""

from __future__ import annotations


class Refused(Exception):
    def __init__(self, reason: str, message: str, *, hint: str = "", rule: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint
        self.rule = rule
