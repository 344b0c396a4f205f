"""Statements that must pass."""

# ruff: noqa: E501  (a statement a line)

from __future__ import annotations

COMMON_QUERIES = """
select id, total from orders where day >= '2024-01-01' and total > 10 order by total desc limit 10
select user_id, count(*) as n, sum(total) from orders group by user_id having count(*) > 1
select o.id, u.name from orders o join users u on u.id = o.user_id
select o.id, u.name from orders as o left join users as u on u.id = o.user_id where u.name is not null
select id from orders where user_id in (select id from users where name like 'a%')
select id from orders where exists (select 1 from users where users.id = orders.user_id)
select id from orders union all select id from users order by 1 limit 5 offset 1
select distinct user_id from orders
select case when total > 100 then 'big' when total is null then 'none' else 'small' end from orders
with big as (select user_id, sum(total) as s from orders group by user_id) select u.name, big.s from big join users u on u.id = big.user_id
with recursive n(x) as (select 1 union all select x + 1 from n where x < 10) select x from n
select coalesce(note, 'none'), nullif(total, 0), abs(total), round(total, 2), upper(note), length(note) from orders
select row_number() over (partition by user_id order by day) as r, lag(total) over (order by day) from orders
select sum(total) over (partition by user_id order by day rows between 2 preceding and current row) from orders
select avg(total), min(total), max(total), count(distinct user_id) from orders
select t.n from (select count(*) as n from orders) as t
select * from orders
select o.* from orders o
select id from orders where total between 1 and 10 and not (user_id = 3 or note is null)
select id from orders where (user_id, total) in (select user_id, max(total) from orders group by user_id)
select id from orders where note like '50!%' escape '!'
select cast(id as char(10)), total * 2 + 1 - 3 / 4 from orders
select 'it''s', "id" from orders
select id from orders where user_id = :user and day > :day
select 1 as one, null as missing
select id from orders -- a comment at the end
select /* a comment */ id from orders;
select id from orders; -- the end
select rank() over w, dense_rank() over w, first_value(id) over w from orders window w as (partition by user_id order by total)
select a.id from orders a cross join users b
select id from orders where user_id = (select max(id) from users)
select replace(note, 'a', 'b'), trim(note) from orders
""".strip().splitlines()

