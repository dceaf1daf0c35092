//! S42: what cannot be read, or is something else than was asked for, costs itself alone.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use runtime::transport::Limits;
use syncer::informer::Bounds;
use syncer::remote::CallError;
use testing::http::{pieces, reply};
use testing::memory::Peak;
use testing::server::{Behavior, Server};

use crate::{Heard, asked, object, page, said, server};

#[tokio::test]
async fn s42_one_object_of_500_that_cannot_be_read_is_left_out_alone() {
    let peak = Peak::start();
    let deep = format!(r#"{{"metadata":{}{}}}"#, "[".repeat(500_000), "]".repeat(500_000));
    let bad =
        ["7".to_owned(), "null".to_owned(), r#"{"metadata":{"name":7}}"#.to_owned(), deep, object(1, "5", 0).replace("00000000", "x")];
    for bad in bad {
        let server = server(move |request| {
            if asked(request, "watch").is_some() {
                return pieces(std::iter::empty());
            }
            let mut items: Vec<_> = (0..499).map(|number| object(number, "5", 10)).collect();
            items.insert(250, bad.clone());
            page(&items, "7", "")
        })
        .await;
        let mut heard = Heard::of(&server, Limits::default(), Bounds::default());
        assert_eq!(heard.next().await.unwrap(), "7");
        assert_eq!((heard.unreadable, heard.standing()), (1, (499, 0, 0)));
    }
    peak.at_most_mib(24);
}

#[tokio::test]
async fn s42_a_line_that_cannot_be_read_is_skipped_and_the_watch_goes_on_behind_it() {
    let peak = Peak::start();
    let server = server(|request| {
        match (asked(request, "watch"), asked(request, "resourceVersion")) {
            (None, _) => page(&[object(0, "5", 0)], "7", ""),
            (Some(_), Some("7")) => {
                let deep = format!("{{\"type\":\"ADDED\",\"object\":{}{}}}", "[".repeat(500_000), "]".repeat(500_000));
                let lines = [
                    "\u{0}{{{".to_owned(),
                    "7".to_owned(),
                    r#"{"type":"ADDED"}"#.to_owned(),
                    deep,
                    r#"{"type":"STRANGE","object":{}}"#.to_owned(),
                    r#"{"type":"BOOKMARK","object":{"metadata":7}}"#.to_owned(),
                    r#"{"type":"MODIFIED","object":{"metadata":{"name":7,"resourceVersion":"8"}}}"#.to_owned(),
                    format!(r#"{{"type":"MODIFIED","object":{}}}"#, object(0, "9", 0)),
                    "[[[".to_owned(),
                ];
                pieces(lines.into_iter().map(|line| Bytes::from(line + "\n")))
            }
            // From where it ended, not from before what could not be read.
            (Some(_), Some("9")) => {
                pieces(std::iter::once(Bytes::from(format!("{{\"type\":\"MODIFIED\",\"object\":{}}}\n", object(0, "10", 0)))))
            }
            (Some(_), Some("10")) => pieces(std::iter::empty()),
            (Some(_), other) => reply(500, &[], format!("a watch from {other:?}")),
        }
    })
    .await;
    let mut heard = Heard::of(&server, Limits::default(), Bounds::default());
    assert_eq!(heard.next().await.unwrap(), "7");
    heard.until("a0", 9).await;
    assert_eq!(heard.unreadable, 7);
    heard.until("a0", 10).await;
    assert_eq!((heard.unreadable, heard.standing()), (8, (1, 0, 0)));
    peak.at_most_mib(16);
}

#[tokio::test]
async fn s42_a_list_of_another_kind_is_none_and_nothing_is_missed_for_it() {
    let peak = Peak::start();
    for kind in ["SecretList", "ConfigMap", "Status", "List"] {
        let lists = AtomicUsize::new(0);
        let server = server(move |request| {
            if asked(request, "watch").is_some() {
                return reply(410, &[], r#"{"reason":"Expired"}"#);
            }
            let known = [object(1, "5", 0), said("v1", "ConfigMap", &object(2, "6", 0)), said("v1", "Secret", &object(3, "6", 0))];
            let list = match lists.fetch_add(1, Ordering::SeqCst) {
                0 => format!(r#"{{"kind":"ConfigMapList","metadata":{{"resourceVersion":"7"}},"items":[{}]}}"#, known.join(",")),
                1 => format!(r#"{{"kind":"{kind}","apiVersion":"v1","metadata":{{"resourceVersion":"8"}},"items":[]}}"#),
                _ => format!(r#"{{"metadata":{{"resourceVersion":"9"}},"items":[],"kind":"{kind}"}}"#),
            };
            reply(200, &[], list)
        })
        .await;
        let mut heard = Heard::of(&server, Limits::default(), Bounds::default());
        assert_eq!(heard.next().await.unwrap(), "7");
        assert_eq!((heard.unreadable, heard.standing()), (1, (2, 0, 0)), "an item of another kind is left out alone");
        assert!(heard.next().await.is_err(), "the watch is too old");
        for _ in 0..2 {
            let error = heard.next().await.unwrap_err();
            assert!(matches!(error, CallError::Unreadable { .. }), "{error}");
        }
        assert_eq!(heard.standing(), (2, 0, 0), "{kind}");
    }
    peak.at_most_mib(16);
}

#[tokio::test]
async fn s42_an_event_of_another_kind_is_left_out_and_the_watch_goes_on_behind_it() {
    let peak = Peak::start();
    let server = server(|request| {
        let line = |event: &str, object: &str| Bytes::from(format!("{{\"type\":\"{event}\",\"object\":{object}}}\n"));
        match (asked(request, "watch"), asked(request, "resourceVersion")) {
            (None, _) => page(&[object(0, "5", 0), object(1, "6", 0)], "7", ""),
            (Some(_), Some("7")) => {
                let other = object(0, "8", 0);
                let late = other.replacen(r#"},"data""#, r#"},"kind":"Secret","data""#, 1);
                let lines = [
                    line("DELETED", &said("v1", "Secret", &other)),
                    line("MODIFIED", &said("v1", "Secret", &other)),
                    line("ADDED", &said("v2", "ConfigMap", &other)),
                    line("DELETED", &said("v1", "ConfigMap", &other.replace(r#""namespace":"default","#, ""))),
                    line("DELETED", &late),
                    line("MODIFIED", &said("v1", "ConfigMap", &object(0, "9", 0))),
                    line("DELETED", &said("v1", "ConfigMap", &object(1, "10", 0))),
                ];
                pieces(lines.into_iter())
            }
            (Some(_), Some("10")) => pieces(std::iter::once(line("MODIFIED", &said("v1", "ConfigMap", &object(0, "11", 0))))),
            (Some(_), Some("11")) => pieces(std::iter::empty()),
            (Some(_), other) => reply(500, &[], format!("a watch from {other:?}")),
        }
    })
    .await;
    let mut heard = Heard::of(&server, Limits::default(), Bounds::default());
    assert_eq!(heard.next().await.unwrap(), "7");
    heard.until("a0", 9).await;
    assert_eq!((heard.unreadable, heard.standing()), (5, (2, 0, 0)));
    heard.until("a0", 11).await;
    assert_eq!((heard.unreadable, heard.standing()), (5, (1, 0, 1)), "what says what it is is heard");
    peak.at_most_mib(16);
}

#[tokio::test]
async fn s33_a_line_that_is_too_long_is_left_out_of_a_list_and_of_a_watch_alone() {
    let peak = Peak::start();
    let server = Server::start(Behavior::http2(|request| async move {
        let line = |kind: &str, number: usize, version: &str, bytes: usize| {
            Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{}}}\n", object(number, version, bytes)))
        };
        let end = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        match asked(&request, "resourceVersion") {
            None => pieces([line("ADDED", 1, "5", 200_000), line("ADDED", 0, "6", 0), Bytes::from(format!("{end}\n"))].into_iter()),
            Some("7") => pieces([line("MODIFIED", 1, "8", 200_000), line("MODIFIED", 0, "9", 0)].into_iter()),
            Some("9") => pieces(std::iter::empty()),
            Some(other) => reply(500, &[], format!("a watch from {other:?}")),
        }
    }))
    .await;
    let limits = Limits { line_bytes: 64 * 1024, ..Limits::default() };
    let mut heard = Heard::of(&server, limits, Bounds::default());
    assert_eq!(heard.next().await.unwrap(), "7");
    assert_eq!((heard.unreadable, heard.standing()), (1, (1, 0, 0)));
    heard.until("a0", 9).await;
    assert_eq!(heard.unreadable, 2);
    peak.at_most_mib(16);
}
