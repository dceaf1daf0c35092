//! The server over real sockets of the loopback interface.

use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::*;
use crate::metrics::Build;

struct Bed {
    health: Health,
    address: SocketAddr,
    server: JoinSet<()>,
    stop: CancellationToken,
}

async fn bed() -> Bed {
    let args = ServeArgs { listen: (Ipv4Addr::LOCALHOST, 0).into() };
    let registry = Registry::new(Build { program: "vc-test", version: "1.2.3" });
    let health = Health::default();
    let server = Server::bind(&args, health.clone(), registry).await.unwrap();
    let address = server.local_addr().unwrap();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(server.run(stop.clone()));
    Bed { health, address, server: tasks, stop }
}

impl Bed {
    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
    }
}

#[tokio::test]
async fn readiness_follows_its_conditions_and_names_them() {
    let bed = bed().await;
    let condition = bed.health.condition("cache");
    let refused = bed.get("/readyz").await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("[-]cache failed: not yet\n"), "{refused}");
    assert!(bed.get("/livez").await.starts_with("HTTP/1.1 200 "));
    condition.set_ready();
    let ready = bed.get("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200 ") && ready.ends_with("\r\n\r\nok\n"), "{ready}");
    let verbose = bed.get("/readyz?verbose").await;
    assert!(verbose.ends_with("[+]cache ok\nreadyz check passed\n"), "{verbose}");
}

#[tokio::test]
async fn metrics_are_open_metrics_text() {
    let answer = bed().await.get("/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(CONTENT_TYPE), "{answer}");
    assert!(answer.contains("vc_build_info{") && answer.ends_with("# EOF\n"), "{answer}");
}

#[tokio::test]
async fn anything_else_is_refused() {
    let bed = bed().await;
    for path in ["/", "/healthz", "/metrics/", "/debug/pprof", "/livez/../metrics"] {
        assert!(bed.get(path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    let posted = bed.send("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(HEAD_LIMIT_BYTES));
    assert!(bed.send(&endless).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn silent_connections_do_not_keep_a_probe_out() {
    let bed = bed().await;
    let mut silent = Vec::new();
    for _ in 0..2 * CONNECTIONS {
        silent.push(TcpStream::connect(bed.address).await.unwrap());
    }
    let started = Instant::now();
    assert!(bed.get("/livez").await.starts_with("HTTP/1.1 200 "));
    assert!(started.elapsed() < HEAD_TIMEOUT, "it did not wait for their end");
    let mut byte = [0];
    assert!(!matches!(silent[0].read(&mut byte).await, Ok(1..)), "the oldest was closed");
}

#[tokio::test]
async fn a_stopped_server_gives_the_port_back() {
    let mut bed = bed().await;
    bed.stop.cancel();
    bed.server.join_next().await.unwrap().unwrap();
    TcpListener::bind(bed.address).await.unwrap();
}
