//! A server of canned bytes against informers and Events: each test states what came of it, what is kept, and how much memory it took.
//!
//! Rows of the threat matrix stand in the names. Memory is the process's peak, so the tests run one at a time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests and what they stand on")]

mod events;
mod kinds;
mod lists;
mod served;
mod versions;
mod watches;

use std::time::Duration;

use bytes::Bytes;
use common::{Name, Namespace, Tenant, Uid};
use http::{Request, Response};
use mirror::facts::Seen;
use mirror::kind::KindId;
use mirror::plan::Evidence;
use runtime::address::AddressPolicy;
use runtime::kubeconfig::{Identity, Kubeconfig, Secret};
use runtime::transport::{Limits, Transport, TransportConfig};
use syncer::index::{Index, Key, Slot};
use syncer::informer::{Bounds, Source, Told, run};
use syncer::remote::{CallError, Remote};
use testing::http::{Body, reply};
use testing::server::{Behavior, Server};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What an informer of ConfigMaps tells, and an index that is told it.
struct Heard {
    told: mpsc::UnboundedReceiver<Told>,
    index: Index,
    unreadable: usize,
    /// How often the kind was found not to be served.
    lacked: usize,
    _task: JoinSet<()>,
}

impl Heard {
    /// Lists and watches what `server` says.
    fn of(server: &Server, limits: Limits, bounds: Bounds) -> Self {
        Self::told_of(server, limits, bounds, None)
    }

    /// The same, of a kind that need not be served, and that is asked for again so often.
    fn of_optional(server: &Server, pace: Duration) -> Self {
        Self::told_of(server, Limits::default(), Bounds::default(), Some(pace))
    }

    fn told_of(server: &Server, limits: Limits, bounds: Bounds, optional: Option<Duration>) -> Self {
        let remote = remote(server, limits);
        let source =
            Source { path: "/api/v1/configmaps".into(), kind: "ConfigMap", selector: None, name: None, from_now: false, bounds, optional };
        let (sender, told) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        task.spawn(run(remote, source, move |told| drop(sender.send(told))));
        Self { told, index: Index::default(), unreadable: 0, lacked: 0, _task: task }
    }

    /// Takes in what is told, as the engine does, until a list is complete or something failed.
    async fn next(&mut self) -> Result<String, CallError> {
        loop {
            let told = tokio::time::timeout(Duration::from_mins(1), self.told.recv()).await.unwrap().unwrap();
            match told {
                Told::Opened => {}
                Told::ListBegins => self.index.list_begins(kind(), true),
                Told::Object(bytes) => self.object(&bytes),
                Told::Gone(bytes) => self.gone(&bytes),
                Told::ListEnds(version) => {
                    self.index.list_ends(kind(), true);
                    return Ok(version);
                }
                Told::Unreadable(_) => self.unreadable += 1,
                Told::Unserved => self.unserved(),
                Told::Failed(error) => return Err(error),
            }
        }
    }

    /// Takes in what is told until the kind has been found not to be served so often.
    async fn lacks(&mut self, times: usize) {
        while self.lacked < times {
            match tokio::time::timeout(Duration::from_mins(1), self.told.recv()).await.unwrap().unwrap() {
                Told::Unserved => self.unserved(),
                Told::Opened => {}
                other
                @ (Told::ListBegins | Told::ListEnds(_) | Told::Object(_) | Told::Gone(_) | Told::Unreadable(_) | Told::Failed(_)) => {
                    panic!("{other:?}")
                }
            }
        }
    }

    fn unserved(&mut self) {
        self.lacked += 1;
        self.index.unserved(kind());
    }

