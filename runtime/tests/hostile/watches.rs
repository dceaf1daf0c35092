//! Watches that flood, and that nobody reads.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use runtime::transport::{Bound, Call, Failure, Limits, TransportError};
use testing::http::{drip, flood, pieces, reply};
use testing::memory::Peak;
use testing::server::{Behavior, Server};

use crate::{patient, transport};

#[tokio::test]
async fn p9_s37_a_line_without_end_is_left_at_the_cap() {
    for is_http2 in [true, false] {
        let peak = Peak::start();
        let behavior = if is_http2 {
            Behavior::http2(|_| async { pieces(flood(256 * 1024 * 1024)) })
        } else {
            Behavior::http1(|_| async { pieces(flood(256 * 1024 * 1024)) })
        };
        let server = Server::start(behavior).await;
        let transport = transport(&server, patient());
        let mut lines = transport.watch("/api/v1/pods?watch=true", None).await.unwrap();
        let error = lines.next().await.unwrap().unwrap_err();
        assert!(matches!(error, TransportError::TooLarge { bound: Bound::Line, .. }), "{error}");
        let received = || transport.traffic().snapshot().bytes_received / (1024 * 1024);
        assert!(received() < 5);
        // Its end is looked for a while, and never more of it kept.
        assert!(lines.next().await.is_none());
        assert!(received() < 18);
        peak.at_most_mib(24);
    }
}

#[tokio::test]
async fn s37_a_line_that_is_too_long_costs_itself_alone() {
    let peak = Peak::start();
    let long = "0".repeat(200 * 1024);
    let texts = ["1\n2\n".to_owned(), long.clone(), "\n3\n".to_owned(), long + "\n4\n", "5\n".to_owned()];
    let server = Server::start(Behavior::http2(move |_| {
        let texts = texts.clone();
        async move { pieces(texts.into_iter().map(Bytes::from)) }
    }))
    .await;
    let transport = transport(&server, Limits { line_bytes: 64 * 1024, ..patient() });
    let mut lines = transport.watch("/api/v1/pods?watch=true", None).await.unwrap();
    let mut read = Vec::new();
    while let Some(line) = lines.next().await {
        read.push(line.map_or_else(|error| error.kind() == Failure::TooLarge, |line| line.len() == 1));
    }
    assert_eq!(read, [true; 7], "five lines, and two that are passed over");
    peak.at_most_mib(8);
}

#[tokio::test]
async fn s34_empty_lines_without_end_are_not_looked_through() {
    let _alone = Peak::start();
    let server = Server::start(Behavior::http2(|_| async {
        pieces([Bytes::from_static(b"\n\n1\n")].into_iter().chain(std::iter::repeat(Bytes::from_static(&[b'\n'; 4096]))))
    }))
    .await;
    let transport = transport(&server, patient());
    let mut lines = transport.watch("/api/v1/pods?watch=true", None).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), "1");
    assert!(lines.next().await.is_none());
    assert!(transport.traffic().snapshot().bytes_received < 1024 * 1024);
}

#[tokio::test]
async fn s37_a_line_at_the_cap_is_read_and_one_byte_more_is_not() {
    for (length, is_read) in [(64 * 1024, true), (64 * 1024 + 1, false)] {
        let peak = Peak::start();
        let server =
            Server::start(Behavior::http2(move |_| async move { pieces([Bytes::from("0".repeat(length) + "\n")].into_iter()) })).await;
        let transport = transport(&server, Limits { line_bytes: 64 * 1024, ..patient() });
        let mut lines = transport.watch("/api/v1/pods?watch=true", None).await.unwrap();
        let line = lines.next().await.unwrap();
        match line {
            Ok(line) => assert!(is_read && line.len() == length),
            Err(error) => assert!(!is_read && error.kind() == Failure::TooLarge),
        }
        peak.at_most_mib(8);
    }
}

#[tokio::test]
async fn s37_watches_that_nobody_reads_hold_little_memory_and_stop_no_call() {
    let peak = Peak::start();
    let server = Server::start(Behavior::http2(|request| async move {
        if request.uri().query().is_some() {
            return pieces(std::iter::repeat(Bytes::from_static(&[b'\n'; 4096])));
        }
        reply(200, &[], "")
    }))
    .await;
    let transport = transport(&server, patient());
    let mut watches = Vec::new();
    for _ in 0..30 {
        watches.push(transport.watch("/api/v1/pods?watch=true", None).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    transport.call(Call::new(Method::GET, "/api/v1/pods/a")).await.unwrap();
    // Another watch on the same connection is not stopped either.
    transport.watch("/api/v1/pods?watch=true", None).await.unwrap();
    // 30 windows of 128 KiB, here on both sides.
    peak.at_most_mib(32);
}

#[tokio::test]
async fn r15_bookmarks_keep_a_quiet_watch_alive() {
    let _alone = Peak::start();
    let server =
        Server::start(Behavior::http2(|_| async { drip(std::iter::repeat_n(Bytes::from_static(b"{}\n"), 5), Duration::from_millis(300)) }))
            .await;
    let transport = transport(&server, Limits { silence: Duration::from_secs(1), ..patient() });
    let mut lines = transport.watch("/api/v1/pods?watch=true", None).await.unwrap();
    for _ in 0..5 {
        assert_eq!(lines.next().await.unwrap().unwrap(), "{}");
    }
    assert!(lines.next().await.is_none());
}
