"""Statements that must be refused, and statements that must pass; the canary run takes its material from both.

The lists of attacks follow the published bypasses of other SQL guards: statements after statements, executable
comments, CTEs that shadow tables, SQL inside strings, functions that reach files, settings and other sessions.
"""

# ruff: noqa: E501  (a statement a line)

from __future__ import annotations

EVERYWHERE = """
select 1; select 2
select 1; drop table orders
; select * from secret
select 1 /* ; */ ; delete from orders
begin
commit
rollback
savepoint a
start transaction
set transaction read write
set session characteristics as transaction read write
set role postgres
set session authorization postgres
set x = 1
reset all
reset role
discard all
insert into orders (id) values (1)
update orders set id = 1 where id = 2
delete from orders where id = 1
merge into orders using users on true when matched then delete
replace into orders values (1)
with x as (delete from orders where id = 1 returning *) select * from x
with x as (insert into orders (id) values (1) returning id) select * from x
with x as (update orders set id = 2 where id = 1 returning *) select * from x
create table x (a int)
create table x as select * from secret
create view v as select * from secret
create index i on orders (id)
create function f() returns int language sql as 'select 1'
create extension dblink
create trigger t before insert on orders begin select 1; end
alter table orders add column x int
alter user postgres password 'x'
drop table orders
truncate table orders
truncate orders
grant all on orders to public
revoke all on orders from public
comment on table orders is 'x'
select * into newt from orders
select id into newt from orders
select id from orders for update
select id from orders for share
select id from orders for no key update skip locked
select * from secret
select * from SECRET
select canary from secret
select secret.canary from secret
select s.canary from secret s
select * from secret, orders
select * from orders join secret on true
select * from orders left join secret on orders.id = secret.id
select * from (select * from secret) x
select (select canary from secret limit 1)
select 1 where exists (select 1 from secret)
select 1 from orders where id in (select id from secret)
select 1 union select canary from secret
select 1 union all (select canary from secret)
select id from orders order by (select canary from secret limit 1)
select id from orders limit (select id from secret)
select case when (select count(*) from secret) > 0 then 1 end
values ((select canary from secret limit 1))
select * from (values ((select canary from secret limit 1))) v
with secret as (select * from secret) select * from secret
with a as (select * from secret), secret as (select 1) select * from a
with secret as (select 1), b as (select * from (with secret as (select 2) select * from secret) x) select * from orders, secret.y
with x as (select * from secret) select * from x
with recursive secret as (select 1 union all select id from secret) select * from secret, other.secret
select count(*) from secret
select max(canary) over () from secret
select id from orders group by (select canary from secret)
select id from orders having (select canary from secret) = 'x'
explain select * from secret
explain analyze delete from orders
explain select 1
describe orders
show tables
show variables
show grants
prepare x as delete from orders
execute x
execute immediate 'select 1'
deallocate x
declare c cursor for select 1
fetch all from c
call p()
do sleep(1)
lock table orders
lock tables orders write
vacuum
analyze
analyze orders
cluster orders
reindex table orders
kill 1
use mysql
load data infile '/etc/passwd' into table orders
load data local infile '/etc/passwd' into table orders
copy orders to '/tmp/x'
select sleep(1)
select load_file('/etc/passwd')
select version()
select user()
select current_user
select session_user
select database()
select load_extension('x')
select unknown_function(1)
select "unknown_function"(1)
select foo.bar(1)
select password from users
select u.password from users u
select users.password from users
select PASSWORD from users
select id from users where password like 'a%'
select id from users order by password
select name from users group by name having max(password) > 'a'
select count(password) from users
select u.name from users u join orders o on o.note = u.password
select (select password from users limit 1)
select o.id, (select u.password from users u where u.id = o.id) from orders o
select id from orders where note = (select password from users limit 1)
with x as (select password as p from users) select p from x
select x.p from (select password p from users) x
select * from users natural join orders
select id from users join (select 'x' as password) p using (password)
select * from users u(a, b, c)
select * from a.b.c.d
select * from other.orders
select * from information_schema.tables
select ?
select %s
select id from orders where id = ?
select 1 -- \x00
select \x00
select id from orders where 1 = 1 ;;; select 2
select * from orders where id = 1 or 1=1; drop table users --
select 'a' || (select canary from secret limit 1)
select id from orders union select id from users union select id from secret
select id from orders window w as (order by (select canary from secret limit 1))
select sum(id) over (partition by (select canary from secret limit 1)) from orders
select id from orders except select id from secret
select 1 from (orders join secret on true)
select 1 from ((secret))
select lpad('x', 1000000000, 'x')
select repeat('x', 1000000000)
select\u00a0canary from orders
""".strip().splitlines()

