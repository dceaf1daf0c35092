//! What changes while vn-agent runs: certificates, the kubeconfig, and its own end.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bed;

use std::sync::Arc;
use std::time::Duration;

use bed::{Bed, SOON, SWITCHED, play, pod, until};
use pki::Leaf;
use runtime::kubeconfig::Identity;
use runtime::task::{TaskMetrics, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use vn_agent::credentials::{Credentials, Source};
use vn_agent::metrics::AgentMetrics;
use vn_agent::way::{Way, WaySource};

const EXEC: &str = "/exec/default/web/app?command=cat&input=1&output=1";

/// Answers a stream and echoes until the end of its input.
fn echo() -> bed::Play {
    play(|_, mut stream| async move {
        stream.write_all(SWITCHED).await.unwrap();
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            let _ = stream.write_all(buffer.get(..n).unwrap()).await;
        }
        let _ = stream.shutdown().await;
    })
}

/// Trust that is not there, or is nobody's, is no trust: vn-agent does not start.
#[tokio::test]
async fn s53_without_trust_that_can_be_used_nothing_is_loaded() {
    let bed = Bed::start(echo()).await;
    assert!(Source::new(bed.files.clone(), None).load().await.is_ok());
    for (what, file) in [
        ("the CA of callers", &bed.files.client_ca_file),
        ("the list of revoked certificates", bed.files.client_crl_file.as_ref().unwrap()),
        ("the certificate", &bed.files.tls_cert_file),
        ("the key", &bed.files.tls_key_file),
    ] {
        let good = std::fs::read(file).unwrap();
        for bad in [&b""[..], b"-----BEGIN CERTIFICATE-----\nnot one\n-----END CERTIFICATE-----\n", b"something else"] {
            std::fs::write(file, bad).unwrap();
            let error = Source::new(bed.files.clone(), None).load().await.expect_err(what).to_string();
            assert!(error.contains(&*file.to_string_lossy()), "{what}: {error} does not say which file");
        }
        std::fs::remove_file(file).unwrap();
        let error = Source::new(bed.files.clone(), None).load().await.expect_err(what).to_string();
        assert!(error.contains(&*file.to_string_lossy()), "{what}: {error} does not say which file");
        std::fs::write(file, good).unwrap();
    }
}

/// A connection that was opened while another CA was believed is not used again.
#[tokio::test]
async fn the_kubelet_is_held_against_the_ca_that_is_there_now() {
    let bed = Bed::start(echo()).await;
    bed.pods.lock().push(pod(1, "web", 7));
    let (caller, other) = (bed.caller(1), pki::Authority::create("cluster", bed::HOUR).unwrap());
    let both = bed.ca.certificate().to_owned() + other.certificate();
    for (bundle, is_believed) in [(bed.ca.certificate(), true), (&both, true), (other.certificate(), false), (&both, true)] {
        std::fs::write(&bed.kubelet_files.ca, bundle).unwrap();
        bed.reload().await;
        let answer = bed.get(&caller, "/pods").await;
        if is_believed {
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        } else {
            assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("its certificate is not to be believed"), "{answer}");
        }
    }
}

/// Time is paused: each wait between two looks at the files is over when nothing else is left to do.
#[tokio::test(start_paused = true)]
async fn certificates_that_change_are_used_and_unusable_ones_leave_the_last_good() {
    let bed = Bed::start(echo()).await;
    let source = Source::new(bed.files.clone(), None);
    let (first, contents) = source.load().await.unwrap();
    let (set, mut current) = watch::channel(Arc::new(first));
    let tasks = Tasks::new(&TaskMetrics::default());
    drop(tasks.spawn("credentials", source.follow(contents, set, AgentMetrics::default(), tasks.stop().clone())));

    let other = pki::Authority::create("agents", bed::HOUR).unwrap();
    let (old, new) = (bed.caller(1), other.issue(&Leaf::Tenant(bed::tenant(1).uid()), bed::HOUR).unwrap());
    let is_good = |current: &watch::Receiver<Arc<Credentials>>, identity| current.borrow().is_good(&bed::chain(identity));
    assert!(is_good(&current, &old) && !is_good(&current, &new));

    // Half of a change: a bundle that holds no certificate yet.
    std::fs::write(&bed.files.client_ca_file, "").unwrap();
    let quiet = timeout(Duration::from_mins(1), current.changed()).await;
    assert!(quiet.is_err() && is_good(&current, &old), "the last good ones hold");
    // Old and new together, as in a rotation; then the new one alone.
    std::fs::write(&bed.files.client_ca_file, bed.agent_ca.certificate().to_owned() + other.certificate()).unwrap();
    timeout(Duration::from_mins(1), current.changed()).await.unwrap().unwrap();
    assert!(is_good(&current, &old) && is_good(&current, &new));
    std::fs::write(&bed.files.client_ca_file, other.certificate()).unwrap();
    timeout(Duration::from_mins(1), current.changed()).await.unwrap().unwrap();
    assert!(!is_good(&current, &old) && is_good(&current, &new));
}

