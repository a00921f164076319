//! A TCP proxy that knows just enough of three protocols to break a conversation at the worst moment: at a COMMIT, at an
//! acknowledgement, at the answer to a claim. Beyond that it delays, throttles, goes silent, and resets.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use super::witness::{Frames, Testimony, Witness, is_ack};

const CHUNK_BYTES: usize = 16 * 1024;
/// How often a silent proxy looks whether it may speak again.
const SILENCE_PAUSE: Duration = Duration::from_millis(20);
/// A simple query message with COMMIT in it, as sqlx sends it.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// What is done to the next messages of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// The connection is reset in place of passing on a COMMIT: it is not committed.
    CommitDropped,
    /// COMMIT is passed on, and the connection reset before its answer: it is committed, and nobody hears of it.
    CommitAnswerCut,
    /// `basic.ack` does not reach the broker.
    AckSwallowed,
    /// The connection is reset in place of passing on a confirm: the message is on the queue.
    ConfirmCut,
    /// The answer to SET NX does not come, and nothing after it on that connection.
    SetAnswerSwallowed,
    /// The connection is reset after so many more bytes.
    CutAfter(usize),
}

/// What a proxy does at the moment; shared with its connections.
#[derive(Debug)]
struct Rules {
    target: Mutex<SocketAddr>,
    is_silent: AtomicBool,
    holds_commits: AtomicBool,
    delay_ms: AtomicU64,
    /// 0: no limit.
    bytes_per_second: AtomicU64,
    trap: Mutex<Option<Trap>>,
    traps_left: AtomicU32,
    /// Times that a rule did something.
    hits: AtomicU64,
    /// Connections opened under an earlier number are reset.
    generation: watch::Sender<u64>,
    connections: AtomicU64,
    /// Of an AMQP server.
    witness: Option<Arc<Witness>>,
}

impl Rules {
    fn hit(&self) {
        self.hits.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether this trap is set; counts the use of it.
    fn spring(&self, is_it: impl Fn(Trap) -> bool) -> bool {
        let set = *self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        let one_less = |left: u32| left.checked_sub(1);
        let springs = set.is_some_and(is_it)
            && self.traps_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
        if springs {
            self.hit();
        }
        springs
    }
}

/// A listening proxy. Stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    rules: Arc<Rules>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free loopback port and passes on to `target` on loopback.
    pub async fn start(target: u16) -> anyhow::Result<Self> {
        Self::start_with(target, None).await
    }

    /// The same before an AMQP server, whose conversations the witness writes down.
    pub async fn start_amqp(target: u16, witness: Arc<Witness>) -> anyhow::Result<Self> {
        Self::start_with(target, Some(witness)).await
    }

    async fn start_with(target: u16, witness: Option<Arc<Witness>>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port for a proxy")?;
        let port = listener.local_addr()?.port();
        let rules = Arc::new(Rules {
            target: Mutex::new(loopback(target)),
            is_silent: AtomicBool::new(false),
            holds_commits: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            bytes_per_second: AtomicU64::new(0),
            trap: Mutex::new(None),
            traps_left: AtomicU32::new(0),
            hits: AtomicU64::new(0),
            generation: watch::Sender::new(0),
            connections: AtomicU64::new(0),
            witness,
        });
        let shared = Arc::clone(&rules);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, Arc::clone(&shared)));
            }
        });
        Ok(Self { port, rules, accepting })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Later connections go there.
    pub fn lead_to(&self, target: u16) {
        *self.rules.target.lock().unwrap_or_else(PoisonError::into_inner) = loopback(target);
    }

    /// Resets every connection, and says how many there were.
    pub fn reset(&self) -> u64 {
        let open = self.rules.connections.load(Ordering::SeqCst);
        self.rules.generation.send_modify(|generation| *generation += 1);
        open
    }

    /// Passes nothing on, and keeps the connections open.
    pub fn silence(&self, is_silent: bool) {
        self.rules.is_silent.store(is_silent, Ordering::SeqCst);
    }

    /// Passes on every COMMIT, and holds back the answers until it is healed: all is committed, and nobody knows.
    pub fn hold_commits(&self, holds: bool) {
        self.rules.holds_commits.store(holds, Ordering::SeqCst);
    }

    /// Delays each chunk by a random time up to twice this.
    pub fn delay(&self, mean: Duration) {
        let ms = u64::try_from(mean.as_millis()).unwrap_or(u64::MAX);
        self.rules.delay_ms.store(ms, Ordering::SeqCst);
    }

    /// Passes on so many bytes per second and direction; 0: as they come.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.rules.bytes_per_second.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Sets a trap for the next `times` messages.
    pub fn set_trap(&self, trap: Trap, times: u32) {
        *self.rules.trap.lock().unwrap_or_else(PoisonError::into_inner) = Some(trap);
        self.rules.traps_left.store(times, Ordering::SeqCst);
    }

    /// Back to passing everything on as it comes.
    pub fn heal(&self) {
        self.silence(false);
        self.hold_commits(false);
        self.delay(Duration::ZERO);
        self.throttle(0);
        *self.rules.trap.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How often a rule or trap has done something.
    pub fn hits(&self) -> u64 {
        self.rules.hits.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset();
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The two directions share what the last message means for the answer.
#[derive(Debug, Default)]
struct Conversation {
    cut_at_answer: AtomicBool,
    awaits_commit: AtomicBool,
    no_more_answers: AtomicBool,
    testimony: Mutex<Testimony>,
}

/// Why a direction ended.
enum End {
    /// A peer closed, or the network failed.
    Closed,
    /// By a rule: both peers get a reset.
    Reset,
}

async fn carry(mut client: TcpStream, rules: Arc<Rules>) {
    let mut generation = rules.generation.subscribe();
    generation.mark_unchanged();
    let target = *rules.target.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(mut server) = TcpStream::connect(target).await else {
        // The client gets the reset that a closed port would give.
        drop(client.set_zero_linger());
        return;
    };
    // Interactive protocols: Nagle's algorithm would be a fault of its own.
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    rules.connections.fetch_add(1, Ordering::SeqCst);
    let conversation = Conversation::default();
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            end = requests(from_client, to_server, &rules, &conversation) => end,
            end = answers(from_server, to_client, &rules, &conversation) => end,
            _ = generation.changed() => End::Reset,
        }
    };
    rules.connections.fetch_sub(1, Ordering::SeqCst);
    if matches!(end, End::Reset) {
        drop((client.set_zero_linger(), server.set_zero_linger()));
    }
}

