//! The laws of the fuzz targets over the kept corpus, and over what is near it: bounded, in every test run.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use vn_agent::fuzz;
use vn_agent::route::Page;

type Law = fn(&[u8]);

const LAWS: [(&str, Law); 5] = [
    ("route", fuzz::route),
    ("prometheus", fuzz::prometheus_page),
    ("stats", fuzz::stats_page),
    ("pods", fuzz::pods_page),
    ("identity", fuzz::certificate),
];

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// What is kept for a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder(target)).expect("each target has a corpus");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a folder of the repository can be read").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a file of the repository can be read")).collect()
}

/// Pages as kubelets write them of the node that [`fuzz::view`] shows. They name its namespaces, which are hashes that never change. The
/// first byte says in pieces of which size a page comes. Most of what else is kept was found from them.
const GENUINE: [(&str, Page); 3] =
    [("prometheus", Page::Resource), ("stats", Page::Summary { only_cpu_and_memory: false }), ("pods", Page::Pods)];

#[test]
fn of_a_page_of_two_tenants_one_is_shown_and_the_other_is_not_named() {
    for (target, page) in GENUINE {
        let path = folder(target).join("two-tenants");
        fuzz::genuine(page, &std::fs::read(path).expect("a file of the repository can be read"));
    }
}

#[test]
fn the_laws_hold_over_the_corpus() {
    for (target, law) in LAWS {
        let seeds = corpus(target);
        assert!(!seeds.is_empty(), "nothing is kept for {target}");
        for seed in &seeds {
            law(seed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// Each case takes a seed of a target and changes a few bytes of it.
    #[test]
    fn the_laws_hold_near_the_corpus(
        target in 0usize..LAWS.len(), pick: prop::sample::Index, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 0..6)
    ) {
        let (name, law) = LAWS[target];
        let seeds = corpus(name);
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