#[tokio::test(start_paused = true)]
async fn a_kubeconfig_that_changes_is_used_and_an_unusable_one_leaves_the_last_good() {
    let ca = pki::Authority::create("cluster", bed::HOUR).unwrap();
    let dir = std::env::temp_dir().join(format!("vn-agent-way-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("ca.crt"), ca.certificate()).unwrap();
    let path = dir.join("kubeconfig");
    let write = |token: &str| {
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a", "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
            "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority": "ca.crt"}}],
            "users": [{"name": "a", "user": {"token": token}}],
        });
        std::fs::write(&path, text.to_string()).unwrap();
    };
    write("first");
    let source = WaySource::new(Some(path.clone()));
    let (set, mut current) = watch::channel(Arc::new(source.load().unwrap()));
    let tasks = Tasks::new(&TaskMetrics::default());
    drop(tasks.spawn("way", source.follow(set, tasks.stop().clone())));
    let token = |current: &watch::Receiver<Arc<Way>>| match &current.borrow().kubeconfig.identity {
        Identity::Token(token) => token.expose().to_owned(),
        Identity::Certificate { .. } | Identity::TokenFile(_) => String::new(),
    };
    assert!(timeout(Duration::from_mins(1), current.changed()).await.is_err(), "nothing has changed");
    std::fs::write(&path, "half of").unwrap();
    assert!(timeout(Duration::from_mins(1), current.changed()).await.is_err() && token(&current) == "first");
    write("second");
    timeout(Duration::from_mins(1), current.changed()).await.unwrap().unwrap();
    assert_eq!(token(&current), "second");
    // What it names counts as it does.
    let other = pki::Authority::create("cluster", bed::HOUR).unwrap();
    std::fs::write(dir.join("ca.crt"), other.certificate()).unwrap();
    timeout(Duration::from_mins(1), current.changed()).await.unwrap().unwrap();
    assert_eq!(current.borrow().kubeconfig.ca_pem, other.certificate().as_bytes());
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn whoever_ends_in_time_ends_well_and_the_rest_is_cut() {
    const GRACE: Duration = Duration::from_secs(3);
    let mut bed = Bed::start(echo()).await;
    bed.pods.lock().push(pod(1, "web", 7));
    let caller = bed.caller(1);
    let (_, mut ends) = bed.upgrade(&caller, EXEC).await;
    let (_, mut stays) = bed.upgrade(&caller, EXEC).await;
    let address = bed.address;
    let begin = Instant::now();
    let drain = bed.drain(GRACE);
    let callers = async {
        let refused = async { while tokio::net::TcpStream::connect(address).await.is_ok() {} };
        timeout(GRACE, refused).await.expect("nobody new is taken");
        ends.write_all(b"to the end").await.unwrap();
        ends.shutdown().await.unwrap();
        let mut echoed = String::new();
        timeout(GRACE, ends.read_to_string(&mut echoed)).await.expect("an end").unwrap();
        assert_eq!(echoed, "to the end");
        stays.write_all(b"more").await.unwrap();
        let mut echoed = [0; 4];
        timeout(GRACE, stays.read_exact(&mut echoed)).await.expect("it goes on").unwrap();
        let _ = timeout(SOON, stays.read_to_end(&mut Vec::new())).await.expect("it is cut");
        assert!(begin.elapsed() >= GRACE, "not before its time");
    };
    let (drained, ()) = tokio::join!(drain, callers);
    assert!(drained.stuck.is_empty() && !drained.is_clean(), "{drained:?}");
    until("no session is left", || bed.agent.places.is_empty()).await;
}