POSTGRES = """
do $$ begin perform 1; end $$
select pg_sleep(10)
select pg_catalog.pg_sleep(10)
select PG_SLEEP(10)
select "pg_sleep"(10)
select "pg_catalog"."pg_sleep"(10)
select pg_read_file('/etc/passwd')
select "pg_read_file"('/etc/passwd')
select U&"pg\\005fread_file"('/etc/passwd')
select pg_read_binary_file('/etc/passwd')
select pg_ls_dir('/')
select pg_stat_file('/etc/passwd')
select * from pg_ls_dir('/')
select * from pg_read_file('/etc/passwd') f
select * from rows from (pg_ls_dir('/'))
select * from rows from (generate_series(1, 2), pg_ls_dir('/'))
select f.pg_read_file from unnest(array['/etc/passwd']) f
select f.pg_ls_dir from (values ('/')) f
select f.pg_sleep from generate_series(1, 2) f
select ('/etc/passwd'::text).pg_read_file
select (select '/etc/passwd'::text).pg_read_file
select (o).pg_read_file from orders o
select u.row_to_json from users u
select u.to_jsonb from users u
select users.json_agg from users
select (u).* from users u
select (u).password from users u
select u from users u
select users from users
select row_to_json(u) from users u
select to_jsonb(users) from users
select json_agg(u) from users u
select array_agg(users) from users
select u::text from users u
select cast(u as text) from users u
select count(u) from users u
select to_jsonb(u.*) from users u
select count(u.*) from users u
select row(u.*) from users u
select (u.*)::text from users u
select concat(u) from users u
select x from (select 1) x, users where users = users
select * from ts_stat('select canary from secret')
select ts_stat('select canary from secret')
select ts_rewrite('a'::tsquery, 'select t, s from secret')
select query_to_xml('select * from secret', true, true, '')
select table_to_xml('secret', true, true, '')
select cursor_to_xml('c', 1, true, true, '')
select schema_to_xml('public', true, true, '')
select database_to_xml(true, true, '')
select query_to_xml_and_xmlschema('select * from secret', true, true, '')
select * from dblink('host=x', 'select 1') as t(a int)
select dblink_exec('x')
select * from crosstab('select * from secret') as ct(a int)
select lo_import('/etc/passwd')
select lo_export(1, '/tmp/x')
select lo_get(1)
select set_config('role', 'postgres', false)
select current_setting('data_directory')
select nextval('s')
select setval('s', 1)
select currval('s')
select lastval()
select pg_advisory_lock(1)
select pg_try_advisory_xact_lock(1)
select pg_terminate_backend(1)
select pg_cancel_backend(1)
select pg_reload_conf()
select pg_rotate_logfile()
select pg_notify('a', 'b')
select pg_export_snapshot()
select pg_logical_emit_message(true, 'a', 'b')
select pg_file_write('/tmp/x', 'y', false)
select pg_relation_size('secret')
select txid_current()
select inet_server_addr()
select inet_client_addr()
select 'secret'::regclass
select cast('secret' as regclass)
select 'pg_sleep'::regproc
select 'postgres'::regrole
select 'x'::public.mytype
select 'x'::mytype
select 1 operator(public.+) 2
select 1 operator(pg_catalog.+) 2
select * from pg_catalog.pg_class
select * from pg_class
select * from pg_user
select * from pg_shadow
select * from pg_stat_activity
select * from "pg_class"
select * from pg_temp.x
select * from pg_toast.x
select * from information_schema.columns
select * from "Secret"
select * from public.secret
select * from "public"."secret"
select * from "secret"
select * from only secret
select * from secret tablesample system (100)
select * from lateral (select * from secret) x
select * from orders, lateral (select * from secret) x
table secret
(table secret)
select * from (table secret) x
select array(select canary from secret)
select exists (table secret)
select * from unnest(array(select canary from secret)) x
select E'\\'' , canary from secret --'
select E'x\\'; select 1'
select $$a$$ ; select 2
select $x$;$x$; drop table orders
select 1 as "a;b"; select 2
copy (select * from secret) to stdout
copy orders from program 'id'
listen c
notify c
load 'x'
refresh materialized view v
select user
select current_role
select current_schema
select current_catalog
select system_user
select $1
select :a.b
select @v
select * from generate_series(1, 100000000000)
select format('%1000000000s', 'x')
select xmlparse(document '<a/>')
select * from xmltable('/a' passing '<a/>' columns b int)
select * from json_table('[]', '$' columns (a int path '$'))
select id from orders where id = any (select id from secret)
select variadic array[1]
select distinct on ((select canary from secret limit 1)) id from orders
select id from orders order by id using operator(public.<)
select next value for s
select * from users
select u.* from users u natural join orders
select id from orders for update of orders nowait
with x as materialized (select * from secret) select * from x
select 1 /* /* */ union select canary from secret -- */
select * from orders o, secret as o2(id, canary)
select to_regclass('secret')
select has_table_privilege('secret', 'select')
select pg_get_viewdef('v')
select pg_typeof(secret) from secret
""".strip().splitlines()

