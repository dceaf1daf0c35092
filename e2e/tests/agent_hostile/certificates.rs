//! Certificates that name nobody, somebody else, or come from elsewhere.

use anyhow::{Context as _, ensure};
use e2e::{agents, dial::Caller, pki::Identity, real_nodes::KUBELET_PORT};
use rcgen::{DnType, ExtendedKeyUsagePurpose, SanType};

use super::Scene;
use super::attack::Forger;

impl Scene<'_> {
    fn as_whom(&self, identity: Option<&Identity>) -> anyhow::Result<Caller> {
        let ca = std::fs::read_to_string(agents::authority(self.story.bed.dir()).with_extension("crt"))?;
        Caller::showing(self.story.agent(0)?.address(), &ca, identity)
    }

    pub(crate) async fn strangers(&self) -> anyhow::Result<()> {
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
            let caller = self.as_whom(identity.as_ref())?;
            for path in ["/pods", "/containerLogs/default/secret/main"] {
                let answer = caller.get(path).await?;
                self.ears.hear(what, &answer.text)?;
                ensure!(answer.is_shut_out(), "{what}: {path} is answered: {}", answer.text);
            }
        }
        // The same hand signs what is let in.
        let own = agents.leaf(&[&format!("vc://{}", self.attacker.id.uid())], |_| {})?;
        let answer = self.as_whom(Some(&own))?.get("/pods").await?;
        ensure!(answer.status() == 200, "its own certificate: {}", answer.text);
        // Past vn-agent: the kubelet itself knows no certificate of the agent CA.
        let kubelet = format!("{}:{KUBELET_PORT}", self.story.real.first().context("a node")?.machine.address());
        for identity in [
            agents.leaf(&[&uri], |_| {})?,
            agents.leaf(&[], |params| params.distinguished_name.push(DnType::CommonName, "vn-agent:machine-0"))?,
        ] {
            let answer = Caller::showing(&kubelet, &bed.sup.ca(), Some(&identity))?.get("/pods").await?;
            self.ears.hear("the kubelet itself", &answer.text)?;
            ensure!(answer.status() == 401, "the kubelet answers {}", answer.text);
        }
        Ok(())
    }

    pub(crate) async fn misnamed(&self) -> anyhow::Result<()> {
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
                let answer = caller.get(path).await?;
                self.ears.hear(what, &answer.text)?;
                ensure!(answer.is_shut_out() || (answer.status() == 403 && answer.ended), "{what}: {path}: {}", answer.text);
            }
        }
        // The one URI counts, whatever else the chain holds: the other's certificate is public.
        let mut chain = agents.leaf(&[&format!("vc://{own}")], named(&victim))?;
        chain.certificate += &agents.leaf(&[&his], |_| {})?.certificate;
        let answer = self.as_whom(Some(&chain))?.get("/containerLogs/default/secret/main").await?;
        self.ears.hear("with the other's certificate behind its own", &answer.text)?;
        ensure!(answer.is_shut_out() || answer.status() == 404, "{}", answer.text);
        Ok(())
    }

    pub(crate) async fn metrics(&self) -> anyhow::Result<()> {
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
            let answer = caller.get(path).await?;
            self.ears.hear(path, &answer.text)?;
            ensure!(answer.status() == status, "{path}: {}", answer.text);
        }
        Ok(())
    }
}
