//! The kept manifests, in plain `make test`: outboxd accepts them, and they break no rule.

use std::{fs, path::Path};

use crate::{objects::Objects, rules};

/// Path in the repository.
pub(crate) fn path(relative: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// A kept manifest.
pub(crate) fn kept(name: &str) -> String {
    let path = path("kubernetes/manifests").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn outboxd_accepts_the_manifests() {
    for (name, is_sidecar) in [("outboxd.yaml", false), ("sidecar.yaml", true)] {
        let objects = Objects::parse(&kept(name));
        assert_eq!(objects.pod().is_sidecar, is_sidecar, "{name}");
        assert_eq!(rules::problems(&objects.pod()), [""; 0], "{name}");
        assert_eq!(objects.problems_of_the_configuration().expect("a ConfigMap"), [""; 0], "{name}");
    }
}

#[test]
fn the_application_beside_a_sidecar_has_a_probe_and_time_of_its_own() {
    let objects = Objects::parse(&kept("sidecar.yaml"));
    let pod = objects.pod();
    let application = &pod.spec["containers"][0];
    assert_eq!(application["readinessProbe"]["httpGet"]["port"], "http", "not outboxd's port");
    let environment = pod.environment();
    let drain: i64 = environment["OUTBOXD__DRAIN_TIMEOUT_S"].parse().unwrap();
    let grace = pod.spec["terminationGracePeriodSeconds"].as_i64().unwrap();
    assert!(grace >= drain + 30, "the application ends first, and takes a part of the {grace} s");
}

#[test]
fn two_pods_take_turns_and_none_is_held_up() {
    let objects = Objects::parse(&kept("outboxd.yaml"));
    let deployment = objects.one("Deployment");
    assert_eq!(deployment["spec"]["replicas"], 2);
    let update = &deployment["spec"]["strategy"]["rollingUpdate"];
    assert_eq!((&update["maxUnavailable"], &update["maxSurge"]), (&0.into(), &1.into()));
    let budget = objects.one("PodDisruptionBudget");
    assert_eq!(budget["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow");
    let selected = &deployment["spec"]["selector"]["matchLabels"];
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    for (key, value) in selected.as_object().unwrap() {
        assert_eq!(&labels[key], value);
    }
    for (kind, selector) in [
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ("Service", "/spec/selector"),
    ] {
        assert_eq!(objects.one(kind).pointer(selector), Some(selected), "{kind}");
    }
}

#[test]
fn the_chart_is_of_this_version() {
    let chart = &Objects::parse(&fs::read_to_string(path("kubernetes/outboxd/Chart.yaml")).unwrap()).0[0];
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    let example = fs::read_to_string(path("kubernetes/examples/application/Chart.yaml")).unwrap();
    let example = &Objects::parse(&example).0[0];
    assert_eq!(example["dependencies"][0]["version"], env!("CARGO_PKG_VERSION"));
}

/// The user and the program of the image are those of the pods.
#[test]
fn the_image_is_what_the_pods_start() {
    let dockerfile = fs::read_to_string(path("docker/Dockerfile")).unwrap();
    let last =
        |word: &str| dockerfile.lines().rev().find_map(|line| line.strip_prefix(word)).unwrap_or_default();
    let objects = Objects::parse(&kept("outboxd.yaml"));
    let security = &objects.pod().container["securityContext"];
    assert_eq!(last("USER "), format!("{}:{}", security["runAsUser"], security["runAsGroup"]));
    let program = last("ENTRYPOINT ").trim_matches(['[', ']', '"']);
    assert_eq!(program.rsplit('/').next(), Some("outboxd"), "the pods give only arguments");
}

/// The chart's rules for Prometheus are the page's.
#[test]
fn the_alerts_are_those_of_the_page() {
    let page = fs::read_to_string(path("docs/operate/alerts.md")).unwrap();
    let block = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let file = fs::read_to_string(path("kubernetes/outboxd/files/outboxd-rules.yml")).unwrap();
    assert!(block.starts_with("groups:"), "{block}");
    assert_eq!(
        file, block,
        "copy the block of docs/operate/alerts.md into kubernetes/outboxd/files/outboxd-rules.yml"
    );
}
