//! The textbook consumer's own small ledger: what callbacks do, one after the other, to accounts and payments that one transaction has
//! locked and read. Tables and durability are payonce's; the rules are the load tests' own arithmetic (`money`).

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Context;
use sqlx::{PgConnection, Row};

use crate::{
    content::Content,
    money::{Deposit, Fact, Kind, Payment},
};

/// (source, payment id).
type PaymentKey = (String, String);

/// What becomes of a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Applied,
    /// It is in the ledger already, under this key or this operation.
    InLedger,
    /// What it needs is not there yet.
    Waits,
}

#[derive(Debug, Clone)]
struct Account {
    currency: String,
    balance: i64,
    held: i64,
    version: i64,
}

#[derive(Debug, Default)]
struct Known {
    account: String,
    payment: Payment,
    deposit: Deposit,
    rows: i64,
    /// What was applied under an operation's id, and how much.
    operations: HashMap<(Kind, String), i64>,
}

/// A ledger row to write.
struct Entry<'a> {
    content: &'a Content,
    leg: i16,
    account: String,
    delta: (i64, i64),
    after: Account,
}

/// What one transaction has locked and read.
#[derive(Default)]
struct Book {
    accounts: HashMap<String, Account>,
    payments: HashMap<PaymentKey, Known>,
}

fn payment_key(content: &Content) -> Option<PaymentKey> {
    let has_payment = content.kind.is_of_payment() || content.kind.is_of_deposit();
    let id = content.payment_id.clone().filter(|_| has_payment)?;
    Some((content.source.clone(), id))
}

/// Applies what can be applied of these, in their order, and writes it. The caller commits.
///
/// Returns `None` where the ledger has any of them already: then nothing may be committed, and of several each is tried alone.
pub async fn apply(
    transaction: &mut PgConnection,
    contents: &[&Content],
) -> anyhow::Result<Option<Vec<End>>> {
    let mut book = Book::default();
    if contents.iter().any(|content| content.subject.is_none()) {
        book.load_payments(transaction, contents).await?;
    }
    book.load_accounts(transaction, contents).await?;
    // Only under its account's lock does a payment stay as it was read.
    book.payments.clear();
    book.load_payments(transaction, contents).await?;
    let mut rows = Vec::with_capacity(contents.len());
    let ends = contents.iter().map(|content| book.take(content, &mut rows)).collect();
    if !write_rows(transaction, &rows).await? {
        return Ok(None);
    }
    book.write(transaction, &rows).await?;
    Ok(Some(ends))
}

impl Book {
    /// Of each payment all that the ledger has: the rows are the facts, and nothing else is kept.
    async fn load_payments(
        &mut self,
        connection: &mut PgConnection,
        contents: &[&Content],
    ) -> anyhow::Result<()> {
        let keys: HashSet<PaymentKey> = contents.iter().filter_map(|content| payment_key(content)).collect();
        // A deposit that nothing takes back needs no look.
        let is_needed = |content: &&&Content| content.kind != Kind::Deposit;
        if !contents.iter().any(|content| is_needed(&content)) || keys.is_empty() {
            return Ok(());
        }
        let (sources, ids): (Vec<&str>, Vec<&str>) =
            keys.iter().map(|(source, id)| (source.as_str(), id.as_str())).unzip();
        // The view, because no index of the ledger itself has every row of a payment: without it each payment costs a look at all of its
        // provider's rows.
        let rows = sqlx::query(
            "select l.source, l.payment_id, l.account_id, l.type, l.operation_id, l.amount,
                    coalesce((l.members ->> 'final')::boolean, l.type = 'payment.voided') as is_final,
                    l.members ->> 'cumulative' is not null as is_cumulative,
                    coalesce(extract(epoch from l.occurred_at)::bigint, 0) as at_s
             from unnest($1::text[], $2::text[]) as k(source, payment_id),
                  lateral (select * from ledger_of_payments l
                           where l.payment_id = k.payment_id and l.source = k.source and l.leg = 0 offset 0) l",
        )
        .bind(sources)
        .bind(ids)
        .fetch_all(connection)
        .await?;
        for row in rows {
            let fact = Fact {
                kind: Kind::of_name(row.try_get("type")?).context("type")?,
                amount: row.try_get("amount")?,
                is_final: row.try_get("is_final")?,
                is_cumulative: row.try_get("is_cumulative")?,
                at_s: row.try_get("at_s")?,
            };
            let known =
                self.payments.entry((row.try_get("source")?, row.try_get("payment_id")?)).or_default();
            known.add(fact, row.try_get("account_id")?, row.try_get("operation_id")?);
        }
        Ok(())
    }

