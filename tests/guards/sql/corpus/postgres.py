"""Attacks in PostgreSQL's own words."""

from __future__ import annotations

ATTACKS = """
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
