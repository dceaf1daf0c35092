//! A Pod that goes and comes again under its name.

use std::{cell::Cell, collections::BTreeMap, time::Duration};

use anyhow::ensure;
use e2e::{
    story::{is_running, uid_of},
    wait::{Seen, eventually},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};
use tokio::sync::watch;

use super::{Scene, container, simple};

/// Streams whose path names a UID.
const VERBS: [&str; 3] = ["exec", "attach", "portForward"];

impl Scene<'_> {
    /// The Pod is deleted and made again; who asks for it by an earlier UID is never answered by a later one.
    pub(crate) async fn replaced(&self) -> anyhow::Result<()> {
        const LIVES: u32 = 4;
        // Closed when the last life is over, however that was.
        let (lives_now, now) = watch::channel((0, String::new()));
        let over = now.clone();
        let fine = BTreeMap::from(VERBS.map(|verb| (verb, Cell::new(0))));
        let late = Cell::new(0);
        let (fine, late) = (&fine, &late);
        let lives = async move {
            let above: Api<Pod> = self.attacker.above("default");
            for life in 1..=LIVES {
                let script = "nc -ll -p 8080 -e sh -c 'echo $WORD' & while :; do echo life $WORD; sleep 0.2; done";
                self.attacker.apply(&simple("swap", &container(script, &life.to_string()))).await?;
                let pod = self.attacker.sees("it runs", "default", "swap", is_running).await?;
                lives_now.send_replace((life, uid_of(&pod)));
                let before: Vec<usize> = fine.values().map(Cell::get).collect();
                eventually("it answers each verb", Duration::from_mins(1), async || {
                    let enough = fine.values().zip(&before).all(|(count, before)| count.get() > before + 2);
                    Ok(Seen::when(enough, fine.clone()))
                })
                .await?;
                above.delete("swap", &DeleteParams::default().grace_period(0)).await?;
            }
            anyhow::Ok(())
        };
        // What says which life it is, and how: to its end, at once, or when asked.
        let ask = async |verb: &'static str| {
            let mut now = now.clone();
            while now.has_changed().is_ok() {
                let Ok((life, uid)) = now.wait_for(|(life, _)| *life > 0).await.map(|now| now.clone()) else { break };
                let path = match verb {
                    "exec" => format!("/exec/default/swap/{uid}/main?command=sh&command=-c&command=echo%20$WORD&output=1"),
                    "attach" => format!("/attach/default/swap/{uid}/main?output=1"),
                    _ => format!("/portForward/default/swap/{uid}?port=8080"),
                };
                match self.caller.stream(&path).await? {
                    Ok(mut stream) => {
                        let said = if verb == "attach" { stream.line().await } else { stream.rest().await };
                        self.ears.hear(&format!("{verb} of a Pod that is replaced"), &said)?;
                        let other = (1..=LIVES).find(|other| *other != life && said.contains(&format!("{other}\n")));
                        ensure!(other.is_none(), "{verb}: life {life} was asked for, and {said:?} answers");
                        // Of one that ends meanwhile comes nothing.
                        let count: &Cell<usize> = if said.contains(&format!("{life}\n")) { &fine[verb] } else { late };
                        count.set(count.get() + 1);
                    }
                    Err(answer) => {
                        self.ears.hear(&format!("{verb} of a Pod that is replaced"), &answer.text)?;
                        late.set(late.get() + 1);
                    }
                }
            }
            anyhow::Ok(())
        };
        let logs = async {
            while over.has_changed().is_ok() {
                let answer = self.caller.get("/containerLogs/default/swap/main").await?;
                self.ears.hear("the log of a Pod that is replaced", &answer.text)?;
                ensure!(answer.status() != 200 || !answer.text.contains(&self.word), "{}", answer.text);
            }
            anyhow::Ok(())
        };
        let [exec, attach, forward] = VERBS;
        let (lives, exec, attach, forward, logs) = tokio::join!(lives, ask(exec), ask(attach), ask(forward), logs);
        lives.and(exec).and(attach).and(forward).and(logs)?;
        eprintln!("    answers by the right one: {fine:?}; {} refusals", late.get());
        Ok(())
    }
}
