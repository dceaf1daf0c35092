//! The laws of the fuzz targets over the kept corpus, and over what is near it: bounded, in every test run.

use std::path::Path;

use proptest::prelude::*;
use vn_agent::fuzz;

type Law = fn(&[u8]);

const LAWS: [(&str, Law); 5] = [
    ("route", fuzz::route),
    ("prometheus", fuzz::prometheus_page),
    ("stats", fuzz::stats_page),
    ("pods", fuzz::pods_page),
    ("identity", fuzz::certificate),
];

/// What is kept for a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a folder of the repository can be read").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a file of the repository can be read")).collect()
}

/// Pages that a node with two tenants may have. They name Pods by hashes and are made here; what is kept was found from them.
fn pages() -> Vec<(&'static str, Vec<u8>)> {
    let (a, b) = (fuzz::super_namespace(common::Uid::from_bits(1)), fuzz::super_namespace(common::Uid::from_bits(2)));
    let uid = |n| common::Uid::from_bits(n).to_string();
    let samples = format!(
        "\u{10}# HELP m x\n# TYPE m counter\nm{{container=\"app\",namespace=\"{a}\",pod=\"web\"}} 1 2\nm{{namespace=\"{b}\",pod=\"web\"}} 1\n\
         m{{id=\"/pod{}\",name=\"\\\"\",namespace=\"{a}\",pod=\"web\"}} 1\n",
        uid(7)
    );
    let summary = serde_json::json!({"node": {"nodeName": "n"}, "pods": [
        {"podRef": {"name": "web", "namespace": a, "uid": uid(7)}, "containers": [{"name": "app"}], "volume": [{"name": "v"}]},
        {"podRef": {"name": "web", "namespace": b, "uid": uid(8)}},
    ]});
    let list = serde_json::json!({"items": [
        {"metadata": {"name": "web", "namespace": a, "uid": uid(7)}, "spec": {"containers": [{"name": "app"}]}, "status": {}},
        {"metadata": {"name": "web", "namespace": b, "uid": uid(8)}},
    ]});
    // The first byte says in pieces of which size a page comes.
    vec![
        ("prometheus", samples.into_bytes()),
        ("stats", format!("\u{7}{summary}").into_bytes()),
        ("pods", format!("\u{9}{list}").into_bytes()),
    ]
}

/// All seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let made = pages().into_iter().filter(|(of, _)| *of == target).map(|(_, page)| page);
    corpus(target).into_iter().chain(made).collect()
}

#[test]
fn s70_the_laws_hold_over_the_corpus() {
    for (target, law) in LAWS {
        for seed in seeds(target) {
            law(&seed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// Each case takes a seed of a target and changes a few bytes of it.
    #[test]
    fn s70_the_laws_hold_near_the_corpus(
        target in 0usize..LAWS.len(), pick: prop::sample::Index, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 0..6)
    ) {
        let (name, law) = LAWS[target];
        let seeds = seeds(name);
        let mut data = if seeds.is_empty() { vec![0x30, 0x82, 1, 0] } else { seeds[pick.index(seeds.len())].clone() };
        for (at, byte, change) in changes {
            if data.is_empty() {
                break;
            }
            let at = at.index(data.len());
            match change {
                0 => data[at] = byte,
                1 => data.insert(at, byte),
                _ => drop(data.remove(at)),
            }
        }
        law(&data);
    }
}
