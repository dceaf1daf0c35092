//! How long a session may go on: while its tenant exists, its certificate is good, something moves, and its time is not over.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use common::Uid;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::credentials::Credentials;
use crate::identity::Caller;
use crate::relay::Counters;
use crate::tenants::Tenants;

/// How often a session is looked at where nothing is known to have changed: a certificate that expires is felt within this.
const INTERVAL: Duration = Duration::from_secs(15);

/// Bounds of sessions.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions of one tenant at once.
    pub per_tenant: usize,
    /// Sessions of all.
    pub all: usize,
    /// Longest silence in both directions.
    pub idle: Duration,
    /// Longest life.
    pub total: Duration,
}

/// Why a session was ended from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The tenant is gone.
    Revoked,
    /// The certificate has expired or is revoked.
    Certificate,
    /// Nothing moved for too long.
    Idle,
    /// Its time is over.
    Total,
}

impl End {
    /// One word, for logs and metrics.
    pub const fn outcome(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Certificate => "certificate",
            Self::Idle => "idle",
            Self::Total => "total",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Revoked => "the tenant does not exist any more",
            Self::Certificate => "the client certificate has expired or is revoked",
            Self::Idle => "nothing was sent for too long",
            Self::Total => "the session has lasted as long as one may",
        })
    }
}

impl std::error::Error for End {}

/// What a session's right to go on hangs on.
#[derive(Clone)]
pub struct Guard {
    /// Who it is for.
    pub caller: Caller,
    /// The certificates that the caller showed, leaf first.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// The serial number of the leaf.
    pub serial: Arc<str>,
    /// Which tenants there are.
    pub tenants: watch::Receiver<Arc<Tenants>>,
    /// Whom certificates must come from.
    pub credentials: watch::Receiver<Arc<Credentials>>,
    /// How long it may take.
    pub limits: Limits,
    /// What has moved.
    pub counters: Arc<Counters>,
}

impl Guard {
    /// Waits until the session must end.
    pub async fn ended(mut self) -> End {
        let began = Instant::now();
        let (mut moved, mut at) = (self.counters.total(), began);
        let mut tick = interval(INTERVAL.min(self.limits.idle / 4).max(Duration::from_millis(10)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Whoever publishes is gone only when the process ends.
            tokio::select! {
                Ok(()) = self.tenants.changed() => {}
                Ok(()) = self.credentials.changed() => {}
                _ = tick.tick() => {}
            }
            let tenants = Arc::clone(&self.tenants.borrow_and_update());
            if tenants.name(self.caller.tenant).is_none() {
                return End::Revoked;
            }
            if tenants.has_revoked(self.caller.tenant, &self.serial) {
                return End::Certificate;
            }
            if !self.credentials.borrow_and_update().is_good(&self.chain) {
                return End::Certificate;
            }
            let now = self.counters.total();
            if now != moved {
                (moved, at) = (now, Instant::now());
            }
            if at.elapsed() >= self.limits.idle {
                return End::Idle;
            }
            if began.elapsed() >= self.limits.total {
                return End::Total;
            }
        }
    }
}

/// How many there are by tenant of what its owner counts: sessions, connections, pages that are open.
#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<HashMap<Uid, usize>>>);

/// Why there is no place. Whoever asked says for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The tenant has as many as one may have.
    #[error("this tenant has as many as one may have ({0})")]
    Tenant(usize),
    /// The node has.
    #[error("there are as many as there may be ({0})")]
    All(usize),
}

