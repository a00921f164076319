//! The end of a transaction that has written a batch: one statement that counts, proves the copies and confirms the server, and the commit.
//!
//! The last statement before the commit reads a row: PostgreSQL answers COMMIT with a silent ROLLBACK in an aborted transaction, but refuses
//! any other statement there. What all batches need at their end is one statement, because in small batches round trips cost more than work.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Postgres, Row, Transaction};

use super::{
    StoreError,
    apply::{Applied, Remembered},
    audit::is_not_in_ledger,
    rows::each,
    server::{self, confirmation},
};
use crate::crash::{self, Point};
use payonce_ledger::{Key, Layer};

/// A batch that is written, and neither counted nor committed.
pub(super) struct Written<'a> {
    pub(super) applied: Applied,
    pub(super) writer: &'a str,
    pub(super) duplicates: BTreeMap<(Key, Layer), i64>,
    pub(super) remembered: &'a [Remembered],
}

impl Written<'_> {
    /// Counts and commits.
    ///
    /// # Errors
    /// As [`super::apply()`].
    pub(super) async fn commit(
        self,
        mut transaction: Transaction<'_, Postgres>,
    ) -> Result<Applied, StoreError> {
        self.close(&mut transaction).await?;
        commit(transaction).await?;
        Ok(self.applied)
    }

    /// Adds to the counts of this minute and to the log of duplicates, and looks for the ledger row of each copy that a done marker named.
    ///
    /// Redis can be restored, emptied, or written to by somebody else, and this database can be restored to a time before a marker: so a copy
    /// is rejected only for a row that this transaction sees. The commit then confirms that row too: it is written before this one's
    /// commit record, on this server.
    async fn close(&self, transaction: &mut PgConnection) -> Result<(), StoreError> {
        let tallies: Vec<_> = self.applied.tallies.iter().collect();
        let duplicates: Vec<_> = self.duplicates.iter().collect();
        // Copies that count as the batch's have the key and content of one that does not.
        let proved: Vec<_> = self.remembered.iter().filter(|copy| copy.layer == Layer::Redis).collect();
        let last = sqlx::query(concat!(
            "with rejected as (
                 insert into duplicates (source, event_id, layer, copies)
                 select unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::bigint[])),
             counted as (
                 insert into tallies as t (minute, writer, kind, source, label, n)
                 select date_trunc('minute', now()), $5, n.kind, n.source, n.label, n.n
                 from unnest($6::text[], $7::text[], $8::text[], $9::bigint[]) as n(kind, source, label, n)
                 on conflict (minute, writer, kind, source, label) do update set n = t.n + excluded.n)
             select (select count(*)
                     from unnest($10::text[], $11::text[], $12::bytea[]) as k(source, event_id, payload_sha256)
                     where ",
            is_not_in_ledger!(),
            ") as unproved,
                    ",
            confirmation!()
        ));
        let last = last
            .bind(each(&duplicates, |((key, _), _)| key.source.as_str()))
            .bind(each(&duplicates, |((key, _), _)| key.event_id.as_str()))
            .bind(each(&duplicates, |((_, layer), _)| layer.as_str()))
            .bind(each(&duplicates, |(_, copies)| **copies))
            .bind(self.writer)
            .bind(each(&tallies, |(tally, _)| tally.kind.as_str()))
            .bind(each(&tallies, |(tally, _)| tally.source.as_str()))
            .bind(each(&tallies, |(tally, _)| tally.label))
            .bind(each(&tallies, |(_, n)| **n))
            .bind(each(&proved, |copy| copy.key.source.as_str()))
            .bind(each(&proved, |copy| copy.key.event_id.as_str()))
            .bind(each(&proved, |copy| &copy.fingerprint.0[..]));
        match server::confirm_with(transaction, last).await?.try_get::<i64, _>("unproved")? {
            0 => Ok(()),
            unproved => Err(StoreError::Conflict(format!(
                "{unproved} done markers in Redis have no ledger row: this database was restored or has lost commits, or Redis was restored or \
                 written to by somebody else"
            ))),
        }
    }
}

/// Commits what [`server::confirm`] has confirmed.
///
/// # Errors
/// [`StoreError::Unavailable`]: it is unknown whether all is written or nothing.
pub(super) async fn commit(transaction: Transaction<'_, Postgres>) -> Result<(), StoreError> {
    crash::hit(Point::BeforeCommit).await?;
    transaction.commit().await?;
    Ok(crash::hit(Point::AfterCommit).await?)
}
