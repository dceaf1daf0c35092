//! Somebody on the line between the syncer and an API server: lets bytes pass, swallows them, or cuts the line at the worst of moments.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::port::Port;

/// A request with a body is longer than this, also encrypted; what keeps a connection going is not.
const REQUEST: usize = 300;
/// So much is said on a connection before it may be cut: a handshake, and some requests.
const BUSY: usize = 8000;
/// How long an API server may take to answer the request whose answer is to be lost.
const ANSWER: Duration = Duration::from_secs(2);

/// A port that leads to an API server; closed when dropped, with all its connections.
pub struct Between {
    server: String,
    state: Arc<State>,
    _port: Option<Port>,
    _task: JoinSet<()>,
}

#[derive(Default)]
struct State {
    /// Whether the next answer is lost.
    cut: AtomicBool,
    cuts: AtomicUsize,
    taken: AtomicUsize,
}

impl Between {
    /// Leads to the API server with this URL.
    pub async fn start(server: &str) -> anyhow::Result<Self> {
        let target = server.rsplit('/').next().unwrap_or_default().to_owned();
        let port = Port::claim()?;
        let listener = TcpListener::bind(("127.0.0.1", port.number())).await.context("could not listen")?;
        let state = Arc::new(State::default());
        let mut task = JoinSet::new();
        task.spawn(lead(listener, target, Arc::clone(&state)));
        Ok(Self { server: format!("https://127.0.0.1:{}", port.number()), state, _port: Some(port), _task: task })
    }

    /// Stands in for the API server with this URL, which does not run: takes every connection and never says a word.
    pub async fn mute(server: &str) -> anyhow::Result<Self> {
        let address = server.rsplit('/').next().unwrap_or_default();
        let listener = TcpListener::bind(address).await.with_context(|| format!("could not listen on {address}"))?;
        let state = Arc::new(State::default());
        let mut task = JoinSet::new();
        task.spawn(swallow(listener, Arc::clone(&state)));
        Ok(Self { server: server.to_owned(), state, _port: None, _task: task })
    }

    /// The URL of this end.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The next request goes through; its answer, and the connection with all that is under way on it, is lost.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::Relaxed);
    }

    /// How many answers were lost so.
    pub fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::Relaxed)
    }

    /// How many connections were taken.
    pub fn taken(&self) -> usize {
        self.state.taken.load(Ordering::Relaxed)
    }
}

async fn lead(listener: TcpListener, target: String, state: Arc<State>) {
    let mut lines = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        state.taken.fetch_add(1, Ordering::Relaxed);
        while lines.try_join_next().is_some() {}
        // Where the API server is not there, the connection ends, as it would without us.
        let Ok(far) = TcpStream::connect(&target).await else { continue };
        let state = Arc::clone(&state);
        lines.spawn(async move { pass(near, far, &state).await.unwrap_or_default() });
    }
}

async fn pass(mut near: TcpStream, mut far: TcpStream, state: &State) -> std::io::Result<()> {
    let (mut request, mut answer) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut said = 0;
    loop {
        tokio::select! {
            read = near.read(&mut request) => {
                let sent = request.get(..read?).unwrap_or_default();
                if sent.is_empty() {
                    return Ok(());
                }
                far.write_all(sent).await?;
                said += sent.len();
                if sent.len() >= REQUEST && said >= BUSY && state.cut.swap(false, Ordering::Relaxed) {
                    // Only once the answer is here is it certain that the request was acted on.
                    let _ = timeout(ANSWER, far.read(&mut answer)).await;
                    state.cuts.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
            }
            read = far.read(&mut answer) => {
                let sent = answer.get(..read?).unwrap_or_default();
                if sent.is_empty() {
                    return Ok(());
                }
                near.write_all(sent).await?;
            }
        }
    }
}

async fn swallow(listener: TcpListener, state: Arc<State>) {
    let mut lines = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        state.taken.fetch_add(1, Ordering::Relaxed);
        lines.spawn(async move {
            let mut sink = vec![0; 1 << 16];
            while near.read(&mut sink).await.is_ok_and(|length| length > 0) {}
        });
    }
}