    /// Opens the accounts that a deposit names, and locks all of them; both in the order of their ids, and nobody who holds a lock opens
    /// anything: so no two transactions wait for each other.
    async fn load_accounts(
        &mut self,
        connection: &mut PgConnection,
        contents: &[&Content],
    ) -> anyhow::Result<()> {
        let named: BTreeMap<&str, &str> = contents
            .iter()
            .filter(|content| content.kind == Kind::Deposit)
            .filter_map(|content| Some((content.subject.as_deref()?, content.currency.as_str())))
            .collect();
        if !named.is_empty() {
            let (ids, currencies): (Vec<&str>, Vec<&str>) = named.into_iter().unzip();
            sqlx::query(
                "insert into accounts (account_id, currency, balance, held, version)
                 select n.account_id, n.currency, 0, 0, 0 from unnest($1::text[], $2::text[]) as n(account_id, currency)
                 where not exists (select from accounts a where a.account_id = n.account_id)
                 order by n.account_id on conflict do nothing",
            )
            .bind(&ids)
            .bind(&currencies)
            .execute(&mut *connection)
            .await?;
        }
        let mut wanted: Vec<String> = Vec::new();
        for content in contents {
            wanted.extend(self.account_of(content));
            wanted.extend(content.to.clone());
        }
        self.lock(connection, &wanted).await
    }

    async fn lock(&mut self, connection: &mut PgConnection, ids: &[String]) -> anyhow::Result<()> {
        let rows = sqlx::query(
            "select account_id, currency, balance, held, version from accounts
             where account_id = any($1) order by account_id for no key update",
        )
        .bind(ids)
        .fetch_all(connection)
        .await?;
        for row in rows {
            let account = Account {
                currency: row.try_get("currency")?,
                balance: row.try_get("balance")?,
                held: row.try_get("held")?,
                version: row.try_get("version")?,
            };
            self.accounts.insert(row.try_get("account_id")?, account);
        }
        Ok(())
    }

    /// Whose it is: the account that it names, else its payment's.
    fn account_of(&self, content: &Content) -> Option<String> {
        content.subject.clone().or_else(|| {
            let known = self.payments.get(&payment_key(content)?)?;
            Some(known.account.clone())
        })
    }