QUERIES = {
    "postgres": [
        *COMMON_QUERIES,
        *r"""
select percentile_cont(0.5) within group (order by total), mode() within group (order by user_id) from orders
select o.id, l.name from orders o cross join lateral (select u.name from users u where u.id = o.user_id limit 1) l
select o.id, l.name from orders o left join lateral (select u.name from users u where u.id = o.user_id) l on true
select data -> 'a' ->> 'b', data #>> '{a,b}', data @> '{"a": 1}', data ? 'a', data ?| array['a', 'b'], data - 'a' from orders
select lower(data ->> 'a'), max(data -> 'b' ->> 'c'), jsonb_array_length(data -> 'l') from orders group by data
select count(*) filter (where total > 1), sum(total) filter (where note = 'x') from orders
select user_id, day, sum(total) from orders group by grouping sets ((user_id), (day), (user_id, day), ())
select user_id, day, sum(total), grouping(user_id) from orders group by rollup (user_id, day)
select user_id, day, sum(total) from orders group by cube (user_id, day)
select distinct on (user_id) user_id, total from orders order by user_id, total desc
select array_agg(id order by total desc), string_agg(note, ', ' order by id) from orders group by user_id
select user_id = any (array[1, 2]), array[1, 2, 3], (array[1, 2, 3])[2], array(select id from users) from orders
select date_trunc('month', day), extract(year from day), date_part('dow', day), to_char(day, 'YYYY-MM') from orders
select day + interval '1 day', now() - interval '3 months', day - date '2024-01-01', current_date from orders
select g from generate_series(1, 10) g
select g.d::date from generate_series('2024-01-01'::date, '2024-12-31'::date, interval '1 month') as g(d)
select e.key, e.value from orders o, jsonb_each(o.data) e
select e ->> 'a' from orders, jsonb_array_elements(orders.data -> 'l') as e
select x.a, x.b from jsonb_to_recordset('[{"a": 1, "b": "x"}]') as x(a int, b text)
select u.v, u.i from unnest(array['a', 'b']) with ordinality as u(v, i)
select n, s from (values (1, 'a'), (2, 'b')) as v(n, s)
select id::text, total::numeric(10, 2), cast(day as date), day::timestamptz at time zone 'UTC' from orders
select note ~ '^a', note !~* 'b', regexp_replace(note, 'a+', 'b', 'g'), split_part(note, ',', 1) from orders
select note ilike '%a%', note is distinct from 'x', note similar to 'a|b', total is not null from orders
select substring(note from 1 for 3), position('a' in note), trim(both ' ' from note), overlay(note placing 'x' from 1 for 2) from orders
select corr(total, id), stddev(total), var_pop(total), max(width_bucket(total, 0, 100, 10)) from orders
select sum(total) over (order by day range between interval '7 days' preceding and current row) from orders
select sum(id) over (order by id groups between 1 preceding and 1 following exclude ties) from orders
select id from orders order by total desc nulls last fetch first 5 rows only
select jsonb_build_object('a', id, 'b', jsonb_agg(total)) from orders group by id
select row_to_json(o) from orders o
select to_jsonb(x) from (select id, total from orders) x
select o.id from orders o where (o.user_id, o.total) = (1, 2)
select make_interval(days => 3), age(day, '2020-01-01'::date) from orders
select to_tsvector('english', note) @@ plainto_tsquery('english', 'x') from orders
select tsrange(day, day + interval '1 day') && tsrange(day, null), int4range(1, 5) @> 3 from orders
select $$it's$$, $a$x$a$, 'a\b', 'c:d', ':e'
select id from public.orders where note = ':name' or note = '::x'
select x.a from (select id as a from orders) x natural join (select 1 as a) y
with t as materialized (select id from orders) select id from t
table orders
values (1, 'a'), (2, 'b')
select * from users
select u.* from users u
select exists (select * from users)
select bool_and(total > 1), bool_or(total > 1), every(total > 1) from orders
select a.id from orders a join orders b using (id)
select id from orders where data @? '$.a' and data @@ '$.a == 1'
""".strip().splitlines(),
    ],
    "sqlite": [
        *COMMON_QUERIES,
        *r"""
select strftime('%Y-%m', day), date(day, '-7 days'), julianday(day), datetime('now'), unixepoch('now') from orders
select data -> 'a', data ->> '$.b', json_extract(data, '$.c[0]'), json_type(data) from orders
select je.key, je.value from orders, json_each(orders.data) je
select group_concat(note, ', '), total(total), max(id, user_id) from orders
select count(*) filter (where total > 1) from orders
select id from orders where note glob 'a*' or note like 'b%' collate nocase
select ifnull(note, 'x'), iif(total > 1, 'x', 'y'), typeof(total), printf('%.2f', total), instr(note, 'a') from orders
select cast(total as integer), cast(note as real), total is 1, note is not null, id == 1, id <> 2, id << 1 from orders
select [id], `total`, "note" from [orders]
select json_group_array(id), json_group_object(note, total) from orders
select id from orders order by total desc nulls last limit 2, 3
select u.* from users u
select * from users
select a.id from orders a join orders b using (id)
select rowid from orders
values (1, 'a')
""".strip().splitlines(),
    ],
    "mysql": [
        *(query for query in COMMON_QUERIES),
        *r"""
select date_format(day, '%Y-%m'), day + interval 1 day, date_sub(day, interval 3 month), datediff(day, now()) from orders
select timestampdiff(day, day, now()), year(day), month(day), to_days(day), last_day(day), quarter(day) from orders
select json_extract(data, '$.a'), json_unquote(json_extract(data, '$.b')), json_value(data, '$.c') from orders
select data -> '$.a', data ->> '$.b' from orders
select group_concat(distinct note order by id separator ', ') from orders
select ifnull(note, 'x'), if(total > 1, 'x', 'y'), concat_ws(',', note, id), substring_index(note, ',', 1) from orders
select user_id, sum(total) from orders group by user_id with rollup
select `id`, "text", 'it''s', 'a\\b', 'c\'d', 'e"f' from `orders`
select id from orders where note regexp '^a' and note not rlike 'b'
select cast(total as signed), cast(total as decimal(10, 2)), convert(id, char) from orders
select id div 2, id mod 2, id % 2, id <=> 1, id xor 1, !id from orders
select str_to_date('01.02.2024', '%d.%m.%Y'), from_unixtime(0), unix_timestamp(), curdate() from orders
select stddev_pop(total), var_samp(total), bit_or(id), median(total) over () from orders
select find_in_set('a', note), field(note, 'x'), format(total, 2), lpad(note, 5, '0'), greatest(id, total) from orders
select note collate utf8mb4_bin from orders
select id && user_id, id || user_id from orders
select u.* from users u
select * from users
select json_arrayagg(id), json_objectagg(id, total) from orders
select percentile_cont(0.5) within group (order by total) over (partition by user_id) from orders
select id from orders limit 2, 3
select 'x' '%s' '%' ':a'
""".strip().splitlines(),
    ],
}
