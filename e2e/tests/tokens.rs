//! A Pod's token is its tenant's: from the tenant's API server, bound to the tenant's Pod, renewed in time, and nowhere else to be read.
#![expect(clippy::unwrap_used, reason = "a test may fail so")]

use std::time::Duration;

use anyhow::Context as _;
use common::{Uid, keys, name::hash26};
use e2e::{
    bed::Bed,
    files::files,
    plane::{ControlPlane, client},
    story::{Actor, PATIENCE, Plot, Story, chapter, everything, pod, uid_of},
    wait::{Seen, eventually},
};
use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview,
    core::v1::{ConfigMap, Node, Pod, Secret},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

use crate::mounts;

/// Of a token of ten minutes, the shortest that an API server grants: 15 seconds.
const SHARE: &str = "0.025";

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_token_is_its_tenants() {
    let story =
        Story::play(Plot::new("tokens", 1).flag("--token-renewal-share").flag(SHARE).flag("--patrol-interval").flag("3s")).await.unwrap();
    let tenant = story.tenant(0).unwrap();
    tenant.apply(&pod("web", &json!({ "app": "web" }), &json!({}))).await.unwrap();
    tenant.apply(&pod("vault", &json!({ "app": "vault" }), &short_lived())).await.unwrap();
    tenant.running("default", "app=web", 1).await.unwrap();
    tenant.running("default", "app=vault", 1).await.unwrap();
    let chapters = vec![
        chapter("the tenant's API server takes the token, the super one answers 401", accepted(&story)),
        chapter("the bundle beside it is the tenant's", bundle(&story)),
        chapter("it has the audience asked for and is renewed long before it expires", renewed(&story)),
    ];
    story.tell(chapters).await.unwrap();
    let mut chapters = vec![chapter("its trust bundles are its tenant's, and followed", mounts::bundles::followed(&story))];
    if story.bed.tenants_are_newest("certificates of Pods: an older API server serves no v1 of their requests") {
        let issued = mounts::certificates::issued(&story);
        chapters.push(chapter("its certificate is issued by a signer of its tenant's, for the key that it mounts", issued));
        chapters.push(chapter("whom a signer refuses waits, and reads why", mounts::certificates::refused(&story)));
    }
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("it stands in one Secret and nowhere else", nowhere_else(&story))]).await.unwrap();
    story.tell(vec![chapter("it goes with its Pod", goes(&story))]).await.unwrap();
}

/// A token of ten minutes for another audience, beside the usual one.
fn short_lived() -> Value {
    json!({ "volumes": [{ "name": "vault", "projected": { "sources": [
        { "serviceAccountToken": { "audience": "vault", "expirationSeconds": 600, "path": "token" } }
    ] } }] })
}

/// The Secret that the super Pod of a tenant's Pod mounts, found by the super Pod's own spec.
pub(crate) async fn secret_of(tenant: &Actor, name: &str) -> anyhow::Result<Secret> {
    let above: Pod = tenant.above("default").get(name).await?;
    let below: Pod = tenant.below("default").get(name).await?;
    let wanted = tenant.id.token_secret(Uid::parse(&uid_of(&above))?).to_string();
    let spec = below.spec.as_ref().context("the super Pod has no spec")?;
    let volumes =
        spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref()).flat_map(|volume| volume.sources.iter().flatten());
    let sources: Vec<_> = volumes.collect();
    anyhow::ensure!(sources.iter().all(|source| source.service_account_token.is_none()), "a token of the super cluster is mounted");
    let mounted = sources.iter().filter_map(|source| source.secret.as_ref()).any(|source| source.name == wanted);
    anyhow::ensure!(mounted, "{wanted} is not mounted: {sources:?}");
    let secret: Secret = tenant.below("default").get(&wanted).await?;
    let owner = secret.owner_references().first().context("the Secret has no owner")?;
    anyhow::ensure!(owner.uid == uid_of(&below), "the Secret's owner is {owner:?}");
    Ok(secret)
}

/// All tokens of a Secret, by key.
fn tokens(secret: &Secret) -> Vec<String> {
    secret.data.iter().flatten().filter_map(|(_, bytes)| String::from_utf8(bytes.0.clone()).ok()).collect()
}

