-- How many cases are open or waiting, and what they are about: pages, scrapes and alerts ask for it all the time, and to add up every case takes
-- 100 ms with 100 000 of them. So the sums are kept by a trigger, in the transaction that changes the cases: whoever writes quarantine, workers of
-- the release before included, keeps them right, and every reader sees the sums of the cases that it sees.

-- What a statement changed. Rows are only ever added, so no two transactions meet here: sums that lanes updated would make each wait for the other.
create table case_changes (
    state text collate "C" not null check (state in ('open', 'waiting')),
    reason text collate "C" not null,
    -- Empty where none could be read; so is the currency, where the amount is not known either.
    source text collate "C" not null,
    currency text collate "C" not null,
    cases bigint not null,
    -- Minor units. A sum of bigints can be more than one holds.
    amount numeric not null
);

-- Those changes that were added up already.
create table case_sums (
    state text collate "C" not null check (state in ('open', 'waiting')),
    reason text collate "C" not null,
    source text collate "C" not null,
    currency text collate "C" not null,
    cases bigint not null,
    amount numeric not null,
    primary key (state, reason, source, currency)
)
with (fillfactor = 50);
comment on table case_changes is 'What changed of open and waiting cases since it was last added up; kept by triggers of quarantine. Sums are this and case_sums.';
comment on table case_sums is 'Open and waiting cases by state, reason, source and currency, without case_changes.';

create function keep_case_sums() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    -- A further copy of a case changes neither sum, and leaves no row.
    if tg_op = 'INSERT' then
        insert into case_changes (state, reason, source, currency, cases, amount)
        select state, reason, coalesce(source, ''), case when amount is null then '' else coalesce(currency, '') end,
               count(*), coalesce(sum(amount), 0)
        from added where state in ('open', 'waiting') group by 1, 2, 3, 4;
    elsif tg_op = 'DELETE' then
        insert into case_changes (state, reason, source, currency, cases, amount)
        select state, reason, coalesce(source, ''), case when amount is null then '' else coalesce(currency, '') end,
               -count(*), -coalesce(sum(amount), 0)
        from taken where state in ('open', 'waiting') group by 1, 2, 3, 4;
    else
        insert into case_changes (state, reason, source, currency, cases, amount)
        select state, reason, coalesce(source, ''), case when amount is null then '' else coalesce(currency, '') end,
               sum(n), coalesce(sum(n * amount), 0)
        from (select 1 as n, state, reason, source, currency, amount::numeric from added
              union all
              select -1, state, reason, source, currency, amount::numeric from taken) changed
        where state in ('open', 'waiting') group by 1, 2, 3, 4
        having sum(n) <> 0 or coalesce(sum(n * amount), 0) <> 0;
    end if;
    return null;
end
$$;
revoke all on function keep_case_sums() from public;

-- From here on until the commit nobody writes quarantine: the sums below miss no case.
create trigger case_sums_added after insert on quarantine
    referencing new table as added for each statement execute function keep_case_sums();
create trigger case_sums_changed after update on quarantine
    referencing new table as added old table as taken for each statement execute function keep_case_sums();
create trigger case_sums_taken after delete on quarantine
    referencing old table as taken for each statement execute function keep_case_sums();
insert into case_sums (state, reason, source, currency, cases, amount)
    select state, reason, coalesce(source, ''), case when amount is null then '' else coalesce(currency, '') end,
           count(*), coalesce(sum(amount), 0)
    from quarantine where state in ('open', 'waiting') group by 1, 2, 3, 4;

-- Which case is the oldest, and cases of some days.
create index quarantine_first_seen on quarantine (state, first_seen_at);

-- Changes to the sums, at most `rows_max` of them. Returns how many it took. What is added up is neither lost nor counted twice, whatever is
-- killed when: it is one statement.
create function add_up_cases(rows_max bigint) returns bigint
language sql security definer set search_path = public, pg_temp as $$
    with old as (
        delete from case_changes where ctid = any(array(select ctid from case_changes limit rows_max))
        returning state, reason, source, currency, cases, amount
    ),
    sums as (
        insert into case_sums as s (state, reason, source, currency, cases, amount)
        select state, reason, source, currency, sum(cases), sum(amount) from old group by 1, 2, 3, 4
        on conflict (state, reason, source, currency) do update
            set cases = s.cases + excluded.cases, amount = s.amount + excluded.amount
    ),
    -- Of what had no case left before this statement; these are no rows that it has just changed.
    ended as (
        delete from case_sums s
        where s.cases = 0 and s.amount = 0
          and not exists (select from old o where (o.state, o.reason, o.source, o.currency) = (s.state, s.reason, s.source, s.currency))
    )
    select count(*) from old
$$;
revoke all on function add_up_cases(bigint) from public;

-- Roles that may add counts up may add these up, and whoever reads cases may read their sums.
do $$
declare
    granted record;
begin
    for granted in
        select distinct r.rolname from pg_proc p, aclexplode(p.proacl) a, pg_roles r
        where p.proname = 'add_up_lanes' and p.pronamespace = 'public'::regnamespace and r.oid = a.grantee and a.grantee <> p.proowner
    loop
        execute format('grant execute on function add_up_cases(bigint) to %I', granted.rolname);
    end loop;
    for granted in
        select distinct r.rolname from pg_class c, aclexplode(c.relacl) a, pg_roles r
        where c.oid = 'tally_totals'::regclass and a.privilege_type = 'SELECT' and r.oid = a.grantee and a.grantee <> c.relowner
    loop
        execute format('grant select on case_changes, case_sums to %I', granted.rolname);
    end loop;
end
$$;
comment on table _sqlx_migrations is 'schema 36 is usable by programs of schema 29 and later';
