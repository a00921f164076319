//! Sessions: what a login leaves in a cookie. It is signed, not kept, so that it proves itself on every replica and after a restart; what is kept is
//! which ones were ended before their time. What must not live here: what somebody may do.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    keys::{Keys, Purpose},
    random_hex,
};
use crate::{
    ops::clock,
    store::{self, Database, Reader, StoreError, ended_sessions},
};

/// How long a login lasts, in seconds.
pub(super) const LIFETIME_S: i64 = 12 * 60 * 60;
/// Pause between two looks at what other replicas have ended.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// How somebody was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    OperatorToken,
    ReadonlyToken,
    /// The OpenID Connect provider.
    Oidc,
}

/// As its cookie has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    /// 32 random bytes, in hexadecimal.
    id: String,
    pub(super) name: String,
    pub(super) way: Way,
    /// Those that some role was given to when the provider named them: a cookie is small.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<String>,
    /// A proof of the token or provider that has let them in: with another one the session is over.
    way_proof: String,
    /// Seconds since 1970, by the database's clock.
    expires_at: i64,
}

impl Session {
    /// The hash that it is known by where it has ended.
    fn hash(&self) -> [u8; 32] {
        Sha256::digest(&self.id).into()
    }
}

/// The keys, and what has ended.
pub(super) struct Sessions {
    keys: Keys,
    ended: Mutex<Ended>,
}

/// Sessions that were ended before their time, by their hash.
#[derive(Default)]
struct Ended {
    /// As PostgreSQL had them at the last look.
    known: HashSet<[u8; 32]>,
    /// By this process, which PostgreSQL may not have taken; each with its end in seconds since 1970.
    own: HashMap<[u8; 32], i64>,
}

impl Sessions {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, ended: Mutex::default() }
    }

    fn ended(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What logins at the provider are signed with.
    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The cookie's value for somebody who has shown `secret`, or for whom the provider has that `secret` stands for.
    pub(super) fn begin(&self, name: &str, groups: Vec<String>, way: Way, secret: &str) -> String {
        let session = Session {
            id: random_hex(),
            name: name.to_owned(),
            way,
            groups,
            way_proof: self.keys.sign(Purpose::Way, secret),
            expires_at: clock::now().unix_timestamp().saturating_add(LIFETIME_S),
        };
        self.keys.seal(Purpose::Session, &session)
    }

    /// The session of this cookie, where it is ours, has time left and was not ended. Whether what has let them in still does is the
    /// caller's to ask: [`Sessions::is_proof_of`].
    pub(super) fn read(&self, cookie: &str) -> Option<Session> {
        let session: Session = self.keys.open(Purpose::Session, cookie)?;
        let (ended, hash) = (self.ended(), session.hash());
        let has_ended = ended.known.contains(&hash) || ended.own.contains_key(&hash);
        (!has_ended && session.expires_at > clock::now().unix_timestamp()).then_some(session)
    }

    /// Whether it was this secret that has let them in.
    pub(super) fn is_proof_of(&self, session: &Session, secret: &str) -> bool {
        self.keys.is_ours(Purpose::Way, secret, &session.way_proof)
    }

    /// What forms of this session carry.
    pub(super) fn csrf(&self, session: &Session) -> String {
        self.form_token(&session.id)
    }

    /// What forms carry of somebody without a session.
    pub(super) fn form_token(&self, of: &str) -> String {
        self.keys.sign(Purpose::Form, of)
    }

    /// Ends it here at once, and on other replicas as soon as they look. With PostgreSQL down: here alone.
    pub(super) async fn end(&self, session: &Session, database: &Arc<Database>) {
        let (hash, now) = (session.hash(), clock::now());
        {
            let mut ended = self.ended();
            ended.own.retain(|_, expires_at| *expires_at > now.unix_timestamp());
            ended.own.insert(hash, session.expires_at);
        }
        let expires_at = OffsetDateTime::from_unix_timestamp(session.expires_at).unwrap_or(now);
        let mut connection = store::Connection::new(Arc::clone(database));
        let stored =
            connection.run(async |connection| ended_sessions::end(connection, hash, expires_at).await).await;
        connection.close().await;
        if let Err(cause) = stored {
            warn!(cause = %cause, "a session was ended here, and other replicas do not know; its cookie was taken back");
        }
    }

    /// Looks at what other replicas have ended, until `stop`.
    pub(super) async fn follow(&self, reader: &Reader, stop: &CancellationToken) {
        let mut is_behind = false;
        loop {
            let read: Result<Vec<[u8; 32]>, StoreError> =
                reader.run(async |connection| ended_sessions::list(connection).await).await;
            match read {
                Ok(ended) => {
                    self.ended().known = ended.into_iter().collect();
                    if std::mem::take(&mut is_behind) {
                        info!("sessions that other replicas end are known again");
                    }
                }
                Err(cause) if !is_behind => {
                    is_behind = true;
                    warn!(
                        cause = %cause,
                        "sessions that other replicas end are not known here; a role of before needs `payonce migrate --grant-ops` again"
                    );
                }
                Err(_) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_PAUSE) => {}
            }
        }
    }
}
