//! What people do with kubectl, as transcripts: every topic with the newest kubectl, and what matters most with each version there is.

use keles_e2e::transcript::Session;
use keles_e2e::{Cluster, kubectls, skip};
use std::path::Path;
use std::thread;

/// A transcript by its name.
macro_rules! transcripts {
    ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("../transcripts/", $name, ".txt")))),*] };
}

#[test]
fn kubectl_says_of_this_cluster_what_it_says_of_any() {
    if skip() {
        return;
    }
    let c = Cluster::start();
    let versions = kubectls();
    let newest = versions.last().expect("one at least");
    together(
        &c,
        transcripts!["create", "apply", "change", "get", "describe", "explain", "access", "rollout", "inside", "errors", "custom", "prune", "serve", "delete"]
            .map(|(name, text)| (newest.as_path(), name.to_owned(), text)),
    );
    alone(&c, newest, "nodes", include_str!("../transcripts/nodes.txt"));
}

#[test]
fn every_kubectl_works() {
    if skip() {
        return;
    }
    let c = Cluster::start();
    let versions = kubectls();
    together(&c, versions.iter().map(|k| (k.as_path(), format!("v{}", k.extension().unwrap_or_default().display()), include_str!("../transcripts/every-version.txt"))));
}

/// Plays transcripts side by side, each in a namespace of its own.
fn together<'a>(c: &Cluster, all: impl IntoIterator<Item = (&'a Path, String, &'a str)>) {
    let differences: Vec<String> = thread::scope(|s| {
        let playing: Vec<_> = all.into_iter().map(|(kubectl, name, text)| s.spawn(move || Session::new(c, kubectl, &name).play(&name, text))).collect();
        playing.into_iter().filter_map(|p| p.join().expect("plays").err()).collect()
    });
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn alone(c: &Cluster, kubectl: &Path, name: &str, text: &str) {
    Session::new(c, kubectl, name).play(name, text).unwrap_or_else(|differences| panic!("{differences}"));
}
