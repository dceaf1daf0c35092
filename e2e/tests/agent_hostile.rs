//! A hostile tenant before vn-agent on a real node, whose kubelet runs another tenant's containers too: nothing that it sends reaches them.
//!
//! The other tenant's Pod `secret` holds a word in its environment, its log, a file and behind a port; another Pod has it in its name. The word
//! is listened for in everything that is answered.
mod hostile;

use std::{cell::Cell, cell::RefCell, time::Duration};

use anyhow::{Context as _, ensure};
use e2e::{
    agents,
    dial::{Answer, Caller, channels::request as websocket},
    images::TOOLS,
    machine,
    pki::Identity,
    real_nodes::KUBELET_PORT,
    story::{Actor, Plot, Story, chapter, is_running, pod, uid_of},
    wait::{Seen, eventually},
};
use futures::{StreamExt as _, future::join_all, stream};
use hostile::{Ears, Forger, Target, paths, smuggled};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use rcgen::{DnType, ExtendedKeyUsagePurpose, SanType};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, time::Instant};

/// How long a connection is listened to after its last byte.
const SILENCE: Duration = Duration::from_secs(3);

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
    let chapters = vec![
        chapter("S53: nobody comes in without a certificate of the agent CA", scene.strangers()),
        chapter("S54: a certificate in another form names nobody", scene.misnamed()),
        chapter("S54: a certificate for metrics reaches metrics alone", scene.metrics()),
        chapter("S55, S56: no path leads to another's Pod or to what a kubelet says of all", scene.paths()),
        chapter("S57: nothing that a caller says of itself counts", scene.headers()),
        chapter("S58: no request hides in another", scene.smuggling()),
        chapter("S60: what the tenant did not ask for in its own namespace is not its", scene.injected()),
        chapter("S62: the identities of vn-agent have no right beyond their task", scene.rights()),
        chapter("an API server that makes up Pods and Nodes reaches nothing by them", scene.made_up()),
        chapter("slow and huge heads hold nothing up", scene.slow_and_huge()),
    ];
    story.tell(chapters).await.unwrap();
    story
        .tell(vec![chapter("S59: a Pod that is replaced again and again never answers for its successor", scene.replaced())])
        .await
        .unwrap();
    eprintln!("    {} answers, none with anything of another tenant's", scene.ears.count());
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
        Ok(Self { story, word, victim, attacker, caller, target, ears })
    }

    /// The word is where the others look for it: whoever may, finds it by the same means.
    async fn control(&self) -> anyhow::Result<()> {
        let caller = self.story.agent(0)?.caller(&self.story.bed, 0)?;
        let log = caller.get("/containerLogs/default/secret/main").await;
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
        ensure!(caller.get("/pods").await.text.contains(&self.word), "its own list names its Pods");
        let own = self.caller.open("/exec/default/twin/main?command=env&output=1").await?.rest().await;
        ensure!(own.contains("WORD=own"), "{own}");
        ensure!(self.caller.get("/pods").await.text.contains("\"twin\""), "the hostile one sees its own");
        self.ears.hear("its own", &own)
    }

    fn as_whom(&self, identity: Option<&Identity>) -> anyhow::Result<Caller> {
        let ca = std::fs::read_to_string(agents::authority(self.story.bed.dir()).with_extension("crt"))?;
        Caller::showing(self.story.agent(0)?.address(), &ca, identity)
    }

    async fn strangers(&self) -> anyhow::Result<()> {
        let bed = &self.story.bed;
        let uri = format!("vc://{}", self.victim.id.uid());
        let agents = Forger::with(&agents::authority(bed.dir()))?;
        let tenants = Forger::with(&bed.tenant(1)?.authority().dir().join("ca"))?;
        let cluster = Forger::with(&bed.sup.authority().dir().join("ca"))?;
        let own = Forger::of_its_own()?;
        let past = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let future = |params: &mut rcgen::CertificateParams| params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        let server = |params: &mut rcgen::CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let mut with_ca = own.leaf(&[&uri], |_| {})?;
        with_ca.certificate += own.pem();
        let mut with_agents_ca = own.leaf(&[&uri], |_| {})?;
        with_agents_ca.certificate += agents.pem();
        let mut stolen = agents.leaf(&[&uri], |_| {})?;
        stolen.key = agents.leaf(&[&uri], |_| {})?.key;
        let strangers = [
            ("no certificate", None),
            ("of a CA of its own", Some(own.leaf(&[&uri], |_| {})?)),
            ("of a CA of its own, with that CA", Some(with_ca)),
            ("of a CA of its own, with the agent CA", Some(with_agents_ca)),
            ("of the tenant's own CA", Some(tenants.leaf(&[&uri], |_| {})?)),
            ("of the cluster's CA", Some(cluster.leaf(&[&uri], |_| {})?)),
            ("expired", Some(agents.leaf(&[&uri], past)?)),
            ("not valid yet", Some(agents.leaf(&[&uri], future)?)),
            ("for servers", Some(agents.leaf(&[&uri], server)?)),
            ("without its key", Some(stolen)),
        ];
        for (what, identity) in &strangers {
            // The library of the test itself may refuse to pretend.
            let Ok(caller) = self.as_whom(identity.as_ref()) else { continue };
            for path in ["/pods", "/containerLogs/default/secret/main"] {
                let answer = caller.get(path).await;
                self.ears.hear(what, &answer.text)?;
                ensure!(answer.status() == 0 && answer.ended, "{what}: {path} is answered: {}", answer.text);
            }
        }
        // Past vn-agent: the kubelet itself knows no certificate of the agent CA.
        let kubelet = format!("{}:{KUBELET_PORT}", self.story.real.first().context("a node")?.machine.address());
        for identity in [
            agents.leaf(&[&uri], |_| {})?,
            agents.leaf(&[], |params| params.distinguished_name.push(DnType::CommonName, "vn-agent:machine-0"))?,
        ] {
            let answer = Caller::showing(&kubelet, &bed.sup.ca(), Some(&identity))?.get("/pods").await;
            self.ears.hear("the kubelet itself", &answer.text)?;
            ensure!(answer.status() == 401, "the kubelet answers {}", answer.text);
        }
        Ok(())
    }

    async fn misnamed(&self) -> anyhow::Result<()> {
        let agents = Forger::with(&agents::authority(self.story.bed.dir()))?;
        let (victim, own) = (self.victim.id.uid().to_string(), self.attacker.id.uid().to_string());
        let (his, mine) = (format!("vc://{victim}"), format!("vc://{own}"));
        let named = |name: &str| {
            let name = name.to_owned();
            move |params: &mut rcgen::CertificateParams| {
                params.distinguished_name.push(DnType::CommonName, name.clone());
                params.subject_alt_names.extend(name.clone().try_into().map(SanType::DnsName));
            }
        };
        let mut cases: Vec<(String, Identity)> = Vec::new();
        for uris in [
            vec![mine.clone(), his.clone()],
            vec![his.clone(), mine],
            vec![his.clone(), his.clone()],
            vec![his.clone(), format!("{his}/metrics")],
            vec![his.to_uppercase()],
            vec![format!("vc://{}", victim.to_uppercase())],
            vec![format!("VC://{victim}")],
            vec![format!("{his}/")],
            vec![format!("{his}/metrics/")],
            vec![format!("{his}/Metrics")],
            vec![format!("{his}?")],
            vec![format!("vc://{own}@{victim}")],
            vec![format!("vc://{victim}:443")],
            vec![format!("spiffe://{victim}")],
            vec!["vc://00000000-0000-4000-8000-000000000000".to_owned()],
        ] {
            let uris: Vec<&str> = uris.iter().map(String::as_str).collect();
            cases.push((uris.join(" "), agents.leaf(&uris, |_| {})?));
        }
        cases.push(("no URI, the UID as name".to_owned(), agents.leaf(&[], named(&victim))?));
        cases.push(("no URI, a node's name".to_owned(), agents.leaf(&[], named("machine-0"))?));
        for (what, identity) in &cases {
            let caller = self.as_whom(Some(identity))?;
            for path in ["/pods", "/containerLogs/default/secret/main", "/metrics/cadvisor"] {
                let answer = caller.get(path).await;
                self.ears.hear(what, &answer.text)?;
                ensure!([0, 403].contains(&answer.status()) && answer.ended, "{what}: {path}: {}", answer.text);
            }
        }
        // The one URI counts, whatever else the chain holds: the other's certificate is public.
        let mut chain = agents.leaf(&[&format!("vc://{own}")], named(&victim))?;
        chain.certificate += &agents.leaf(&[&his], |_| {})?.certificate;
        let answer = self.as_whom(Some(&chain))?.get("/containerLogs/default/secret/main").await;
        self.ears.hear("with the other's certificate behind its own", &answer.text)?;
        ensure!([0, 404].contains(&answer.status()), "{}", answer.text);
        Ok(())
    }

    async fn metrics(&self) -> anyhow::Result<()> {
        let out = self.story.bed.dir().join("agents/metrics");
        let ca = agents::authority(self.story.bed.dir());
        let uid = self.attacker.id.uid().to_string();
        agents::issue(&["tenant", "--metrics", "--uid", &uid, "--ca", &ca.display().to_string(), "--out", &out.display().to_string()])
            .await?;
        let caller = Caller::new(self.story.agent(0)?.address(), &ca.with_extension("crt"), Some(&out))?;
        for path in
            ["/exec/default/twin/main?command=env&output=1", "/attach/default/twin/main?output=1", "/portForward/default/twin?port=80"]
        {
            let Err(answer) = caller.stream(path).await? else { anyhow::bail!("{path} is open") };
            self.ears.hear(path, &answer.text)?;
            ensure!(answer.status() == 403, "{path}: {}", answer.text);
        }
        for (path, status) in [
            ("/containerLogs/default/twin/main", 403),
            ("/pods", 403),
            ("/containerLogs/default/secret/main", 403),
            ("/stats/summary", 200),
            ("/metrics/resource", 200),
            ("/metrics/cadvisor", 200),
            ("/metrics/probes", 200),
        ] {
            let answer = caller.get(path).await;
            self.ears.hear(path, &answer.text)?;
            ensure!(answer.status() == status, "{path}: {}", answer.text);
        }
        Ok(())
    }

    /// Sends each, and fails if any is answered by a success or with what is another's.
    async fn all_refused(&self, requests: Vec<(String, String)>) -> anyhow::Result<Vec<(String, Answer)>> {
        let answers: Vec<_> = stream::iter(requests)
            .map(|(what, bytes)| async move {
                let answer = self.caller.raw(bytes.as_bytes(), SILENCE).await;
                (what, answer)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (what, answer) in &answers {
            self.ears.hear(what, &answer.text)?;
            ensure!(answer.status() == 0 || answer.status() >= 400, "{what:?} is served: {}", answer.text);
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
            let answer = self.caller.get(path).await;
            self.ears.hear(path, &answer.text)?;
            ensure!(answer.status() == 200 && answer.text.contains("own\n"), "{path}: {}", answer.text);
        }
        self.all_refused(requests).await?;
        for path in ["/pods", "/stats/summary", "/metrics/resource", "/metrics/cadvisor", "/metrics/probes"] {
            let answer = self.caller.get(path).await;
            self.ears.hear(path, &answer.text)?;
            ensure!(answer.status() == 200, "{path}: {}", answer.text);
            ensure!(!answer.text.contains(&self.target.namespace), "{path} names another's namespace: {}", answer.text);
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
            let own = self.caller.raw(request("GET /containerLogs/default/twin/main").as_bytes(), SILENCE).await;
            self.ears.hear("own with hostile headers", &own.text)?;
            ensure!(own.status() != 200 || own.text.ends_with("own\n") || own.text.contains("own\n"), "{}", own.text);
            let other = vec![("other with hostile headers".to_owned(), request("GET /containerLogs/default/secret/main"))];
            self.all_refused(other).await?;
            self.all_refused(vec![("all with hostile headers".to_owned(), request("GET /runningpods/"))]).await?;
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
            let answer = self.caller.raw(format!("{}{inner}", websocket(path)).as_bytes(), SILENCE).await;
            self.ears.hear(path, &answer.text)?;
            ensure!(answer.text.matches("HTTP/1.1 ").count() <= 1, "{path}: {}", answer.text);
        }
        // Two requests one after the other are two requests, each looked at.
        let own = "GET /containerLogs/default/twin/main HTTP/1.1\r\nHost: node\r\n\r\n";
        let answer = self.caller.raw(format!("{own}{inner}").as_bytes(), SILENCE).await;
        self.ears.hear("pipelined", &answer.text)?;
        ensure!(answer.text.contains("HTTP/1.1 200 ") && answer.text.contains("HTTP/1.1 404 "), "{}", answer.text);
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
        for (what, answer) in self.all_refused(requests).await? {
            ensure!([403, 404].contains(&answer.status()), "{what}: {}", answer.text);
        }
        for page in ["/pods", "/stats/summary", "/metrics/resource", "/metrics/cadvisor"] {
            let answer = self.caller.get(page).await;
            self.ears.hear(page, &answer.text)?;
            ensure!(answer.status() == 200 && !answer.text.contains("platform"), "{page} shows the platform's: {}", answer.text);
        }
        Ok(())
    }

    async fn rights(&self) -> anyhow::Result<()> {
        let (agent, sup) = (self.story.agent(0)?, &self.story.bed.sup);
        let own = kube::Client::try_from(
            kube::Config::from_custom_kubeconfig(
                kube::config::Kubeconfig::read_from(agent.dir().join("super.kubeconfig"))?,
                &kube::config::KubeConfigOptions::default(),
            )
            .await?,
        )?;
        let node = Caller::new(
            sup.server().trim_start_matches("https://"),
            &sup.authority().dir().join("ca.crt"),
            Some(&agent.dir().join("client")),
        )?;
        let space = &self.target.namespace;
        for path in [
            format!("/api/v1/namespaces/{space}/pods"),
            format!("/api/v1/namespaces/{space}/pods/secret/log"),
            format!("/api/v1/namespaces/{space}/secrets"),
            "/api/v1/pods".to_owned(),
            "/api/v1/nodes".to_owned(),
            "/api/v1/nodes/machine-0".to_owned(),
            "/api/v1/nodes/machine-1/proxy/pods".to_owned(),
            "/api/v1/namespaces/vc-system/secrets".to_owned(),
        ] {
            let request = http::Request::get(&path).body(Vec::new())?;
            let refused = own.request_text(request).await.err().context(format!("vn-agent may GET {path}"))?;
            ensure!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{path}: {refused}");
            let answer = node.get(&path).await;
            self.ears.hear(&path, &answer.text)?;
            ensure!(answer.status() == 403, "the credential of the node: {path}: {}", answer.text);
        }
        let allowed = self
            .story
            .bed
            .sup
            .kubectl(self.story.bed.programs())
            .says(&["auth", "can-i", "--list", "--as=vn-agent:machine-0", "--as-group=system:authenticated"])
            .await?;
        let beyond: Vec<&str> = allowed
            .lines()
            .skip(1)
            .filter(|line| !line.starts_with(' ') && !line.starts_with("self") && !line.contains("[machine-0]"))
            .collect();
        ensure!(beyond.is_empty(), "the credential of the node has rights beyond it: {beyond:?}");
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

    async fn slow_and_huge(&self) -> anyhow::Result<()> {
        let agent = self.story.agent(0)?;
        let before = agent.process.rss_bytes();
        let huge = [
            format!("GET /{} HTTP/1.1\r\nHost: node\r\n\r\n", "a".repeat(1 << 20)),
            format!("GET /pods HTTP/1.1\r\nHost: node\r\nX: {}\r\n\r\n", "a".repeat(1 << 20)),
            format!("GET /pods HTTP/1.1\r\nHost: node\r\n{}\r\n", "X: a\r\n".repeat(20_000)),
            format!("GET /pods HTTP/1.1\r\nHost: node\r\n{}\r\n", "X: a\r\n".repeat(100)),
            format!("GET /exec/default/twin/main?{} HTTP/1.1\r\nHost: node\r\n\r\n", "command=a&".repeat(200_000)),
        ];
        let requests = huge.iter().cycle().take(60).map(|bytes| (bytes.chars().take(60).collect(), bytes.clone())).collect();
        self.all_refused(requests).await?;
        let grown = agent.process.peak_rss_bytes().saturating_sub(before);
        ensure!(grown < 32 << 20, "heads of a MiB cost {grown} bytes");
        // A byte a second each, and nothing at all; meanwhile others are served.
        let begin = Instant::now();
        let slow = (0..40).map(|n| async move {
            let mut stream = self.caller.connect().await.context("could not dial")?;
            let line = if n % 2 == 0 {
                "GET /containerLogs/default/twin/main?tailLines=1000000000000000000000000000000 HTTP/1.1\r\nX: "
            } else {
                ""
            };
            for byte in line.bytes().chain(std::iter::repeat(b'a')) {
                let sent = async { if line.is_empty() { Ok(()) } else { stream.write_all(&[byte]).await } };
                if sent.await.is_err() || stream.flush().await.is_err() {
                    break;
                }
                let ended = tokio::time::timeout(Duration::from_secs(1), tokio::io::AsyncReadExt::read_u8(&mut stream)).await;
                if ended.is_ok() {
                    break;
                }
                ensure!(begin.elapsed() < Duration::from_secs(80), "a slow head is waited for");
            }
            Ok(())
        });
        let served = async {
            let answer = self.caller.get("/containerLogs/default/twin/main").await;
            ensure!(answer.status() == 200, "meanwhile: {}", answer.text);
            Ok(())
        };
        let (slow, served) = tokio::join!(join_all(slow), served);
        slow.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
        served
    }

    /// The Pod is deleted and made again; who asks for it by an earlier UID is never answered by a later one.
    async fn replaced(&self) -> anyhow::Result<()> {
        const LIVES: u32 = 4;
        let now = RefCell::new((0, String::new()));
        let (done, fine, late) = (Cell::new(false), Cell::new(0), Cell::new(0));
        let lives = async {
            let above: Api<Pod> = self.attacker.above("default");
            for life in 1..=LIVES {
                let script = "echo life $WORD; exec sleep 1000000";
                self.attacker.apply(&simple("swap", &container(script, &life.to_string()))).await?;
                let pod = self.attacker.sees("it runs", "default", "swap", is_running).await?;
                now.replace((life, uid_of(&pod)));
                let asked = fine.get();
                eventually("it answers", Duration::from_secs(30), async || Ok(Seen::when(fine.get() > asked + 5, fine.get()))).await?;
                above.delete("swap", &DeleteParams::default().grace_period(0)).await?;
            }
            anyhow::Ok(())
        };
        let lives = async {
            let result = lives.await;
            done.set(true);
            result
        };
        let exec = async {
            while !done.get() {
                let (life, uid) = now.borrow().clone();
                if uid.is_empty() {
                    tokio::task::yield_now().await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                match self.caller.stream(&format!("/exec/default/swap/{uid}/main?command=printenv&command=WORD&output=1")).await? {
                    Ok(mut stream) => {
                        let said = stream.rest().await;
                        self.ears.hear("exec in a Pod that is replaced", &said)?;
                        let other = (1..=LIVES).find(|other| *other != life && said.contains(&format!("{other}\n")));
                        ensure!(other.is_none(), "life {life} was asked for, and {said:?} answers");
                        fine.set(fine.get() + 1);
                    }
                    Err(answer) => {
                        self.ears.hear("exec in a Pod that is replaced", &answer.text)?;
                        late.set(late.get() + 1);
                    }
                }
            }
            anyhow::Ok(())
        };
        let logs = async {
            while !done.get() {
                let answer = self.caller.get("/containerLogs/default/swap/main").await;
                self.ears.hear("the log of a Pod that is replaced", &answer.text)?;
                ensure!(answer.status() != 200 || !answer.text.contains(&self.word), "{}", answer.text);
            }
            anyhow::Ok(())
        };
        let (lives, exec, logs) = tokio::join!(lives, exec, logs);
        lives.and(exec).and(logs)?;
        ensure!(fine.get() > 0, "no answer at all");
        eprintln!("    {} answers by the right one, {} refusals", fine.get(), late.get());
        Ok(())
    }
}

/// Another word each time.
fn rand_word() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    now ^ (u128::from(std::process::id()) << 64)
}
