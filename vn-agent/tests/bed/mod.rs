//! A bed for vn-agent: a kubelet that does as the test says, behind real TLS, and callers with real certificates.
#![allow(dead_code, reason = "each test uses its part, so that no expectation holds in all of them")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

pub(crate) mod api_server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Name, Namespace, Owner, TenantId, Uid, keys};
use parking_lot::Mutex;
use pki::{Authority, Identity, Leaf};
use runtime::task::{TaskMetrics, Tasks};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use vn_agent::answer::Hop;
use vn_agent::backend::Backend;
use vn_agent::backend::dial::Dialer;
use vn_agent::backend::kubelet::Kubelet;
use vn_agent::credentials::{CredentialArgs, Credentials, KubeletFiles, Source};
use vn_agent::guard::{Limits, Places};
use vn_agent::metrics::AgentMetrics;
use vn_agent::pace::Paces;
use vn_agent::quiet::Quiet;
use vn_agent::server;
use vn_agent::session::Agent;
use vn_agent::tenants::Tenants;

pub(crate) const HOUR: Duration = Duration::from_hours(1);

/// Long enough for anything on a busy machine; what takes longer hangs.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) type ServerStream = tokio_rustls::server::TlsStream<TcpStream>;
pub(crate) type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

/// The tenant of this number.
pub(crate) fn tenant(number: u128) -> TenantId {
    TenantId::new(Uid::from_bits(number), "acme")
}

/// The super namespace of a tenant's `default`.
pub(crate) fn super_namespace(number: u128) -> String {
    tenant(number).namespace(&Namespace::parse("default").unwrap()).to_string()
}

/// A Pod `default/<name>` of a tenant, as the kubelet lists it.
pub(crate) fn pod(number: u128, name: &str, uid: u128) -> Value {
    let tenant = tenant(number);
    let namespace = Namespace::parse("default").unwrap();
    let name = Name::parse(name).unwrap();
    let super_name = name.same().to_string();
    let owner = Owner { tenant: tenant.uid(), namespace: Some(namespace), name, uid: Uid::from_bits(1000 + uid) };
    let (mut labels, mut annotations) = (BTreeMap::new(), BTreeMap::new());
    owner.write(&tenant, &mut labels, &mut annotations);
    annotations.insert(keys::CONTAINERS.to_owned(), "app".to_owned());
    json!({"metadata": {"namespace": super_namespace(number), "name": super_name, "uid": Uid::from_bits(uid).to_string(),
           "labels": labels, "annotations": annotations}})
}

/// What the kubelet does with a request beside `/pods`, given its head; it has the connection to itself.
pub(crate) type Play = Arc<dyn Fn(String, ServerStream) -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

/// A play from an async function.
pub(crate) fn play<F, Fut>(f: F) -> Play
where
    F: Fn(String, ServerStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |head, stream| Box::pin(f(head, stream)))
}

/// Everything that runs.
pub(crate) struct Bed {
    pub(crate) agent: Arc<Agent>,
    pub(crate) address: SocketAddr,
    pub(crate) ca: Authority,
    pub(crate) agent_ca: Authority,
    pub(crate) tenants: watch::Sender<Arc<Tenants>>,
    pub(crate) credentials: watch::Sender<Arc<Credentials>>,
    /// What `/pods` says.
    pub(crate) pods: Arc<Mutex<Vec<Value>>>,
    /// How long `/pods` takes, and how often it was asked for.
    pub(crate) lag: Arc<Mutex<Duration>>,
    pub(crate) lists: Arc<AtomicUsize>,
    /// Heads of requests beside `/pods`.
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
    /// Connections to the kubelet that are open.
    pub(crate) open: Arc<AtomicUsize>,
    pub(crate) files: CredentialArgs,
    pub(crate) kubelet_files: KubeletFiles,
    sessions: Option<Arc<Tasks>>,
    stop: CancellationToken,
    tasks: Vec<Tasks>,
    dir: PathBuf,
}

/// Connections to the kubelet that stay open when no session runs, at most.
pub(crate) const KEPT: usize = 6;

pub(crate) const LIMITS: Limits = Limits { per_tenant: 200, all: 500, idle: HOUR, total: HOUR };

impl Bed {
    /// Starts one whose kubelet does this.
    pub(crate) async fn start(play: Play) -> Self {
        Self::with_limits(play, LIMITS).await
    }

    pub(crate) async fn with_limits(play: Play, limits: Limits) -> Self {
        Self::start_with(play, limits, false, |address, _, credentials| {
            let tasks = Arc::new(Tasks::new(&TaskMetrics::default()));
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let dialer = Dialer::new(address.to_string(), name, Hop::Kubelet, tasks);
            Backend::Kubelet(Kubelet::new(dialer, credentials, AgentMetrics::default()))
        })
        .await
    }

