//! Lists without end, and pages that are too large.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use runtime::transport::Limits;
use syncer::informer::Bounds;
use syncer::remote::CallError;
use testing::http::{pieces, reply};
use testing::memory::Peak;
use testing::server::{Behavior, Server};
use tokio::time::Instant;

use crate::{Heard, asked, object, page, server};

const MIB: usize = 1024 * 1024;

/// One list that is whole, and then pages of other objects without end.
async fn endless(bounds: Bounds, bytes: usize) -> (Heard, usize) {
    let calls = AtomicUsize::new(0);
    let server = server(move |request| {
        if asked(request, "watch").is_some() {
            return reply(410, &[], r#"{"reason":"Expired"}"#);
        }
        match calls.fetch_add(1, Ordering::SeqCst) {
            0 => page(&[object(1, "5", 0), object(2, "6", 0)], "7", ""),
            call => page(&[object(3, "8", bytes)], "9", &format!("c{call}")),
        }
    })
    .await;
    let mut heard = Heard::of(&server, Limits::default(), bounds);
    assert_eq!(heard.next().await.unwrap(), "7");
    assert!(heard.next().await.is_err(), "the watch is too old");
    let error = heard.next().await.unwrap_err();
    assert!(matches!(error, CallError::Endless { side: "tenant" }), "{error}");
    (heard, server.requests())
}

#[tokio::test]
async fn p10_s39_a_list_without_end_is_given_up_and_what_is_known_is_kept() {
    let peak = Peak::start();
    let many = Bounds { pages: 2000, ..Bounds::default() };
    let large = Bounds { bytes: 64 * MIB, ..Bounds::default() };
    let long = Bounds { time: Duration::from_millis(300), ..Bounds::default() };
    for (bounds, bytes, most) in [(many, 0, 2010), (large, MIB, 80), (long, MIB, usize::MAX)] {
        let (heard, requests) = endless(bounds, bytes).await;
        assert!(requests <= most, "{requests} requests");
        assert_eq!(heard.standing(), (3, 0, 0));
    }
    peak.at_most_mib(24);
}

#[tokio::test]
async fn s34_lists_of_one_page_behind_which_no_watch_comes_are_asked_for_at_a_growing_pace() {
    let server = server(|request| {
        if asked(request, "watch").is_some() { reply(410, &[], r#"{"reason":"Expired"}"#) } else { page(&[object(1, "5", 0)], "7", "") }
    })
    .await;
    let mut heard = Heard::of(&server, Limits::default(), Bounds::default());
    let begun = Instant::now();
    for _ in 0..4 {
        assert_eq!(heard.next().await.unwrap(), "7");
        assert!(heard.next().await.is_err(), "the watch is too old");
    }
    // 200 + 400 + 800 ms at least; three times the first pause would be 1200 ms at most.
    assert!(begun.elapsed() >= Duration::from_millis(1400), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn s39_a_page_that_leads_to_itself_is_asked_for_once_more_and_then_left() {
    let peak = Peak::start();
    let server = server(|_| page(&[], "1", "again")).await;
    let mut heard = Heard::of(&server, Limits::default(), Bounds::default());
    assert!(matches!(heard.next().await.unwrap_err(), CallError::Endless { .. }));
    assert_eq!(server.requests(), 3, "WatchList, the first page, and the one that it leads to");
    peak.at_most_mib(8);
}

#[tokio::test]
async fn s39_a_list_that_is_streamed_without_end_is_given_up_too() {
    let peak = Peak::start();
    let server = Server::start(Behavior::http2(|_| async {
        let line = |number: usize| Bytes::from(format!("{{\"type\":\"ADDED\",\"object\":{}}}\n", object(number % 10, "5", 64 * 1024)));
        pieces((0..).map(line))
    }))
    .await;
    let mut heard = Heard::of(&server, Limits::default(), Bounds { bytes: 64 * MIB, ..Bounds::default() });
    assert!(matches!(heard.next().await.unwrap_err(), CallError::Endless { .. }));
    assert_eq!(heard.standing(), (10, 0, 0));
    // What waits to be taken in here is the test's own: the engine takes it in at once.
    peak.at_most_mib(96);
}

#[tokio::test]
async fn pages_are_halved_until_large_objects_fit() {
    const OBJECTS: usize = 40;
    let peak = Peak::start();
    let server = server(|request| {
        if asked(request, "watch").is_some() {
            return pieces(std::iter::empty());
        }
        let from = asked(request, "continue").map_or(0, |text| text.parse::<usize>().unwrap());
        let to = (from + asked(request, "limit").unwrap().parse::<usize>().unwrap()).min(OBJECTS);
        let items: Vec<_> = (from..to).map(|number| object(number, "5", 300 * 1024)).collect();
        page(&items, "7", &if to < OBJECTS { to.to_string() } else { String::new() })
    })
    .await;
    let limits = Limits { list_bytes: MIB, ..Limits::default() };
    let mut heard = Heard::of(&server, limits, Bounds::default());
    assert_eq!(heard.next().await.unwrap(), "7");
    assert_eq!(heard.standing(), (OBJECTS, 0, 0));
    // The pages of the server are ours here too.
    peak.at_most_mib(64);
}

#[tokio::test]
async fn an_object_that_no_page_can_hold_is_told_and_nothing_is_missed_for_it() {
    let peak = Peak::start();
    let server = server(|_| page(&[object(1, "5", 2 * MIB)], "7", "")).await;
    let mut heard = Heard::of(&server, Limits { list_bytes: MIB, ..Limits::default() }, Bounds::default());
    assert!(matches!(heard.next().await.unwrap_err(), CallError::Transport { .. }));
    assert_eq!(heard.standing(), (0, 0, 0));
    peak.at_most_mib(16);
}

#[tokio::test]
async fn s39_a_page_of_nothing_but_empty_objects_is_left_at_once() {
    let peak = Peak::start();
    let server = server(|request| {
        if asked(request, "watch").is_some() {
            return pieces(std::iter::empty());
        }
        let piece = Bytes::from("7,".repeat(64 * 1024));
        let begin = Bytes::from(r#"{"metadata":{"resourceVersion":"7"},"items":["#);
        pieces([begin].into_iter().chain(std::iter::repeat_n(piece, 128)).chain([Bytes::from("7]}")]))
    })
    .await;
    let mut heard = Heard::of(&server, Limits::default(), Bounds::default());
    assert!(matches!(heard.next().await.unwrap_err(), CallError::Unreadable { .. }));
    assert_eq!((heard.unreadable, heard.standing()), (1000, (0, 0, 0)));
    // The page, twice while it grows.
    peak.at_most_mib(64);
}
