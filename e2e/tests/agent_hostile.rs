//! A hostile tenant before vn-agent on a real node, whose kubelet runs another tenant's containers too: nothing that it sends reaches them.
//!
//! The other tenant's Pod `secret` holds a word in its environment, its log, a file and behind a port; another Pod has it in its name. The word
//! is listened for in everything that is answered.

mod attack;
mod certificates;
mod heads;
mod replaced;
mod rights;

use anyhow::{Context as _, ensure};
use e2e::{
    agents::{self, AgentOptions, Backend},
    dial::{Answer, Caller, PATIENCE, channels::request as websocket},
    images::TOOLS,
    machine,
    story::{Actor, Plot, Story, chapter, is_running, pod, uid_of},
};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use self::attack::{Ears, Target, paths, smuggled};

/// Requests on their way at once.
const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn s53_to_s62_a_hostile_tenant_reaches_its_own_pods_alone() {
    if machine::skipped() {
        return;
    }
    let story = Story::play(Plot::with_agents("agent-hostile", 2, 1)).await.unwrap();
    let scene = Scene::set(&story).await.unwrap();
    story.tell(vec![chapter("whose they are, reaches the word in each place", scene.control())]).await.unwrap();
    // Alone: what others send costs memory too.
    story.tell(vec![chapter("huge heads cost little", scene.huge())]).await.unwrap();
    let chapters = vec![
        chapter("S53: nobody comes in without a certificate of the agent CA", scene.strangers()),
        chapter("S54: a certificate in another form names nobody", scene.misnamed()),
        chapter("S54: a certificate for metrics reaches metrics alone", scene.metrics()),
        chapter("S55, S56: no path leads to another's Pod or to what a kubelet says of all", scene.paths()),
        chapter("S55: what passes is read below as it was meant", scene.meant()),
        chapter("S57: nothing that a caller says of itself counts", scene.headers()),
        chapter("S58: no request hides in another", scene.smuggling()),
        chapter("S60: what the tenant did not ask for in its own namespace is not its", scene.injected()),
        chapter("S62: the identities of vn-agent have no right beyond their task", scene.rights()),
        chapter("an API server that makes up Pods and Nodes reaches nothing by them", scene.made_up()),
        chapter("slow heads hold nothing up", scene.slow()),
    ];
    story.tell(chapters).await.unwrap();
    story
        .tell(vec![chapter("S59: a Pod that is replaced again and again never answers for its successor", scene.replaced())])
        .await
        .unwrap();
    eprintln!("    {} answers, none with anything of another tenant's", scene.ears.count());
}

/// What depends on who answers: who comes in and whose page it is does not.
#[tokio::test(flavor = "multi_thread")]
async fn s55_to_s60_the_same_before_the_super_clusters_api_server() {
    if machine::skipped() {
        return;
    }
    let mut plot = Plot::with_agents("hostile-super", 2, 1);
    plot.agents = Some(AgentOptions { backend: Backend::Super, ..AgentOptions::default() });
    let story = Story::play(plot).await.unwrap();
    let scene = Scene { has_pages: false, ..Scene::set(&story).await.unwrap() };
    story.tell(vec![chapter("whose they are, reaches the word in each place", scene.control())]).await.unwrap();
    let chapters = vec![
        chapter("S55, S56: no path leads to another's Pod or to what a kubelet says of all", scene.paths()),
        chapter("S55: what passes is read below as it was meant", scene.meant()),
        chapter("S57: nothing that a caller says of itself counts", scene.headers()),
        chapter("S58: no request hides in another", scene.smuggling()),
        chapter("S60: what the tenant did not ask for in its own namespace is not its", scene.injected()),
        chapter("S62: the identity of vn-agent has no right beyond its task", scene.rights()),
        chapter("an API server that makes up Pods and Nodes reaches nothing by them", scene.made_up()),
    ];
    story.tell(chapters).await.unwrap();
    story
        .tell(vec![chapter("S59: a Pod that is replaced again and again never answers for its successor", scene.replaced())])
        .await
        .unwrap();
    eprintln!("    {} answers, none with anything of another tenant's", scene.ears.count());
}

