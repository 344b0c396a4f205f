"""Attacks in SQLite's own words."""

from __future__ import annotations

ATTACKS = """
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
