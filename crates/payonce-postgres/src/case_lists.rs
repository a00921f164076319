//! Lists of cases, page by page, and how many there are. What must not live here: what is done to them.

use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::{
    StoreError,
    filter::{Filter, Looked, Page, TEXT_READ_MAX, push_filter, push_from},
    report::{CaseRow, case_row},
};

const COLUMNS: &str = case_row!();

/// A page of cases, in the order of the page's direction.
///
/// # Errors
/// [`StoreError`].
pub async fn list(
    connection: &mut PgConnection,
    filter: &Filter,
    page: Page,
) -> Result<Vec<CaseRow>, StoreError> {
    let mut query = QueryBuilder::new(format!("select {COLUMNS}"));
    match page {
        Page::Before(id, limit) => {
            push_from(&mut query, filter, Looked::Newest(id));
            query.push(" order by id desc limit ").push_bind(limit)
        }
        // Of those that are worked none may be left out.
        Page::After(id, limit) => {
            query.push(" from quarantine");
            push_filter(&mut query, filter);
            query.push(" and id > ").push_bind(id).push(" order by id limit ").push_bind(limit)
        }
    };
    Ok(query.build_query_as().fetch_all(connection).await?)
}

/// Down to which case a list before `before` was looked through for its text, where there are more below that fit all else; `None`: all were.
///
/// # Errors
/// [`StoreError`].
pub async fn text_read_to(
    connection: &mut PgConnection,
    filter: &Filter,
    before: i64,
) -> Result<Option<i64>, StoreError> {
    if filter.text.is_none() {
        return Ok(None);
    }
    let mut query = QueryBuilder::new("select id from quarantine");
    push_filter(&mut query, &Filter { text: None, ..filter.clone() });
    query.push(" and id < ").push_bind(before).push(" order by id desc offset ").push_bind(TEXT_READ_MAX - 1);
    let last: Vec<i64> = query.push(" limit 2").build_query_scalar().fetch_all(connection).await?;
    Ok(match last[..] {
        [last, _] => Some(last),
        _ => None,
    })
}

/// How many cases fit.
///
/// # Errors
/// [`StoreError`].
pub async fn count(connection: &mut PgConnection, filter: &Filter) -> Result<i64, StoreError> {
    let mut query = QueryBuilder::new("select count(*) from quarantine");
    push_filter(&mut query, filter);
    Ok(query.build_query_scalar().fetch_one(connection).await?)
}

/// How many cases fit, counted no further than `limit`.
///
/// # Errors
/// [`StoreError`].
pub async fn count_up_to(
    connection: &mut PgConnection,
    filter: &Filter,
    limit: i64,
) -> Result<i64, StoreError> {
    let mut query = QueryBuilder::new("select count(*) from (select 1 from quarantine");
    push_filter(&mut query, filter);
    end_count(connection, query, limit).await
}

/// The same of what a list looks through: with a text there may be more.
///
/// # Errors
/// [`StoreError`].
pub async fn count_listed(
    connection: &mut PgConnection,
    filter: &Filter,
    limit: i64,
) -> Result<i64, StoreError> {
    let mut query = QueryBuilder::new("select count(*) from (select 1");
    push_from(&mut query, filter, Looked::Newest(i64::MAX));
    end_count(connection, query, limit).await
}

async fn end_count(
    connection: &mut PgConnection,
    mut query: QueryBuilder<Postgres>,
    limit: i64,
) -> Result<i64, StoreError> {
    query.push(" limit ").push_bind(limit).push(") as found");
    Ok(query.build_query_scalar().fetch_one(connection).await?)
}
