//! `kubectl logs` of a tenant through vn-agent, of containers that run, ran, crashed and have not begun.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::{
    images::TOOLS,
    kubectl::Kubectl,
    machine,
    story::{Actor, Plot, Story, chapter, is_running, pod},
    wait::{Seen, eventually},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// Between an old line and a new one: longer than kubectl takes on a busy machine.
const GAP: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_reads_logs_through_vn_agent() {
    if machine::skipped() {
        return;
    }
    let story = Story::play(Plot::with_agents("agent-logs", 2, 1)).await.unwrap();
    let chapters = vec![
        chapter("of a log come the lines that were asked for", parts(&story)),
        chapter("what is newer than a time comes, and what is older does not", since(&story)),
        chapter("a log that is followed ends with its container", follow(&story)),
        chapter("of a container that crashed comes the log of its earlier run", previous(&story)),
        chapter("each of several containers has its log, and so have those of a selector", several(&story)),
        chapter("a log that is followed loses nothing where it is rotated", rotated(&story)),
        chapter("of a container that has not begun comes the usual error", not_begun(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("every session was logged and counted, as it was", accounts(&story))]).await.unwrap();
}

fn container(name: &str, script: &str) -> Value {
    json!({ "name": name, "image": TOOLS, "command": ["sh", "-c", script] })
}

/// Runs a Pod with one container; the tenant, and kubectl as the tenant runs it.
async fn run<'a>(story: &'a Story, i: usize, name: &str, script: &str) -> anyhow::Result<(&'a Actor, Kubectl)> {
    let tenant = story.tenant(i)?;
    tenant.apply(&pod(name, &json!({}), &json!({ "restartPolicy": "Never", "containers": [container("main", script)] }))).await?;
    tenant.sees("it runs", "default", name, is_running).await?;
    Ok((tenant, story.kubectl(i)?))
}

/// Waits until its log has this many lines.
async fn has_lines(kubectl: &Kubectl, name: &str, count: usize) -> anyhow::Result<String> {
    eventually(format!("{name} has written {count} lines"), Duration::from_mins(1), async || {
        let log = kubectl.says(&["logs", name]).await?;
        Ok(if log.lines().count() == count { Seen::Done(log) } else { Seen::NotYet(log) })
    })
    .await
}

async fn parts(story: &Story) -> anyhow::Result<()> {
    let (_, kubectl) = run(story, 0, "counts", "for n in $(seq 1 100); do echo line $n; done; exec sleep 1000000").await?;
    let whole = has_lines(&kubectl, "counts", 100).await?;
    let all: Vec<String> = (1..=100).map(|n| format!("line {n}")).collect();
    ensure!(whole.lines().eq(&all), "the log is {whole:?}");
    let tail = kubectl.says(&["logs", "counts", "--tail=3"]).await?;
    ensure!(tail == "line 98\nline 99\nline 100\n", "--tail=3 gives {tail:?}");
    let none = kubectl.says(&["logs", "counts", "--tail=0"]).await?;
    ensure!(none.is_empty(), "--tail=0 gives {none:?}");
    let bytes = kubectl.says(&["logs", "counts", "--limit-bytes=10"]).await?;
    ensure!(bytes == "line 1\nlin", "--limit-bytes=10 gives {bytes:?}");
    let stamped = kubectl.says(&["logs", "counts", "--timestamps", "--tail=2"]).await?;
    let (times, lines) = unstamped(&stamped)?;
    ensure!(lines == ["line 99", "line 100"] && times.is_sorted(), "--timestamps gives {stamped:?}");
    let streams = kubectl.says(&["get", "--raw", "/api/v1/namespaces/default/pods/counts/log?tailLines=1&container=main"]).await?;
    ensure!(streams == "line 100\n", "the API gives {streams:?}");
    Ok(())
}

/// Takes the time off each line.
fn unstamped(log: &str) -> anyhow::Result<(Vec<Timestamp>, Vec<&str>)> {
    let lines = log.lines().map(|line| line.split_once(' ').with_context(|| format!("no time before {line:?}")));
    let pairs = lines.map(|line| line.and_then(|(time, rest)| Ok((time.parse::<Timestamp>()?, rest))));
    Ok(pairs.collect::<anyhow::Result<Vec<_>>>()?.into_iter().unzip())
}

