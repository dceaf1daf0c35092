//! `cargo xtask demo`: the syncer at its main job, told as a short story.

/// Runs the demo with so many tenants, until Ctrl-C or, with `once`, until all is shown.
#[expect(clippy::unused_async, reason = "the demo itself lands next")]
pub(crate) async fn run(_tenants: usize, _once: bool) -> anyhow::Result<()> {
    anyhow::bail!("the demo is not built yet")
}
