//! Answers that are too large, packed, or garbage, and waits that are too long.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};
use runtime::transport::{Bound, Call, Failure, Limits, TransportError};
use testing::http::{drip, flood, pieces, reply};
use testing::memory::Peak;
use testing::server::{Behavior, Server};
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::{patient, transport};

const GIB: usize = 1024 * 1024 * 1024;

#[tokio::test]
async fn p4_p5_s36_a_wait_is_capped_or_ignored_and_nothing_is_retried() {
    let most = Some(Duration::from_mins(1));
    let huge = ["18446744073709551615", "99999999999999999999999999", "31536000"].map(|wait| (wait, most));
    let senseless = ["soon", "-1", "-18446744073709551616", "1e9"].map(|wait| (wait, None));
    for status in [429, 503] {
        for (wait, heard) in huge.into_iter().chain(senseless) {
            let peak = Peak::start();
            let server = Server::start(Behavior::http2(move |_| async move { reply(status, &[("retry-after", wait)], "{}") })).await;
            let transport = transport(&server, patient());
            let answer = transport.call(Call::new(Method::POST, "/api/v1/pods")).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.retry_after), (status, heard), "{wait}");
            let refused = transport.watch("/api/v1/pods?watch=true", None).await.unwrap_err();
            let answer = refused.reply().unwrap();
            assert_eq!((answer.status.as_u16(), answer.retry_after), (status, heard), "{wait}");
            assert_eq!(server.requests(), 2, "each once");
            peak.at_most_mib(8);
        }
    }
}

#[tokio::test]
async fn p7_s37_a_list_of_a_gib_is_left_at_the_cap() {
    for is_http2 in [true, false] {
        let peak = Peak::start();
        let behavior =
            if is_http2 { Behavior::http2(|_| async { pieces(flood(GIB)) }) } else { Behavior::http1(|_| async { pieces(flood(GIB)) }) };
        let server = Server::start(behavior).await;
        let transport = transport(&server, patient());
        let error = transport.call(Call::list("/api/v1/pods?limit=500")).await.unwrap_err();
        let TransportError::TooLarge { bound: Bound::Body, limit_bytes, .. } = error else { panic!("{error}") };
        assert_eq!(limit_bytes, 32 * 1024 * 1024);
        assert!(transport.traffic().snapshot().bytes_received < 34 * 1024 * 1024);
        // The page itself, twice while its buffer grows.
        peak.at_most_mib(80);
    }
}

#[tokio::test]
async fn s37_a_length_that_is_too_large_is_refused_before_the_first_byte() {
    let peak = Peak::start();
    let server = Server::start(Behavior::http1(|_| async { reply(200, &[], vec![0; 40 * 1024 * 1024]) })).await;
    let transport = transport(&server, patient());
    let error = transport.call(Call::list("/api/v1/pods")).await.unwrap_err();
    assert_eq!(error.kind(), Failure::TooLarge);
    assert_eq!(transport.traffic().snapshot().bytes_received, 0);
    peak.at_most_mib(48);
}

#[tokio::test]
async fn s37_an_object_and_an_error_have_smaller_caps_than_a_list() {
    for (status, most) in [(200, 2 * 1024 * 1024), (500, 64 * 1024)] {
        let peak = Peak::start();
        let server = Server::start(Behavior::http2(move |_| async move {
            let mut response = pieces(flood(GIB));
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            response
        }))
        .await;
        let error = transport(&server, patient()).call(Call::new(Method::GET, "/api/v1/pods/a")).await.unwrap_err();
        let TransportError::TooLarge { limit_bytes, .. } = error else { panic!("{error}") };
        assert_eq!(limit_bytes, most);
        peak.at_most_mib(16);
    }
}

#[tokio::test]
async fn s37_the_answer_to_a_refused_watch_is_capped_too() {
    let peak = Peak::start();
    let server = Server::start(Behavior::http2(|_| async {
        let mut response = pieces(flood(GIB));
        *response.status_mut() = http::StatusCode::FORBIDDEN;
        response
    }))
    .await;
    let error = transport(&server, patient()).watch("/api/v1/pods?watch=true", None).await.unwrap_err();
    assert_eq!(error.kind(), Failure::TooLarge);
    peak.at_most_mib(16);
}

