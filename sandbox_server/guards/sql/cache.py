"""Judging the same statement again costs a look-up."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock

from sandbox_server.guards.sql.judging import judge
from sandbox_server.guards.sql.models import Operation, SqlRules, Verdict


class SqlJudge:
    """`judge` for one connection's rules and one state of its catalogue, with its last verdicts.

    When the rules or the columns change, make a new one. Bounded by number and by bytes of statements.
    """

    def __init__(
        self,
        rules: SqlRules,
        columns: Mapping[str, tuple[str, ...]] | None = None,
        *,
        size: int = 512,
        bytes_: int = 4 * 1024**2,
    ) -> None:
        self._rules = rules
        self.columns = columns
        self._size = size
        self._bytes = bytes_
        self._held = 0
        self._verdicts: OrderedDict[tuple[str, Operation], Verdict] = OrderedDict()
        self._lock = Lock()

    def __call__(self, sql: str, *, operation: Operation) -> Verdict:
        key = (sql, operation)
        with self._lock:
            if (known := self._verdicts.get(key)) is not None:
                self._verdicts.move_to_end(key)
                return known
        verdict = judge(sql, self._rules, operation=operation, columns=self.columns)
        with self._lock:
            self._keep(key, verdict)
        return verdict

    def __len__(self) -> int:
        return len(self._verdicts)

    def _keep(self, key: tuple[str, Operation], verdict: Verdict) -> None:
        if key in self._verdicts or _weight(key, verdict) > self._bytes // 8:
            return
        self._verdicts[key] = verdict
        self._held += _weight(key, verdict)
        while len(self._verdicts) > self._size or self._held > self._bytes:
            self._held -= _weight(*self._verdicts.popitem(last=False))


class Judges:
    """`judge` that remembers, for whatever rules and catalogues it is asked with. Safe for threads.

    Catalogues are told apart by identity: whoever reads one anew gives a new object only if it has changed.
    """

    def __init__(self, *, size: int = 32, bytes_: int = 1024**2) -> None:
        self._size = size
        self._bytes = bytes_
        self._judges: OrderedDict[tuple[SqlRules, int], SqlJudge] = OrderedDict()
        self._lock = Lock()

    def __call__(
        self,
        sql: str,
        rules: SqlRules,
        *,
        operation: Operation,
        columns: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Verdict:
        return self._of(rules, columns)(sql, operation=operation)

    def __len__(self) -> int:
        return len(self._judges)

    def _of(self, rules: SqlRules, columns: Mapping[str, tuple[str, ...]] | None) -> SqlJudge:
        key = (rules, id(columns))  # which stays taken while its judge holds the catalogue
        with self._lock:
            known = self._judges.get(key)
            if known is None:
                known = self._judges[key] = SqlJudge(rules, columns, bytes_=self._bytes)
                while len(self._judges) > self._size:
                    self._judges.popitem(last=False)
            self._judges.move_to_end(key)
        return known


def _weight(key: tuple[str, Operation], verdict: Verdict) -> int:
    return 4 * (len(key[0]) + len(verdict.sql)) + 1000