    /// With a back end of the test's own, made of the fake's address, its CA and the agent's credentials.
    pub(crate) async fn start_with(
        play: Play,
        limits: Limits,
        knows_tokens: bool,
        backend: impl FnOnce(SocketAddr, &Authority, watch::Receiver<Arc<Credentials>>) -> Backend,
    ) -> Self {
        let name = format!("vn-agent-{}-{:x}", std::process::id(), std::ptr::from_ref(&play).addr());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let ca = Authority::create("cluster", HOUR).unwrap();
        let agent_ca = Authority::create("agents", HOUR).unwrap();
        let write = |file: &str, text: &str| {
            let path = dir.join(file);
            std::fs::write(&path, text).unwrap();
            path
        };
        let local = vec!["127.0.0.1".parse().unwrap()];
        let serving = agent_ca.issue(&Leaf::Agent { node: "n1".to_owned(), addresses: local.clone() }, HOUR).unwrap();
        let at_kubelet = ca.issue(&Leaf::KubeletClient { node: "n1".to_owned() }, HOUR).unwrap();
        let files = CredentialArgs {
            client_ca_file: write("agent-ca.crt", agent_ca.certificate()),
            client_crl_file: Some(write("revoked.pem", &agent_ca.revoked(&[], 1, HOUR).unwrap())),
            tls_cert_file: write("tls.crt", &serving.certificate),
            tls_key_file: write("tls.key", &serving.key),
        };
        let kubelet_files = KubeletFiles {
            ca: write("ca.crt", ca.certificate()),
            certificate: write("client.crt", &at_kubelet.certificate),
            key: write("client.key", &at_kubelet.key),
        };

        let tasks = [(); 2].map(|()| Tasks::new(&TaskMetrics::default()));
        let [kubelet_tasks, connections] = tasks;
        let (pods, heads, open) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (lag, lists) = (Arc::new(Mutex::new(Duration::ZERO)), Arc::new(AtomicUsize::new(0)));
        let serving = ca.issue(&Leaf::KubeletServer { node: "n1".to_owned(), addresses: local }, HOUR).unwrap();
        let stage = Stage {
            pods: Arc::clone(&pods),
            lag: Arc::clone(&lag),
            lists: Arc::clone(&lists),
            heads: Arc::clone(&heads),
            open: Arc::clone(&open),
            play,
            knows_tokens,
        };
        let kubelet_address = stage.run(&ca, &serving, &kubelet_tasks).await;

        let source = Source::new(files.clone(), Some(kubelet_files.clone()));
        let (credentials, watched) = watch::channel(Arc::new(source.load().await.unwrap().0));
        let known = Tenants::from_iter([(tenant(1).uid(), "acme".to_owned()), (tenant(2).uid(), "acme".to_owned())]);
        let (tenants, known) = watch::channel(Arc::new(known));
        let metrics = AgentMetrics::default();
        let agent = Arc::new(Agent {
            node: "n1".to_owned(),
            backend: backend(kubelet_address, &ca, watched.clone()),
            tenants: known,
            credentials: watched,
            limits,
            places: Places::default(),
            starts: Paces::of_streams(limits.per_tenant),
            metrics,
            quiet: Quiet::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sessions, stop) = (Arc::new(connections.child()), CancellationToken::new());
        let (accept, end, served) = (Arc::clone(&sessions), stop.clone(), Arc::clone(&agent));
        drop(connections.spawn("server", async move { server::run(listener, served, &accept, end).await }));
        let sessions = Some(sessions);
        let tasks = vec![kubelet_tasks, connections];
        Self {
            agent,
            address,
            ca,
            agent_ca,
            tenants,
            credentials,
            pods,
            lag,
            lists,
            heads,
            open,
            files,
            kubelet_files,
            sessions,
            stop,
            tasks,
            dir,
        }
    }

    /// A certificate for a tenant.
    pub(crate) fn caller(&self, number: u128) -> Identity {
        self.agent_ca.issue(&Leaf::Tenant(tenant(number).uid()), HOUR).unwrap()
    }

    /// A connection as this caller.
    pub(crate) async fn dial(&self, identity: Option<&Identity>) -> std::io::Result<ClientStream> {
        self.shake(TcpStream::connect(self.address).await?, identity).await
    }

    /// The handshake of this caller on a connection.
    pub(crate) async fn shake(&self, stream: TcpStream, identity: Option<&Identity>) -> std::io::Result<ClientStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.agent_ca.certificate().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            Some(identity) => builder.with_client_auth_cert(chain(identity), key(identity)).unwrap(),
            None => builder.with_no_client_auth(),
        };
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await
    }

    /// Sends bytes on a connection of its own and gives what comes back until its end.
    pub(crate) async fn raw(&self, identity: &Identity, bytes: &[u8]) -> String {
        let mut stream = self.dial(Some(identity)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the connection ends");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A plain GET on a connection that ends with it.
    pub(crate) async fn get(&self, identity: &Identity, path: &str) -> String {
        self.raw(identity, format!("GET {path} HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n").as_bytes()).await
    }

    /// A stream: the connection after the head of the answer, which is given too.
    pub(crate) async fn upgrade(&self, identity: &Identity, path: &str) -> (String, ClientStream) {
        let mut stream = self.dial(Some(identity)).await.unwrap();
        stream.write_all(spdy("POST", path).as_bytes()).await.unwrap();
        // What TLS has taken may still wait in its own buffer.
        stream.flush().await.unwrap();
        let head = tokio::time::timeout(SOON, head(&mut stream)).await.expect("an answer");
        (head, stream)
    }

    /// Reads the credential files again, as the agent does when they change.
    pub(crate) async fn reload(&self) {
        let source = Source::new(self.files.clone(), Some(self.kubelet_files.clone()));
        self.credentials.send_replace(Arc::new(source.load().await.unwrap().0));
    }

    /// Ends the server as the program does: nobody new, and so long for those that are there.
    pub(crate) async fn drain(&mut self, grace: Duration) -> runtime::task::Drained {
        let sessions = self.sessions.take().expect("it was not drained yet");
        self.stop.cancel();
        until("the server takes nobody", || Arc::strong_count(&sessions) == 1).await;
        Arc::try_unwrap(sessions).unwrap_or_else(|_| panic!("somebody else has it")).shutdown(grace).await
    }

    /// Waits until no session runs and no connection to the kubelet is open but those kept for the next sessions.
    pub(crate) async fn quiet(&self) {
        until("no session runs", || self.agent.places.is_empty()).await;
        until("connections to the kubelet are closed", || self.open.load(Ordering::SeqCst) <= KEPT).await;
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.tasks.clear();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Polls a fact.
pub(crate) async fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let fact = async {
        while !fact() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, fact).await.unwrap_or_else(|_| panic!("{what}: not within {} s", SOON.as_secs()));
}

/// The request of a stream over SPDY.
pub(crate) fn spdy(method: &str, path: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: n1\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\
         X-Stream-Protocol-Version: v5.channel.k8s.io\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    )
}

/// Answers to it that are no agreement.
pub(crate) const UNSWITCHED: [&str; 4] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "garbage\r\n\r\n",
];

