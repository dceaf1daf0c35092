//! P11 and S40: servers that are slow, at each step.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use runtime::transport::{Call, Failure, Limits, Step, TransportError};
use testing::http::drip;
use testing::memory::Peak;
use testing::server::{Behavior, Server};
use tokio::io::AsyncWriteExt;
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
    let transport = runtime::transport::Transport::new(config).unwrap();
    let start = Instant::now();
    let error = transport.call(Call::new(Method::GET, "/api")).await.unwrap_err();
    assert_eq!(step(&error), Step::Connect);
    in_time(start);
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

#[tokio::test]
async fn p11_s40_a_body_that_drips_is_given_up() {
    let peak = Peak::start();
    let server =
        Server::start(Behavior::http2(|_| async { drip(std::iter::repeat(Bytes::from_static(b"0")), Duration::from_millis(20)) })).await;
    let transport = transport(&server, quick());
    let start = Instant::now();
    assert_eq!(step(&transport.call(Call::list("/api/v1/pods")).await.unwrap_err()), Step::Body);
    assert!(start.elapsed() < Duration::from_secs(2), "the pace ends it, before the total does");
    assert_eq!(step(&transport.call(Call::new(Method::GET, "/api")).await.unwrap_err()), Step::Body);
    in_time(start);
    peak.at_most_mib(8);
}

#[tokio::test]
async fn s40_a_body_that_keeps_the_pace_for_ever_ends_at_its_deadline() {
    let peak = Peak::start();
    let server =
        Server::start(Behavior::http2(|_| async { drip(std::iter::repeat(Bytes::from_static(&[b'0'; 1024])), Duration::from_millis(20)) }))
            .await;
    let start = Instant::now();
    let error = transport(&server, Limits { list: Duration::from_secs(1), ..quick() }).call(Call::list("/api/v1/pods")).await.unwrap_err();
    assert_eq!(step(&error), Step::Body);
    assert!(start.elapsed() >= Duration::from_millis(900));
    in_time(start);
    peak.at_most_mib(8);
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
