//! How a tenant's control plane is reached: its kubeconfig is read, the control plane asked who it is, and asked again where it is in doubt.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::api::VirtualCluster;
use common::{Namespace, Tenant, Uid, name};
use kube::ResourceExt;
use rand::Rng;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Machine;
use crate::remote::Remote;
use crate::tenant::Attached;
use crate::virtual_cluster::connect::{self, Answer, Trouble};
use crate::virtual_cluster::decide::{State, is_doubtful};
use crate::virtual_cluster::kubeconfig::{Found, find};

/// Least time between two readings of a kubeconfig that the API server does not accept.
const REREAD: Duration = Duration::from_secs(5);

/// How long an attached control plane may be silent before people are told: its informers go on trying meanwhile.
const MOMENT: Duration = Duration::from_secs(3);

/// Time between two questions to a control plane that is not attached, or was silent, after it answered.
const ASK_AGAIN: Duration = Duration::from_secs(15);

/// What is known of the kubeconfig.
pub(super) enum Source {
    Unread,
    Nothing { reason: &'static str, message: String },
    Usable { fingerprint: String, remote: Remote<Tenant> },
}

/// A control plane that has answered.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) fingerprint: String,
    pub(super) remote: Remote<Tenant>,
    /// What it said when it was last asked.
    pub(super) incarnation: Uid,
    /// Where its storage stood then.
    pub(super) version: u64,
    /// The highest version that a super copy had been built from before it was asked.
    pub(super) built: u64,
}

impl Machine {
    /// Reads the kubeconfig, if it is time.
    pub(super) async fn read_kubeconfig(&mut self, vc: &VirtualCluster) {
        let read_for = ReadFor::from(vc);
        let is_moved = self.read_for.as_ref() != Some(&read_for);
        let is_stale = self.is_stale() && self.read_at.is_none_or(|at| at.elapsed() >= REREAD);
        if !is_moved && !is_stale && !self.reading.is_due() {
            return;
        }
        let found = find(&self.shared.client, vc, self.shared.allow_annotation).await;
        self.read_at = Some(Instant::now());
        self.read_for = Some(read_for);
        match found {
            Found::Text(text) => {
                self.offer(&text);
                if matches!(self.source, Source::Usable { .. }) {
                    let share: f64 = rand::rng().random_range(0.8..1.2);
                    self.reading.succeeded(self.shared.kubeconfig_interval.mul_f64(share));
                } else {
                    // Somebody mends it and waits, as where there is none.
                    self.reading.failed();
                }
            }
            Found::Nothing(reason, message) => {
                self.reading.failed();
                self.source = Source::Nothing { reason, message };
            }
            Found::Forbidden(message) => {
                self.reading.failed();
                // What was read before stays good: this says nothing about it.
                if !matches!(self.source, Source::Usable { .. }) {
                    self.source = Source::Nothing { reason: "KubeconfigForbidden", message };
                }
            }
            Found::Failed(error) => {
                self.reading.failed();
                warn!(tenant = %self.id, error, "kubeconfig could not be read");
            }
        }
    }