async fn since(story: &Story) -> anyhow::Result<()> {
    let script = format!("echo old; sleep {}; echo new; exec sleep 1000000", GAP.as_secs());
    let (_, kubectl) = run(story, 0, "ages", &script).await?;
    has_lines(&kubectl, "ages", 2).await?;
    let stamped = kubectl.says(&["logs", "ages", "--timestamps"]).await?;
    let (times, _) = unstamped(&stamped)?;
    let new = times.last().context("no line")?;
    let by_time = kubectl.says(&["logs", "ages", &format!("--since-time={new}")]).await?;
    ensure!(by_time == "new\n", "--since-time={new} gives {by_time:?}");
    let age = u64::try_from(Timestamp::now().duration_since(*new).as_secs()).unwrap_or_default();
    let by_age = kubectl.says(&["logs", "ages", &format!("--since={}s", age + GAP.as_secs() * 3 / 4)]).await?;
    ensure!(by_age == "new\n", "--since gives {by_age:?}");
    let both = kubectl.says(&["logs", "ages", "--since=1h"]).await?;
    ensure!(both == "old\nnew\n", "--since=1h gives {both:?}");
    Ok(())
}

async fn follow(story: &Story) -> anyhow::Result<()> {
    let wait = |file: &str| format!("while [ ! -e /{file} ]; do sleep 0.1; done");
    let script = format!("echo one; {}; echo two; {}; echo three", wait("go"), wait("end"));
    let (_, kubectl) = run(story, 1, "speaks", &script).await?;
    let mut log = kubectl.start(&["logs", "-f", "speaks"])?;
    log.writes("one\n").await?;
    kubectl.says(&["exec", "speaks", "--", "touch", "/go"]).await?;
    log.writes("two\n").await?;
    kubectl.says(&["exec", "speaks", "--", "touch", "/end"]).await?;
    let (status, rest, errors) = log.ends().await?;
    ensure!(status.success() && rest == "three\n" && errors.is_empty(), "{status}: {rest:?} {errors:?}");
    let after = kubectl.says(&["logs", "-f", "speaks"]).await?;
    ensure!(after == "one\ntwo\nthree\n", "of the ended container comes {after:?}");
    Ok(())
}

/// A part at a time, each more than a kubelet keeps in one file.
async fn rotated(story: &Story) -> anyhow::Result<()> {
    const LINES: usize = 100_000;
    const PARTS: usize = 3;
    let numbered = |n: usize| format!("{n:012}");
    let part = |n: usize| {
        let (first, last) = (n * LINES + 1, (n + 1) * LINES);
        format!(
            "while [ ! -e /part-{n} ]; do sleep 0.1; done; awk 'BEGIN {{ for (n = {first}; n <= {last}; n++) printf \"%012d%0100d\\n\", n, 0 }}'"
        )
    };
    let (_, kubectl) = run(story, 1, "long", &(0..PARTS).map(part).collect::<Vec<_>>().join("; ")).await?;
    let parts = async {
        let mut begin = String::new();
        for n in 0..PARTS {
            kubectl.says(&["exec", "long", "--", "touch", &format!("/part-{n}")]).await?;
            if n + 1 == PARTS {
                return Ok(());
            }
            if begin.is_empty() {
                begin = numbered(n * LINES + 1);
            }
            // What is not followed begins with the file that is written now.
            let mut was_there = false;
            begin = eventually("the log is rotated", Duration::from_mins(2), async || {
                let now = kubectl.says(&["logs", "long", "--limit-bytes=12"]).await?;
                let is_other = if now.is_empty() { was_there } else { now != begin };
                was_there |= !now.is_empty();
                Ok(if is_other { Seen::Done(now) } else { Seen::NotYet(now) })
            })
            .await?;
        }
        anyhow::Ok(())
    };
    let (parts, followed) = tokio::join!(parts, kubectl.output(&["logs", "-f", "long"]));
    parts?;
    let followed = followed?;
    ensure!(followed.status.success() && followed.stderr.is_empty(), "{}: {}", followed.status, String::from_utf8_lossy(&followed.stderr));
    let all = String::from_utf8(followed.stdout)?;
    let odd = all.lines().zip(1..).find(|(line, n)| line.get(..12) != Some(numbered(*n).as_str()));
    ensure!(odd.is_none() && all.lines().count() == PARTS * LINES, "{} lines, of which out of turn: {odd:?}", all.lines().count());
    Ok(())
}

async fn previous(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let script =
        "n=$(($(cat /kept/n 2>/dev/null || echo 0) + 1)); echo $n > /kept/n; echo run $n; [ $n = 1 ] && exit 3; exec sleep 1000000";
    let kept = json!([{ "name": "kept", "mountPath": "/kept" }]);
    let crashes = json!({ "name": "main", "image": TOOLS, "command": ["sh", "-c", script], "volumeMounts": kept });
    tenant.apply(&pod("crashes", &json!({}), &json!({ "containers": [crashes], "volumes": [{ "name": "kept", "emptyDir": {} }] }))).await?;
    let again = |pod: &Pod| {
        let all = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        is_running(pod) && all.into_iter().any(|one| one.restart_count == 1)
    };
    tenant.sees("it runs again", "default", "crashes", again).await?;
    let kubectl = story.kubectl(0)?;
    let (now, before) =
        (kubectl.says(&["logs", "crashes", "--tail=1"]).await?, kubectl.says(&["logs", "crashes", "--previous", "--tail=1"]).await?);
    ensure!((now.as_str(), before.as_str()) == ("run 2\n", "run 1\n"), "now {now:?}, before {before:?}");
    run(story, 0, "steady", "exec sleep 1000000").await?;
    let none = kubectl.fails(&["logs", "steady", "--previous"]).await?;
    ensure!(none.contains("previous terminated container \"main\" in pod \"steady\" not found"), "{none}");
    Ok(())
}

