//! P11 and S40: servers that are slow, at each step.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use runtime::transport::{Call, Failure, Limits, Step, Transport, TransportError};
use testing::http::drip;
use testing::memory::Peak;
use testing::server::{Behavior, Server};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, sleep};

use crate::trust::Fixed;
use crate::{config, quick, transport};

fn step(error: &TransportError) -> Step {
    let TransportError::Timeout { step, .. } = error else { panic!("{error}") };
    *step
}

/// A step has ended in time: with room for a busy machine.
#[track_caller]
fn in_time(start: Instant) {
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn s40_a_name_that_does_not_resolve_in_time_is_given_up() {
    let peak = Peak::start();
    let server = Server::start(Behavior::Mute).await;
    let mut config = config(&server, Limits { connect: Duration::from_millis(200), ..quick() });
    config.kubeconfig.server.set_host(Some("slow.example")).unwrap();
    config.resolver = Arc::new(Fixed::never());
    let transport = Transport::new(config).unwrap();
    let start = Instant::now();
    let error = transport.call(Call::new(Method::GET, "/api")).await.unwrap_err();
    assert_eq!(step(&error), Step::Connect);
    in_time(start);
    peak.at_most_mib(8);
}

/// A server whose queue of connections is full: whoever comes next is not answered at all.
fn jammed() -> (TcpListener, Vec<std::net::TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let one = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
    let queued: Vec<_> = std::iter::from_fn(one).take(64).collect();
    assert!(queued.len() < 64, "the queue has an end");
    (listener, queued)
}

/// Time goes on by itself where nothing else can: the limit is the one that tenants have.
#[tokio::test(start_paused = true)]
async fn s40_a_connection_that_nobody_answers_is_given_up_at_the_limit() {
    let peak = Peak::start();
    let (listener, _queued) = jammed();
    let server = Server::start(Behavior::Mute).await;
    let mut config = config(&server, Limits::default());
    config.kubeconfig.server.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    let transport = Transport::new(config).unwrap();
    let start = Instant::now();
    let calls = (0..2).map(|_| transport.call(Call::new(Method::GET, "/api")));
    for outcome in futures::future::join_all(calls).await {
        assert_eq!(step(&outcome.unwrap_err()), Step::Connect);
    }
    let limits = Limits::default();
    // The second waited for the first, and then tried by itself.
    assert!(start.elapsed() >= limits.connect && start.elapsed() <= 2 * limits.connect + Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(server.connections(), 0);
    peak.at_most_mib(8);
}

#[tokio::test]
async fn p11_s40_a_handshake_that_never_ends_is_given_up_by_all_who_wait_for_it() {
    let peak = Peak::start();
    let server = Server::start(Behavior::Mute).await;
    let transport = transport(&server, Limits { tls: Duration::from_millis(200), ..quick() });
    let start = Instant::now();
    let calls = (0..8).map(|_| transport.call(Call::new(Method::GET, "/api")));
    for outcome in futures::future::join_all(calls).await {
        assert!(matches!(step(&outcome.unwrap_err()), Step::Tls | Step::Connect));
    }
    in_time(start);
    peak.at_most_mib(8);
}

#[tokio::test]
async fn p11_s40_headers_that_never_come_are_given_up() {
    for is_http2 in [true, false] {
        let peak = Peak::start();
        let behavior = if is_http2 { Behavior::http2(|_| std::future::pending()) } else { Behavior::http1(|_| std::future::pending()) };
        let server = Server::start(behavior).await;
        let transport = transport(&server, quick());
        let start = Instant::now();
        assert_eq!(step(&transport.call(Call::new(Method::GET, "/api")).await.unwrap_err()), Step::Headers);
        assert_eq!(step(&transport.watch("/api?watch=true", None).await.unwrap_err()), Step::Headers);
        in_time(start);
        peak.at_most_mib(8);
    }
}

#[tokio::test]
async fn p11_s40_headers_that_come_byte_by_byte_are_given_up() {
    let peak = Peak::start();
    let server = Server::start(Behavior::Raw(
        b"http/1.1",
        Arc::new(|mut stream| {
            Box::pin(async move {
                for byte in b"HTTP/1.1 200 OK\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
                    if stream.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            })
        }),
    ))
    .await;
    let start = Instant::now();
    let error = transport(&server, quick()).call(Call::new(Method::GET, "/api")).await.unwrap_err();
    assert_eq!(step(&error), Step::Headers);
    in_time(start);
    peak.at_most_mib(8);
}

#[tokio::test]
async fn s40_a_server_that_offers_http2_and_says_nothing_is_given_up() {
    let peak = Peak::start();
    let server = Server::start(Behavior::Raw(
        b"h2",
        Arc::new(|stream| {
            Box::pin(async move {
                let _held = stream;
                std::future::pending::<()>().await;
            })
        }),
    ))
    .await;
    let start = Instant::now();
    let error = transport(&server, quick()).call(Call::new(Method::GET, "/api")).await.unwrap_err();
    assert_eq!(step(&error), Step::Headers);
    in_time(start);
    peak.at_most_mib(8);
}

#[tokio::test]
async fn r15_a_server_that_answers_no_ping_loses_its_watches() {
    let peak = Peak::start();
    let server = Server::start(Behavior::Raw(
        b"h2",
        Arc::new(|mut stream| {
            Box::pin(async move {
                // SETTINGS, then the headers of a response (`:status 200`, index 8) on stream 1, then nothing.
                let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
                sleep(Duration::from_millis(50)).await;
                let headers = [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
                let _ = stream.write_all(&[&settings[..], &headers[..]].concat()).await;
                let _ = stream.flush().await;
                std::future::pending::<()>().await;
            })
        }),
    ))
    .await;
    let silence = Duration::from_mins(1);
    let limits = Limits { ping: Duration::from_millis(100), pong: Duration::from_millis(100), silence, ..quick() };
    let start = Instant::now();
    let mut lines = transport(&server, limits).watch("/api?watch=true", None).await.unwrap();
    let error = lines.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Failure::Closed, "{error}");
    in_time(start);
    peak.at_most_mib(8);
}

/// A body that goes on and on: so many bytes at a time, over either protocol.
fn dripping(is_http2: bool, bytes: usize) -> Behavior {
    let answer = move |_| async move { drip(std::iter::repeat(Bytes::from(vec![b'0'; bytes])), Duration::from_millis(20)) };
    if is_http2 { Behavior::http2(answer) } else { Behavior::http1(answer) }
}

#[tokio::test]
async fn p11_s40_a_body_that_drips_is_given_up() {
    for is_http2 in [true, false] {
        let peak = Peak::start();
        let server = Server::start(dripping(is_http2, 1)).await;
        let transport = transport(&server, quick());
        let start = Instant::now();
        assert_eq!(step(&transport.call(Call::list("/api/v1/pods")).await.unwrap_err()), Step::Body);
        assert!(start.elapsed() < Duration::from_secs(2), "the pace ends it, before the total does");
        assert_eq!(step(&transport.call(Call::new(Method::GET, "/api")).await.unwrap_err()), Step::Body);
        in_time(start);
        peak.at_most_mib(8);
    }
}

#[tokio::test]
async fn s40_a_body_that_keeps_the_pace_for_ever_ends_at_its_deadline() {
    let (short, long) = (Duration::from_secs(1), Duration::from_mins(1));
    let list = (Call::list("/api/v1/pods"), Limits { list: short, unary: long, ..quick() });
    let unary = (Call::new(Method::GET, "/api/v1/pods/a"), Limits { unary: short, list: long, ..quick() });
    for ((call, limits), is_http2) in [(list.clone(), true), (list, false), (unary.clone(), true), (unary, false)] {
        let peak = Peak::start();
        let server = Server::start(dripping(is_http2, 1024)).await;
        let start = Instant::now();
        let error = transport(&server, limits).call(call).await.unwrap_err();
        assert_eq!(step(&error), Step::Body);
        assert!(start.elapsed() >= Duration::from_millis(900));
        in_time(start);
        peak.at_most_mib(8);
    }
}

#[tokio::test]
async fn s40_a_silent_watch_is_given_up_even_if_it_drips_parts_of_a_line() {
    for piece in ["", "0"] {
        let peak = Peak::start();
        let server = Server::start(Behavior::http2(move |_| async move {
            drip(std::iter::repeat(Bytes::from_static(piece.as_bytes())), Duration::from_millis(20))
        }))
        .await;
        let mut lines = transport(&server, quick()).watch("/api?watch=true", None).await.unwrap();
        let start = Instant::now();
        assert_eq!(step(&lines.next().await.unwrap().unwrap_err()), Step::Line);
        in_time(start);
        peak.at_most_mib(8);
    }
}
