//! Many at the door: strangers who say nothing, and a tenant who takes all connections that it can get.

mod bed;

use bed::{Bed, LIMITS, SOON, play, pod};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use vn_agent::guard::Limits;

/// More than handshakes may be under way.
const CROWD: usize = 400;

async fn bed_with(limits: Limits) -> Bed {
    let logs = play(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nlog").await;
        let _ = stream.shutdown().await;
    });
    let bed = Bed::with_limits(logs, limits).await;
    bed.pods.lock().extend([pod(1, "web", 7), pod(2, "web", 8)]);
    bed
}

#[tokio::test]
async fn strangers_who_say_nothing_keep_nobody_waiting() {
    let bed = bed_with(LIMITS).await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(TcpStream::connect(bed.address).await.unwrap());
    }
    let answer =
        timeout(SOON, bed.get(&bed.caller(1), "/containerLogs/default/web/app")).await.expect("it is served while they stand there");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // The first of them had to give way.
    let first = crowd.first_mut().unwrap();
    let end = timeout(SOON, first.read(&mut [0; 1])).await.expect("it is sent away");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn the_connections_of_one_tenant_take_no_other_tenants_place() {
    let bed = bed_with(Limits { per_tenant: 2, all: 4, ..LIMITS }).await;
    let greedy = bed.caller(1);
    let mut held = Vec::new();
    for _ in 0..CROWD {
        held.push(bed.dial(Some(&greedy)).await.unwrap());
    }
    // Those beyond its bound end without a word, the others wait for their request.
    let mut ended = 0;
    for stream in held.iter_mut().rev().take(CROWD / 2) {
        ended += usize::from(matches!(timeout(SOON, stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_))));
    }
    assert_eq!(ended, CROWD / 2);
    let answer = bed.get(&bed.caller(2), "/containerLogs/default/web/app").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