async fn several(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let stays = |name: &str| container(name, &format!("echo I am {name}; exec sleep 1000000"));
    let spec = json!({ "initContainers": [container("first", "echo I am first")], "containers": [stays("left"), stays("right")] });
    for name in ["many-1", "many-2"] {
        tenant.apply(&pod(name, &json!({ "app": "many" }), &spec)).await?;
    }
    tenant.running("default", "app=many", 2).await?;
    let kubectl = story.kubectl(0)?;
    let default = kubectl.output(&["logs", "many-1"]).await?;
    let (said, hint) = (String::from_utf8_lossy(&default.stdout), String::from_utf8_lossy(&default.stderr));
    ensure!(said == "I am left\n" && hint.contains("Defaulted container \"left\" out of: left, right, first (init)"), "{said:?} {hint:?}");
    for name in ["left", "right", "first"] {
        let one = kubectl.says(&["logs", "many-1", "-c", name]).await?;
        ensure!(one == format!("I am {name}\n"), "-c {name} gives {one:?}");
    }
    let all = kubectl.says(&["logs", "many-1", "--all-containers"]).await?;
    ensure!(sorted(&all) == ["I am first", "I am left", "I am right"], "--all-containers gives {all:?}");
    let selected = kubectl.says(&["logs", "-l", "app=many", "-c", "right", "--prefix"]).await?;
    ensure!(sorted(&selected) == ["[pod/many-1/right] I am right", "[pod/many-2/right] I am right"], "-l gives {selected:?}");
    let none = kubectl.fails(&["logs", "many-1", "-c", "middle"]).await?;
    ensure!(none.contains("container middle is not valid for pod many-1"), "{none}");
    Ok(())
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

async fn not_begun(story: &Story) -> anyhow::Result<()> {
    let (tenant, kubectl) = (story.tenant(1)?, story.kubectl(1)?);
    let waits = json!({ "initContainers": [container("first", "exec sleep 1000000")], "containers": [container("main", "echo never")] });
    tenant.apply(&pod("waits", &json!({}), &waits)).await?;
    let begun = |pod: &Pod| {
        let all = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
        all.into_iter().any(|one| one.state.as_ref().is_some_and(|state| state.running.is_some()))
    };
    tenant.sees("its first container runs", "default", "waits", begun).await?;
    let said = kubectl.fails(&["logs", "waits", "-c", "main"]).await?;
    let usual = "container \"main\" in pod \"waits\" is waiting to start: PodInitializing";
    ensure!(said.starts_with("Error from server (BadRequest): ") && said.contains(usual), "{said:?}");
    let none = kubectl.fails(&["logs", "nobody"]).await?;
    ensure!(none.contains("(NotFound): pods \"nobody\" not found"), "{none:?}");
    Ok(())
}

async fn accounts(story: &Story) -> anyhow::Result<()> {
    let sessions = story.agent(0)?.settled().await?;
    let of = |pod: &'static str| sessions.iter().filter(move |one| one.verb == "logs" && one.pod.strip_prefix("default/") == Some(pod));
    let counts = of("counts").max_by_key(|one| one.received_bytes).context("no session of counts")?;
    let bytes: usize = (1..=100).map(|n| format!("line {n}\n").len()).sum();
    ensure!(counts.received_bytes == bytes as u64 && counts.outcome == "ok", "{counts:?}");
    ensure!(counts.tenant == story.tenant(0)?.id.uid().to_string() && counts.container == "main", "{counts:?}");
    let follows = of("speaks").max_by_key(|one| one.duration_ms).context("no session of speaks")?;
    ensure!(follows.outcome == "ok" && follows.tenant == story.tenant(1)?.id.uid().to_string(), "{follows:?}");
    ensure!(of("waits").all(|one| one.outcome == "failed"), "{:?}", of("waits").collect::<Vec<_>>());
    let odd: Vec<_> =
        sessions.iter().filter(|one| !one.is_fine() && !["default/waits", "default/steady"].contains(&one.pod.as_str())).collect();
    ensure!(odd.is_empty(), "{odd:?}");
    Ok(())
}
