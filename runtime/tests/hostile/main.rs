//! A server of canned bytes against the transport: each test states what came of it and how much memory it took.
//!
//! Rows of the threat matrix stand in the names. Memory is the process's peak, so the tests run one at a time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests and what they stand on")]

mod bodies;
mod ordinary;
mod redirects;
mod slow;
mod trust;
mod watches;

use std::time::Duration;

use runtime::address::AddressPolicy;
use runtime::kubeconfig::{Identity, Kubeconfig, Secret};
use runtime::transport::{Limits, Transport, TransportConfig};
use testing::server::Server;

/// Token of every client here; no server that is not the right one may see it.
const TOKEN: &str = "t0ken";

/// Limits short enough to be met by a test, with room for a busy machine where a test is about another one.
fn quick() -> Limits {
    Limits {
        connect: Duration::from_secs(2),
        tls: Duration::from_secs(2),
        headers: Duration::from_millis(500),
        unary: Duration::from_secs(3),
        list: Duration::from_secs(3),
        grace: Duration::from_millis(200),
        silence: Duration::from_millis(200),
        ..Limits::default()
    }
}

/// As tenants have it but for time: for tests that move many bytes.
fn patient() -> Limits {
    Limits { tls: Duration::from_secs(5), ..Limits::default() }
}

/// The policy of the test bed: loopback is allowed.
fn loopback() -> AddressPolicy {
    AddressPolicy::tenant(Vec::new(), vec!["127.0.0.0/8".parse().unwrap()])
}

fn kubeconfig(server: &Server) -> Kubeconfig {
    Kubeconfig {
        server: server.url(),
        ca_pem: server.ca_pem().into(),
        identity: Identity::Token(Secret::new(TOKEN.to_owned())),
        tls_server_name: None,
    }
}

fn config(server: &Server, limits: Limits) -> TransportConfig {
    TransportConfig { limits, ..TransportConfig::tenant(kubeconfig(server), loopback(), "hostile-test") }
}

fn transport(server: &Server, limits: Limits) -> Transport {
    Transport::new(config(server, limits)).unwrap()
}
