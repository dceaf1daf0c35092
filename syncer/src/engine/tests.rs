//! Work that panics costs its own key alone, and that is tried again; work on what the super cluster does not serve waits.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use common::{Name, Namespace, Tenant as TenantSide, TenantId, Uid};
use dashmap::DashMap;
use mirror::cx::{Policy, Profile};
use mirror::facts::Seen;
use mirror::kind::KindId;
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use runtime::address::AddressPolicy;
use runtime::kubeconfig::{Identity, Kubeconfig, Secret};
use runtime::lease::Held;
use runtime::transport::{Transport, TransportConfig};
use testing::http::reply;
use testing::server::{Behavior, Server};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::{Engine, EngineOptions, EngineParts, watched_kinds};
use crate::events::{Copier, Recorder};
use crate::handlers::Handlers;
use crate::index::Key;
use crate::informer::Told;
use crate::metrics::SyncMetrics;
use crate::nodes::{Nodes, NodesOptions};
use crate::remote::Remote;
use crate::shown::{Showing, shown_kinds};
use crate::tenant::{Attached, Tenants};
use crate::work::Work;
use crate::writer::Fence;

/// Hears of every step that failed, and panics where that is about this object: in the middle of the work on it.
struct Listener {
    bad: &'static str,
    heard: Arc<Mutex<Vec<(String, Instant)>>>,
}

/// The object that an entry of the log is about.
#[derive(Default)]
struct About(String);

impl Visit for About {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "object" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if event.metadata().fields().field("step").is_none() {
            return;
        }
        let mut about = About::default();
        event.record(&mut about);
        let is_bad = about.0 == self.bad;
        self.heard.lock().push((about.0, Instant::now()));
        assert!(!is_bad, "as it was to be");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn remote(server: &Server) -> Remote<TenantSide> {
    let kubeconfig = Kubeconfig {
        server: server.url(),
        ca_pem: server.ca_pem().into(),
        identity: Identity::Token(Secret::new("t0ken".to_owned())),
        tls_server_name: None,
    };
    let loopback = AddressPolicy::tenant(Vec::new(), vec!["127.0.0.0/8".parse().unwrap()]);
    Remote::new(Transport::new(TransportConfig::tenant(kubeconfig, loopback, "engine-test")).unwrap())
}

fn engine(server: &Server, work: Work, metrics: &Arc<SyncMetrics>) -> Engine {
    let (_, held) = watch::channel(Some(Held::always()));
    let (tenants, fence, policy) = (Tenants::default(), Fence::new(held.clone()), Arc::new(Policy::default()));
    let nodes = Arc::new(Nodes::new(fence.clone(), NodesOptions::default(), metrics.clone()));
    let patrol_interval = Duration::from_hours(1);
    let engine = Engine::new(EngineParts {
        sup: Remote::new(remote(server).transport().clone()),
        tenants: tenants.clone(),
        work,
        policy: policy.clone(),
        options: EngineOptions {
            workers: 1,
            patrol_interval,
            renew_share: 0.8,
            sync_unreferenced: true,
            exclude_namespaces: BTreeSet::new(),
        },
        held,
        metrics: metrics.clone(),
        nodes: nodes.clone(),
        showing: Arc::new(Showing::new(policy.clone(), patrol_interval, metrics.clone())),
        recorder: Arc::new(Recorder::new(fence.clone(), metrics.clone())),
        copier: Arc::new(Copier::new(tenants, fence, policy, nodes, metrics.clone())),
    });
    for kind in watched_kinds().chain(shown_kinds()) {
        engine.0.super_synced.insert(kind);
    }
    engine
}

/// A tenant with these ConfigMaps, all to be worked on, whose API server this is. Nothing of it is watched.
fn attach(engine: &Engine, number: u128, server: &Server, names: &[&str]) {
    let id = TenantId::new(Uid::from_bits(number), "acme");
    let tenant = engine.tenants().entry(id.as_str());
    let attached = Attached {
        id,
        remote: remote(server),
        incarnation: Uid::from_bits(8),
        profile: RwLock::new(Arc::new(Profile::default())),
        nodes: RwLock::new(Arc::new(BTreeSet::new())),
        halted: AtomicBool::new(false),
        paused: AtomicBool::new(false),
        writer: tokio::sync::Mutex::new(None),
        cancel: CancellationToken::new(),
        tenant_namespaces: DashMap::new(),
        accepted: AtomicU64::default(),
        since: Instant::now(),
        breaker: Mutex::default(),
        alarm: Notify::new(),
        relist: Notify::new(),
        handlers: Handlers::default(),
        reading_bundles: tokio::sync::Mutex::new(()),
        denied: Mutex::default(),
        making_namespace: tokio::sync::Mutex::new(()),
    };
    tenant.attached.store(Some(Arc::new(attached)));
    engine.0.work.weigh(&tenant.lane, 1);
    let kind = KindId::named("ConfigMap").unwrap();
    tenant.index.lock().list_begins(kind, true);
    for name in names {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"default","uid":"{}","resourceVersion":"1"}}}}"#,
            Uid::from_bits(u128::from(name.as_bytes()[0]))
        );
        let key = Key { kind, namespace: Namespace::parse("default").ok(), name: Name::parse(name).unwrap() };
        tenant.index.lock().tenant_seen(&key, Seen::of(text.as_bytes()).unwrap().facts, text.as_bytes());
        engine.0.work.push(&tenant.lane, key);
    }
    tenant.index.lock().list_ends(kind, true);
}

