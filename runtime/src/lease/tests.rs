//! Candidates against a store in memory, in paused time: what two processes and an API server can do to each other.

use std::sync::Arc;

use k8s_openapi::{api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, advance, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// What every candidate sees.
#[derive(Debug, Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    lease: Option<Lease>,
    version: u64,
    writes: usize,
}

/// What happens to the calls of one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Up,
    /// Calls never arrive and are never answered.
    Down,
    /// Calls arrive, answers don't.
    Deaf,
    /// Calls are answered with an error.
    Failing,
}

#[derive(Debug, Clone)]
struct Client {
    server: Server,
    network: Arc<Mutex<Network>>,
}

impl Server {
    fn client(&self) -> Client {
        Client { server: self.clone(), network: Arc::new(Mutex::new(Network::Up)) }
    }

    fn spec(&self) -> LeaseSpec {
        self.0.lock().lease.clone().and_then(|lease| lease.spec).expect("there is a lease")
    }

    fn edit(&self, edit: impl FnOnce(&mut Lease)) {
        let mut state = self.0.lock();
        state.version += 1;
        let version = state.version.to_string();
        let lease = state.lease.as_mut().expect("there is a lease");
        edit(lease);
        lease.metadata.resource_version = Some(version);
    }

    fn write(&self, lease: &Lease) -> Lease {
        let mut state = self.0.lock();
        state.version += 1;
        state.writes += 1;
        let mut lease = lease.clone();
        lease.metadata.resource_version = Some(state.version.to_string());
        state.lease = Some(lease.clone());
        lease
    }

    fn create(&self, lease: &Lease) -> Result<Lease, StoreError> {
        if self.0.lock().lease.is_some() {
            return Err(StoreError::Conflict);
        }
        Ok(self.write(lease))
    }

    fn replace(&self, lease: &Lease) -> Result<Lease, StoreError> {
        let version = self.0.lock().lease.as_ref().map(|lease| lease.metadata.resource_version.clone());
        let Some(version) = version else { return Err(StoreError::Missing) };
        assert!(lease.metadata.resource_version.is_some(), "never an unconditional write");
        if version != lease.metadata.resource_version {
            return Err(StoreError::Conflict);
        }
        Ok(self.write(lease))
    }
}

impl Client {
    fn set(&self, network: Network) {
        *self.network.lock() = network;
    }

    async fn call<T>(&self, call: impl FnOnce(&Server) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let network = *self.network.lock();
        match network {
            Network::Up => call(&self.server),
            Network::Failing => Err(StoreError::Failed("the server is on fire".into())),
            Network::Down => std::future::pending().await,
            Network::Deaf => {
                let _ = call(&self.server);
                std::future::pending().await
            }
        }
    }
}

