//! Messages to the broker: signed, published with `mandatory`, and confirmed, all of a request or none. The broker down, blocked, full or
//! silent: a refusal within [`CONFIRM_DEADLINE`], never a wait without end. What must not live here: HTTP.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{clock, endpoint::Message};
use crate::{
    broker::{Link, Names},
    config::{RetryConfig, Secret, TlsConfig},
    keys::Keys,
    retry::Pauses,
};

/// How long a request waits for the broker's confirm (contract §8). Providers time out after 4 s at the earliest.
pub const CONFIRM_DEADLINE: Duration = Duration::from_secs(3);
/// Messages without a confirm that are kept at most, in KiB; beyond it requests are refused. A broker in alarm confirms nothing for hours.
const UNCONFIRMED_KIB_MAX: usize = 65_536;
/// How often the connection is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Why a request's messages are not all on the queue. Some may be: they are sent again with the request, and the copies are rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotPublished {
    /// There is no connection, or the broker takes nothing.
    #[error("the broker is unreachable or blocked")]
    Unreachable,
    /// Too much waits for a confirm already.
    #[error("too many messages wait for the broker's confirm")]
    Full,
    /// No confirm in time.
    #[error("the broker has not confirmed in time")]
    Late,
    /// The broker refused a message, or returned it as unroutable.
    #[error("the broker refused or returned a message")]
    Refused,
    /// The keys file has no key that can sign for the source.
    #[error("no key can sign for the source")]
    NoKey,
}

/// Where messages go out.
#[derive(Clone)]
pub struct Outbox {
    link: watch::Receiver<Option<Arc<Link>>>,
    keys: Keys,
    unconfirmed: Arc<Semaphore>,
}

/// What a connection needs.
pub struct Address {
    /// Where the broker is.
    pub url: Secret,
    /// The connection's name.
    pub name: String,
    /// Certificates.
    pub tls: TlsConfig,
    /// The instance's objects.
    pub names: Names,
    /// Channels.
    pub channels: usize,
    /// Pauses between tries.
    pub retry: RetryConfig,
}

impl Outbox {
    /// An outbox, and what keeps it connected until `stop`.
    pub fn new(
        address: Address,
        keys: Keys,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, link) = watch::channel(None);
        let unconfirmed = Arc::new(Semaphore::new(UNCONFIRMED_KIB_MAX));
        (Self { link, keys, unconfirmed }, keep_connected(address, sender, stop))
    }

    /// Whether a request would find the broker now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.link.borrow().as_ref().is_some_and(|link| link.takes_messages())
    }

    /// Signs and publishes all messages, and waits until the broker has every one.
    ///
    /// # Errors
    /// [`NotPublished`], after [`CONFIRM_DEADLINE`] at the latest.
    pub async fn publish(&self, source: &str, messages: Vec<Message>) -> Result<(), NotPublished> {
        if messages.is_empty() {
            return Ok(());
        }
        let link = self
            .link
            .borrow()
            .clone()
            .filter(|link| link.takes_messages())
            .ok_or(NotPublished::Unreachable)?;
        let kib = messages.iter().map(|message| message.body.len() / 1_024 + 1).sum::<usize>();
        let kib = u32::try_from(kib).map_err(|_| NotPublished::Full)?;
        let permit = Arc::clone(&self.unconfirmed).try_acquire_many_owned(kib);
        let permit = permit.map_err(|_| NotPublished::Full)?;
        let keyring = self.keys.current();
        let source = source.to_owned();
        // What is on its way stays counted until the broker has answered, also where the request has gone.
        let sending = Finished::whatever_happens(async move {
            let _permit = permit;
            let now_s = clock::now().as_secs();
            let mut confirms = Vec::with_capacity(messages.len());
            for message in &messages {
                // What is no callback is told apart by its signature too: all copies of a request have the same one.
                let at_s = if message.is_callback { now_s } else { 0 };
                let signed = keyring.sign(&source, &message.id, at_s, &message.body);
                let signature = signed.map_err(|_| NotPublished::NoKey)?.unwrap_or_default();
                let sent = link.publish(&message.routing_key, &message.body, &signature).await;
                confirms.push(sent.map_err(|_| NotPublished::Unreachable)?);
            }
            let mut result = Ok(());
            for confirm in confirms {
                if confirm.wait().await.is_err() {
                    result = Err(NotPublished::Refused);
                }
            }
            result
        });
        tokio::time::timeout(CONFIRM_DEADLINE, sending).await.unwrap_or(Err(NotPublished::Late))
    }
}

/// A future that goes on by itself where it is dropped before its end. Most are not: for these a task of their own would be a detour.
struct Finished<T>(Option<Pin<Box<dyn Future<Output = T> + Send>>>)
where
    T: Send + 'static;

impl<T: Send + 'static> Finished<T> {
    fn whatever_happens(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<T: Send + 'static> Future for Finished<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(future) = &mut self.0 else { return Poll::Pending };
        let done = future.as_mut().poll(cx);
        if done.is_ready() {
            self.0 = None;
        }
        done
    }
}

impl<T: Send + 'static> Drop for Finished<T> {
    fn drop(&mut self) {
        if let (Some(rest), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            drop(runtime.spawn(rest));
        }
    }
}

async fn keep_connected(address: Address, sender: watch::Sender<Option<Arc<Link>>>, stop: CancellationToken) {
    let mut pauses = Pauses::new(address.retry);
    while !stop.is_cancelled() {
        let Address { url, name, tls, names, channels, .. } = &address;
        let opened = tokio::select! {
            opened = Link::open(url.expose(), name, tls, names, *channels) => opened,
            () = stop.cancelled() => break,
        };
        match opened {
            Err(cause) => {
                let pause = pauses.next_pause();
                warn!(cause = %cause, pause_ms = pause.as_millis(), "no connection to RabbitMQ; webhooks are answered with 503");
                tokio::select! { () = tokio::time::sleep(pause) => {}, () = stop.cancelled() => break }
            }
            Ok(link) => {
                pauses.reset();
                info!("connected to RabbitMQ");
                let link = Arc::new(link);
                sender.send_replace(Some(Arc::clone(&link)));
                while link.is_connected() && !stop.is_cancelled() {
                    tokio::select! { () = tokio::time::sleep(LOOK_PAUSE) => {}, () = stop.cancelled() => {} }
                }
                sender.send_replace(None);
                // Where requests still hold it, it closes with the last of them.
                if let Ok(link) = Arc::try_unwrap(link) {
                    link.close().await;
                }
            }
        }
    }
}
