"""Quantities as an operator writes them. Every size and every time carries its unit, so that
`wall: 60` can't mean a minute to one reader and 60 ms to another."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Final

_NUMBER: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?([A-Za-z]*)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_RATE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?(?:B|[KMG]iB|))/([a-z]{1,5})")
_BYTES: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_PERIODS: Final = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "hour": 3600.0, "day": 86400.0}
_TIMES: Final = frozenset(
    {"wall", "cpu", "queue_wait", "session_hold", "session_idle", "session_ttl", "store_ttl", "total",
     "connect", "first_byte", "time", "idle", "ttl"}
)  # fmt: skip
_SIZES: Final = frozenset(
    {"memory", "output", "output_total", "workspace", "tmp", "shm", "file_size", "store", "max_file", "body",
     "decoded", "headers", "request_body", "bytes", "bytes_in", "bytes_out", "length", "egress_bytes"}
)  # fmt: skip
_MEANT: Final = {
    "k": "KiB", "kb": "KiB", "kib": "KiB", "m": "MiB", "mb": "MiB", "mib": "MiB",
    "g": "GiB", "gb": "GiB", "gib": "GiB", "b": "B",
}  # fmt: skip


def parse_duration(value: object) -> float:
    """Seconds of `500ms`, `10s`, `1.5s`, `15m` or `4h`. Raises ValueError."""
    number, unit = _split(value, "a time such as 500ms, 10s, 15m or 4h")
    if unit not in _SECONDS:
        raise ValueError(f"{_shown(value)}: unknown unit of time, write ms, s, m or h")
    return float(number) * _SECONDS[unit]


def parse_size(value: object) -> int:
    """Bytes of `100B`, `64KiB`, `1.5MiB` or `1GiB`. Raises ValueError.

    `k`, `M` and `MB` are refused: tools disagree on whether they mean 1000 or 1024.
    """
    number, unit = _split(value, "a size such as 64KiB, 256MiB or 1GiB")
    if unit not in _BYTES:
        meant = _MEANT.get(unit.lower())
        advice = f"did you mean '{number}{meant}'?" if meant else "write B, KiB, MiB or GiB"
        raise ValueError(f"{_shown(value)}: unknown unit of size, {advice}")
    size = float(number) * _BYTES[unit]
    if not size.is_integer():
        raise ValueError(f"{_shown(value)}: is not a whole number of bytes")
    return int(size)


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the host's memory, in percent."""

    percent: int

    def of(self, memory: int) -> int:
        return memory * self.percent // 100


def parse_budget(value: object) -> int | Share:
    """A size as `parse_size`, or a share of the host's memory: `60%`. Raises ValueError."""
    if isinstance(value, Share):
        return value
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,2})%", value)) and int(match[1]) > 0:
        return Share(int(match[1]))
    try:
        return parse_size(value)
    except ValueError as error:
        raise ValueError(f"{error}; or a share of the host's memory, 1% to 99%") from None


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` things, or bytes, in `seconds`."""

    count: int
    seconds: float


def parse_rate(value: object) -> Rate:
    """`60/min`, `1800/day`. Raises ValueError."""
    if isinstance(value, Rate):
        return value
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not match[1].isdigit() or match[2] not in _PERIODS:
        raise ValueError(f"{_shown(value)}: expected a number per time: 5/s, 60/min, 100/hour or 1800/day")
    return Rate(int(match[1]), _PERIODS[match[2]])


def parse_size_rate(value: object) -> Rate:
    """`10MiB/day`; nothing at all may be written `0/day`. Raises ValueError."""
    if isinstance(value, Rate):
        return value
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in _PERIODS:
        raise ValueError(f"{_shown(value)}: expected a size per time: 64KiB/s, 10MiB/min or 1GiB/day")
    return Rate(0 if match[1] == "0" else parse_size(match[1]), _PERIODS[match[2]])


def parse_count(value: object) -> int:
    """A number of things: `4096`, or `16k` for 16 x 1024 as tmpfs counts inodes. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}k", value):
        return int(value[:-1]) * 1024
    raise ValueError(f"{_shown(value)}: expected a number such as 4096 or 16k (k = 1024)")


def duration_text(seconds: float) -> str:
    """Seconds so that `parse_duration` gives the very same number."""
    for unit, length in _SECONDS.items():
        text = f"{seconds / length:.6f}".rstrip("0").rstrip(".") + unit
        if unit != "ms" or seconds < 1:
            with contextlib.suppress(ValueError):
                if parse_duration(text) == seconds:
                    return text
    return f"{seconds * 1000:.6f}ms"


def size_text(value: int) -> str:
    for unit in ("GiB", "MiB", "KiB"):
        if value >= _BYTES[unit] and value % _BYTES[unit] == 0:
            return f"{value // _BYTES[unit]}{unit}"
    # Nine digits are the most that a number may have; what has more was written with six decimals.
    return f"{value}B" if value < 10**9 else f"{value / 1024:.6f}".rstrip("0") + "KiB"


def budget_text(value: int | Share) -> str:
    return f"{value.percent}%" if isinstance(value, Share) else size_text(value)


def rate_text(rate: Rate) -> str:
    return f"{rate.count}/{_period(rate)}"


def size_rate_text(rate: Rate) -> str:
    return f"{size_text(rate.count) if rate.count else 0}/{_period(rate)}"


def _period(rate: Rate) -> str:
    return next(name for name in ("s", "min", "hour", "day") if _PERIODS[name] == rate.seconds)


def quantity_text(key: str, value: float) -> str:
    """The value of `key` as this file format writes it: `30s`, `256MiB`, `64`."""
    if key in _TIMES:
        return f"{value:g}s"
    if key not in _SIZES:
        return f"{value:g}"
    return size_text(int(value))


def _split(value: object, expected: str) -> tuple[str, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value}: has no unit, expected {expected}")
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{_shown(value)}: expected {expected}")
    if not match[2]:
        raise ValueError(f"{_shown(value)}: has no unit, expected {expected}")
    return match[1], match[2]


def _shown(value: object) -> str:
    match value:
        case str():
            return repr(value if len(value) <= 40 else value[:37] + "...")
        case dict():
            return "a mapping"
        case tuple() | list():
            return "a list"
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
    return repr(value)