impl LeaseStore for Client {
    async fn get(&self, _: &str) -> Result<Option<Lease>, StoreError> {
        self.call(|server| Ok(server.0.lock().lease.clone())).await
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, StoreError> {
        self.call(|server| server.create(lease)).await
    }

    async fn replace(&self, _: &str, lease: &Lease) -> Result<Lease, StoreError> {
        self.call(|server| server.replace(lease)).await
    }
}

fn config(identity: &str) -> Config {
    let config = Config {
        name: "vc-test".to_owned(),
        identity: identity.to_owned(),
        lease_duration: 15 * SECOND,
        renew_deadline: 10 * SECOND,
        retry_period: 2 * SECOND,
    };
    config.validate().unwrap();
    config
}

fn candidate(client: &Client, identity: &str) -> Candidate<Client> {
    Candidate::new(client.clone(), config(identity))
}

/// A leader that renews in the background.
struct Leader {
    client: Client,
    held: Held,
    stop: CancellationToken,
    keeping: JoinSet<Result<(), LeaseLost>>,
}

async fn leader(server: &Server, identity: &str) -> Leader {
    let client = server.client();
    let term = candidate(&client, identity).acquire().await;
    let (held, stop) = (term.held(), CancellationToken::new());
    let mut keeping = JoinSet::new();
    keeping.spawn(term.keep(stop.clone()));
    Leader { client, held, stop, keeping }
}

impl Leader {
    async fn end(&mut self) -> Result<(), LeaseLost> {
        self.keeping.join_next().await.unwrap().unwrap()
    }
}

/// Candidates wait for the rest of the duration, and one period between looks.
const TAKEOVER: Duration = Duration::from_secs(15 + 3);

#[tokio::test(start_paused = true)]
async fn the_first_candidate_leads_and_keeps_renewing() {
    let server = Server::default();
    let leader = leader(&server, "a").await;
    let spec = server.spec();
    assert_eq!(spec.holder_identity.as_deref(), Some("a"));
    assert_eq!((spec.lease_duration_seconds, spec.lease_transitions), (Some(15), Some(1)));
    assert_eq!(leader.held.epoch(), 1);
    for _ in 0..600 {
        sleep(SECOND).await;
        assert_eq!(leader.held.check(), Ok(()));
        assert!(leader.held.remaining() > 7 * SECOND);
    }
    let writes = server.0.lock().writes;
    assert!((250..=375).contains(&writes), "one write every two seconds, not {writes}");
}

#[tokio::test(start_paused = true)]
async fn the_second_candidate_waits_as_long_as_the_first_renews() {
    let server = Server::default();
    let _leader = leader(&server, "a").await;
    let second = candidate(&server.client(), "b").acquire();
    assert!(timeout(3600 * SECOND, second).await.is_err());
    assert_eq!(server.spec().lease_transitions, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_reach_the_server_stops_before_a_successor_starts() {
    for network in [Network::Down, Network::Failing, Network::Deaf] {
        let server = Server::default();
        let mut first = leader(&server, "a").await;
        sleep(60 * SECOND).await;
        first.client.set(network);
        let cut = Instant::now();
        let second = server.client();
        let mut successor = JoinSet::new();
        successor.spawn(async move { candidate(&second, "b").acquire().await });
        assert_eq!(first.end().await, Err(LeaseLost { epoch: 1 }), "{network:?}");
        let stopped = cut.elapsed();
        assert!(stopped <= 10 * SECOND, "{network:?}: {stopped:?}");
        assert!(first.held.check().is_err());
        assert!(timeout(4 * SECOND, successor.join_next()).await.is_err(), "{network:?}: the slack was kept");
        let term = successor.join_next().await.unwrap().unwrap();
        assert_eq!(term.held().epoch(), 2);
        assert!(cut.elapsed() <= 10 * SECOND + TAKEOVER, "{network:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_bridged() {
    for network in [Network::Down, Network::Failing, Network::Deaf] {
        let server = Server::default();
        let leader = leader(&server, "a").await;
        for _ in 0..20 {
            sleep(10 * SECOND).await;
            leader.client.set(network);
            sleep(3 * SECOND).await;
            leader.client.set(Network::Up);
            assert_eq!(leader.held.check(), Ok(()), "{network:?}");
        }
        assert_eq!(server.spec().lease_transitions, Some(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_leader_finds_its_token_void_before_anything_else_runs() {
    let server = Server::default();
    let mut first = leader(&server, "a").await;
    sleep(5 * SECOND).await;
    // Time goes on while nothing of this process runs, as under SIGSTOP.
    let writes = server.0.lock().writes;
    advance(10 * SECOND).await;
    assert!(first.held.check().is_err(), "checked by a writer that was about to write");
    assert_eq!(first.end().await, Err(LeaseLost { epoch: 1 }));
    assert_eq!(server.0.lock().writes, writes, "no renewal of a lapsed term");
}

#[tokio::test(start_paused = true)]
async fn a_leader_paused_past_its_successor_does_not_disturb_it() {
    let server = Server::default();
    let mut first = leader(&server, "a").await;
    sleep(5 * SECOND).await;
    first.client.set(Network::Down);
    let _ = first.end().await;
    let second = leader(&server, "b").await;
    first.client.set(Network::Up);
    sleep(60 * SECOND).await;
    assert!(first.held.check().is_err());
    assert_eq!(second.held.check(), Ok(()));
    assert_eq!(server.spec().holder_identity.as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn of_two_who_see_a_free_lease_one_wins() {
    for _ in 0..50 {
        let server = Server::default();
        let (a, b) = (server.client(), server.client());
        let mut race = JoinSet::new();
        race.spawn(async move { candidate(&a, "a").acquire().await });
        race.spawn(async move { candidate(&b, "b").acquire().await });
        let term = race.join_next().await.unwrap().unwrap();
        let mut keeping = JoinSet::new();
        keeping.spawn(term.keep(CancellationToken::new()));
        assert!(timeout(300 * SECOND, race.join_next()).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_over_at_once_and_the_token_is_void_first() {
    let server = Server::default();
    let mut first = leader(&server, "a").await;
    let second = server.client();
    let mut successor = JoinSet::new();
    successor.spawn(async move { candidate(&second, "b").acquire().await });
    sleep(60 * SECOND).await;
    first.stop.cancel();
    let released = Instant::now();
    assert_eq!(first.end().await, Ok(()));
    assert!(first.held.check().is_err());
    let term = successor.join_next().await.unwrap().unwrap();
    assert!(released.elapsed() < 3 * SECOND, "{:?}", released.elapsed());
    assert_eq!(term.held().epoch(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_label_from_a_stranger_costs_no_term() {
    let server = Server::default();
    let leader = leader(&server, "a").await;
    for n in 0..20 {
        server.edit(|lease| {
            lease.metadata.labels.get_or_insert_default().insert("n".to_owned(), n.to_string());
        });
        sleep(3 * SECOND).await;
        assert_eq!(leader.held.check(), Ok(()));
    }
    let labels = server.0.lock().lease.clone().unwrap().metadata.labels.unwrap();
    assert_eq!(labels["n"], "19", "and the label stays");
}

#[tokio::test(start_paused = true)]
async fn a_lease_taken_by_force_or_deleted_ends_the_term_at_the_next_renewal() {
    let server = Server::default();
    let mut first = leader(&server, "a").await;
    server.edit(|lease| lease.spec.as_mut().unwrap().holder_identity = Some("admin".to_owned()));
    assert!(timeout(3 * SECOND, first.end()).await.unwrap().is_err());

    let server = Server::default();
    let mut first = leader(&server, "a").await;
    let second = server.client();
    let mut successor = JoinSet::new();
    successor.spawn(async move { candidate(&second, "b").acquire().await });
    sleep(5 * SECOND).await;
    server.0.lock().lease = None;
    let deleted = Instant::now();
    assert!(timeout(3 * SECOND, first.end()).await.unwrap().is_err());
    let term = successor.join_next().await.unwrap().unwrap();
    assert!(deleted.elapsed() > 10 * SECOND, "whoever saw a holder waits for it");
    assert_eq!(term.held().epoch(), 2, "the epoch goes on");
}

#[tokio::test(start_paused = true)]
async fn no_timestamp_of_another_matters() {
    for offset in [-3600, 3600] {
        let server = Server::default();
        let leader = leader(&server, "a").await;
        let tamper = server.clone();
        // A clock that is off by an hour and jitters: what others read, they ignore.
        let mut skew = JoinSet::new();
        skew.spawn(async move {
            loop {
                let micros = Timestamp::now().as_microsecond() + offset * 1_000_000;
                let time = MicroTime(Timestamp::from_microsecond(micros).unwrap());
                tamper.edit(|lease| lease.spec.as_mut().unwrap().renew_time = Some(time));
                sleep(SECOND).await;
            }
        });
        assert!(timeout(120 * SECOND, candidate(&server.client(), "b").acquire()).await.is_err());
        assert_eq!(leader.held.check(), Ok(()));
    }
    // A record that is not renewed is waited out in full, however old or young it says it is.
    for offset in [-3600, 3600] {
        let server = Server::default();
        drop(candidate(&server.client(), "a").acquire().await);
        let micros = Timestamp::now().as_microsecond() + offset * 1_000_000;
        let time = MicroTime(Timestamp::from_microsecond(micros).unwrap());
        server.edit(|lease| lease.spec.as_mut().unwrap().renew_time = Some(time));
        let start = Instant::now();
        candidate(&server.client(), "b").acquire().await;
        assert!(start.elapsed() >= 15 * SECOND && start.elapsed() <= TAKEOVER, "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_with_a_longer_duration_is_given_its_time() {
    let server = Server::default();
    drop(candidate(&server.client(), "a").acquire().await);
    server.edit(|lease| lease.spec.as_mut().unwrap().lease_duration_seconds = Some(60));
    let start = Instant::now();
    candidate(&server.client(), "b").acquire().await;
    assert!(start.elapsed() >= 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_acquiring_that_comes_too_late_gives_no_valid_token() {
    let server = Server::default();
    let client = server.client();
    client.set(Network::Deaf);
    let acquiring = candidate(&client, "a").acquire();
    assert!(timeout(60 * SECOND, acquiring).await.is_err(), "no answer, no term");
    client.set(Network::Up);
    let term = candidate(&client, "a").acquire().await;
    assert_eq!(term.held().check(), Ok(()), "our own name in the record is no obstacle");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_term_voids_its_token() {
    let server = Server::default();
    let term = candidate(&server.client(), "a").acquire().await;
    let held = term.held();
    drop(term);
    assert!(held.check().is_err());
}

mod flags {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        lease: LeaseArgs,
    }

    fn args(flags: &[&str]) -> LeaseArgs {
        Program::parse_from(["program"].into_iter().chain(flags.iter().copied())).lease
    }

    #[test]
    fn the_defaults_fit_together() {
        let args = args(&[]);
        assert!(args.leader_elect);
        let config = args.config("vc-syncer").unwrap();
        assert_eq!((config.name.as_str(), config.lease_seconds()), ("vc-syncer", 15));
        assert_ne!(config.identity, args.config("vc-syncer").unwrap().identity, "unique to a run");
    }

    #[test]
    fn election_can_be_switched_off() {
        assert!(!args(&["--leader-elect=false"]).leader_elect);
        assert!(args(&["--leader-elect"]).leader_elect);
    }

    #[test]
    fn durations_that_would_allow_two_leaders_are_refused() {
        for (flag, error) in [
            ("--renew-deadline=15s", ConfigError::DeadlineTooLong),
            ("--lease-duration=5s", ConfigError::DeadlineTooLong),
            ("--lease-duration=15500ms", ConfigError::WholeSeconds),
            ("--retry-period=5s", ConfigError::RetryTooLong),
            ("--retry-period=0s", ConfigError::RetryTooLong),
        ] {
            assert_eq!(args(&[flag]).config("x"), Err(error), "{flag}");
        }
    }
}