    fn take<'a>(&mut self, content: &'a Content, rows: &mut Vec<Entry<'a>>) -> End {
        self.try_take(content, rows).map_or(End::Waits, |()| End::Applied)
    }

    /// `None`: it lacks something, and nothing was changed.
    fn try_take<'a>(&mut self, content: &'a Content, rows: &mut Vec<Entry<'a>>) -> Option<()> {
        let id = self.account_of(content)?;
        let account = self.accounts.get(&id).filter(|account| account.currency == content.currency)?;
        let amount = content.amount;
        let key = payment_key(content);
        let mut delta = match content.kind {
            Kind::Deposit => (amount, 0),
            Kind::Fee | Kind::Transfer => (-amount, 0),
            Kind::DepositRefunded
            | Kind::DepositDisputed
            | Kind::DepositReinstated
            | Kind::Authorized
            | Kind::Adjusted
            | Kind::Captured
            | Kind::CaptureFailed
            | Kind::Voided
            | Kind::Succeeded
            | Kind::Failed
            | Kind::Refunded
            | Kind::RefundFailed => (0, 0),
        };
        let mut after = None;
        if let Some(key) = &key {
            let nothing = Known::default();
            let known = self.payments.get(key).unwrap_or(&nothing);
            if let Some(reversed) = content.kind.takes_back() {
                let operation = (reversed, content.operation_id.clone()?);
                known.operations.get(&operation).filter(|of| **of >= amount)?;
            }
            let mut next = (known.payment.clone(), known.deposit.clone());
            next.0.add(content.fact());
            next.1.add(content.fact());
            // Nothing bounds a deposit.
            let is_sound = content.kind == Kind::Deposit
                || if content.kind.is_of_deposit() {
                    next.1.is_sound()
                } else {
                    next.0.is_sound_after(content.kind)
                };
            if !is_sound {
                return None;
            }
            if content.kind != Kind::Deposit {
                delta.0 += next.0.balance() - known.payment.balance();
                delta.0 += next.1.balance() - known.deposit.balance();
                delta.1 = next.0.held() - known.payment.held();
            }
            after = Some(next);
        }
        let now = account.post(delta, content.kind.may_leave_debt())?;
        if let Some(to) = &content.to {
            let receiver = self.accounts.get(to).filter(|account| account.currency == content.currency)?;
            let received = receiver.post((amount, 0), false)?;
            self.accounts.insert(to.clone(), received.clone());
            rows.push(Entry { content, leg: 1, account: to.clone(), delta: (amount, 0), after: received });
        }
        self.accounts.insert(id.clone(), now.clone());
        if let (Some(key), Some(_)) = (key, after) {
            let known = self.payments.entry(key).or_default();
            known.add(content.fact(), id.clone(), content.operation_id.clone());
        }
        rows.push(Entry { content, leg: 0, account: id, delta, after: now });
        Some(())
    }

    /// Accounts and payments that the rows have changed.
    async fn write(&self, transaction: &mut PgConnection, rows: &[Entry<'_>]) -> anyhow::Result<()> {
        let ids: HashSet<&String> = rows.iter().map(|row| &row.account).collect();
        let changed: Vec<(&String, &Account)> =
            ids.into_iter().filter_map(|id| Some((id, self.accounts.get(id)?))).collect();
        sqlx::query(
            "update accounts a set balance = n.balance, held = n.held, version = n.version
             from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) as n(account_id, balance, held, version)
             where a.account_id = n.account_id",
        )
        .bind(changed.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
        .bind(changed.iter().map(|(_, account)| account.balance).collect::<Vec<_>>())
        .bind(changed.iter().map(|(_, account)| account.held).collect::<Vec<_>>())
        .bind(changed.iter().map(|(_, account)| account.version).collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await?;
        let keys: HashSet<PaymentKey> = rows
            .iter()
            .filter(|row| row.content.kind.is_of_payment())
            .filter_map(|row| payment_key(row.content))
            .collect();
        let mut payments: Vec<(&PaymentKey, &Known, &str)> = Vec::with_capacity(keys.len());
        for (key, known) in &self.payments {
            if let (true, Some(account)) = (keys.contains(key), self.accounts.get(&known.account)) {
                payments.push((key, known, &account.currency));
            }
        }
        if payments.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into payments (source, payment_id, account_id, currency, state, authorized, captured, refunded, version)
             select unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
                    unnest($6::bigint[]), unnest($7::bigint[]), unnest($8::bigint[]), unnest($9::bigint[])
             on conflict (payment_id, source) do update set state = excluded.state, authorized = excluded.authorized,
                    captured = excluded.captured, refunded = excluded.refunded, version = excluded.version",
        )
        .bind(payments.iter().map(|((source, _), ..)| source.as_str()).collect::<Vec<_>>())
        .bind(payments.iter().map(|((_, id), ..)| id.as_str()).collect::<Vec<_>>())
        .bind(payments.iter().map(|(_, known, _)| known.account.as_str()).collect::<Vec<_>>())
        .bind(payments.iter().map(|(_, _, currency)| *currency).collect::<Vec<_>>())
        .bind(payments.iter().map(|(_, known, _)| known.payment.state()).collect::<Vec<_>>())
        .bind(payments.iter().map(|(_, known, _)| known.payment.authorized()).collect::<Vec<_>>())
        .bind(payments.iter().map(|(_, known, _)| known.payment.captured()).collect::<Vec<_>>())
        .bind(payments.iter().map(|(_, known, _)| known.payment.refunded()).collect::<Vec<_>>())
        .bind(payments.iter().map(|(_, known, _)| known.rows).collect::<Vec<_>>())
        .execute(transaction)
        .await?;
        Ok(())
    }
}