MYSQL = """
select 1 /*! union select canary from secret */
select 1 /*!50000 union select canary from secret */
select 1 /*M!100100 union select canary from secret */
select 1 /*M! union select canary from secret */
select 1 /*!union*/ /*!select*/ canary /*!from*/ secret
select 1 --1
select 1 --+ (select canary from secret)
select 5 --1 union select canary from secret
select canary from secret # x
select * from secret into outfile '/tmp/x'
select * into outfile '/tmp/x' from orders
select * into dumpfile '/tmp/x' from orders
select id into @x from orders
select id from orders into outfile '/tmp/x'
select @@version
select @@global.secure_file_priv
select @x := 1
select @x
set @x = 1
select get_lock('a', 10)
select release_lock('a')
select is_free_lock('a')
select benchmark(1000000000, md5('x'))
select connection_id()
select last_insert_id()
select row_count()
select found_rows()
select uuid_short()
select extractvalue(1, concat(0x7e, (select canary from secret limit 1)))
select updatexml(1, concat(0x7e, version()), 1)
select name_const('a', 1)
select master_pos_wait('a', 1)
handler secret open
handler secret read first
select * from mysql.user
select * from `mysql`.`user`
select * from MYSQL.user
select * from information_schema.columns
select * from performance_schema.threads
select * from sys.version
select * from `secret`
select * from `shop`.`secret`
select * from shop.secret
select * from Secret
select id from orders lock in share mode
select sql_calc_found_rows * from orders
select * from orders procedure analyse()
select * from orders partition (p0)
select * from orders use index (x)
select straight_join * from orders
select high_priority id from orders
select * from orders straight_join secret
table secret
do sleep(5)
do release_lock('x')
show grants
show processlist
show create table secret
describe secret
kill 1
flush tables
reset master
install plugin x soname 'y'
load index into cache t
call sys.x()
prepare s from 'select 1'
execute s
deallocate prepare s
xa start 'x'
purge binary logs to 'x'
change master to master_host='x'
select * from json_table('[]', '$[*]' columns (a int path '$')) t
select _utf8'abc'
select N'abc'
select {d '2020-01-01'}
select {fn user()}
select next value for s
select nextval(s)
select lastval(s)
select schema()
select system_user()
select current_user()
select session_user()
select id from users where match(password) against ('x')
select `password` from `users`
select `PassWord` from users
select pa\u017f\u017fword from users
select `pas\u017fword` from users
select * from orders union table secret
select 1 from dual where (select 1 from secret)
select @@session.sql_mode
select des_decrypt('x')
select sys_exec('id')
select sys_eval('id')
""".strip().splitlines()

