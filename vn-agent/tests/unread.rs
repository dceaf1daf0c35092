//! Callers that ask and then take nothing: what they hold ends all the same.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bed;

use std::sync::Arc;
use std::time::Duration;

use bed::{Bed, ClientStream, LIMITS, SOON, play, pod};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;
use vn_agent::guard::Limits;
use vn_agent::relay::WINDOW_BYTES;

/// What no buffer on the way takes for so long is not taken.
const STUCK: Duration = Duration::from_millis(500);

/// A kubelet whose container writes for ever, and who is told when nobody takes what it writes.
async fn flooded(limits: Limits) -> (Bed, Arc<Notify>) {
    let stuck = Arc::new(Notify::new());
    let told = Arc::clone(&stuck);
    let flood = play(move |_, mut stream| {
        let told = Arc::clone(&told);
        async move {
            let line = [b'x'; 1000];
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
            loop {
                match timeout(STUCK, stream.write_all(&line)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => told.notify_one(),
                }
            }
        }
    });
    let bed = Bed::with_limits(flood, limits).await;
    bed.pods.lock().extend([pod(1, "web", 7), pod(2, "web", 8)]);
    (bed, stuck)
}

/// Asks for a log, reads its head and no more.
async fn asks_and_takes_nothing(bed: &Bed) -> ClientStream {
    let mut stream = bed.dial(Some(&bed.caller(1))).await.unwrap();
    stream.write_all(b"GET /containerLogs/default/web/app?follow=true HTTP/1.1\r\nHost: n1\r\n\r\n").await.unwrap();
    stream.flush().await.unwrap();
    let head = bed::head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    stream
}

#[tokio::test]
async fn s61_a_revoked_tenant_that_takes_nothing_holds_nothing() {
    let (bed, stuck) = flooded(LIMITS).await;
    let _unread = asks_and_takes_nothing(&bed).await;
    timeout(SOON, stuck.notified()).await.expect("every buffer on the way is full");
    assert_eq!(bed.agent.places.len(), 1);
    bed.tenants.send_replace(Arc::default());
    bed.quiet().await;
}

#[tokio::test]
async fn a_session_that_nobody_reads_is_idle() {
    let (bed, _) = flooded(Limits { idle: Duration::from_millis(400), ..LIMITS }).await;
    let mut unread = asks_and_takes_nothing(&bed).await;
    bed.quiet().await;
    // It is cut in the middle, and does not look whole.
    let mut rest = Vec::new();
    let end = unread.read_to_end(&mut rest).await;
    assert!(end.is_err() || !rest.ends_with(b"0\r\n\r\n"), "{end:?}");
    assert!(rest.len() > WINDOW_BYTES);
}

#[tokio::test]
async fn lines_that_are_there_already_are_not_taken_apart() {
    let bed = Bed::start(play(|head, mut stream| async move {
        // As a kubelet does: by the line, in chunks where the client knows them.
        let is_chunked = head.lines().next().unwrap().ends_with("HTTP/1.1");
        let coding = if is_chunked { "Transfer-Encoding: chunked\r\n" } else { "" };
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{coding}\r\n").as_bytes()).await;
        for _ in 0..1000 {
            let line: &[u8] = if is_chunked { b"8\r\na line.\n\r\n" } else { b"a line.\n" };
            let _ = stream.write_all(line).await;
        }
        let _ = stream.write_all(if is_chunked { b"0\r\n\r\n" } else { b"" }).await;
        let _ = stream.shutdown().await;
    }))
    .await;
    bed.pods.lock().push(pod(1, "web", 7));
    let answer = bed.get(&bed.caller(1), "/containerLogs/default/web/app").await;
    // Sizes and pieces in turn.
    let body: Vec<_> = answer.split_once("\r\n\r\n").unwrap().1.split("\r\n").collect();
    let pieces: Vec<_> = body.chunks(2).filter(|chunk| chunk[0] != "0").filter_map(|chunk| chunk.get(1)).collect();
    assert_eq!(pieces.iter().copied().copied().collect::<String>(), "a line.\n".repeat(1000));
    assert!(pieces.len() < 500, "{} pieces", pieces.len());
}
