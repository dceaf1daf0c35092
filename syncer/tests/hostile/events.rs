//! Events that a tenant's API server does not take: nothing is lost for good.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{TenantId, Uid};
use http::Method;
use mirror::cx::Profile;
use parking_lot::{Mutex, RwLock};
use runtime::lease::Held;
use runtime::transport::Limits;
use syncer::events::{About, Receipt, Recorder, Severity};
use syncer::handlers::Handlers;
use syncer::metrics::SyncMetrics;
use syncer::tenant::Attached;
use syncer::writer::Fence;
use testing::http::reply;
use testing::memory::Peak;
use testing::server::Server;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{remote, server};

fn attached(server: &Server) -> Arc<Attached> {
    Arc::new(Attached {
        id: TenantId::new(Uid::from_bits(7), "acme"),
        remote: remote(server, Limits::default()),
        incarnation: Uid::from_bits(8),
        profile: RwLock::new(Arc::new(Profile::default())),
        nodes: RwLock::new(Arc::new(BTreeSet::new())),
        halted: AtomicBool::new(false),
        paused: AtomicBool::new(false),
        writer: tokio::sync::Mutex::new(None),
        cancel: CancellationToken::new(),
        tenant_namespaces: dashmap::DashMap::new(),
        accepted: AtomicU64::default(),
        since: Instant::now(),
        breaker: Mutex::default(),
        alarm: Notify::new(),
        relist: Notify::new(),
        handlers: Handlers::default(),
        reading_bundles: tokio::sync::Mutex::new(()),
        denied: Mutex::default(),
        making_namespace: tokio::sync::Mutex::new(()),
    })
}

/// A recorder that writes as long as this is kept.
fn recorder() -> (Arc<Recorder>, JoinSet<()>) {
    let (_, held) = watch::channel(Some(Held::always()));
    let recorder = Arc::new(Recorder::new(Fence::new(held), Arc::new(SyncMetrics::default())));
    let (writes, mut tasks) = (recorder.clone(), JoinSet::new());
    tasks.spawn(async move { writes.run().await });
    (recorder, tasks)
}

fn tell(recorder: &Recorder, attached: &Arc<Attached>, message: &str) -> Receipt {
    let about = About { kind: "Pod", api_version: "v1", namespace: Some("default".into()), name: "web".into(), uid: Uid::from_bits(9) };
    recorder.tell(attached, about, Severity::Warning, "Refused", message.to_owned())
}

pub(crate) async fn wait(is: impl Fn() -> bool) {
    let looks = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looks).await.unwrap();
}

fn posts(server: &Server) -> usize {
    server.seen.requests.lock().iter().filter(|request| request.method() == Method::POST).count()
}

#[tokio::test]
async fn an_event_that_was_refused_is_told_again_and_one_that_is_out_is_not() {
    let peak = Peak::start();
    let is_open = Arc::new(AtomicBool::new(false));
    let opens = is_open.clone();
    let server = server(move |request| match *request.method() {
        Method::POST if opens.load(Ordering::SeqCst) => reply(201, &[], "{}"),
        Method::POST => reply(403, &[], r#"{"reason":"Forbidden"}"#),
        _ => reply(404, &[], "{}"),
    })
    .await;
    let (attached, (recorder, _writes)) = (attached(&server), recorder());
    let receipt = tell(&recorder, &attached, "no");
    wait(|| receipt.is_lost()).await;
    is_open.store(true, Ordering::SeqCst);
    let receipt = tell(&recorder, &attached, "no");
    wait(|| receipt.is_out()).await;
    assert!(tell(&recorder, &attached, "no").is_out(), "nothing is written for it");
    assert_eq!(posts(&server), 2);
    peak.at_most_mib(8);
}

#[tokio::test]
async fn an_event_that_finds_no_room_or_whose_tenant_is_attached_anew_is_lost_and_says_so() {
    let peak = Peak::start();
    let server = server(|_| reply(404, &[], "{}")).await;
    let (first, again) = (attached(&server), attached(&server));
    // Nobody writes.
    let (_, held) = watch::channel(Some(Held::always()));
    let recorder = Recorder::new(Fence::new(held), Arc::new(SyncMetrics::default()));
    let receipts: Vec<_> = (0..1001).map(|number| tell(&recorder, &first, &format!("no {number}"))).collect();
    let lost = || receipts.iter().filter(|receipt| receipt.is_lost()).count();
    assert_eq!(lost(), 1, "1000 wait at most");
    let told = tell(&recorder, &again, "no");
    assert_eq!((lost(), told.is_lost()), (1001, false));
    peak.at_most_mib(16);
}