    /// Takes in until this object is known at this version.
    async fn until(&mut self, name: &str, version: u64) {
        while !matches!(self.index.get(&key(name)).map(|entry| &entry.tenant), Some(Slot::Here(facts, ())) if facts.version == version) {
            let told = tokio::time::timeout(Duration::from_mins(1), self.told.recv()).await.unwrap().unwrap();
            match told {
                Told::Object(bytes) => self.object(&bytes),
                Told::Gone(bytes) => self.gone(&bytes),
                Told::Unreadable(_) => self.unreadable += 1,
                Told::Opened | Told::Failed(_) => {}
                other @ (Told::ListBegins | Told::ListEnds(_) | Told::Unserved) => panic!("{other:?}"),
            }
        }
    }

    fn object(&mut self, bytes: &Bytes) {
        match Seen::of_resource(bytes, &kind().kind().resource()) {
            Ok(seen) => drop(self.index.tenant_seen(&key(seen.name), seen.facts, bytes)),
            Err(_) => self.unreadable += 1,
        }
    }

    fn gone(&mut self, bytes: &Bytes) {
        match Seen::of_resource(bytes, &kind().kind().resource()) {
            Ok(seen) => drop(self.index.tenant_gone(&key(seen.name), Some(seen.facts.uid))),
            Err(_) => self.unreadable += 1,
        }
    }

    /// How many objects are there, are missed, and are known to have gone.
    fn standing(&self) -> (usize, usize, usize) {
        let count = |is: fn(&Slot<()>) -> bool| self.index.iter().filter(|(_, entry)| is(&entry.tenant)).count();
        (
            count(|slot| matches!(slot, Slot::Here(..))),
            count(|slot| matches!(slot, Slot::Absent(Evidence::Inferred))),
            count(|slot| matches!(slot, Slot::Absent(Evidence::Seen))),
        )
    }
}

fn remote(server: &Server, limits: Limits) -> Remote<Tenant> {
    let kubeconfig = Kubeconfig {
        server: server.url(),
        ca_pem: server.ca_pem().into(),
        identity: Identity::Token(Secret::new("t0ken".to_owned())),
        tls_server_name: None,
    };
    let loopback = AddressPolicy::tenant(Vec::new(), vec!["127.0.0.0/8".parse().unwrap()]);
    let config = TransportConfig { limits, ..TransportConfig::tenant(kubeconfig, loopback, "hostile-test") };
    Remote::new(Transport::new(config).unwrap())
}

fn kind() -> KindId {
    KindId::named("ConfigMap").unwrap()
}

fn key(name: &str) -> Key {
    Key { kind: kind(), namespace: Some(Namespace::parse("default").unwrap()), name: Name::parse(name).unwrap() }
}

/// A ConfigMap with so many bytes in it.
fn object(number: usize, version: &str, bytes: usize) -> String {
    let (uid, data) = (Uid::from_bits(number as u128 + 1), "x".repeat(bytes));
    format!(
        r#"{{"metadata":{{"name":"a{number}","namespace":"default","uid":"{uid}","resourceVersion":"{version}"}},"data":{{"a":"{data}"}}}}"#
    )
}

/// An object that says what it is.
fn said(api_version: &str, kind: &str, object: &str) -> String {
    object.replacen('{', &format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","#), 1)
}

fn page(items: &[String], version: &str, next: &str) -> Response<Body> {
    reply(200, &[], format!(r#"{{"metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{}]}}"#, items.join(",")))
}

/// What an API server without WatchList says to it.
fn unserved() -> Response<Body> {
    reply(400, &[], r#"{"reason":"Invalid","message":"sendInitialEvents is forbidden"}"#)
}

/// The value of a parameter of a request.
fn asked<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a str> {
    request.uri().query()?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// A server that serves no WatchList, and answers lists and watches like this.
async fn server(answer: impl Fn(&Request<()>) -> Response<Body> + Send + Sync + 'static) -> Server {
    Server::start(Behavior::http2(move |request| {
        let (parts, _) = request.into_parts();
        let request = Request::from_parts(parts, ());
        let response = if asked(&request, "sendInitialEvents").is_some() { unserved() } else { answer(&request) };
        async move { response }
    }))
    .await
}
