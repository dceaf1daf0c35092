//! Many at the door: strangers who say nothing, and a tenant who takes all connections that it can get.

mod bed;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bed::{Bed, LIMITS, SOON, SWITCHED, play, pod, until};
use futures::FutureExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
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

#[tokio::test]
async fn one_address_that_dials_without_pause_sends_no_other_away() {
    let bed = bed_with(LIMITS).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    // It has come first and is slow to say who it is.
    let slow = socket.connect(bed.address).await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(TcpStream::connect(bed.address).await.unwrap());
    }
    let first = crowd.first_mut().unwrap();
    let end = timeout(SOON, first.read(&mut [0; 1])).await.expect("one of the crowd has to give way");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    let served = async {
        let mut slow = bed.shake(slow, Some(&bed.caller(1))).await.expect("it is still there");
        slow.write_all(&request("/containerLogs/default/web/app")).await.unwrap();
        slow.flush().await.unwrap();
        bed::head(&mut slow).await
    };
    let dialling = async {
        loop {
            crowd.push(TcpStream::connect(bed.address).await.unwrap());
            crowd.truncate(CROWD);
            tokio::task::yield_now().await;
        }
    };
    let head = tokio::select! {
        head = timeout(SOON, served) => head.expect("it is served while they come"),
        () = dialling => unreachable!("it has no end"),
    };
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

/// Each leaves when the list that it would have begun is nearly there.
#[tokio::test]
async fn callers_who_leave_in_mid_list_keep_nobody_waiting() {
    const LIST: Duration = Duration::from_millis(300);
    const LEAVE: Duration = Duration::from_millis(250);
    let bed = bed_with(LIMITS).await;
    *bed.lag.lock() = LIST;
    let asked = request("/containerLogs/default/none/app");
    let mut leaving = Vec::new();
    for _ in 0..20 {
        leaving.push(bed.dial(Some(&bed.caller(1))).await.unwrap());
    }
    let mut other = bed.dial(Some(&bed.caller(2))).await.unwrap();
    for stream in &mut leaving {
        stream.write_all(&asked).await.unwrap();
        stream.flush().await.unwrap();
    }
    until("a list is under way", || bed.lists.load(Ordering::SeqCst) > 0).await;
    let leave = async {
        for stream in leaving {
            sleep(LEAVE).await;
            drop(stream);
        }
    };
    let answered = async {
        let began = Instant::now();
        other.write_all(&asked).await.unwrap();
        other.flush().await.unwrap();
        let head = timeout(SOON, bed::head(&mut other)).await.expect("an answer");
        (head, began.elapsed())
    };
    let ((), (head, took)) = tokio::join!(leave, answered);
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    // The list under way, the next one, and what a busy machine adds.
    assert!(took < LIST * 4, "{took:?}");
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn s61_a_tenant_that_begins_streams_in_a_loop_does_so_at_a_pace() {
    const EXEC: &str = "/exec/default/web/app?command=true&output=1";
    let ends = play(|_, mut stream| async move {
        let _ = stream.write_all(SWITCHED).await;
        let _ = stream.shutdown().await;
    });
    let bed = Bed::with_limits(ends, Limits { per_tenant: 5, ..LIMITS }).await;
    bed.pods.lock().extend([pod(1, "web", 7), pod(2, "web", 8)]);
    let (greedy, other) = (bed.caller(1), bed.caller(2));
    let began = Instant::now();
    for _ in 0..20 {
        let (head, stream) = bed.upgrade(&greedy, EXEC).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        drop(stream);
        until("it is over", || bed.agent.places.is_empty()).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(15 * 100), "{:?}", began.elapsed());
    // As many as wait at most, each for its turn; and one more.
    let tenant = bed::tenant(1).uid();
    let refused = async {
        loop {
            while bed.agent.starts.turn(tenant).now_or_never().is_none_or(|turn| turn.is_ok()) {}
            let (head, _) = bed.upgrade(&greedy, EXEC).await;
            if head.starts_with("HTTP/1.1 429 ") {
                return;
            }
        }
    };
    timeout(2 * SOON, refused).await.expect("it is told to come again");
    let (head, _) = timeout(Duration::from_secs(5), bed.upgrade(&other, EXEC)).await.expect("another tenant does not wait");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}