#[tokio::test]
async fn s37_a_request_at_the_cap_is_sent_and_one_byte_more_is_not() {
    for is_http2 in [true, false] {
        let peak = Peak::start();
        let answer = |_| async { reply(201, &[], "{}") };
        let server = Server::start(if is_http2 { Behavior::http2(answer) } else { Behavior::http1(answer) }).await;
        let transport = transport(&server, Limits { request_bytes: 1000, ..patient() });
        let post = |bytes| Call { body: vec![b'0'; bytes].into(), ..Call::new(Method::POST, "/api/v1/configmaps") };
        let error = transport.call(post(1001)).await.unwrap_err();
        assert!(matches!(error, TransportError::Invalid { .. }), "{error}");
        let maps: Api<ConfigMap> = Api::namespaced(transport.client("a"), "a");
        let large = ConfigMap { data: Some([("a".to_owned(), "0".repeat(1000))].into()), ..ConfigMap::default() };
        assert!(maps.create(&PostParams::default(), &large).await.is_err());
        assert_eq!((server.connections(), transport.traffic().snapshot().bytes_sent), (0, 0));
        assert_eq!(transport.call(post(1000)).await.unwrap().status, 201);
        assert_eq!(transport.traffic().snapshot().bytes_sent, 1000);
        peak.at_most_mib(8);
    }
}

/// A response on stream 1: the frame `first`, then `again` as often and as fast as it goes.
fn frames(first: &'static [u8], again: Vec<u8>, times: usize) -> Behavior {
    let again = Arc::new(again);
    Behavior::Raw(
        b"h2",
        Arc::new(move |mut stream| {
            let again = Arc::clone(&again);
            Box::pin(async move {
                // SETTINGS, and a moment for the request to be there.
                let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
                sleep(Duration::from_millis(50)).await;
                let _ = stream.write_all(first).await;
                for _ in 0..times {
                    if stream.write_all(&again).await.is_err() {
                        return;
                    }
                }
                let _ = stream.flush().await;
                std::future::pending::<()>().await;
            })
        }),
    )
}

/// A body in DATA frames of one byte each.
fn crumbs(count: usize) -> Behavior {
    // HEADERS with `:status 200`, index 8 of the static table.
    frames(&[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88], [0, 0, 1, 0, 0, 0, 0, 0, 1, b'0'].repeat(1000), count / 1000)
}

#[tokio::test]
async fn s48_a_body_of_single_bytes_ends_the_connection() {
    let peak = Peak::start();
    let server = Server::start(crumbs(100_000)).await;
    // Here the number of frames is what ends it, not how few bytes a second a busy machine reads of them.
    let limits = Limits { grace: Duration::from_mins(1), ..patient() };
    let error = transport(&server, limits).call(Call::list("/api/v1/pods")).await.unwrap_err();
    assert_eq!(error.kind(), Failure::Closed, "{error}");
    peak.at_most_mib(16);
}

#[tokio::test]
async fn s48_headers_without_end_end_the_connection() {
    let peak = Peak::start();
    // HEADERS without END_HEADERS, then CONTINUATION after CONTINUATION: a literal field of 64 bytes, 250 times.
    let field = [&[0x00, 1, b'x', 60][..], &[b'y'; 60]].concat();
    let block = field.repeat(250);
    let [_, _, high, low] = u32::try_from(block.len()).unwrap().to_be_bytes();
    let again = [&[0, high, low, 9, 0, 0, 0, 0, 1][..], &block].concat();
    let server = Server::start(frames(&[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x88], again, 10_000)).await;
    let error = transport(&server, patient()).call(Call::list("/api/v1/pods")).await.unwrap_err();
    assert_eq!(error.kind(), Failure::Closed, "{error}");
    peak.at_most_mib(8);
}