#[tokio::test(flavor = "multi_thread")]
async fn s62_a_node_s_credential_opens_no_other_nodes_kubelet() {
    if machine::skipped() {
        return;
    }
    let story = Story::play(Plot::with_agents("agent-apart", 1, 2)).await.unwrap();
    let chapters = vec![
        chapter("the credential of one node's vn-agent is refused by another node's kubelet", rights::apart(&story)),
        chapter("kubectl reaches a Pod by the vn-agent of its node, and no other knows of it", rights::each_its_own(&story)),
    ];
    story.tell(chapters).await.unwrap();
}

/// Tenant 0 has secrets; tenant 1 is hostile.
struct Scene<'a> {
    story: &'a Story,
    word: String,
    victim: &'a Actor,
    attacker: &'a Actor,
    caller: Caller,
    target: Target,
    ears: Ears,
    /// Whether the back end has pages about the node.
    has_pages: bool,
}

fn container(script: &str, env: &str) -> Value {
    json!({ "name": "main", "image": TOOLS, "command": ["sh", "-c", script], "env": [{ "name": "WORD", "value": env }] })
}

fn simple(name: &str, container: &Value) -> Value {
    pod(name, &json!({}), &json!({ "terminationGracePeriodSeconds": 1, "containers": [container] }))
}

impl<'a> Scene<'a> {
    async fn set(story: &'a Story) -> anyhow::Result<Self> {
        let (victim, attacker) = (story.tenant(0)?, story.tenant(1)?);
        let word = format!("w{:032x}", rand_word());
        let script = "echo $WORD; echo $WORD > /word; mkdir /www; cp /word /www/index.html; httpd -p 8080 -h /www; exec sleep 1000000";
        for name in ["secret", "twin", "swap", &format!("hidden-{word}")] {
            victim.apply(&simple(name, &container(script, &word))).await?;
        }
        attacker.apply(&simple("twin", &container("echo own; exec sleep 1000000", "own"))).await?;
        let above: Pod = victim.sees("it runs", "default", "secret", is_running).await?;
        for name in ["twin", "swap", &format!("hidden-{word}")] {
            victim.sees("it runs", "default", name, is_running).await?;
        }
        attacker.sees("it runs", "default", "twin", is_running).await?;
        let below: Pod = victim.below("default").get("secret").await?;
        let target = Target { namespace: victim.namespace_below("default"), uid: uid_of(&above), uid_below: uid_of(&below) };
        let ears = Ears::new(vec![word.clone(), target.uid.clone(), target.uid_below.clone()]);
        let caller = story.agent(0)?.caller(&story.bed, 1)?;
        Ok(Self { story, word, victim, attacker, caller, target, ears, has_pages: true })
    }

    /// The word is where the others look for it: whoever may, finds it by the same means.
    async fn control(&self) -> anyhow::Result<()> {
        let caller = self.story.agent(0)?.caller(&self.story.bed, 0)?;
        let log = caller.get("/containerLogs/default/secret/main").await?;
        ensure!(log.status() == 200 && log.text.contains(&self.word), "{}", log.text);
        for command in ["command=env", "command=cat&command=/word"] {
            let said = caller.open(&format!("/exec/default/secret/main?{command}&output=1")).await?.rest().await;
            ensure!(said.contains(&self.word), "{command}: {said}");
        }
        let by_uid = caller.open(&format!("/exec/default/secret/{}/main?command=env&output=1", self.target.uid)).await?.rest().await;
        ensure!(by_uid.contains(&self.word), "{by_uid}");
        let mut port = caller.open("/portForward/default/secret?port=8080").await?;
        port.send(0, b"GET / HTTP/1.0\r\n\r\n").await?;
        let page = port.rest().await;
        ensure!(page.contains(&self.word), "{page}");
        if self.has_pages {
            ensure!(caller.get("/pods").await?.text.contains(&self.word), "its own list names its Pods");
            ensure!(self.caller.get("/pods").await?.text.contains("\"twin\""), "the hostile one sees its own");
        }
        let own = self.caller.open("/exec/default/twin/main?command=env&output=1").await?.rest().await;
        ensure!(own.contains("WORD=own"), "{own}");
        self.ears.hear("its own", &own)
    }

