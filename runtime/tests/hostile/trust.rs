//! S44 and S47: servers that are not who, or not where, they should be.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use http::Method;
use runtime::address::{AddressPolicy, Resolve};
use runtime::transport::{Call, Failure, Limits, Transport, TransportError};
use testing::http::reply;
use testing::memory::Peak;
use testing::pki::{Authority, Leaf};
use testing::server::{Behavior, Server};

use crate::{config, loopback, patient};

/// A resolver that gives its answers in turn, the last one for ever.
#[derive(Debug)]
pub(crate) struct Fixed {
    answers: Vec<Vec<&'static str>>,
    asked: AtomicUsize,
}

impl Fixed {
    pub(crate) fn new(answers: Vec<Vec<&'static str>>) -> Self {
        Self { answers, asked: AtomicUsize::new(0) }
    }

    /// One that does not answer.
    pub(crate) fn never() -> Self {
        Self::new(Vec::new())
    }
}

impl Resolve for Fixed {
    fn resolve(&self, _host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        let Some(answer) = self.answers.get(turn).or(self.answers.last()) else { return Box::pin(std::future::pending()) };
        let answer = answer.iter().map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect();
        Box::pin(async move { Ok(answer) })
    }
}

fn silent() -> Behavior {
    Behavior::http2(|_| async { reply(200, &[], "") })
}

async fn outcome(host: &str, trusted: &Authority, leaf: Leaf) -> (Failure, usize) {
    let server = Server::with(host, trusted, leaf, silent()).await;
    let transport = Transport::new(config(&server, patient())).unwrap();
    let error = transport.call(Call::new(Method::GET, "/api")).await.unwrap_err();
    assert!(server.connections() > 0);
    (error.kind(), server.requests())
}

#[tokio::test]
async fn s44_a_server_of_another_authority_gets_no_token() {
    let peak = Peak::start();
    let (ours, theirs) = (Authority::new(), Authority::new());
    assert_eq!(outcome("127.0.0.1", &ours, theirs.leaf("127.0.0.1")).await, (Failure::Tls, 0));
    peak.at_most_mib(8);
}

#[tokio::test]
async fn s44_a_server_whose_certificate_has_expired_gets_no_token() {
    let peak = Peak::start();
    let ours = Authority::new();
    assert_eq!(outcome("127.0.0.1", &ours, ours.expired("127.0.0.1")).await, (Failure::Tls, 0));
    peak.at_most_mib(8);
}

#[tokio::test]
async fn s44_a_server_of_another_name_gets_no_token() {
    let peak = Peak::start();
    let ours = Authority::new();
    assert_eq!(outcome("127.0.0.1", &ours, ours.leaf("b.example")).await, (Failure::Tls, 0));
    assert_eq!(outcome("127.0.0.1", &ours, ours.leaf("127.0.0.2")).await, (Failure::Tls, 0));
    peak.at_most_mib(8);
}

#[tokio::test]
async fn s44_a_server_of_tls_1_2_gets_no_token_unless_it_is_allowed() {
    let peak = Peak::start();
    let server = Server::tls12(silent()).await;
    let error = Transport::new(config(&server, patient())).unwrap().call(Call::new(Method::GET, "/api")).await.unwrap_err();
    assert_eq!((error.kind(), server.requests()), (Failure::Tls, 0), "{error}");
    let allowed = Limits { tls12: true, ..patient() };
    let transport = Transport::new(config(&server, allowed)).unwrap();
    assert_eq!(transport.call(Call::new(Method::GET, "/api")).await.unwrap().status, 200);
    peak.at_most_mib(8);
}

#[tokio::test]
async fn s44_the_name_that_the_kubeconfig_gives_is_the_one_that_counts() {
    let _alone = Peak::start();
    let ours = Authority::new();
    let server = Server::with("127.0.0.1", &ours, ours.leaf("b.example"), silent()).await;
    let mut config = config(&server, patient());
    config.kubeconfig.tls_server_name = Some("b.example".to_owned());
    let transport = Transport::new(config).unwrap();
    assert_eq!(transport.call(Call::new(Method::GET, "/api")).await.unwrap().status, 200);
}

#[tokio::test]
async fn s47_loopback_and_metadata_are_refused_before_a_connection() {
    let peak = Peak::start();
    let server = Server::start(silent()).await;
    for (url, policy) in [
        (server.url().to_string(), AddressPolicy::default()),
        (server.url().to_string().replace("127.0.0.1", "127.1"), AddressPolicy::default()),
        (server.url().to_string().replace("127.0.0.1", "2130706433"), AddressPolicy::default()),
        (server.url().to_string().replace("127.0.0.1", "0x7f000001"), AddressPolicy::default()),
        (server.url().to_string().replace("127.0.0.1", "[::ffff:127.0.0.1]"), AddressPolicy::default()),
        ("https://169.254.169.254".to_owned(), loopback()),
        ("https://[fd00:ec2::254]".to_owned(), loopback()),
        ("https://0.0.0.0:6443".to_owned(), loopback()),
        ("https://10.96.0.1".to_owned(), AddressPolicy::tenant(vec!["10.96.0.0/12".parse().unwrap()], Vec::new())),
    ] {
        let mut config = config(&server, patient());
        config.kubeconfig.server = url.parse().unwrap();
        config.addresses = policy;
        let error = Transport::new(config).unwrap().call(Call::new(Method::GET, "/api")).await.unwrap_err();
        assert_eq!(error.kind(), Failure::AddressDenied, "{url}: {error}");
    }
    assert_eq!(server.connections(), 0);
    peak.at_most_mib(8);
}

#[tokio::test]
async fn s47_a_name_is_resolved_once_and_the_judged_address_is_the_one_connected_to() {
    let peak = Peak::start();
    let ours = Authority::new();
    let server = Server::with("flip.example", &ours, ours.leaf("flip.example"), silent()).await;
    let resolver = Arc::new(Fixed::new(vec![vec!["127.0.0.1"], vec!["169.254.169.254"]]));
    let mut config = config(&server, patient());
    config.resolver = resolver.clone();
    let transport = Transport::new(config).unwrap();
    for _ in 0..3 {
        assert_eq!(transport.call(Call::new(Method::GET, "/api")).await.unwrap().status, 200);
    }
    assert_eq!(resolver.asked.load(Ordering::SeqCst), 1);
    // A further connection is judged by its own answer.
    let error = transport.watch("/api?watch=true", None).await.unwrap_err();
    assert_eq!(error.kind(), Failure::AddressDenied);
    peak.at_most_mib(8);
}

#[tokio::test]
async fn s47_a_denied_address_among_allowed_ones_is_passed_over() {
    let peak = Peak::start();
    let ours = Authority::new();
    let server = Server::with("flip.example", &ours, ours.leaf("flip.example"), silent()).await;
    let mut config = config(&server, patient());
    config.resolver = Arc::new(Fixed::new(vec![vec!["169.254.169.254", "::1", "127.0.0.1"], vec!["::ffff:169.254.169.254"]]));
    let transport = Transport::new(config).unwrap();
    assert_eq!(transport.call(Call::new(Method::GET, "/api")).await.unwrap().status, 200);
    let error = transport.watch("/api?watch=true", None).await.unwrap_err();
    assert!(matches!(error, TransportError::AddressDenied { .. }), "{error}");
    peak.at_most_mib(8);
}
