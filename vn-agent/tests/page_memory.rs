//! What pages and lists cost in memory, however long they are. Alone in this program, since its memory is what is measured.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bed;

use bed::{Bed, SOON, play, pod, super_namespace};
use serde_json::json;
use testing::memory::Peak;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use vn_agent::filter::{Filter, Passed};
use vn_agent::pods::PodsReader;
use vn_agent::route::Page;

const MIB: usize = 1024 * 1024;

/// MiB of a page that are the caller's, and as many that are not: several times what it may cost. An unoptimized build filters and encrypts
/// some MiB a second.
const PAIRS: usize = 16;

/// A kubelet's answers come in pieces of this size.
const PIECE: usize = 16 * 1024;

/// Lines of a Pod, about a MiB.
fn mebibyte(number: u128) -> String {
    let namespace = super_namespace(number);
    let line = |n: usize| format!("m{{container=\"app\",image=\"x-{n}\",namespace=\"{namespace}\",pod=\"web\"}} {n}\n");
    let mut text = String::with_capacity(MIB + 200);
    for n in 0.. {
        text.push_str(&line(n));
        if text.len() >= MIB {
            return text;
        }
    }
    text
}

/// One after the other: the memory of both is this program's.
#[tokio::test]
async fn pages_and_lists_of_any_length_cost_what_one_part_does() {
    a_list_of_pods_of_any_length_costs_what_one_pod_does();
    a_page_of_any_length_costs_what_one_part_does().await;
}

async fn a_page_of_any_length_costs_what_one_part_does() {
    let (own, foreign) = (mebibyte(1), mebibyte(2));
    let bed = Bed::start(play(move |_, mut stream| {
        let (own, foreign) = (own.clone(), foreign.clone());
        async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
            for _ in 0..PAIRS {
                for text in [&foreign, &own] {
                    stream.write_all(text.as_bytes()).await.unwrap();
                }
            }
            stream.shutdown().await.unwrap();
        }
    }))
    .await;
    bed.pods.lock().extend([pod(1, "web", 7), pod(2, "web", 8)]);
    let caller = bed.caller(1);
    // Once before it is measured: code, buffers of TLS, and what the test itself holds.
    assert!(bed.get(&caller, "/metrics/probes").await.len() > PAIRS * MIB / 2);
    let peak = Peak::start();
    let mut stream = bed.dial(Some(&caller)).await.unwrap();
    stream.write_all(b"GET /metrics/cadvisor HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut taken, mut buffer) = (0, vec![0; PIECE]);
    while let n @ 1.. = timeout(SOON, stream.read(&mut buffer)).await.expect("more").unwrap() {
        taken += n;
    }
    peak.at_most_mib(6);
    assert!(taken > PAIRS * MIB / 2, "{taken}");
}

/// A JSON object with one list, in pieces as they would come, from elements of this many bytes; gives how many bytes there were.
fn pushed(list: &str, element: &str, count: usize, mut push: impl FnMut(&[u8])) -> usize {
    push(format!("{{\"kind\":\"x\",\"{list}\":[").as_bytes());
    for n in 0..count {
        if n > 0 {
            push(b",");
        }
        element.as_bytes().chunks(PIECE).for_each(&mut push);
    }
    push(b"]}");
    element.len() * count
}

/// Pods of a MiB each: several times what a list of them may cost.
const PODS: usize = 32;

fn a_list_of_pods_of_any_length_costs_what_one_pod_does() {
    let spec = json!({ "containers": [{ "name": "app", "env": [{ "name": "A", "value": "x".repeat(MIB) }] }] });
    let mut foreign = pod(2, "web", 8);
    foreign.as_object_mut().unwrap().insert("spec".to_owned(), spec);
    let foreign = foreign.to_string();
    let peak = Peak::start();
    let mut reader = PodsReader::default();
    let bytes = pushed("items", &foreign, PODS, |piece| reader.push(piece).unwrap());
    assert_eq!(reader.finish().unwrap().len(), PODS);
    let mut filter = Filter::new(Page::Pods, vn_agent::fuzz::view());
    let mut out = Passed::default();
    pushed("items", &foreign, PODS, |piece| filter.push(piece, &mut out).unwrap());
    filter.finish(&mut out).unwrap();
    peak.at_most_mib(8);
    assert!(bytes > PODS * MIB && out.len() < 1000, "{bytes} {}", out.len());
}