/// Who the API server says that the bearer of a token is.
async fn whoami(plane: &ControlPlane, bed: &Bed, token: &str) -> Result<SelfSubjectReview, kube::Error> {
    let path = bed.dir().join(format!("{}-{}.kubeconfig", plane.name(), hash26(&[token])));
    std::fs::write(&path, plane.kubeconfig_with_token(token)).unwrap();
    let client = client(&path).await.unwrap();
    Api::<SelfSubjectReview>::all(client).create(&PostParams::default(), &SelfSubjectReview::default()).await
}

fn refused(answer: &Result<SelfSubjectReview, kube::Error>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.code == 401)
}

async fn accepted(story: &Story) -> anyhow::Result<()> {
    let (tenant, bed) = (story.tenant(0)?, &story.bed);
    let secret = secret_of(tenant, "web").await?;
    let [token] = tokens(&secret).try_into().map_err(|all: Vec<_>| anyhow::anyhow!("{} tokens", all.len()))?;
    let answer = whoami(bed.tenant(0)?, bed, &token).await.context("the tenant's API server does not take it")?;
    let user = answer.status.and_then(|status| status.user_info).unwrap_or_default();
    anyhow::ensure!(user.username.as_deref() == Some("system:serviceaccount:default:default"), "{user:?}");
    let pod: Pod = tenant.above("default").get("web").await?;
    let mut extra = user.extra.unwrap_or_default();
    let mut says = |what: &str| extra.remove(&format!("authentication.kubernetes.io/{what}")).unwrap_or_default();
    let bound = says("pod-uid");
    anyhow::ensure!(bound == [uid_of(&pod)], "it is bound to {bound:?}");
    let name = pod.spec.and_then(|spec| spec.node_name).context("the Pod has no node")?;
    let node: Node = Api::all(tenant.client()).get(&name).await?;
    let (name_said, uid_said) = (says("node-name"), says("node-uid"));
    anyhow::ensure!(name_said == [name] && uid_said == [uid_of(&node)], "it names the node {name_said:?}, {uid_said:?}");
    let answer = whoami(&bed.sup, bed, &token).await;
    anyhow::ensure!(refused(&answer), "the super API server says {answer:?}");
    Ok(())
}

async fn bundle(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let below: Pod = tenant.below("default").get("web").await?;
    let volumes = below.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources = volumes.filter_map(|volume| volume.projected.as_ref()).flat_map(|volume| volume.sources.iter().flatten());
    let maps: Vec<_> = sources.filter_map(|source| source.config_map.as_ref()).map(|source| source.name.clone()).collect();
    anyhow::ensure!(maps == [format!("{}{}", keys::RESERVED_NAME_PREFIX, keys::ROOT_CA_CONFIG_MAP)], "it mounts {maps:?}");
    let map: ConfigMap = tenant.below("default").get(maps.first().context("no bundle")?).await?;
    let held = map.data.unwrap_or_default().remove("ca.crt").unwrap_or_default();
    let (own, theirs) = (story.bed.tenant(0)?.ca(), story.bed.sup.ca());
    anyhow::ensure!(held.trim() == own.trim() && held.trim() != theirs.trim(), "the bundle is not the tenant's: {held}");
    Ok(())
}

