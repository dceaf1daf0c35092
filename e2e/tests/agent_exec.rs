//! `kubectl exec` and `cp` of a tenant through vn-agent, over WebSocket and over SPDY.

use std::{collections::BTreeMap, fs, io::Read as _};

use anyhow::{Context as _, ensure};
use e2e::{
    audit::Mark,
    files,
    images::TOOLS,
    kubectl::Kubectl,
    machine,
    oci::sha256,
    story::{Plot, Story, chapter, is_running, pod},
};
use serde_json::json;

/// What goes into a process and comes back.
const MANY_BYTES: u64 = 100_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_runs_commands_through_vn_agent() {
    if machine::skipped() {
        return;
    }
    let story = Story::play(Plot::with_agents("agent-exec", 2, 1)).await.unwrap();
    for (i, tenant) in story.tenants.iter().enumerate() {
        tenant.apply(&pod("shell", &json!({}), &json!({ "containers": [{ "name": "main", "image": TOOLS }] }))).await.unwrap();
        story.tenant(i).unwrap().sees("it runs", "default", "shell", is_running).await.unwrap();
    }
    let (websocket, spdy) = (story.kubectl(0).unwrap(), story.kubectl(1).unwrap().over_spdy());
    let chapters = vec![
        chapter("a command's outputs and its code come back, over WebSocket", commands(&websocket)),
        chapter("a command's outputs and its code come back, over SPDY", commands(&spdy)),
        chapter("a terminal is one, and has the size of the window, over WebSocket", terminal(&websocket)),
        chapter("a terminal is one, and has the size of the window, over SPDY", terminal(&spdy)),
        chapter("files are copied there and back, over WebSocket", copies(&story, &websocket, "websocket")),
        chapter("files are copied there and back, over SPDY", copies(&story, &spdy, "spdy")),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("many bytes come back as they were, over WebSocket", many(&websocket))]).await.unwrap();
    story.tell(vec![chapter("many bytes come back as they were, over SPDY", many(&spdy))]).await.unwrap();
    story.tell(vec![chapter("every session was logged and counted, as it was", accounts(&story))]).await.unwrap();
}

async fn commands(kubectl: &Kubectl) -> anyhow::Result<()> {
    let ends = async |script: &str| {
        let output = kubectl.output(&["exec", "shell", "--", "sh", "-c", script]).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        anyhow::Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
    };
    let told = |code: Option<i32>, out: &str, errors: &str| (code, out.to_owned(), errors.to_owned());
    let both = ends("echo out; echo err >&2").await?;
    ensure!(both == told(Some(0), "out\n", "err\n"), "{both:?}");
    let three = ends("exit 3").await?;
    ensure!(three == told(Some(3), "", "command terminated with exit code 3\n"), "{three:?}");
    let killed = ends("kill -KILL $$").await?;
    ensure!(killed == told(Some(137), "", "command terminated with exit code 137\n"), "{killed:?}");
    let fed = kubectl.fed(&["exec", "-i", "shell", "--", "sh", "-c", "cat; echo end >&2"], b"all of it\n").await?;
    ensure!(fed.status.success() && fed.stdout == b"all of it\n" && fed.stderr == b"end\n", "{fed:?}");
    // The process writes on after its input has ended.
    let mut half =
        kubectl.start(&["exec", "-i", "shell", "--", "sh", "-c", "while read line; do echo got $line; done; sleep 1; echo late"])?;
    half.types("one\n").await?;
    half.writes("got one\n").await?;
    half.types("two\n").await?;
    half.writes("got two\n").await?;
    half.close_input();
    let (status, rest, errors) = half.ends().await?;
    ensure!(status.success() && rest == "late\n" && errors.is_empty(), "{status}: {rest:?} {errors:?}");
    // Who has read enough ends while more is on its way. (With much more, kubectl hangs in its own input, without vn-agent too.)
    let enough = kubectl.fed(&["exec", "-i", "shell", "--", "head", "-c", "5"], &vec![b'x'; 100_000]).await?;
    ensure!(enough.status.success() && enough.stdout == b"xxxxx", "{enough:?}");
    // Words that mean something to shells and in URLs.
    let words = ["a b", "c&d=e", "%2F", "'\"", "é\u{1f40b}", "*", "+", ""];
    let mut args = vec!["exec", "shell", "--", "printf", "<%s>"];
    args.extend(words);
    let said = kubectl.says(&args).await?;
    ensure!(said == words.map(|word| format!("<{word}>")).concat(), "{said:?}");
    let unknown = kubectl.fails(&["exec", "shell", "--", "no-such-program"]).await?;
    ensure!(unknown.contains("no-such-program") && unknown.contains("not found"), "{unknown:?}");
    Ok(())
}