#[tokio::test]
async fn s48_empty_data_frames_without_end_end_the_connection() {
    let peak = Peak::start();
    let first = &[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
    let server = Server::start(frames(first, [0, 0, 0, 0, 0, 0, 0, 0, 1].repeat(1000), 10_000)).await;
    let error = transport(&server, patient()).call(Call::list("/api/v1/pods")).await.unwrap_err();
    assert!(matches!(error.kind(), Failure::Closed | Failure::Timeout), "{error}");
    peak.at_most_mib(8);
}

#[tokio::test]
async fn s48_a_watch_of_single_bytes_that_nobody_reads_takes_little_memory() {
    let peak = Peak::start();
    let server = Server::start(crumbs(100_000)).await;
    let _unread = transport(&server, patient()).watch("/api/v1/pods?watch=true", None).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    peak.at_most_mib(16);
}

#[tokio::test]
async fn p8_s38_a_packed_body_is_refused_and_not_unpacked() {
    for coding in ["gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP"] {
        let peak = Peak::start();
        let server =
            Server::start(Behavior::http2(
                move |_| async move { reply(200, &[("content-encoding", coding)], vec![0x1f, 0x8b, 8, 0, 0, 0]) },
            ))
            .await;
        let transport = transport(&server, patient());
        let error = transport.call(Call::list("/api/v1/pods")).await.unwrap_err();
        assert_eq!(error.kind(), Failure::Encoded, "{coding}");
        let error = transport.watch("/api/v1/pods?watch=true", None).await.unwrap_err();
        assert_eq!(error.kind(), Failure::Encoded, "{coding}");
        assert_eq!(server.seen.requests.lock()[0].headers()["accept-encoding"], "identity");
        peak.at_most_mib(8);
    }
}

/// So many zeros, packed into half a MiB.
fn bomb(zeros: u64) -> Bytes {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    io::copy(&mut io::repeat(0).take(zeros), &mut packer).unwrap();
    packer.finish().unwrap().into()
}

#[tokio::test]
async fn p8_s38_a_bomb_is_refused_if_it_says_what_it_is_and_else_stays_packed() {
    let bomb = bomb(512 * 1024 * 1024);
    assert!(bomb.len() < 1024 * 1024);
    for says_so in [true, false] {
        let peak = Peak::start();
        let sent = bomb.clone();
        let behavior = Behavior::http2(move |_| {
            let headers: &[_] = if says_so { &[("content-encoding", "gzip")] } else { &[] };
            let answer = reply(200, headers, sent.clone());
            async { answer }
        });
        let server = Server::start(behavior).await;
        let transport = transport(&server, patient());
        let maps: Api<ConfigMap> = Api::all(transport.client("a"));
        match transport.call(Call::list("/api/v1/configmaps")).await {
            Ok(answer) => assert!(!says_so && answer.body == bomb, "{} bytes", answer.body.len()),
            Err(error) => assert!(says_so && error.kind() == Failure::Encoded, "{error}"),
        }
        assert!(maps.list(&ListParams::default()).await.is_err(), "no list, packed or not");
        peak.at_most_mib(8);
    }
}

/// How many pages are followed is for who lists; here, each is one call and no more.
#[tokio::test]
async fn p10_s39_a_page_that_promises_another_makes_no_second_call() {
    let peak = Peak::start();
    let server = Server::start(Behavior::http2(|_| async { reply(200, &[], r#"{"metadata":{"continue":"again"}}"#) })).await;
    transport(&server, patient()).call(Call::list("/api/v1/pods?limit=500")).await.unwrap();
    assert_eq!(server.requests(), 1);
    peak.at_most_mib(8);
}

/// Decoding is for who reads; garbage and depth pass through as bytes and cost no more.
#[tokio::test]
async fn s42_garbage_and_depth_are_bytes_here() {
    let peak = Peak::start();
    let server = Server::start(Behavior::http2(|request| async move {
        if request.uri().query().is_some() {
            pieces([Bytes::from("[".repeat(1_000_000) + "\n\u{0}\n")].into_iter())
        } else {
            reply(200, &[], "\u{0}{{{")
        }
    }))
    .await;
    let transport = transport(&server, patient());
    assert_eq!(transport.call(Call::list("/api/v1/pods")).await.unwrap().body, "\u{0}{{{");
    let mut lines = transport.watch("/api/v1/pods?watch=true", None).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().len(), 1_000_000);
    assert_eq!(lines.next().await.unwrap().unwrap(), "\u{0}");
    assert!(lines.next().await.is_none());
    peak.at_most_mib(16);
}

#[tokio::test]
async fn a_slow_page_that_keeps_the_pace_is_read() {
    let peak = Peak::start();
    let server = Server::start(Behavior::http2(|_| async { drip(flood(16 * 64 * 1024), Duration::from_millis(20)) })).await;
    let limits = Limits { grace: Duration::from_millis(200), bytes_per_second: 1024 * 1024, ..patient() };
    let answer = transport(&server, limits).call(Call::list("/api/v1/pods")).await.unwrap();
    assert_eq!(answer.body.len(), 16 * 64 * 1024);
    peak.at_most_mib(16);
}
