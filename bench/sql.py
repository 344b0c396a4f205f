"""What the guard of SQL costs: a typical query of twenty lines, seen before and for the first time."""

from __future__ import annotations

import time

from anyio.to_thread import run_sync

from bench.context import Bench
from bench.report import Row
from bench.stats import Samples
from sandbox_server.guards.sql import SqlJudge, SqlRules

QUERY = """
with monthly as (
    select date_trunc('month', o.day) as month, o.user_id, sum(o.total) as spent, count(*) as orders
    from orders o
    where o.day >= date '2024-01-01' and o.status in ('paid', 'shipped')
    group by 1, 2
),
ranked as (
    select m.month, m.user_id, m.spent, m.orders,
           rank() over (partition by m.month order by m.spent desc) as place,
           lag(m.spent) over (partition by m.user_id order by m.month) as before
    from monthly m
)
select r.month, u.name, r.spent, r.orders, r.place,
       case when r.before is null then null else round(r.spent / r.before - 1, 3) end as growth
from ranked r
join users u on u.id = r.user_id
left join countries c on c.id = u.country_id
where r.place <= :top and coalesce(c.region, 'none') <> :region
order by r.month, r.place
limit 500 -- {number}
"""
COLUMNS = {
    "public.orders": ("id", "user_id", "total", "day", "status"),
    "public.users": ("id", "name", "country_id", "password"),
    "public.countries": ("id", "region"),
}
RULES = SqlRules(
    "postgres",
    relations_allow=("public.*",),
    columns_deny=("*.password",),
    functions=frozenset({"safe_builtin"}),
    default_schema="public",
)


async def measure(bench: Bench) -> None:
    bench.say("judging SQL")
    known, new = await run_sync(_judge, bench.times(400, 50))
    bench.rows += [
        Row.of("SQL guard, 20 lines seen before", known, target="<= 1 ms", ratio=1000 * known.p50, bound=1.0),
        Row.of("SQL guard, 20 lines for the first time", new),
    ]


def _judge(times: int) -> tuple[Samples, Samples]:
    judge = SqlJudge(RULES, COLUMNS)
    known, new = Samples(), Samples()
    for number in range(times):
        sql = QUERY.format(number=number)
        for samples in (new, known):
            begin = time.perf_counter()
            verdict = judge(sql, operation="select")
            samples.add(time.perf_counter() - begin)
            if not verdict.allowed:
                raise RuntimeError(f"the guard refuses a plain query: {verdict.message}")
    return known, new