    /// Whether the kubeconfig may be out of date.
    fn is_stale(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.stale)
            || self.attached.is_some() && self.shared.engine.health(self.id.as_str()).is_some_and(|health| health.unauthorized)
    }

    /// Takes a kubeconfig that was read; the same as before is no news.
    fn offer(&mut self, text: &[u8]) {
        let fingerprint = name::hash26(&[&String::from_utf8_lossy(text)]);
        if matches!(&self.source, Source::Usable { fingerprint: known, .. } if *known == fingerprint) {
            return;
        }
        self.source = match connect::remote(text, &self.shared.template) {
            Ok(remote) => {
                self.asking.now();
                Source::Usable { fingerprint, remote }
            }
            Err(message) => Source::Nothing { reason: "KubeconfigRefused", message },
        };
    }

    /// The control plane that the newest kubeconfig leads to; the earlier one as long as the newest leads nowhere.
    pub(super) async fn connected(&mut self) -> Result<Connection, State> {
        let (fingerprint, remote) = match &self.source {
            Source::Unread => return Err(State::Starting { connected: false }),
            Source::Nothing { reason, message } => {
                let state = State::NoKubeconfig { reason, message: message.clone() };
                self.detach("no usable kubeconfig");
                self.connection = None;
                self.trouble = None;
                self.shared.planes.tried(self.created, self.id.uid());
                self.shared.planes.release(self.id.uid());
                return Err(state);
            }
            Source::Usable { fingerprint, remote } => (fingerprint.clone(), remote.clone()),
        };
        if let Some(connection) = self.connection.as_ref().filter(|connection| connection.fingerprint == fingerprint) {
            return Ok(connection.clone());
        }
        if self.asking.is_due() {
            let built = self.built();
            match self.ask(&remote).await {
                Ok(Answer { incarnation, version }) => {
                    let connection = Connection { fingerprint, remote, incarnation, version, built };
                    self.connection = Some(connection.clone());
                    return Ok(connection);
                }
                Err(trouble) => {
                    self.shared.planes.tried(self.created, self.id.uid());
                    self.worry(trouble);
                }
            }
        }
        match (&self.connection, &self.trouble) {
            (Some(earlier), _) => Ok(earlier.clone()),
            (None, Some(trouble)) => Err(unreachable(trouble)),
            (None, None) => Err(State::Starting { connected: false }),
        }
    }

    /// Asks a control plane who it is, and paces the next question.
    async fn ask(&mut self, remote: &Remote<Tenant>) -> Result<Answer, Trouble> {
        let began = *self.silent_since.get_or_insert_with(Instant::now);
        let answer = connect::ask(remote).await;
        match &answer {
            Ok(_) => {
                self.asking.succeeded(ASK_AGAIN);
                self.silent_since = None;
                if self.trouble.take().is_some() {
                    info!(tenant = %self.id, virtual_cluster = self.label, after = ?began.elapsed(), "control plane answers");
                }
            }
            Err(_) => self.asking.failed(),
        }
        answer
    }

    /// Takes note of a failure; the same again is no news for the log.
    fn worry(&mut self, trouble: Trouble) {
        if self.trouble.as_ref().map(|known| known.reason) != Some(trouble.reason) {
            warn!(tenant = %self.id, virtual_cluster = self.label, reason = trouble.reason, error = trouble.message, "control plane does not answer");
        }
        self.trouble = Some(trouble);
    }

    /// Asks again where there is reason to doubt that the control plane is there and the same.
    pub(super) async fn still_there(&mut self, mut connection: Connection) -> Result<Connection, State> {
        let health = self.attached.as_ref().and_then(|_| self.shared.engine.health(self.id.as_str()));
        let is_silent = health.as_ref().is_none_or(is_doubtful);
        let is_other = self.attached.as_ref().is_some_and(|(_, attached)| shows_other_life(attached));
        // Its informers hear it again: before they say what is missing now, is it the same?
        let is_back = self.trouble.is_some() && health.is_some_and(|health| health.unreachable.is_none());
        if self.trouble.is_some() || is_other || is_silent {
            if self.asking.is_due() || is_other || is_back {
                let built = self.built();
                match self.ask(&connection.remote.clone()).await {
                    Ok(Answer { incarnation, version }) => {
                        self.shared.engine.known_again(self.id.as_str());
                        if self.attached.as_ref().is_some_and(|(_, attached)| attached.incarnation == incarnation) {
                            self.shared.engine.recognized(self.id.as_str());
                        }
                        connection = Connection { incarnation, version, built, ..connection };
                    }
                    Err(trouble) => self.worry(trouble),
                }
                self.connection = Some(connection.clone());
            }
            let is_lasting = self.silent_since.is_some_and(|since| since.elapsed() >= MOMENT);
            if let Some(trouble) = &self.trouble
                && (self.attached.is_none() || is_lasting)
            {
                return Err(unreachable(trouble));
            }
        }
        Ok(connection)
    }
}

/// Whether the informers see another `kube-system` than the one that was attached.
fn shows_other_life(attached: &Attached) -> bool {
    if attached.cancel.is_cancelled() {
        return false;
    }
    let seen = Namespace::parse("kube-system").ok().and_then(|namespace| attached.tenant_namespaces.get(&namespace).map(|uid| *uid));
    let is_other = seen.is_some_and(|uid| uid != attached.incarnation);
    if is_other {
        // At once, before anything that its informers miss counts as deleted.
        attached.halted.store(true, Ordering::Relaxed);
    }
    is_other
}

fn unreachable(trouble: &Trouble) -> State {
    State::Unreachable { reason: trouble.reason, message: trouble.message.clone() }
}

/// What of a VirtualCluster makes its kubeconfig be read again: all that people write, but not our own writes to the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReadFor {
    generation: Option<i64>,
    annotations: BTreeMap<String, String>,
    root: Option<String>,
}

impl From<&VirtualCluster> for ReadFor {
    fn from(vc: &VirtualCluster) -> Self {
        let root = vc.status.as_ref().and_then(|status| status.cluster_namespace.clone());
        Self { generation: vc.metadata.generation, annotations: vc.annotations().clone(), root }
    }
}