impl Places {
    /// Takes a place for one more of a tenant.
    pub fn take(&self, tenant: Uid, limits: &Limits) -> Result<Taken, Full> {
        let mut places = self.0.lock();
        if places.values().sum::<usize>() >= limits.all {
            return Err(Full::All(limits.all));
        }
        let own = places.entry(tenant).or_default();
        if *own >= limits.per_tenant {
            return Err(Full::Tenant(limits.per_tenant));
        }
        *own += 1;
        Ok(Taken { tenant, places: self.clone() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().values().sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A place; given back when dropped.
pub struct Taken {
    tenant: Uid,
    places: Places,
}

impl Taken {
    /// The places of which it is one.
    pub fn all(&self) -> Places {
        self.places.clone()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut places = self.places.0.lock();
        if let Some(own) = places.get_mut(&self.tenant) {
            *own -= 1;
            if *own == 0 {
                places.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { per_tenant: 2, all: 3, idle: Duration::from_mins(1), total: Duration::from_mins(10) };

    #[test]
    fn one_tenant_cannot_take_all_places() {
        let places = Places::default();
        let (a, b) = (Uid::from_bits(1), Uid::from_bits(2));
        let first = places.take(a, &LIMITS).unwrap();
        let _second = places.take(a, &LIMITS).unwrap();
        assert_eq!(places.take(a, &LIMITS).err(), Some(Full::Tenant(2)));
        let _other = places.take(b, &LIMITS).unwrap();
        assert_eq!(places.take(b, &LIMITS).err(), Some(Full::All(3)));
        drop(first);
        assert!(places.take(a, &LIMITS).is_ok());
    }

    /// A guard for hours, as the flags have it if nothing is said.
    async fn guard(limits: Limits) -> Guard {
        let dir = std::env::temp_dir().join(format!("vn-agent-guard-{}-{}", std::process::id(), limits.total.as_secs()));
        std::fs::create_dir_all(&dir).unwrap();
        let long = Duration::from_hours(100);
        let ca = pki::Authority::create("agents", long).unwrap();
        let local = vec!["127.0.0.1".parse().unwrap()];
        let serving = ca.issue(&pki::Leaf::Agent { node: "n1".to_owned(), addresses: local }, long).unwrap();
        let write = |file: &str, text: &str| {
            let path = dir.join(file);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = crate::credentials::CredentialArgs {
            client_ca_file: write("ca.crt", ca.certificate()),
            client_crl_file: None,
            tls_cert_file: write("tls.crt", &serving.certificate),
            tls_key_file: write("tls.key", &serving.key),
        };
        let (credentials, _) = crate::credentials::Source::new(files, None).load().await.unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        let uid = Uid::from_bits(1);
        let leaf = ca.issue(&pki::Leaf::Tenant(uid), long).unwrap();
        let chain: Vec<_> = rustls::pki_types::pem::PemObject::pem_slice_iter(leaf.certificate.as_bytes()).map(Result::unwrap).collect();
        Guard {
            caller: Caller { tenant: uid, scope: crate::identity::Scope::Everything },
            chain: chain.into(),
            serial: "1".into(),
            tenants: watch::channel(Arc::new(Tenants::from_iter([(uid, "acme".to_owned())]))).1,
            credentials: watch::channel(Arc::new(credentials)).1,
            limits,
            counters: Arc::default(),
        }
    }

    const HOUR: Duration = Duration::from_hours(1);

    /// How a session ends, and when, in which `lines` come at this distance. Time is paused: nobody waits for it.
    async fn lasts(total: Duration, distance: Duration, lines: u32) -> (End, Duration) {
        let guard = guard(Limits { idle: 4 * HOUR, total, ..LIMITS }).await;
        let (counters, began) = (Arc::clone(&guard.counters), Instant::now());
        let lines = async {
            for _ in 0..lines {
                tokio::time::sleep(distance).await;
                counters.received.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            end = guard.ended() => (end, began.elapsed()),
            () = lines => unreachable!("it never ends"),
        }
    }

    /// What is followed for hours lasts: a line an hour is enough, and only silence or the end of its time ends it.
    #[tokio::test(start_paused = true)]
    async fn a_session_lasts_for_hours_while_a_line_comes_now_and_then() {
        let (end, lasted) = lasts(24 * HOUR, HOUR, 10).await;
        assert_eq!(end, End::Idle);
        assert!(lasted >= 14 * HOUR && lasted < 14 * HOUR + 2 * INTERVAL, "{lasted:?}: silent for four hours after the tenth line");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_never_falls_silent_ends_when_its_time_is_over() {
        let (end, lasted) = lasts(12 * HOUR, Duration::from_secs(7), u32::MAX).await;
        assert_eq!(end, End::Total);
        assert!(lasted >= 12 * HOUR && lasted < 12 * HOUR + 2 * INTERVAL, "{lasted:?}");
    }

    #[test]
    fn places_are_given_back_without_a_trace() {
        let places = Places::default();
        drop(places.take(Uid::from_bits(1), &LIMITS).unwrap());
        assert!(places.is_empty() && places.0.lock().is_empty());
    }
}