/// The answer to it.
pub(crate) const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";

/// Reads up to the end of a head.
pub(crate) async fn head<S: AsyncReadExt + Unpin>(stream: &mut S) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

pub(crate) fn chain(identity: &Identity) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).map(Result::unwrap).collect()
}

pub(crate) fn key(identity: &Identity) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap()
}

/// The fake kubelet.
#[derive(Clone)]
struct Stage {
    pods: Arc<Mutex<Vec<Value>>>,
    lag: Arc<Mutex<Duration>>,
    lists: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
    open: Arc<AtomicUsize>,
    play: Play,
    /// Callers may come without a certificate, as to an API server.
    knows_tokens: bool,
}

impl Stage {
    async fn run(self, ca: &Authority, serving: &Identity, tasks: &Tasks) -> SocketAddr {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.certificate().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let clients = if self.knows_tokens { clients.allow_unauthenticated() } else { clients };
        let clients = clients.build().unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain(serving), key(serving))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let below = tasks.child();
        drop(tasks.spawn("kubelet", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, stage) = (acceptor.clone(), self.clone());
                drop(below.spawn("kubelet-connection", async move {
                    stage.open.fetch_add(1, Ordering::SeqCst);
                    let _counted = Counted(Arc::clone(&stage.open));
                    if let Ok(stream) = acceptor.accept(stream).await {
                        stage.connection(stream).await;
                    }
                }));
            }
        }));
        address
    }

    async fn connection(&self, mut stream: ServerStream) {
        loop {
            let head = head(&mut stream).await;
            if head.is_empty() {
                return;
            }
            if !head.starts_with("GET /pods ") {
                self.heads.lock().push(head.clone());
                return (self.play)(head, stream).await;
            }
            self.lists.fetch_add(1, Ordering::SeqCst);
            let lag = *self.lag.lock();
            if !lag.is_zero() {
                tokio::time::sleep(lag).await;
            }
            let body = json!({"kind": "PodList", "items": *self.pods.lock()}).to_string();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