    /// Sends each, and fails if any is answered by a success or with what is another's, or is not answered and goes on.
    async fn all_refused(&self, requests: Vec<(String, String)>) -> anyhow::Result<Vec<(String, Answer)>> {
        let answers: Vec<anyhow::Result<_>> = stream::iter(requests)
            .map(|(what, bytes)| async move {
                let answer = self.caller.raw(bytes.as_bytes(), PATIENCE).await;
                Ok((what, answer?))
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let answers = answers.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        for (what, answer) in &answers {
            self.ears.hear(what, &answer.text)?;
            ensure!(answer.status() >= 400 || answer.is_shut_out(), "{what:?} is not refused: ended {}: {}", answer.ended, answer.text);
        }
        Ok(answers)
    }

    /// The same of requests in good form: each is answered.
    async fn all_denied(&self, requests: Vec<(String, String)>) -> anyhow::Result<Vec<(String, Answer)>> {
        let answers = self.all_refused(requests).await?;
        for (what, answer) in &answers {
            ensure!(answer.status() >= 400 && answer.ended, "{what:?} is not answered, or not to its end: {}", answer.text);
        }
        Ok(answers)
    }

    async fn paths(&self) -> anyhow::Result<()> {
        let mut requests = Vec::new();
        for path in paths(&self.target) {
            for method in ["GET", "POST", "PUT", "DELETE", "HEAD"] {
                let request = format!("{method} {path} HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                requests.push((format!("{method} {path}"), request));
            }
            requests.push((format!("websocket {path}"), websocket(&path)));
        }
        // An empty query is none, and a fragment is cut off where requests are read: what is left is the tenant's own.
        let is_own = |what: &str| {
            what.starts_with("GET /containerLogs/default/twin/main?") || what.starts_with("GET /containerLogs/default/twin/main#")
        };
        requests.retain(|(what, _)| !(is_own(what) && (what.ends_with('?') || what.contains('#'))));
        for path in [
            "/containerLogs/default/twin/main?",
            &format!("/containerLogs/default/twin/main#/../../../{}/secret/main", self.target.namespace),
        ] {
            let answer = self.caller.get(path).await?;
            self.ears.hear(path, &answer.text)?;
            ensure!(answer.status() == 200 && answer.text.contains("own\n"), "{path}: {}", answer.text);
        }
        self.all_denied(requests).await?;
        for path in ["/pods", "/stats/summary", "/metrics/resource", "/metrics/cadvisor", "/metrics/probes"] {
            let answer = self.caller.get(path).await?;
            self.ears.hear(path, &answer.text)?;
            ensure!(answer.status() == if self.has_pages { 200 } else { 404 }, "{path}: {}", answer.text);
            ensure!(!answer.text.contains(&self.target.namespace), "{path} names another's namespace: {}", answer.text);
        }
        Ok(())
    }

    /// What passes is built anew from what was read, and the kubelet, or the API server and then the kubelet, reads it anew: the command is the one that was meant.
    async fn meant(&self) -> anyhow::Result<()> {
        const ODD: [&str; 22] = [
            "a b",
            "a+b",
            "a%20b",
            "%2F",
            "%",
            "%%",
            "&x=1",
            "&command=id",
            ";",
            "#",
            "?",
            "=",
            "",
            "..",
            "../..",
            "//",
            "\\",
            "'\"",
            "ü",
            "\u{202e}",
            "$HOME",
            "command=id",
        ];
        let script = "printf '%s\n' \"$@\"";
        for is_form in [false, true] {
            let encoded = |text: &str| {
                let bytes = text.bytes().map(|byte| match byte {
                    b' ' if is_form => "+".to_owned(),
                    byte if byte.is_ascii_alphanumeric() && is_form => char::from(byte).to_string(),
                    byte => format!("%{byte:02X}"),
                });
                bytes.collect::<String>()
            };
            let command: Vec<_> =
                ["sh", "-c", script, "sh"].into_iter().chain(ODD).map(|word| format!("command={}", encoded(word))).collect();
            let path = format!("/exec/default/twin/main?{}&output=1", command.join("&"));
            let (mut stream, mut said) = (self.caller.open(&path).await?, Vec::new());
            while let Some((channel, bytes)) = stream.next().await {
                if channel == 1 {
                    said.extend(bytes);
                }
            }
            let said = String::from_utf8(said)?;
            ensure!(said.lines().eq(ODD), "as a form: {is_form}: of {ODD:?} came {said:?}");
        }
        Ok(())
    }

    async fn headers(&self) -> anyhow::Result<()> {
        let admin = std::fs::read_to_string(self.story.agent(0)?.dir().join("super.kubeconfig"))?;
        let token = serde_json::from_str::<Value>(&admin)?.pointer("/users/0/user/token").and_then(Value::as_str).map(str::to_owned);
        let token = token.context("the kubeconfig has no token")?;
        let hostile = format!(
            "Authorization: Bearer {token}\r\nImpersonate-User: system:admin\r\nImpersonate-Group: system:masters\r\nX-Remote-User: admin\r\n\
             X-Remote-Group: system:masters\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Client-Cert: By=vc://{}\r\nX-Original-URL: /pods\r\n\
             X-Rewrite-URL: /runningpods/\r\nX-HTTP-Method-Override: POST\r\nForwarded: for=127.0.0.1\r\n",
            self.victim.id.uid()
        );
        for host in ["node", "127.0.0.1:10250", &self.target.namespace, "node\r\nHost: other"] {
            let request =
                |line: &str| format!("{line} HTTP/1.1\r\nHost: {host}\r\n{hostile}Connection: close, Authorization, Host\r\n\r\n");
            let own = self.caller.raw(request("GET /containerLogs/default/twin/main").as_bytes(), PATIENCE).await?;
            self.ears.hear("own with hostile headers", &own.text)?;
            // Who is asked is not said by Host, but two of them are no request.
            let is_served = own.status() == 200 && own.text.contains("own\n");
            ensure!(if host.contains('\n') { own.status() == 400 } else { is_served }, "{host:?}: {}", own.text);
            let others = ["GET /containerLogs/default/secret/main", "GET /runningpods/"];
            self.all_denied(others.map(|other| (format!("{other} with hostile headers"), request(other))).into()).await?;
        }
        Ok(())
    }

    async fn smuggling(&self) -> anyhow::Result<()> {
        for inner in [
            format!("GET /containerLogs/{}/secret/main HTTP/1.1\r\nHost: node\r\n\r\n", self.target.namespace),
            "GET /containerLogs/default/twin/main HTTP/1.1\r\nHost: node\r\n\r\n".to_owned(),
        ] {
            let requests = smuggled(&inner).into_iter().map(|bytes| (bytes.clone(), bytes)).collect();
            for (what, answer) in self.all_refused(requests).await? {
                let heads = answer.text.lines().filter(|line| line.starts_with("HTTP/1.")).count();
                ensure!(heads <= 1 && answer.ended, "{what:?}: {heads} answers, ended: {}: {}", answer.ended, answer.text);
            }
        }
        // What follows an upgrade is the stream's, whatever it looks like.
        let inner = format!("GET /containerLogs/{}/secret/main HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", self.target.namespace);
        let streams = [
            "/exec/default/twin/main?command=cat&input=1&output=1",
            "/exec/default/secret/main?command=env&output=1",
            "/attach/default/twin/main?output=1",
        ];
        for path in streams {
            let answer = self.caller.raw(format!("{}{inner}", websocket(path)).as_bytes(), PATIENCE).await?;
            self.ears.hear(path, &answer.text)?;
            ensure!(answer.ended && answer.text.matches("HTTP/1.1 ").count() == 1, "{path}: ended {}: {}", answer.ended, answer.text);
        }
        // Two requests one after the other are two requests, each looked at.
        let own = "GET /containerLogs/default/twin/main HTTP/1.1\r\nHost: node\r\n\r\n";
        let answer = self.caller.raw(format!("{own}{inner}").as_bytes(), PATIENCE).await?;
        self.ears.hear("pipelined", &answer.text)?;
        ensure!(answer.ended && answer.status() == 200 && answer.text.matches("HTTP/1.1 ").count() == 2, "{}", answer.text);
        ensure!(answer.text.contains("HTTP/1.1 404 "), "{}", answer.text);
        Ok(())
    }

    /// Containers and Pods that the platform put beside the tenant's own.
    async fn injected(&self) -> anyhow::Result<()> {
        let below: Api<Pod> = self.attacker.below("default");
        let sidecar =
            json!({ "name": "platform", "image": TOOLS, "command": ["sh", "-c", format!("echo {}; exec sleep 1000000", self.word)] });
        let change = json!({ "spec": { "ephemeralContainers": [sidecar] } });
        below.patch_subresource("ephemeralcontainers", "twin", &PatchParams::default(), &Patch::Strategic(&change)).await?;
        let started = |pod: &Pod| {
            let all = pod.status.iter().flat_map(|status| status.ephemeral_container_statuses.iter().flatten());
            all.into_iter().any(|one| one.state.as_ref().is_some_and(|state| state.running.is_some()))
        };
        self.attacker.holds_below("the platform's container runs", "default", "twin", started).await?;
        let platform = simple("platform", &container("echo $WORD; exec sleep 1000000", &self.word));
        e2e::bed::apply(&below, "platform", &platform).await?;
        self.attacker.holds_below("the platform's Pod runs", "default", "platform", is_running).await?;
        let mut requests = Vec::new();
        for (pod, container) in [("twin", "platform"), ("platform", "main")] {
            for path in
                [format!("/exec/default/{pod}/{container}?command=env&output=1"), format!("/attach/default/{pod}/{container}?output=1")]
            {
                requests.push((path.clone(), websocket(&path)));
            }
            let path = format!("/containerLogs/default/{pod}/{container}");
            requests.push((path.clone(), format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")));
        }
        requests.push(("port of the platform's Pod".to_owned(), websocket("/portForward/default/platform?port=8080")));
        for (what, answer) in self.all_denied(requests).await? {
            ensure!([403, 404].contains(&answer.status()), "{what}: {}", answer.text);
        }
        for page in ["/pods", "/stats/summary", "/metrics/resource", "/metrics/cadvisor"] {
            let answer = self.caller.get(page).await?;
            self.ears.hear(page, &answer.text)?;
            let expected = if self.has_pages { 200 } else { 404 };
            ensure!(answer.status() == expected && !answer.text.contains("platform"), "{page} shows the platform's: {}", answer.text);
        }
        Ok(())
    }

    /// What an API server can pretend: Pods that are not there, Nodes that lead elsewhere.
    async fn made_up(&self) -> anyhow::Result<()> {
        let kubectl = self.story.kubectl(1)?;
        let address = self.story.real.first().context("a node")?.machine.address().to_string();
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "mine" } });
        self.attacker.apply(&node).await?;
        let status = json!({ "status": {
            "addresses": [{ "type": "InternalIP", "address": address }], "daemonEndpoints": { "kubeletEndpoint": { "Port": agents::PORT } },
        } });
        let nodes: Api<Node> = Api::all(self.attacker.client());
        nodes.patch_status("mine", &PatchParams::default(), &Patch::Merge(&status)).await?;
        for name in ["secret", "made-up"] {
            let mut made_up = simple(name, &container("true", "own"));
            made_up.pointer_mut("/spec").and_then(Value::as_object_mut).context("a spec")?.insert("nodeName".to_owned(), json!("mine"));
            self.attacker.apply(&made_up).await?;
            let running = json!({ "status": { "phase": "Running", "containerStatuses": [{
                "name": "main", "image": TOOLS, "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} },
            }] } });
            // Whether it is taken back meanwhile does not matter.
            let _ = self.attacker.above::<Pod>("default").patch_status(name, &PatchParams::default(), &Patch::Merge(&running)).await;
            for args in [vec!["exec", name, "--", "env"], vec!["logs", name], vec!["attach", name]] {
                let said = kubectl.fails(&args).await?;
                self.ears.hear(&args.join(" "), &said)?;
            }
        }
        let proxied = [
            "pods",
            "runningpods/",
            "configz",
            "logs/",
            "metrics",
            "healthz",
            "containerLogs/default/secret/main",
            "run/default/secret/main?cmd=env",
        ];
        let space = &self.target.namespace;
        let by_name = [format!("containerLogs/{space}/secret/main"), format!("stats/{space}/secret/{}/main", self.target.uid_below)];
        for (node, port) in [("mine", ""), ("machine-0", ""), ("mine", ":10250"), ("machine-0", ":10250")] {
            for path in proxied.iter().map(|path| (*path).to_owned()).chain(by_name.clone()) {
                let output = kubectl.output(&["get", "--raw", &format!("/api/v1/nodes/{node}{port}/proxy/{path}")]).await?;
                let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
                self.ears.hear(&format!("{node}{port} {path}"), &said)?;
                ensure!(!output.status.success() || (path == "pods" && port.is_empty()), "{node}{port}/proxy/{path}: {said}");
            }
        }
        Ok(())
    }
}

/// Another word each time.
fn rand_word() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    now ^ (u128::from(std::process::id()) << 64)
}
