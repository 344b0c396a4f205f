"""Attacks that every engine must refuse."""

# ruff: noqa: E501  (a statement a line)

from __future__ import annotations

ATTACKS = """
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