async fn terminal(kubectl: &Kubectl) -> anyhow::Result<()> {
    let script = "test -t 0 && test -t 1 && echo both; trap 'echo felt it' WINCH; while sleep 0.2; do stty size; done";
    let mut loops = kubectl.on_terminal(&["exec", "-it", "shell", "--", "sh", "-c", script], (24, 80)).await?;
    loops.writes("both\r\n").await?;
    loops.writes("24 80\r\n").await?;
    loops.resize((50, 132)).await?;
    loops.writes("felt it\r\n").await?;
    loops.writes("50 132\r\n").await?;
    // Ctrl-C is for the process inside.
    loops.types("\u{3}").await?;
    let (status, rest, errors) = loops.ends().await?;
    ensure!(status.code() == Some(130), "{status}: {rest:?} {errors:?}");
    let mut shell = kubectl.on_terminal(&["exec", "-it", "shell", "--", "sh"], (24, 80)).await?;
    shell.writes("# ").await?;
    shell.types("echo $((6 * 7)); exit 5\r").await?;
    shell.writes("42\r\n").await?;
    let (status, rest, errors) = shell.ends().await?;
    ensure!(status.code() == Some(5), "{status}: {rest:?} {errors:?}");
    Ok(())
}

async fn many(kubectl: &Kubectl) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    fs::File::open("/dev/urandom")?.take(MANY_BYTES).read_to_end(&mut bytes)?;
    let output = kubectl.fed(&["exec", "-i", "shell", "--", "sh", "-c", "tee /many; sha256sum /many >&2; rm /many"], &bytes).await?;
    let (there, back) = (String::from_utf8_lossy(&output.stderr), output.stdout.len());
    let hash = sha256(&bytes);
    ensure!(output.status.success() && there.starts_with(&hash), "{}: of {hash} arrived {there}", output.status);
    ensure!(sha256(&output.stdout) == hash, "{back} bytes came back, and not as they were");
    Ok(())
}

/// Each `kubectl` has a Pod of its own.
async fn copies(story: &Story, kubectl: &Kubectl, over: &str) -> anyhow::Result<()> {
    let folder = story.bed.dir().join("copied").join(over);
    let (out, back) = (folder.join("out"), folder.join("back"));
    let mut noise = vec![0; 300_000];
    fs::File::open("/dev/urandom")?.read_exact(&mut noise)?;
    let files = [("a", b"one\n".to_vec()), ("with space", Vec::new()), ("deep/er/b", noise), ("deep/c", b"\x00\xff\r\n".to_vec())];
    for (name, content) in &files {
        let path = out.join(name);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(path, content)?;
    }
    let (from, to) = (out.display().to_string(), back.display().to_string());
    kubectl.says(&["cp", &from, "shell:/copied"]).await?;
    let there = kubectl.says(&["exec", "shell", "--", "sh", "-c", "cd /copied; find . -type f -exec sha256sum {} +"]).await?;
    let mut hashes: Vec<_> = there.lines().collect();
    hashes.sort_unstable();
    let mut expected: Vec<_> = files.iter().map(|(name, content)| format!("{}  ./{name}", sha256(content))).collect();
    expected.sort_unstable();
    ensure!(hashes == expected, "there are {hashes:?}, not {expected:?}");
    kubectl.says(&["cp", "shell:/copied", &to]).await?;
    let mut came = BTreeMap::new();
    for path in files::files(&back, "")? {
        came.insert(path.strip_prefix(&back)?.display().to_string(), fs::read(&path)?);
    }
    ensure!(came == files.into_iter().map(|(name, content)| (name.to_owned(), content)).collect(), "came back: {:?}", came.keys());
    Ok(())
}

async fn accounts(story: &Story) -> anyhow::Result<()> {
    let sessions = story.agent(0)?.settled().await?;
    for tenant in &story.tenants {
        let uid = tenant.id.uid().to_string();
        let own: Vec<_> = sessions.iter().filter(|one| one.tenant == uid).collect();
        let most = own.iter().max_by_key(|one| one.sent_bytes).context("no session")?;
        let passed = most.sent_bytes > MANY_BYTES && most.received_bytes > MANY_BYTES;
        ensure!(passed && most.verb == "exec" && most.pod == "default/shell" && most.container == "main", "{most:?}");
    }
    let odd: Vec<_> = sessions.iter().filter(|one| !one.is_fine()).collect();
    ensure!(odd.is_empty(), "{odd:?}");
    // Which transport a kubectl used is told by the verb that its API server has for it.
    for (i, verb) in [(0, "get"), (1, "create")] {
        let calls = story.bed.tenant(i)?.audit().since(Mark::default())?.filter(|call| call.subresource == "exec");
        let verbs: Vec<_> = calls.0.iter().map(|call| call.verb.clone()).collect();
        ensure!(!verbs.is_empty() && verbs.iter().all(|one| one == verb), "tenant {i}: {verbs:?}");
    }
    Ok(())
}
