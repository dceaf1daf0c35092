//! The same paths with a server that means well.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Response};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use runtime::kubeconfig::{Identity, Secret};
use runtime::transport::{Call, Failure, Limits, Lines, Transport};
use testing::http::{Body, drip, pieces, reply};
use testing::memory::Peak;
use testing::pki::Authority;
use testing::server::{Behavior, Server};

use crate::{TOKEN, config, patient, transport};

async fn all(mut lines: Lines) -> Vec<String> {
    let mut found = Vec::new();
    while let Some(line) = lines.next().await {
        found.push(String::from_utf8(line.unwrap().to_vec()).unwrap());
    }
    found
}

/// Answers with what it was asked.
async fn echo(request: http::Request<hyper::body::Incoming>) -> Response<Body> {
    let head = format!("{} {}", request.method(), request.uri().path_and_query().unwrap());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    reply(201, &[("retry-after", "7")], [head.as_bytes(), b" ", &body].concat())
}

#[tokio::test]
async fn a_call_carries_its_method_path_body_and_token_over_http2_and_over_http1() {
    let _alone = Peak::start();
    for behavior in [Behavior::http2(echo), Behavior::http1(echo)] {
        let server = Server::start(behavior).await;
        let transport = transport(&server, patient());
        let mut call = Call::new(Method::POST, "/api/v1/pods?dryRun=All");
        call.body = Bytes::from_static(b"{}");
        for _ in 0..3 {
            let answer = transport.call(call.clone()).await.unwrap();
            assert_eq!(answer.status, 201);
            assert_eq!(answer.body, "POST /api/v1/pods?dryRun=All {}");
            assert_eq!(answer.retry_after, Some(Duration::from_secs(7)));
        }
        assert_eq!(server.connections(), 1);
        let seen = server.seen.requests.lock();
        assert_eq!(seen[0].headers()["authorization"], format!("Bearer {TOKEN}"));
        assert_eq!(seen[0].headers()["accept-encoding"], "identity");
        assert_eq!(seen[0].headers()["user-agent"], "hostile-test");
        assert_eq!(seen[0].headers()["content-type"], "application/json");
    }
}

#[tokio::test]
async fn a_path_in_the_servers_url_stands_before_every_path() {
    let _alone = Peak::start();
    let server = Server::start(Behavior::http2(echo)).await;
    let mut config = config(&server, patient());
    config.kubeconfig.server = server.url().join("/clusters/a/").unwrap();
    let transport = Transport::new(config).unwrap();
    let answer = transport.call(Call::new(Method::GET, "/api/v1/pods")).await.unwrap();
    assert_eq!(answer.body, "GET /clusters/a/api/v1/pods ");
}

#[tokio::test]
async fn calls_share_one_connection_and_watches_another() {
    let _alone = Peak::start();
    let server = Server::start(Behavior::http2(|request| async move {
        if request.uri().query() == Some("watch=true") {
            return drip(std::iter::once(Bytes::from_static(b"{}\n")), Duration::from_millis(100));
        }
        echo(request).await
    }))
    .await;
    let transport = transport(&server, Limits { calls: 40, ..patient() });
    let watches = join_all((0..10).map(|_| async { transport.watch("/api/v1/pods?watch=true", None).await.unwrap() })).await;
    let calls = (0..200).map(|n| transport.call(Call::new(Method::GET, format!("/api/v1/pods/{n}"))));
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(server.connections(), 2);
    for watch in watches {
        assert_eq!(all(watch).await, ["{}"]);
    }
    let traffic = transport.traffic().snapshot();
    assert_eq!((traffic.calls, traffic.watches, traffic.lines, traffic.connections), (200, 10, 10, 2));
}

#[tokio::test]
async fn watches_beyond_the_streams_of_a_connection_get_a_further_one() {
    let peak = Peak::start();
    let server =
        Server::start(Behavior::http2(|_| async { drip([Bytes::from_static(b"{}\n")].into_iter().cycle(), Duration::from_millis(200)) }))
            .await;
    let transport = transport(&server, patient());
    let mut watches = Vec::new();
    for _ in 0..200 {
        watches.push(transport.watch("/api/v1/pods?watch=true", None).await.unwrap());
    }
    for watch in &mut watches {
        assert_eq!(watch.next().await.unwrap().unwrap(), "{}");
    }
    assert_eq!(server.connections(), 3);
    drop(watches);
    peak.at_most_mib(64);
}