#[tokio::test(start_paused = true)]
async fn a_panic_over_one_object_is_counted_and_costs_neither_others_nor_its_own_next_try() {
    let heard = Arc::default();
    let _listens = tracing::subscriber::set_default(Listener { bad: "ConfigMap default/bad", heard: Arc::clone(&heard) });
    // Whatever is asked fails, which the log says: in the middle of the work.
    let server = Server::start(Behavior::http2(|_| async { reply(500, &[], "{}") })).await;
    let mut registry = Registry::default();
    let metrics = Arc::new(SyncMetrics::register(&mut registry));
    let (work, clock) = Work::new(4);
    let engine = engine(&server, work, &metrics);
    attach(&engine, 1, &server, &["bad", "kept"]);
    attach(&engine, 2, &server, &["other"]);
    let stop = CancellationToken::new();
    let (worker, stopped) = (engine.clone(), stop.clone());
    let works = async move { worker.work_until(&stopped).await };
    let times = |name: &str| -> Vec<Instant> {
        let about = format!("ConfigMap default/{name}");
        heard.lock().iter().filter(|(object, _)| *object == about).map(|(_, at)| *at).collect()
    };
    let all_came_again = async {
        while times("bad").len() < 2 || times("kept").len() < 2 || times("other").len() < 2 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        stop.cancel();
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(works, all_came_again) } => {}
        () = clock => {}
        () = tokio::time::sleep(Duration::from_mins(20)) => panic!("not all were tried again"),
    }
    let bad = times("bad");
    assert!(bad[1] - bad[0] >= Duration::from_mins(5), "what panics is not tried again at once: {:?}", bad[1] - bad[0]);
    assert!(times("kept")[1] < bad[1] && times("other")[1] < bad[1], "the others did not wait for it");
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let counted = text.lines().find(|line| line.contains(r#"kind="ConfigMap",class="panicked""#)).unwrap_or_default();
    assert!(counted.ends_with(&format!(" {}", bad.len())), "{counted}");
}

#[tokio::test]
async fn what_the_super_cluster_does_not_serve_is_refused_and_taken_up_once_it_is() {
    let server = Server::start(Behavior::http2(|_| async { reply(500, &[], "{}") })).await;
    let mut registry = Registry::default();
    let metrics = Arc::new(SyncMetrics::register(&mut registry));
    let (work, clock) = Work::new(4);
    let engine = engine(&server, work, &metrics);
    attach(&engine, 1, &server, &["kept"]);
    let kind = KindId::named("ConfigMap").unwrap();
    engine.super_told(kind, Told::Unserved);
    let stop = CancellationToken::new();
    let refusals = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.lines().filter(|line| line.starts_with(r#"refusals_total{kind="ConfigMap"} "#)).count()
    };
    let served_later = async {
        while refusals() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(server.requests(), 0, "what is not served is not asked for");
        engine.super_told(kind, Told::ListBegins);
        engine.super_told(kind, Told::ListEnds("1".to_owned()));
        while server.requests() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(engine.work_until(&stop), served_later) } => {}
        () = clock => {}
        () = tokio::time::sleep(Duration::from_secs(30)) => panic!("it was not refused, or not taken up"),
    }
}
