//! Kinds that an API server does not serve, not yet, or no longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Uid, keys};
use http::{Request, Response};
use mirror::cx::Published as _;
use prometheus_client::registry::Registry;
use runtime::task::{TaskMetrics, Tasks};
use runtime::transport::Limits;
use syncer::informer::Bounds;
use syncer::metrics::SyncMetrics;
use testing::http::{Body, pieces, reply};
use testing::server::{Behavior, Server};
use tokio::time::Instant;

use crate::events::wait;
use crate::kinds::{attach, engine};
use crate::{Heard, asked, kind, object, page};

const PACE: Duration = Duration::from_millis(200);

/// What kube-apiserver says to a path that leads nowhere.
fn nowhere() -> Response<Body> {
    reply(404, &[("content-type", "text/plain")], "404 page not found\n")
}

/// A server, with WatchList or without, of a kind that it serves while `has_it` says so: two objects, and watches that end at once.
async fn server(has_it: Arc<AtomicBool>) -> Server {
    let answer = move |request: &Request<()>| match (has_it.load(Ordering::SeqCst), asked(request, "watch")) {
        (false, _) => nowhere(),
        (_, Some(_)) if asked(request, "sendInitialEvents").is_some() => reply(400, &[], "no WatchList"),
        (_, Some(_)) => pieces(std::iter::empty()),
        (_, None) => page(&[object(1, "5", 0), object(2, "6", 0)], "7", ""),
    };
    Server::start(Behavior::http2(move |request| {
        let response = answer(&request.map(drop));
        async move { response }
    }))
    .await
}

#[tokio::test]
async fn a_kind_that_is_not_served_is_asked_for_at_a_pace_and_taken_up_when_it_is() {
    let has_it = Arc::new(AtomicBool::new(false));
    let server = server(has_it.clone()).await;
    let mut heard = Heard::of_optional(&server, PACE);
    let begun = Instant::now();
    heard.lacks(3).await;
    assert!(begun.elapsed() >= PACE * 2, "{:?}", begun.elapsed());
    assert!(!heard.index.synced(kind(), false), "a kind that is not served says nothing of its objects");
    has_it.store(true, Ordering::SeqCst);
    assert_eq!(heard.next().await.unwrap(), "7");
    assert_eq!((heard.standing(), heard.index.synced(kind(), false)), ((2, 0, 0), true));
}

#[tokio::test]
async fn nothing_is_missed_of_a_kind_that_is_served_no_longer() {
    let has_it = Arc::new(AtomicBool::new(true));
    let server = server(has_it.clone()).await;
    let mut heard = Heard::of_optional(&server, PACE);
    assert_eq!(heard.next().await.unwrap(), "7");
    has_it.store(false, Ordering::SeqCst);
    heard.lacks(2).await;
    assert_eq!((heard.standing(), heard.index.synced(kind(), false)), ((2, 0, 0), false), "its keys wait");
    has_it.store(true, Ordering::SeqCst);
    assert_eq!(heard.next().await.unwrap(), "7");
    assert_eq!((heard.standing(), heard.index.synced(kind(), false)), ((2, 0, 0), true));
}

/// An API server without objects but for a published class, of a kind that it serves while `has_it` says so.
async fn with_class(has_it: Arc<AtomicBool>) -> Server {
    let class = format!(
        r#"{{"metadata":{{"name":"gold","uid":"{}","resourceVersion":"5","labels":{{"{}":"true"}}}},"driverName":"csi.example"}}"#,
        Uid::from_bits(1),
        keys::PUBLIC
    );
    let answer = move |request: &Request<()>| {
        let is_optional = request.uri().path().ends_with("/volumeattributesclasses");
        match asked(request, "watch") {
            _ if is_optional && !has_it.load(Ordering::SeqCst) => nowhere(),
            Some(_) if asked(request, "sendInitialEvents").is_some() => reply(400, &[], "no WatchList"),
            Some(_) => pieces(std::iter::empty()),
            None if is_optional => page(std::slice::from_ref(&class), "7", ""),
            None => page(&[], "7", ""),
        }
    };
    Server::start(Behavior::http2(move |request| {
        let response = answer(&request.map(drop));
        async move { response }
    }))
    .await
}

#[tokio::test]
async fn a_class_of_a_kind_that_comes_and_goes_keeps_nothing_waiting_and_stays_published() {
    let has_it = Arc::new(AtomicBool::new(false));
    let server = with_class(has_it.clone()).await;
    let mut registry = Registry::default();
    let metrics = Arc::new(SyncMetrics::register(&mut registry));
    let (engine, showing) = engine(&server, &metrics, PACE);
    let tasks = Arc::new(Tasks::new(&TaskMetrics::default()));
    engine.start(&tasks);
    let looks = |side: &str| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let metric = format!(r#"unserved_total{{side="{side}",kind="VolumeAttributesClass"}} "#);
        text.lines().find_map(|line| line.strip_prefix(&metric)).map_or(0, |count| count.parse::<usize>().unwrap())
    };
    let is_there = || showing.is_published("VolumeAttributesClass", "gold");
    wait(|| engine.super_synced()).await;
    assert!(looks("super") > 0 && !is_there());
    has_it.store(true, Ordering::SeqCst);
    wait(is_there).await;
    let lacking = with_class(Arc::new(AtomicBool::new(false))).await;
    attach(&engine, &lacking, &tasks);
    wait(|| looks("tenant") > 0).await;
    let before = looks("super");
    has_it.store(false, Ordering::SeqCst);
    wait(|| looks("super") > before + 1).await;
    assert!(is_there() && engine.super_synced(), "that a kind is served no longer says nothing of its objects");
}

#[tokio::test]
async fn a_kind_that_must_be_served_and_is_not_is_a_failure() {
    let server = server(Arc::new(AtomicBool::new(false))).await;
    let mut heard = Heard::of(&server, Limits::default(), Bounds::default());
    assert_eq!(heard.next().await.unwrap_err().code(), Some(404));
    assert_eq!(heard.lacked, 0);
}
