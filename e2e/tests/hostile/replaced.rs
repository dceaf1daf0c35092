//! A Pod that goes and comes again under its name.

use std::{cell::Cell, time::Duration};

use anyhow::ensure;
use e2e::{
    story::{is_running, uid_of},
    wait::{Seen, eventually},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};
use tokio::sync::watch;

use crate::{Scene, container, simple};

impl Scene<'_> {
    /// The Pod is deleted and made again; who asks for it by an earlier UID is never answered by a later one.
    pub(crate) async fn replaced(&self) -> anyhow::Result<()> {
        const LIVES: u32 = 4;
        // Closed when the last life is over, however that was.
        let (lives_now, mut now) = watch::channel((0, String::new()));
        let over = now.clone();
        let (fine, late) = (Cell::new(0), Cell::new(0));
        let fine = &fine;
        let lives = async move {
            let above: Api<Pod> = self.attacker.above("default");
            for life in 1..=LIVES {
                let script = "echo life $WORD; exec sleep 1000000";
                self.attacker.apply(&simple("swap", &container(script, &life.to_string()))).await?;
                let pod = self.attacker.sees("it runs", "default", "swap", is_running).await?;
                lives_now.send_replace((life, uid_of(&pod)));
                let asked = fine.get();
                eventually("it answers", Duration::from_secs(30), async || Ok(Seen::when(fine.get() > asked + 5, fine.get()))).await?;
                above.delete("swap", &DeleteParams::default().grace_period(0)).await?;
            }
            anyhow::Ok(())
        };
        let exec = async {
            while now.has_changed().is_ok() {
                let Ok((life, uid)) = now.wait_for(|(life, _)| *life > 0).await.map(|now| now.clone()) else { break };
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
            while over.has_changed().is_ok() {
                let answer = self.caller.get("/containerLogs/default/swap/main").await?;
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
