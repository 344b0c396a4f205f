"""Attacks in MySQL's and MariaDB's own words."""

from __future__ import annotations

ATTACKS = """
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