async fn requests(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    rules: &Rules,
    conversation: &Conversation,
) -> End {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut frames = Frames::default();
    loop {
        let Ok(count @ 1..) = from.read(&mut chunk).await else { return End::Closed };
        let Some(bytes) = chunk.get(..count) else { return End::Closed };
        hold_back(rules, count).await;
        if contains(bytes, COMMIT) {
            conversation.awaits_commit.store(true, Ordering::SeqCst);
            if rules.spring(|trap| trap == Trap::CommitDropped) {
                return End::Reset;
            }
            if rules.spring(|trap| trap == Trap::CommitAnswerCut) {
                conversation.cut_at_answer.store(true, Ordering::SeqCst);
            }
        }
        if contains(bytes, b"\r\nNX\r\n") && rules.spring(|trap| trap == Trap::SetAnswerSwallowed) {
            conversation.no_more_answers.store(true, Ordering::SeqCst);
        }
        if rules.spring(|trap| matches!(trap, Trap::CutAfter(_))) {
            let trap = *rules.trap.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = if let Some(Trap::CutAfter(kept)) = trap { kept.min(count) } else { count };
            drop(to.write_all(bytes.get(..kept).unwrap_or_default()).await);
            return End::Reset;
        }
        let passed = match &rules.witness {
            Some(witness) => &passed_frames(&mut frames, bytes, rules, conversation, witness),
            None => bytes,
        };
        if to.write_all(passed).await.is_err() {
            return End::Closed;
        }
    }
}

async fn answers(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    rules: &Rules,
    conversation: &Conversation,
) -> End {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut frames = Frames::default();
    loop {
        let Ok(count @ 1..) = from.read(&mut chunk).await else { return End::Closed };
        if conversation.cut_at_answer.load(Ordering::SeqCst) {
            return End::Reset;
        }
        if conversation.awaits_commit.swap(false, Ordering::SeqCst)
            && rules.holds_commits.load(Ordering::SeqCst)
        {
            rules.hit();
            while rules.holds_commits.load(Ordering::SeqCst) {
                tokio::time::sleep(SILENCE_PAUSE).await;
            }
        }
        hold_back(rules, count).await;
        if conversation.no_more_answers.load(Ordering::SeqCst) {
            continue;
        }
        let bytes = chunk.get(..count).unwrap_or_default();
        if rules.witness.is_some() {
            frames.push(bytes);
            let came: Vec<Vec<u8>> = std::iter::from_fn(|| frames.next()).collect();
            // What a broker acknowledges is what it was sent.
            if came.iter().any(|frame| is_ack(frame)) && rules.spring(|trap| trap == Trap::ConfirmCut) {
                return End::Reset;
            }
            let mut testimony = conversation.testimony.lock().unwrap_or_else(PoisonError::into_inner);
            came.iter().for_each(|frame| testimony.delivered(frame));
        }
        if to.write_all(bytes).await.is_err() {
            return End::Closed;
        }
    }
}

/// Waits as long as the rules say.
async fn hold_back(rules: &Rules, count: usize) {
    if rules.is_silent.load(Ordering::SeqCst) {
        rules.hit();
        while rules.is_silent.load(Ordering::SeqCst) {
            tokio::time::sleep(SILENCE_PAUSE).await;
        }
    }
    let delay_ms = rules.delay_ms.load(Ordering::SeqCst);
    if delay_ms > 0 {
        rules.hit();
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..=2 * delay_ms))).await;
    }
    let us = (count as u64 * 1_000_000).checked_div(rules.bytes_per_second.load(Ordering::SeqCst));
    if let Some(us) = us {
        rules.hit();
        tokio::time::sleep(Duration::from_micros(us)).await;
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// An AMQP client's whole frames, without the acknowledgements that a trap swallows; the others are written down before they pass.
fn passed_frames(
    frames: &mut Frames,
    bytes: &[u8],
    rules: &Rules,
    conversation: &Conversation,
    witness: &Witness,
) -> Vec<u8> {
    frames.push(bytes);
    let mut passed = Vec::with_capacity(bytes.len());
    while let Some(frame) = frames.next() {
        if is_ack(&frame) && rules.spring(|trap| trap == Trap::AckSwallowed) {
            continue;
        }
        conversation.testimony.lock().unwrap_or_else(PoisonError::into_inner).settled(&frame, witness);
        passed.extend(frame);
    }
    passed
}
