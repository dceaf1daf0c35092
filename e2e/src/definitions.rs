//! Definitions of custom resources that others publish, in the Go modules that they publish them in.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, ensure};
use kube::Client;
use serde::Deserialize;
use serde_json::Value;

use crate::{errand, manifests};

/// A module in one version, and the hash of what is in it, as `go.sum` has it. There is no `go.mod` of ours: Go would read those of all that
/// the modules are built from, of which nothing is needed.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    module: &'static str,
    sum: &'static str,
    folder: &'static str,
}

/// cert-manager 1.17: `v1`.
pub const CERT_MANAGER: Source = Source {
    module: "github.com/cert-manager/cert-manager@v1.17.2",
    sum: "h1:QQYTEOsHf/Z3BFzKH2sIILHJwZA5Ut0LYZlHyNViupg=",
    folder: "deploy/crds",
};

/// cert-manager 1.5: `v1`, `v1beta1`, `v1alpha3` and `v1alpha2`.
pub const CERT_MANAGER_OLDER: Source = Source {
    module: "github.com/jetstack/cert-manager@v1.5.0",
    sum: "h1:U55LIEhE4YZCzqG0/KOtCPs5/2hLa5muH8wr9I2cPTk=",
    folder: "deploy/crds",
};

/// The snapshotter 8: `v1`.
pub const SNAPSHOTTER: Source = Source {
    module: "github.com/kubernetes-csi/external-snapshotter/client/v8@v8.2.0",
    sum: "h1:Q3jQ1NkFqv5o+F8dMmHd8SfEmlcwNeo1immFApntEwE=",
    folder: "config/crd",
};

/// The snapshotter 4: `v1` and `v1beta1`.
pub const SNAPSHOTTER_OLDER: Source = Source {
    module: "github.com/kubernetes-csi/external-snapshotter/client/v4@v4.2.0",
    sum: "h1:nHHjmvjitIiyPlUHk/ofpgvBcNcawJLtf4PYHORLjAA=",
    folder: "config/crd",
};

/// The snapshotter 3: `v1beta1`.
pub const SNAPSHOTTER_OLDEST: Source = Source {
    module: "github.com/kubernetes-csi/external-snapshotter/client/v3@v3.0.0",
    sum: "h1:OYDCOjVcx/5wNzlZ/At8otRibUlw0T6R0xOD31f32bw=",
    folder: "config/crd",
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    dir: PathBuf,
    sum: String,
}

impl Source {
    /// Installs a definition and waits until it is established.
    pub async fn install(&self, file: &str, client: &Client) -> anyhow::Result<()> {
        let path = self.located().await?.join(self.folder).join(file);
        manifests::install_one(&definition(&path)?, client).await
    }

    /// The folder of the module, which Go loads where it is not there yet.
    async fn located(&self) -> anyhow::Result<PathBuf> {
        let mut command = errand::command("go");
        // Outside of any module.
        command.args(["mod", "download", "-json", self.module]).current_dir(std::env::temp_dir()).stdout(Stdio::piped());
        let output = errand::run(command).await.context("there is no Go to load modules with")?;
        ensure!(output.status.success(), "go mod download {}: {}", self.module, String::from_utf8_lossy(&output.stdout));
        let Downloaded { dir, sum } = serde_json::from_slice(&output.stdout).context("go says something else")?;
        ensure!(sum == self.sum, "{} is not what it was: {sum}", self.module);
        Ok(dir)
    }
}

/// A definition as it is, without what a chart fills in: its labels and annotations, and the webhook by which it converts.
fn definition(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let mut definition: Value = serde_saphyr::from_multiple(&text)
        .with_context(|| format!("{} is not YAML", path.display()))?
        .into_iter()
        .find(Value::is_object)
        .context("there is none")?;
    for texts in ["/metadata/labels", "/metadata/annotations"] {
        if let Some(texts) = definition.pointer_mut(texts).and_then(Value::as_object_mut) {
            texts.retain(|_, value| !value.to_string().contains("{{"));
        }
    }
    if let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("conversion");
    }
    Ok(definition)
}
