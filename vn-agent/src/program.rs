//! The life of the process: load what is believed, learn who there is, serve, drain.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use runtime::metrics::{Build, Registry};
use runtime::serve::{Health, Server};
use runtime::task::{TaskMetrics, Tasks};
use rustls::pki_types::ServerName;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::answer::Hop;
use crate::args::{AgentArgs, Mode};
use crate::backend::Backend;
use crate::backend::dial::Dialer;
use crate::backend::kubelet::Kubelet;
use crate::backend::sup::Super;
use crate::credentials::{Credentials, Source};
use crate::guard::Places;
use crate::metrics::AgentMetrics;
use crate::pace::Paces;
use crate::quiet::Quiet;
use crate::server;
use crate::session::Agent;
use crate::tenants::{self, Tenants};
use crate::way::WaySource;

/// How the program calls itself.
pub const NAME: &str = "vn-agent";

/// What is left of the time to drain for closing what was cut.
const CLOSING: Duration = Duration::from_secs(2);

/// How often the node's Pods are listed where nobody asks: for readiness and metrics.
const LIST_INTERVAL: Duration = Duration::from_mins(1);

/// How often sessions that had no line of their own are told of: a line a tenant and verb.
const MERGED: Duration = Duration::from_secs(10);

/// Serves until `stop`, then lets sessions finish.
pub async fn run(args: &AgentArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let mut registry = Registry::new(Build { program: NAME, version: env!("CARGO_PKG_VERSION") });
    let task_metrics = TaskMetrics::register(registry.component());
    let metrics = AgentMetrics::register(registry.component());
    let health = Health::default();

    let kubelet_files = args.backend.kubelet_files();
    let is_kubelet = kubelet_files.is_some();
    let source = Source::new(args.credentials.clone(), kubelet_files);
    let (credentials, contents) = source.load().await.context("vn-agent serves nobody without certificates that can be used")?;
    let (set_credentials, credentials) = watch::channel(Arc::new(credentials));
    let (set_tenants, tenants) = watch::channel(Arc::new(Tenants::default()));
    let way = WaySource::new(args.super_kubeconfig.clone());
    let (set_way, ways) = watch::channel(Arc::new(way.load().context(match &args.super_kubeconfig {
        Some(path) => format!("{} leads nowhere", path.display()),
        None => "not in a Pod: name the super cluster's kubeconfig with --super-kubeconfig".to_owned(),
    })?));

    let probes = Tasks::new(&task_metrics);
    let helpers = Tasks::new(&task_metrics);
    let backends = Arc::new(Tasks::new(&task_metrics));
    let sessions = Tasks::new(&task_metrics);
    let server = Server::bind(&args.serve, health.clone(), registry).await.context("could not take the port of probes and metrics")?;
    drop(probes.spawn("serve", server.run(probes.stop().clone())));
    drop(helpers.spawn("credentials", source.follow(contents, set_credentials, metrics.clone(), helpers.stop().clone())));
    drop(helpers.spawn("way", way.follow(set_way, helpers.stop().clone())));
    let known = health.condition("tenants");
    drop(helpers.spawn("tenants", tenants::follow(ways.clone(), set_tenants, known, helpers.stop().clone())));

    let backend = if is_kubelet {
        Backend::Kubelet(kubelet(args, &credentials, &metrics, &backends)?)
    } else {
        Backend::Super(Super::new(&args.node_name, ways, Arc::clone(&backends))?)
    };
    info!(backend = backend.hop().name(), "who answers");
    if !is_kubelet && args.backend.backend == Mode::Auto {
        warn!(
            "there is no credential for the kubelet of this node: the super cluster's API server answers, which needs manifests/rbac-vn-agent-super.yaml; to have \
             the kubelet answer, put the credential there and start vn-agent again"
        );
    }
    let limits = args.sessions.limits();
    let agent = Arc::new(Agent {
        node: args.node_name.clone(),
        backend,
        tenants,
        credentials,
        limits,
        places: Places::default(),
        starts: Paces::of_streams(limits.per_tenant),
        metrics,
        quiet: Quiet::default(),
    });
    drop(helpers.spawn("quiet", tell_merged(Arc::clone(&agent), helpers.stop().clone())));
    if is_kubelet {
        drop(helpers.spawn("pods", list(Arc::clone(&agent), health.condition("backend"), helpers.stop().clone())));
    }

    let listener = TcpListener::bind(args.address).await.with_context(|| format!("could not take {}", args.address))?;
    info!(address = %listener.local_addr().context("the port has no address")?, node = args.node_name, "serving");
    server::run(listener, Arc::clone(&agent), &sessions, stop).await;

    info!(sessions = agent.places.len(), "draining");
    // Sessions end by themselves, or are cut short when the time is over.
    sessions.shutdown(args.shutdown.drain_timeout.saturating_sub(CLOSING)).await;
    agent.quiet.tell_merged();
    helpers.shutdown(Duration::from_secs(1)).await;
    probes.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

fn kubelet(
    args: &AgentArgs,
    credentials: &watch::Receiver<Arc<Credentials>>,
    metrics: &AgentMetrics,
    tasks: &Arc<Tasks>,
) -> anyhow::Result<Kubelet> {
    let address = args.backend.kubelet_address.clone().context("say where this node's kubelet is with --kubelet-address")?;
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host).trim_matches(['[', ']']);
    let name = args.backend.kubelet_server_name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned()).with_context(|| format!("{name:?} cannot stand in a certificate"))?;
    let dialer = Dialer::new(address, name, Hop::Kubelet, Arc::clone(tasks));
    Ok(Kubelet::new(dialer, credentials.clone(), metrics.clone()))
}

/// Writes now and then of the sessions that had no line of their own.
async fn tell_merged(agent: Arc<Agent>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(MERGED) => agent.quiet.tell_merged(),
        }
    }
}

/// Lists the node's Pods now and then; ready while that works.
async fn list(agent: Arc<Agent>, ready: runtime::serve::Condition, stop: CancellationToken) {
    let Backend::Kubelet(kubelet) = &agent.backend else { return };
    loop {
        let wait = match kubelet.fresh().await {
            Ok(_) => {
                ready.set_ready();
                LIST_INTERVAL
            }
            Err(failure) => {
                ready.set_not_ready(failure.message);
                Duration::from_secs(5)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}
