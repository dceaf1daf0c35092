//! Pods that are younger than what vn-agent knows of them: made again under their names, or with a container added.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bed;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bed::{Bed, SWITCHED, play, pod};
use common::{Uid, keys};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

/// A kubelet that answers whatever is asked.
fn willing() -> bed::Play {
    play(|head, mut stream| async move {
        let log = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nlog".as_slice();
        stream.write_all(if head.starts_with("GET /containerLogs/") { log } else { SWITCHED }).await.unwrap();
        let _ = stream.shutdown().await;
    })
}

/// A bed that knows `default/web` of tenant 1.
async fn knows_web() -> Bed {
    let bed = Bed::start(willing()).await;
    bed.pods.lock().push(pod(1, "web", 7));
    let answer = bed.get(&bed.caller(1), "/containerLogs/default/web/app").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    bed
}

#[tokio::test]
async fn a_pod_that_was_made_again_under_its_name_is_reached_at_once() {
    let bed = knows_web().await;
    *bed.pods.lock() = vec![pod(1, "web", 9)];
    let answer = bed.get(&bed.caller(1), "/containerLogs/default/web/app").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nlog"), "{answer}");
    *bed.pods.lock() = vec![pod(1, "web", 11)];
    let (head, _stream) = bed.upgrade(&bed.caller(1), "/exec/default/web/app?command=cat&input=1&output=1").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let seen = bed.heads.lock().pop().unwrap();
    assert!(seen.contains(&format!("/web/{}/app?", Uid::from_bits(11))), "it is the new one that is entered: {seen}");
    assert_eq!(bed.agent.places.len(), 1, "the session is one");
}

#[tokio::test]
async fn a_pod_that_is_replaced_again_and_again_is_an_error() {
    let pods = Arc::new(Mutex::new(None::<Arc<Mutex<Vec<Value>>>>));
    let (listed, next) = (Arc::clone(&pods), AtomicU32::new(20));
    let bed = Bed::start(play(move |_, mut stream| {
        if let Some(listed) = &*listed.lock() {
            *listed.lock() = vec![pod(1, "web", next.fetch_add(1, Ordering::SeqCst).into())];
        }
        async move {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nlog").await;
        }
    }))
    .await;
    bed.pods.lock().push(pod(1, "web", 7));
    *pods.lock() = Some(Arc::clone(&bed.pods));
    let answer = bed.get(&bed.caller(1), "/containerLogs/default/web/app").await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("it was replaced or deleted"), "{answer}");
    assert_eq!(bed.heads.lock().len(), 2, "it is not tried for ever");
}

#[tokio::test]
async fn a_container_that_was_added_to_a_known_pod_is_reached_at_once() {
    let bed = knows_web().await;
    let mut debugged = pod(1, "web", 7);
    debugged["metadata"]["annotations"][keys::CONTAINERS] = json!("app,debugger");
    *bed.pods.lock() = vec![debugged];
    let answer = bed.get(&bed.caller(1), "/containerLogs/default/web/debugger").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let answer = bed.get(&bed.caller(1), "/containerLogs/default/web/another").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

/// The request of a stream over WebSocket.
fn websocket(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: n1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    )
}

#[tokio::test]
async fn s59_over_websocket_a_command_runs_once_and_in_the_newest_pod_alone() {
    let bed = knows_web().await;
    bed.heads.lock().clear();
    *bed.pods.lock() = vec![pod(1, "web", 9)];
    let exec = websocket("/exec/default/web/app?command=migrate&output=1");
    let _ = bed.raw(&bed.caller(1), exec.as_bytes()).await;
    let seen = bed.heads.lock().clone();
    assert!(
        seen.len() == 1 && seen[0].contains(&format!("/web/{}/app?", Uid::from_bits(9))),
        "it runs as soon as it is asked for: {seen:?}"
    );
    // One of the platform's has the name meanwhile.
    let mut platforms = pod(1, "web", 11);
    platforms["metadata"]["annotations"] = json!({});
    *bed.pods.lock() = vec![platforms];
    let answer = bed.raw(&bed.caller(1), exec.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert_eq!(bed.heads.lock().len(), 1, "nothing was asked for");
}