impl Known {
    fn add(&mut self, fact: Fact, account: String, operation_id: Option<String>) {
        self.account = account;
        self.payment.add(fact);
        self.deposit.add(fact);
        self.rows += 1;
        if let Some(operation_id) = operation_id {
            self.operations.insert((fact.kind, operation_id), fact.amount);
        }
    }
}

impl Account {
    fn post(&self, (balance, held): (i64, i64), may_leave_debt: bool) -> Option<Self> {
        let after = Self {
            currency: self.currency.clone(),
            balance: self.balance + balance,
            held: self.held + held,
            version: self.version + 1,
        };
        let is_covered = after.balance >= after.held || balance >= held;
        (is_covered || may_leave_debt).then_some(after)
    }
}

/// False where the ledger has any of them already.
async fn write_rows(transaction: &mut PgConnection, rows: &[Entry<'_>]) -> anyhow::Result<bool> {
    let contents = || rows.iter().map(|row| row.content);
    let done = sqlx::query(
        "insert into ledger (source, event_id, leg, type, account_id, account_version, payment_id, operation_id, amount, currency,
                             balance_delta, held_delta, balance_after, held_after, payload_sha256, occurred_at, members)
         select unnest($1::text[]), unnest($2::text[]), unnest($3::smallint[]), unnest($4::text[]), unnest($5::text[]),
                unnest($6::bigint[]), unnest($7::text[]), unnest($8::text[]), unnest($9::bigint[]), unnest($10::text[]),
                unnest($11::bigint[]), unnest($12::bigint[]), unnest($13::bigint[]), unnest($14::bigint[]),
                unnest($15::bytea[]), to_timestamp(unnest($16::bigint[])), unnest($17::text[])::jsonb
         on conflict do nothing",
    )
    .bind(contents().map(|content| content.source.as_str()).collect::<Vec<_>>())
    .bind(contents().map(|content| content.id.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.leg).collect::<Vec<_>>())
    .bind(contents().map(|content| content.kind.name()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.account.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.after.version).collect::<Vec<_>>())
    .bind(contents().map(|content| content.payment_id.as_deref()).collect::<Vec<_>>())
    .bind(contents().map(|content| content.operation_id.as_deref()).collect::<Vec<_>>())
    .bind(contents().map(|content| content.amount).collect::<Vec<_>>())
    .bind(contents().map(|content| content.currency.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.delta.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.delta.1).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.after.balance).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.after.held).collect::<Vec<_>>())
    .bind(contents().map(Content::sha256).collect::<Vec<_>>())
    .bind(contents().map(|content| content.at_s).collect::<Vec<_>>())
    .bind(contents().map(members).collect::<Vec<_>>())
    .execute(transaction)
    .await?;
    Ok(done.rows_affected() == rows.len() as u64)
}

/// What the ledger has no column for.
fn members(content: &Content) -> Option<String> {
    let mut members = serde_json::Map::new();
    if content.is_final() != (content.kind == Kind::Voided) {
        members.insert("final".to_owned(), content.is_final().into());
    }
    if content.is_cumulative {
        members.insert("cumulative".to_owned(), true.into());
    }
    if let Some(to) = &content.to {
        members.insert("to".to_owned(), to.as_str().into());
    }
    (!members.is_empty()).then(|| serde_json::Value::from(members).to_string())
}
