//! S43: versions that make no sense. Nothing is known to have gone for any of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Response;
use runtime::transport::Limits;
use syncer::informer::Bounds;
use syncer::remote::CallError;
use testing::http::{Body, pieces, reply};
use testing::memory::Peak;
use testing::server::Server;

use crate::{Heard, asked, object, page, server};

/// A whole list at version 7, then one object less at the version `second`; a watch is answered by `watch`, from that version.
async fn relisted(second: &'static str, watch: fn(&str) -> Response<Body>) -> (Server, Heard) {
    let calls = AtomicUsize::new(0);
    let server = server(move |request| match asked(request, "watch") {
        Some(_) => watch(asked(request, "resourceVersion").unwrap_or_default()),
        None if calls.fetch_add(1, Ordering::SeqCst) == 0 => page(&[object(0, "5", 0), object(1, "5", 0)], "7", ""),
        None => page(&[object(0, "5", 1)], second, ""),
    })
    .await;
    let mut heard = Heard::of(&server, Limits::default(), Bounds::default());
    assert_eq!(heard.next().await.unwrap(), "7");
    assert!(heard.next().await.is_err(), "the watch from 7 is too old");
    let ended = heard.next().await;
    if let Ok(version) = &ended {
        assert_eq!(version, second);
        // What the watch from there says is no evidence either.
        let _ = heard.next().await;
    } else {
        assert!(matches!(ended, Err(CallError::Unreadable { .. })));
    }
    (server, heard)
}

fn expired() -> Response<Body> {
    reply(410, &[], r#"{"reason":"Expired"}"#)
}

#[tokio::test]
async fn s43_a_list_without_a_version_or_with_one_that_would_change_the_request_is_not_complete() {
    let peak = Peak::start();
    for second in ["", " 7", "7&sendInitialEvents=true", "7#", "ü"] {
        let (_server, heard) = relisted(second, |_| expired()).await;
        assert_eq!(heard.standing(), (2, 0, 0), "{second:?}");
    }
    peak.at_most_mib(16);
}

#[tokio::test]
async fn s43_what_a_list_of_an_odd_version_leaves_out_is_missed_and_not_known_to_be_gone() {
    let peak = Peak::start();
    // Text; the same as before; long ago; ahead of all.
    for second in ["seven", "7", "1", "18446744073709551615", "99999999999999999999999999"] {
        let (_server, heard) = relisted(second, |from| if from == "7" { expired() } else { reply(400, &[], "{}") }).await;
        assert_eq!(heard.standing(), (1, 1, 0), "{second}");
    }
    peak.at_most_mib(16);
}

#[tokio::test]
async fn s43_a_watch_from_a_version_that_is_ahead_of_the_server_begins_anew() {
    let peak = Peak::start();
    let (_server, mut heard) = relisted("99999", |from| match from {
        "7" => expired(),
        _ => reply(504, &[], r#"{"reason":"Timeout","message":"Timeout: Too large resource version: 99999, current: 7"}"#),
    })
    .await;
    assert_eq!(heard.next().await.unwrap(), "99999", "listed, not watched from there again");
    assert_eq!(heard.standing(), (1, 1, 0));
    peak.at_most_mib(16);
}

#[tokio::test]
async fn s43_the_same_version_with_other_words_and_an_end_of_another_object_change_nothing() {
    let peak = Peak::start();
    let server = server(|request| match (asked(request, "watch"), asked(request, "resourceVersion")) {
        (None, _) => page(&[object(0, "5", 0), object(1, "5", 0)], "7", ""),
        (Some(_), Some("7")) => {
            let other = object(1, "", 0).replace("000000000002", "000000000009");
            let lines = [
                format!(r#"{{"type":"MODIFIED","object":{}}}"#, object(0, "5", 100)),
                format!(r#"{{"type":"DELETED","object":{other}}}"#),
                format!(r#"{{"type":"ADDED","object":{}}}"#, object(2, "8", 0)),
                r#"{"type":"ERROR","object":{"code":410}}"#.to_owned(),
            ];
            pieces(lines.into_iter().map(|line| Bytes::from(line + "\n")))
        }
        (Some(_), _) => pieces(std::iter::empty()),
    })
    .await;
    let mut heard = Heard::of(&server, Limits::default(), Bounds::default());
    assert_eq!(heard.next().await.unwrap(), "7");
    assert!(heard.next().await.is_err());
    assert_eq!(heard.standing(), (3, 0, 0));
    peak.at_most_mib(16);
}
