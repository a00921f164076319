//! The points service: a point for each whole euro that is paid, taken back where it is refunded. It asks nobody and nobody waits for it.

use sqlx::PgConnection;

use crate::step::{Entry, Service};

/// Minor units of a point.
pub const CENTS_PER_POINT: i64 = 100;

pub struct Points;

impl Service for Points {
    const NAME: &'static str = "points";
    const TABLES: &'static str =
        "create table if not exists points (account_id text primary key, points bigint not null)";

    async fn step(transaction: &mut PgConnection, entry: &Entry) -> anyhow::Result<()> {
        let points = entry.amount / CENTS_PER_POINT;
        let points = match entry.kind.as_str() {
            "payment.captured" => points,
            "refund.succeeded" => -points,
            _ => return Ok(()),
        };
        sqlx::query(
            "insert into points as p (account_id, points) values ($1, $2)
             on conflict (account_id) do update set points = p.points + excluded.points",
        )
        .bind(&entry.account)
        .bind(points)
        .execute(transaction)
        .await?;
        Ok(())
    }
}