#[tokio::test]
async fn a_server_that_allows_fewer_streams_gets_more_connections() {
    let _alone = Peak::start();
    let Behavior::Http { handler, .. } =
        Behavior::http2(|_| async { drip([Bytes::from_static(b"{}\n")].into_iter().cycle(), Duration::from_millis(200)) })
    else {
        unreachable!()
    };
    let server = Server::start(Behavior::Http { is_http2: true, streams: 4, handler }).await;
    let transport = transport(&server, patient());
    let mut watches = Vec::new();
    for _ in 0..10 {
        let mut watch = transport.watch("/api/v1/pods?watch=true", None).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap(), "{}");
        watches.push(watch);
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn lines_are_the_same_however_they_are_cut_into_frames() {
    let _alone = Peak::start();
    let text = "first\n\nsecond line\nthird\r\n\n\nlast\ncut off";
    let expected = ["first", "second line", "third\r", "last"];
    for size in 1..=text.len() {
        let server = Server::start(Behavior::http2(move |_| async move {
            pieces(text.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect::<Vec<_>>().into_iter())
        }))
        .await;
        let lines = transport(&server, patient()).watch("/api/v1/pods?watch=true", None).await.unwrap();
        assert_eq!(all(lines).await, expected, "{size}");
    }
}

#[tokio::test]
async fn a_watch_that_is_refused_hands_out_the_answer() {
    let _alone = Peak::start();
    let server = Server::start(Behavior::http2(|_| async { reply(410, &[], "gone") })).await;
    let error = transport(&server, patient()).watch("/api/v1/pods?watch=true", None).await.unwrap_err();
    assert_eq!(error.kind(), Failure::Http(http::StatusCode::GONE));
    assert_eq!(error.reply().unwrap().body, "gone");
}

#[tokio::test]
async fn a_connection_that_ended_is_replaced() {
    let _alone = Peak::start();
    let first = Server::start(Behavior::http2(|_| async { reply(200, &[], "") })).await;
    let transport = transport(&first, patient());
    let call = || transport.call(Call::new(Method::GET, "/api"));
    call().await.unwrap();
    first.hang_up();
    tokio::time::sleep(Duration::from_millis(200)).await;
    call().await.unwrap();
    assert_eq!(first.connections(), 2);
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_closed() {
    let _alone = Peak::start();
    let server = Server::start(Behavior::http2(echo)).await;
    let transport = transport(&server, Limits { idle: Duration::from_millis(50), ..patient() });
    for connections in 1..=2 {
        transport.call(Call::new(Method::GET, "/api")).await.unwrap();
        assert_eq!(server.connections(), connections);
        while server.seen.open.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn a_call_with_a_token_of_its_own_does_not_come_over_a_connection_with_a_certificate() {
    let _alone = Peak::start();
    let authority = Authority::new();
    let (leaf, client) = (authority.leaf("127.0.0.1"), authority.leaf("somebody"));
    let server = Server::with("127.0.0.1", &authority, leaf, Behavior::http2(echo)).await;
    let mut config = config(&server, patient());
    config.kubeconfig.identity =
        Identity::Certificate { chain_pem: client.certificate_pem.into_bytes(), key_pem: Secret::new(client.key_pem) };
    let transport = Transport::new(config).unwrap();
    let token = Secret::new("other".to_owned());
    transport.call(Call::new(Method::GET, "/a")).await.unwrap();
    transport.call(Call { bearer: Some(&token), ..Call::new(Method::GET, "/b") }).await.unwrap();
    let seen = server.seen.requests.lock();
    assert_eq!(seen[0].headers().get("x-client-certificate").unwrap(), "shown");
    assert!(seen[0].headers().get("authorization").is_none());
    assert!(seen[1].headers().get("x-client-certificate").is_none());
    assert_eq!(seen[1].headers().get("authorization").unwrap(), "Bearer other");
}

#[tokio::test]
async fn a_kube_client_lists_watches_and_reads_errors_over_it() {
    let _alone = Peak::start();
    let server = Server::start(Behavior::http2(|request| async move {
        let uri = request.uri();
        let object = r#"{"metadata":{"name":"a","namespace":"b","resourceVersion":"2"}}"#;
        if uri.query().is_some_and(|query| query.contains("watch=true")) {
            let line = format!(r#"{{"type":"ADDED","object":{object}}}"#) + "\n";
            return pieces([Bytes::from(line)].into_iter());
        }
        if uri.path().ends_with("/missing") {
            let status = r#"{"kind":"Status","status":"Failure","reason":"NotFound","code":404,"message":"m"}"#;
            return reply(404, &[], status);
        }
        reply(200, &[], format!(r#"{{"metadata":{{"resourceVersion":"1"}},"items":[{object}]}}"#))
    }))
    .await;
    let maps: Api<ConfigMap> = Api::namespaced(transport(&server, patient()).client("b"), "b");
    assert_eq!(maps.list(&ListParams::default()).await.unwrap().items.len(), 1);
    assert!(maps.get_opt("missing").await.unwrap().is_none());
    let events = maps.watch(&WatchParams::default(), "1").await.unwrap();
    let events: Vec<_> = futures::StreamExt::collect(events).await;
    assert!(matches!(&events[..], [Ok(WatchEvent::Added(map))] if map.metadata.name.as_deref() == Some("a")), "{events:?}");
}
