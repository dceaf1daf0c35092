//! `cargo xtask bench`: measures, prints a table.

/// Measures on real API servers.
#[expect(clippy::unused_async, reason = "the measurement itself lands next")]
pub(crate) async fn real() -> anyhow::Result<()> {
    anyhow::bail!("the benchmark is not built yet")
}