async fn renewed(story: &Story) -> anyhow::Result<()> {
    let (tenant, bed) = (story.tenant(0)?, &story.bed);
    let first = secret_of(tenant, "vault").await?;
    anyhow::ensure!(first.data.iter().flatten().count() == 2, "two tokens are asked for");
    let time = |secret: &Secret, key: &str| {
        let text = secret.annotations().get(key).cloned().unwrap_or_default();
        text.parse::<jiff::Timestamp>().with_context(|| format!("{text:?} is no time"))
    };
    let (expires, issued) = (|secret: &Secret| time(secret, keys::TOKEN_EXPIRES), |secret: &Secret| time(secret, keys::TOKEN_ISSUED));
    let left = expires(&first)?.duration_since(jiff::Timestamp::now()).as_secs();
    anyhow::ensure!((400..=600).contains(&left), "the first expires in {left} s");
    let second = eventually("the tokens are renewed", PATIENCE, async || {
        let secret = secret_of(tenant, "vault").await?;
        Ok(if secret.data == first.data { Seen::NotYet(format!("{:?}", secret.annotations())) } else { Seen::Done(secret) })
    })
    .await?;
    anyhow::ensure!(uid_of(&second) == uid_of(&first), "the Secret was made anew");
    anyhow::ensure!(expires(&second)? > expires(&first)?, "the new tokens expire no later");
    let (mut usual, mut audiences) = (0, 0);
    for token in tokens(&second) {
        let answer = whoami(bed.tenant(0)?, bed, &token).await;
        if refused(&answer) {
            audiences += usize::from(review(story, &token).await? == ["vault"]);
        } else {
            usual += 1;
        }
    }
    anyhow::ensure!((usual, audiences) == (1, 1), "{usual} for the API server, {audiences} for the vault");
    // Not before its share of its life was over.
    let (life, lived) = (expires(&first)?.duration_since(issued(&first)?), issued(&second)?.duration_since(issued(&first)?));
    let share = life.as_secs_f64() * SHARE.parse::<f64>()?;
    anyhow::ensure!(lived.as_secs_f64() > share - 1.0, "of {life:#} it lived {lived:#}, not {share} s");
    let patches = bed.sup.audit().since(e2e::audit::Mark::default())?.filter(|call| call.resource == "secrets" && call.verb == "patch");
    anyhow::ensure!(!patches.is_empty(), "nobody renewed by a patch");
    // The other Pod's token lives an hour: that share of it is a minute and a half.
    let web = secret_of(tenant, "web").await?;
    let age = jiff::Timestamp::now().duration_since(web.creation_timestamp().context("no time")?.0);
    let early = patches.filter(|call| call.name == web.name_any());
    anyhow::ensure!(early.is_empty() || age.as_secs() > 85, "a token of an hour was renewed after {age:#}:\n{early}");
    Ok(())
}

/// The audiences that the tenant's API server finds in a token.
async fn review(story: &Story, token: &str) -> anyhow::Result<Vec<String>> {
    use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
    let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(vec!["vault".to_owned()]) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let answer = Api::<TokenReview>::all(story.tenant(0)?.client()).create(&PostParams::default(), &review).await?;
    Ok(answer.status.and_then(|status| status.audiences).unwrap_or_default())
}

async fn nowhere_else(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let (web, vault) = (secret_of(tenant, "web").await?, secret_of(tenant, "vault").await?);
    let mut all = tokens(&web);
    all.extend(tokens(&vault));
    let both = [web.name_any(), vault.name_any()];
    // The part that makes a token valid: in Secrets, base64 hides it twice.
    let secrets: Vec<_> = all.iter().filter_map(|token| token.rsplit_once('.')).map(|(_, signature)| signature).collect();
    for client in [story.bed.sup.client(), tenant.client()] {
        for (place, text) in everything(&client).await? {
            anyhow::ensure!(!secrets.iter().any(|secret| text.contains(secret)), "a token stands in {place}");
            let encoded = all.iter().any(|token| text.contains(&data_encoding(token)));
            anyhow::ensure!(!encoded || both.iter().any(|name| place.ends_with(name)), "a token stands encoded in {place}");
        }
    }
    for path in files(story.bed.dir(), ".log")? {
        let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
        let found = secrets.iter().any(|secret| text.contains(secret)) || all.iter().any(|token| text.contains(&data_encoding(token)));
        anyhow::ensure!(!found, "a token stands in {}", path.display());
    }
    let metrics = story.syncer.metrics().await?;
    anyhow::ensure!(!secrets.iter().any(|secret| metrics.contains(secret)), "a token stands in the metrics");
    Ok(())
}

fn data_encoding(token: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(token)
}

async fn goes(story: &Story) -> anyhow::Result<()> {
    let (tenant, bed) = (story.tenant(0)?, &story.bed);
    let secret = secret_of(tenant, "web").await?;
    let token = tokens(&secret).pop().context("no token")?;
    tenant.above::<Pod>("default").delete("web", &DeleteParams::default().grace_period(1)).await?;
    tenant.gone_everywhere::<Pod>("default", "web").await?;
    tenant.gone_below::<Secret>("default", &secret.name_any()).await?;
    eventually("the tenant's API server takes the token no more", Duration::from_secs(30), async || {
        let answer = whoami(bed.tenant(0)?, bed, &token).await;
        Ok(Seen::when(refused(&answer), answer.is_ok()))
    })
    .await?;
    // The other Pod keeps its own.
    secret_of(tenant, "vault").await.map(drop)
}
