//! What of a plan the broker has confirmed and the database does not have: what a failover has lost, or what payonce has.

use std::collections::{HashMap, HashSet};

use super::{
    offer::{Published, publish_all},
    site::Site,
};
use crate::{
    body,
    plan::{Fate, Plan, Sending},
};

/// Distinct messages that were confirmed, and are neither in the ledger nor in quarantine: callbacks by their key and content, those that are
/// none by their body.
pub async fn missing(site: &Site, published: &Published) -> anyhow::Result<Vec<u32>> {
    let plan = &published.plan;
    let mut database = site.connect().await?;
    let there: Vec<(String, String, Vec<u8>)> = sqlx::query_as(
        "select source, event_id, payload_sha256 from ledger
         union all
         select source, event_id, fingerprint from quarantine where source is not null and event_id is not null",
    )
    .fetch_all(&mut database)
    .await?;
    let there: HashSet<(String, String, Vec<u8>)> = there.into_iter().collect();
    // As `body::identity` has them.
    let bad: Vec<(String, Vec<u8>)> = sqlx::query_as(
        "select case when reason = 'malformed' then coalesce(routing_key, '') else '' end, body from quarantine",
    )
    .fetch_all(&mut database)
    .await?;
    let bad: HashSet<(String, Vec<u8>)> = bad.into_iter().collect();
    let mut twins: HashMap<u32, u32> = HashMap::new();
    for one in &plan.distinct {
        if let Fate::Twin(first) = one.fate {
            twins.extend([(first, one.number), (one.number, first)]);
        }
    }
    let is_there = |number: u32| {
        let one = &plan.distinct[number as usize];
        if one.poison.is_some() {
            return bad.contains(&body::identity(plan, one));
        }
        let content = body::content(plan, one);
        let sha256 = content.sha256();
        there.contains(&(content.source, content.id, sha256))
    };
    let confirmed = plan.distinct.iter().map(|one| one.number).filter(|one| published.is_confirmed(*one));
    Ok(confirmed
        .filter(|one| !is_there(*one) && !twins.get(one).is_some_and(|twin| is_there(*twin)))
        .collect())
}

fn body_of(plan: &Plan, number: u32) -> Vec<u8> {
    body::identity(plan, &plan.distinct[number as usize]).1
}

/// Whether a failover has lost it, or a case of it.
pub fn is_lost(site: &Site, plan: &Plan, number: u32) -> bool {
    site.lost.contains(&body::key(plan, &plan.distinct[number as usize]))
        || !site.lost_bodies.is_empty() && site.lost_bodies.contains(&body_of(plan, number))
}

/// Publishes what failovers have lost and what is not there again. Returns how many messages that were.
pub async fn send_lost_again(site: &Site, published: &Published) -> anyhow::Result<usize> {
    let missing = missing(site, published).await?.into_iter();
    let lost = missing.filter(|one| is_lost(site, &published.plan, *one));
    let sendings: Vec<Sending> = lost.map(|distinct| Sending { distinct, way: None }).collect();
    publish_all(published, &site.direct()?, &sendings).await?;
    Ok(sendings.len())
}