SQLITE = """
attach database '/tmp/x' as y
attach '/tmp/x' as y
detach y
pragma table_info(secret)
pragma writable_schema = 1
pragma writable_schema(1)
pragma query_only = off
vacuum into '/tmp/x'
reindex
analyze sqlite_master
select load_extension('/tmp/x')
select readfile('/etc/passwd')
select writefile('/tmp/x', 'y')
select edit('x')
select fts3_tokenizer('simple')
select fts3_tokenizer('x', x'00')
select zeroblob(1000000000)
select randomblob(1000000000)
select hex(zeroblob(1000000))
select printf('%1000000000d', 1)
select printf('%.*c', 1000000000, 'x')
select format('%1000000000d', 1)
select sqlite_version()
select sqlite_source_id()
select sqlite_compileoption_get(1)
select changes()
select total_changes()
select last_insert_rowid()
select * from sqlite_master
select * from sqlite_schema
select * from main.sqlite_master
select * from sqlite_temp_master
select * from temp.sqlite_master
select * from "sqlite_master"
select * from [sqlite_master]
select * from `sqlite_master`
select * from 'sqlite_master'
select * from SQLITE_MASTER
select * from sqlite_sequence
select * from sqlite_dbpage
select * from dbstat
select * from pragma_table_info('secret')
select * from pragma_table_list
select * from pragma_database_list
select * from pragma_table_info where arg = 'secret'
select name from pragma_function_list
select * from fsdir('/')
select * from zipfile('/tmp/x')
select * from csv
select * from json_each
select * from generate_series
select 1 in secret
select id from orders where id in secret
select id from orders where id not in secret
select 1 in pragma_table_info('secret')
select 1 in main.secret
select * from 'secret'
select * from [secret]
select * from `secret`
select * from "Secret"
select * from main.secret
select * from "main"."secret"
select * from [main].[secret]
select "password" from users
select [password] from users
select `password` from users
select users.'password' from users
select rowid from users
select oid from users
select _rowid_ from users
select u.rowid from users u
with r as (select 1 union all select id from secret) select * from r
with a as (select * from b), b as (select 1) select * from a
insert or replace into orders values (1)
replace into orders values (1)
explain query plan delete from orders
explain query plan select * from secret
select @a
select $a
select ?1
select * from orders indexed by i
select match('x', y) from orders
select * from secret where secret match 'x'
select iif((select canary from secret) is null, 1, 2)
select * from generate_series(1, 100000000000)
select group_concat((select canary from secret))
select id from orders order by (select canary from secret)
""".strip().splitlines()

ATTACKS = {"postgres": EVERYWHERE + POSTGRES, "mysql": EVERYWHERE + MYSQL, "sqlite": EVERYWHERE + SQLITE}
# Fine on one engine: users has a catalogue, so `*` is what may be seen; and names that are plain there.
_FINE = {
    "postgres": {"select * from users"},
    "mysql": {"select * from users u(a, b, c)"},
    "sqlite": {"select current_user"},
}

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


def attacks(dialect: str) -> list[str]:
    # The corpus keeps one statement a line, so control characters are written as escapes.
    return [text.replace("\\x00", "\x00") for text in ATTACKS[dialect] if text not in _FINE.get(dialect, ())]
