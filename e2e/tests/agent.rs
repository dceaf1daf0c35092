//! What a tenant's kubectl does with Pods in real containers, through vn-agent: logs, exec, attach, cp, port-forward, debug.

use e2e::{
    images::TOOLS,
    machine,
    story::{Plot, Story, chapter, is_running, pod},
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_through_vn_agent() {
    if machine::skipped() {
        return;
    }
    let story = Story::play(Plot::with_agents("agent", 2, 1)).await.unwrap();
    story.tell(vec![chapter("of two Pods of one name each tenant reaches its own", own(&story))]).await.unwrap();
}

async fn own(story: &Story) -> anyhow::Result<()> {
    for tenant in &story.tenants {
        let script = format!("echo I am of {}; exec sleep 1000000", tenant.name);
        let container =
            json!({ "name": "main", "image": TOOLS, "command": ["sh", "-c", script], "env": [{ "name": "WHOSE", "value": tenant.name }] });
        tenant.apply(&pod("twin", &json!({}), &json!({ "containers": [container] }))).await?;
    }
    for (i, tenant) in story.tenants.iter().enumerate() {
        tenant.sees("it runs", "default", "twin", is_running).await?;
        let kubectl = story.kubectl(i)?;
        let logs = kubectl.says(&["logs", "twin"]).await?;
        anyhow::ensure!(logs.trim() == format!("I am of {}", tenant.name), "{}: the log is {logs:?}", tenant.name);
        let said = kubectl.says(&["exec", "twin", "--", "sh", "-c", "echo $WHOSE"]).await?;
        anyhow::ensure!(said.trim() == tenant.name, "{}: exec says {said:?}", tenant.name);
    }
    Ok(())
}
