//! S42, through the engine: what is of another kind than was asked for is counted, and changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{TenantId, Uid};
use http::{Request, Response};
use mirror::cx::{Policy, Profile};
use prometheus_client::registry::Registry;
use runtime::lease::Held;
use runtime::task::{TaskMetrics, Tasks};
use runtime::transport::Limits;
use syncer::engine::{AttachSpec, Engine, EngineOptions, EngineParts};
use syncer::events::{Copier, Recorder};
use syncer::index::Slot;
use syncer::metrics::SyncMetrics;
use syncer::nodes::{Nodes, NodesOptions};
use syncer::remote::Remote;
use syncer::shown::Showing;
use syncer::tenant::{Attached, Tenants};
use syncer::work::Work;
use syncer::writer::Fence;
use testing::http::{Body, pieces, reply};
use testing::memory::Peak;
use testing::server::Server;
use tokio::sync::watch;

use crate::events::wait;
use crate::{asked, key, object, page, remote, said, server};

/// An engine that does nothing by itself, and what it shows; its super cluster is never asked unless it is started.
pub(crate) fn engine(server: &Server, metrics: &Arc<SyncMetrics>, patrol_interval: Duration) -> (Engine, Arc<Showing>) {
    let (_, held) = watch::channel(Some(Held::always()));
    let (work, _) = Work::new(1);
    let (tenants, fence, policy) = (Tenants::default(), Fence::new(held.clone()), Arc::new(Policy::default()));
    let nodes = Arc::new(Nodes::new(fence.clone(), NodesOptions::default(), metrics.clone()));
    let showing = Arc::new(Showing::new(policy.clone(), patrol_interval, metrics.clone()));
    let engine = Engine::new(EngineParts {
        sup: Remote::new(remote(server, Limits::default()).transport().clone()),
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
        showing: showing.clone(),
        recorder: Arc::new(Recorder::new(fence.clone(), metrics.clone())),
        copier: Arc::new(Copier::new(tenants, fence, policy, nodes, metrics.clone())),
    });
    (engine, showing)
}

/// Attaches a tenant whose API server this is.
pub(crate) fn attach(engine: &Engine, server: &Server, tasks: &Tasks) -> Arc<Attached> {
    let spec = AttachSpec {
        id: TenantId::new(Uid::from_bits(7), "acme"),
        remote: remote(server, Limits::default()),
        incarnation: Uid::from_bits(8),
        profile: Profile::default(),
        weight: 1,
        paused: false,
    };
    engine.attach(spec, tasks)
}

fn answer(request: &Request<()>) -> Response<Body> {
    let line = |event: &str, object: &str| Bytes::from(format!("{{\"type\":\"{event}\",\"object\":{object}}}\n"));
    let within = |object: String| object.replace(r#""namespace":"default","#, "");
    match (request.uri().path(), asked(request, "watch"), asked(request, "resourceVersion")) {
        ("/api/v1/configmaps", None, _) => {
            page(&[object(0, "5", 0), said("v1", "Secret", &object(1, "5", 0)), within(object(2, "5", 0))], "7", "")
        }
        ("/api/v1/configmaps", _, Some("7")) => pieces(
            [
                line("MODIFIED", &said("v1", "Secret", &object(0, "8", 0))),
                line("DELETED", &said("v1", "Secret", &object(0, "8", 0))),
                line("MODIFIED", &said("v1", "ConfigMap", &object(0, "9", 0))),
            ]
            .into_iter(),
        ),
        ("/api/v1/nodes", None, _) => page(&[said("v1", "Pod", &object(3, "5", 0))], "7", ""),
        ("/api/v1/secrets", None, _) => reply(200, &[], r#"{"kind":"ConfigMapList","metadata":{"resourceVersion":"7"},"items":[]}"#),
        (_, None, _) => page(&[], "7", ""),
        (_, Some(_), _) => pieces(std::iter::empty()),
    }
}

#[tokio::test]
async fn s42_what_is_of_another_kind_is_counted_and_changes_nothing() {
    let peak = Peak::start();
    let server = server(answer).await;
    let mut registry = Registry::default();
    let metrics = Arc::new(SyncMetrics::register(&mut registry));
    let ((engine, _), tasks) = (engine(&server, &metrics, Duration::from_hours(1)), Tasks::new(&TaskMetrics::default()));
    let attached = attach(&engine, &server, &tasks);
    let tenant = engine.tenants().get(attached.id.as_str()).unwrap();
    let version = |name: &str| match tenant.index.lock().get(&key(name)).map(|entry| &entry.tenant) {
        Some(Slot::Here(facts, ())) => Some(facts.version),
        _ => None,
    };
    wait(|| version("a0") == Some(9)).await;
    assert_eq!((version("a1"), version("a2")), (None, None));
    let counted = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    };
    wait(|| counted().contains(r#"unreadable_total{side="tenant",kind="Node"} 1"#)).await;
    wait(|| counted().contains(r#"watch_failures_total{side="tenant",kind="Secret"}"#)).await;
    let counted = counted();
    assert!(counted.contains(r#"unreadable_total{side="tenant",kind="ConfigMap"} 4"#), "{counted}");
    peak.at_most_mib(24);
}
