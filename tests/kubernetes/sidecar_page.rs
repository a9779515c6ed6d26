//! The steps of the book's page about sidecars, run as they stand there as far as no cluster is needed.

use std::fs;

use testkit::{PageShell, PageSteps, programs};

use crate::{
    manifests::path,
    objects::Objects,
    rules,
    tools::{CHART, HELM_HOMES, helm_home},
};

#[tokio::test]
#[ignore = "needs helm: make test-kubernetes"]
async fn outboxd_comes_into_the_pods_of_an_application_as_the_page_says() {
    let mut shell = PageShell::new("sidecar-page")
        .program("outboxd", &programs::executable("outboxd"))
        .program("helm", &path("target/tools/bin/helm"))
        .variable("KUBECONFIG", "/dev/null");
    for (variable, folder) in HELM_HOMES {
        shell = shell.variable(variable, helm_home(folder).to_str().unwrap());
    }
    let steps = PageSteps::below("docs/operate/sidecar.md", "Do this: outboxd beside an application");
    let steps = steps.replacing("file:///srv/charts/outboxd", &format!("file://{}", path(CHART).display()));
    // The steps behind need a cluster.
    let (here, cluster): (Vec<_>, Vec<_>) = steps.iter().partition(|step| step.number <= 4);
    assert!(cluster.iter().all(|step| {
        let text = step.blocks.iter().map(|block| &*block.text).chain([&*step.words]);
        text.into_iter().any(|text| text.contains("kubectl") || text.contains("helm upgrade"))
    }));
    for step in here {
        shell.run(step).await;
    }

    // What the steps have made breaks no rule.
    let rendered = std::process::Command::new(path("target/tools/bin/helm"))
        .args(["template", "orders", "."])
        .current_dir(shell.folder())
        .env("KUBECONFIG", "/dev/null")
        .output()
        .unwrap();
    let objects = Objects::parse(&String::from_utf8(rendered.stdout).unwrap());
    assert!(objects.pod().is_sidecar);
    assert_eq!(rules::problems(&objects.pod()), [""; 0]);
    assert_eq!(objects.problems_of_the_configuration().expect("a ConfigMap"), [""; 0]);
    assert_eq!(fs::read_dir(shell.folder().join("charts")).unwrap().count(), 1);
}
