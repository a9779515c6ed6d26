//! The chart under helm: what it renders, what it refuses, and that the kept manifests are made with it.

use std::fs;

use crate::{
    manifests::{kept, path},
    objects::Objects,
    rules,
    tools::{self, CHART, helm, render},
};

/// Versions of Kubernetes whose schemas the objects are held to: from the oldest that the chart names to the newest that
/// kubernetes-validate carries.
const VERSIONS: [&str; 9] = ["1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"];

/// Has the values files, by name.
fn values() -> Vec<String> {
    let files = fs::read_dir(path("tests/kubernetes/values")).unwrap().map(|file| file.unwrap().path());
    let mut names: Vec<_> =
        files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn what_the_chart_renders_is_accepted_by_outboxd_and_breaks_no_rule() {
    let mut configurations = 0;
    for name in values() {
        let file = format!("tests/kubernetes/values/{name}.yaml");
        helm(&["lint", "--strict", CHART, "--values", &file]).ok(&name);
        let objects = Objects::parse(&render(&name, &[]).ok(&name));
        assert_eq!(rules::problems(&objects.pod()), [""; 0], "{name}");
        if let Some(problems) = objects.problems_of_the_configuration() {
            assert_eq!(problems, [""; 0], "{name}");
            configurations += 1;
        }
    }
    assert!(configurations >= 5, "{configurations} values files have a configuration");
}

/// The custom resources of the Prometheus operator have no schema here: the unit tests of the chart look at their shape.
#[test]
#[ignore = "needs helm and kubernetes-validate: make test-kubernetes"]
fn what_the_chart_renders_is_valid_in_each_version_of_kubernetes() {
    let folder = tempfile::tempdir().unwrap();
    let rendered = values().into_iter().map(|name| (name.clone(), render(&name, &[]).ok(&name)));
    let example = ("example".to_owned(), tools::render_example());
    let (mut files, mut custom) = (Vec::new(), 0);
    for (name, text) in rendered.chain([example]) {
        let documents: Vec<&str> = text.split("\n---\n").collect();
        let (own, others): (Vec<&str>, Vec<&str>) =
            documents.into_iter().partition(|document| !document.contains("monitoring.coreos.com/v1"));
        custom += others.len();
        let file = folder.path().join(name + ".yaml");
        fs::write(&file, own.join("\n---\n")).unwrap();
        files.push(file);
    }
    assert_eq!(custom, 2, "ServiceMonitor and PrometheusRule");
    for version in VERSIONS {
        tools::validate(&files, version).ok(&format!("Kubernetes {version}"));
    }

    // The schemas bite.
    let wrong =
        render("default", &[]).ok("default").replace("terminationGracePeriodSeconds:", "gracePeriod:");
    fs::write(&files[0], wrong).unwrap();
    let said = tools::validate(&files, VERSIONS[0]);
    assert!(!said.succeeded && said.stdout.contains("gracePeriod"), "{}{}", said.stdout, said.stderr);
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn the_kept_manifests_are_made_with_the_chart() {
    let manifest = |text: &str, head: &str| {
        // Helm does not manage what kubectl applies, and the namespace is that of `kubectl apply --namespace`.
        let is_helms = |line: &&str| {
            let line = line.trim();
            line.starts_with("# Source:")
                || line.starts_with("app.kubernetes.io/managed-by:")
                || line.starts_with("helm.sh/chart:")
        };
        let lines: Vec<&str> = text.lines().filter(|line| !is_helms(line)).map(str::trim_end).collect();
        format!(
            "{head}\n# Made by `make kubernetes-manifests` with the chart in kubernetes/outboxd: change that.\n{}\n",
            lines.join("\n")
        )
    };
    for (name, text) in [
        (
            "outboxd.yaml",
            manifest(
                &render("manifests", &[]).ok("manifests"),
                "# outboxd in a Deployment of its own: two pods, of which one publishes. kubectl apply --namespace NAME -f outboxd.yaml",
            ),
        ),
        (
            "sidecar.yaml",
            manifest(&tools::render_example(), "# An application with outboxd as a sidecar in its pods."),
        ),
    ] {
        let file = path("kubernetes/manifests").join(name);
        if std::env::var_os("OUTBOXD_KUBERNETES").is_some_and(|value| value == "write") {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &text).unwrap();
        }
        let differs = kept(name)
            .lines()
            .zip(text.lines())
            .find(|(kept, made)| kept != made)
            .map(|(k, m)| format!("{k} | {m}"));
        assert!(
            kept(name) == text,
            "{name} is out of date: make kubernetes-manifests. The first difference: {differs:?}"
        );
    }
}

#[test]
#[ignore = "needs helm-unittest: make test-kubernetes"]
fn the_unit_tests_of_the_chart_pass() {
    let said = tools::unit_tests();
    println!("{}", said.stdout);
    assert!(said.succeeded, "{}{}", said.stdout, said.stderr);
    let count = said
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("Tests:")?.trim().split(' ').next()?.parse().ok());
    assert!(count > Some(20), "{count:?} tests: {}", said.stdout);
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn values_that_would_not_work_in_a_cluster_are_refused_with_a_reason() {
    const SOURCE: &str = "\n[sources.orders]\npostgres.url = \"postgresql://o@db/orders\"\n";
    let configuration = |text: &str| format!("configuration={}{SOURCE}", text.replace(',', "\\,"));
    let rabbitmq = "[rabbitmq]\nurl = \"amqp://mq\"";
    for (set, expected) in [
        // Unknown keys and wrong types: the schema.
        ("replicas=3".to_owned(), "'replicas' not allowed"),
        ("image.name=x".to_owned(), "'name' not allowed"),
        ("deployment.replicas=0".to_owned(), "minimum"),
        ("endpoints.port=80".to_owned(), "minimum"),
        ("readiness.path=/status".to_owned(), "value must be one of '/readyz', '/healthz'"),
        ("image.digest=sha256:1".to_owned(), "does not match pattern"),
        // What only the templates see.
        (
            "networkPolicy.rabbitmq.ports={5671}".to_owned(),
            "names a server at port 5672, which the NetworkPolicy",
        ),
        (
            format!("configuration={rabbitmq}{SOURCE}").replace("@db/", "@db:6432\\,[::1]:5432/"),
            "networkPolicy.postgresql.ports: the configuration names a server at port 6432",
        ),
        (
            "endpoints.address=127.0.0.1".to_owned(),
            "127.0.0.1 is a loopback address, which the kubelet's probes",
        ),
        ("terminationGracePeriodSeconds=30".to_owned(), "is not longer than drainTimeoutSeconds (30)"),
        ("drainTimeoutSeconds=60,terminationGracePeriodSeconds=45".to_owned(), "Write at least 65"),
        ("secret.name=".to_owned(), "no Secret is mounted"),
        ("secret.files.other=x".to_owned(), "there is no key rabbitmq-password"),
        (configuration("[rabbitmq"), "configuration: no TOML"),
        ("configuration=".to_owned(), "there is no section [sources.NAME]"),
        (
            configuration(&format!("[admin]\nlisten = \"127.0.0.1:9464\"\n{rabbitmq}")),
            "admin.listen does not belong into the text",
        ),
        (configuration(&format!("admin.enabled = false\n{rabbitmq}")), "admin.enabled does not belong"),
        (
            configuration(&format!("drain_timeout_s = 60\n{rabbitmq}")),
            "drainTimeoutSeconds of the values sets it",
        ),
        (
            configuration("[rabbitmq]\nurl = \"amqp://mq\"\npassword = \"s3cret\""),
            "rabbitmq.password is a secret",
        ),
        (
            configuration("[rabbitmq]\nurl = \"amqp://u:s3cret@mq\""),
            "key url has a password in a connection string",
        ),
        (
            format!("configuration={rabbitmq}{SOURCE}postgres.password = \"s3cret\""),
            "sources.orders.postgres.password is a secret",
        ),
        (
            format!("configuration={rabbitmq}{SOURCE}")
                .replace("/orders\"", "/orders?user=o&password=s3cret\""),
            "has a password in a connection string",
        ),
    ] {
        let said = render("default", &["--set", &set]);
        assert!(!said.succeeded && said.stderr.contains(expected), "{set}: {}{}", said.stdout, said.stderr);
        assert!(!said.stderr.contains("s3cret"), "{set}: the reason shows a secret: {}", said.stderr);
    }
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn a_changed_configuration_changes_the_pods_and_a_changed_secret_does_not() {
    let pods = |more: &[&str]| {
        let text = render("manifests", more).ok("manifests");
        Objects::parse(&text).one("Deployment")["spec"]["template"].clone()
    };
    let before = pods(&[]);
    assert_eq!(pods(&["--set", "deployment.replicas=3"]), before);
    // Files are read for every connection: a rotated password needs no new pods.
    assert_eq!(pods(&["--set", "secret.files.postgres-password=other"]), before);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    let text = fs::read_to_string(path("kubernetes/outboxd/values.yaml")).unwrap();
    assert!(text.contains("\"billing.orders\""));
    fs::write(&file, text.replace("\"billing.orders\"", "\"billing.other\"").replace("  files: {}\n", ""))
        .unwrap();
    assert_ne!(pods(&["--values", file.to_str().unwrap()]), before);
}
