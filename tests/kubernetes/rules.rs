//! What a pod with outboxd must have. A pod that breaks a rule starts, and fails later: at its end, while a broker is away, at a login.

use std::net::SocketAddr;

use clap::Parser as _;
use outboxd::cli::{Cli, Command};
use serde_json::{Value, json};

use crate::objects::{Objects, Pod};

/// Each rule that the pod breaks.
pub(crate) fn problems(pod: &Pod<'_>) -> Vec<String> {
    let Pod { spec, container, is_sidecar } = pod;
    let mut problems = Vec::new();
    let mut rule = |holds: bool, what: &str| {
        if !holds {
            problems.push(what.to_owned());
        }
    };
    let environment = pod.environment();
    let drain = environment.get("OUTBOXD__DRAIN_TIMEOUT_S").and_then(|value| value.parse::<i64>().ok());
    let grace = spec["terminationGracePeriodSeconds"].as_i64();
    rule(grace > drain && drain.is_some(), "the grace period is not longer than drain_timeout_s");

    let listen = environment.get("OUTBOXD__ADMIN__LISTEN").and_then(|value| value.parse::<SocketAddr>().ok());
    rule(
        listen.is_some_and(|listen| listen.ip().is_unspecified()),
        "the kubelet does not reach admin.listen",
    );
    let port = &container["ports"][0];
    rule(
        listen.is_some_and(|listen| port["containerPort"] == listen.port()),
        "the port is not that of admin.listen",
    );
    let probes = ["livenessProbe", "startupProbe"];
    let asks = |probe: &str, path: &str| {
        let get = &container[probe]["httpGet"];
        get["path"] == path && get["port"] == port["name"]
    };
    rule(
        asks("livenessProbe", "/healthz"),
        "the livenessProbe is not /healthz: a restart brings no broker back",
    );
    if *is_sidecar {
        rule(
            container["readinessProbe"].is_null(),
            "a sidecar with a readinessProbe takes the application down",
        );
        rule(container["startupProbe"].is_null(), "the application waits for a sidecar with a startupProbe");
        rule(
            container["restartPolicy"] == "Always",
            "without restartPolicy Always the application never starts",
        );
    } else {
        rule(probes.iter().all(|probe| asks(probe, "/healthz")), "the startupProbe is not /healthz");
        let ready = asks("readinessProbe", "/readyz") || asks("readinessProbe", "/healthz");
        rule(ready, "without a readinessProbe a rollout does not wait for the new pod");
        // In a sidecar it is the application that may need one.
        rule(spec["automountServiceAccountToken"] == false, "a token of the ServiceAccount is mounted");
        rule(spec["enableServiceLinks"] == false, "variables of every Service reach outboxd");
    }

    let arguments = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let command = Cli::try_parse_from([&["outboxd"], &arguments.collect::<Vec<_>>()[..]].concat());
    rule(command.is_ok_and(|cli| cli.command == Command::Run), "the arguments are not those of run");
    let image = container["image"].as_str().unwrap_or_default();
    let version = concat!(":", env!("CARGO_PKG_VERSION"));
    rule(image.ends_with(version) || image.contains("@sha256:"), "the image is not of this version");

    let security = &container["securityContext"];
    for (key, wanted) in [
        ("runAsNonRoot", json!(true)),
        ("allowPrivilegeEscalation", json!(false)),
        ("readOnlyRootFilesystem", json!(true)),
        ("capabilities", json!({ "drop": ["ALL"] })),
        ("seccompProfile", json!({ "type": "RuntimeDefault" })),
    ] {
        rule(security[key] == wanted, &format!("securityContext.{key} is not {wanted}"));
    }
    rule(security["runAsUser"].as_i64() > Some(0), "the user is root");
    rule(container["resources"]["limits"]["memory"].is_string(), "there is no limit of memory");

    let is_plain = |variable: &Value| variable["value"].is_string();
    let variables = container["env"].as_array();
    rule(
        variables.is_some_and(|all| all.iter().all(is_plain)),
        "a variable comes from a Secret or elsewhere",
    );
    rule(container["envFrom"].is_null(), "variables come from elsewhere");
    let mounts = || container["volumeMounts"].as_array().into_iter().flatten();
    rule(mounts().all(|mount| mount["subPath"].is_null()), "a file of a subPath does not follow its Secret");
    rule(mounts().all(|mount| mount["readOnly"] == true), "a volume can be written to");
    let volumes = || spec["volumes"].as_array().into_iter().flatten();
    let is_there = |mount: &Value| volumes().any(|volume| volume["name"] == mount["name"]);
    rule(mounts().all(is_there), "a volume is missing");
    let mut secrets = volumes().filter(|volume| volume["secret"].is_object()).peekable();
    if secrets.peek().is_some() {
        rule(
            spec["securityContext"]["fsGroup"].as_i64() > Some(0),
            "without fsGroup only root reads the secrets",
        );
        // Octal 0440, which YAML 1.2 and Kubernetes read as different numbers: 440 or 288.
        let mode = |volume: &Value| matches!(volume["secret"]["defaultMode"].as_i64(), Some(288 | 440));
        rule(secrets.all(mode), "the files of the Secret are not of mode 0440");
    }
    problems
}

/// Each rule is noticed when it is broken: one change of the kept manifests breaks one rule.
#[test]
fn a_broken_pod_is_noticed() {
    let manifests = crate::manifests::kept("outboxd.yaml");
    let sidecar = crate::manifests::kept("sidecar.yaml");
    let probe = "readinessProbe:\n            httpGet: { path: /readyz, port: outboxd-admin }";
    for (text, from, to, expected) in [
        (&manifests, "PeriodSeconds: 45", "PeriodSeconds: 30", "the grace period is not longer"),
        (&manifests, "0.0.0.0:9464", "127.0.0.1:9464", "the kubelet does not reach"),
        (&manifests, "0.0.0.0:9464", "0.0.0.0:9465", "the port is not that"),
        (&manifests, "path: /healthz", "path: /readyz", "a restart brings no broker back"),
        (&manifests, "\"run\"", "\"walk\"", "arguments are not those of run"),
        (&manifests, concat!("outboxd:", env!("CARGO_PKG_VERSION")), "outboxd:latest", "not of this version"),
        (
            &manifests,
            "readOnlyRootFilesystem: true",
            "readOnlyRootFilesystem: false",
            "readOnlyRootFilesystem",
        ),
        (&manifests, "fsGroup: 65534", "fsGroup: 0", "only root reads the secrets"),
        (&manifests, "defaultMode: 0440", "defaultMode: 0444", "mode 0440"),
        (&sidecar, "restartPolicy: Always", probe, "takes the application down"),
        (&sidecar, "restartPolicy: Always", "terminationMessagePath: /x", "the application never starts"),
        (&sidecar, "mountPath: /etc/outboxd", "mountPath: /etc/outboxd\n              subPath: x", "subPath"),
    ] {
        assert!(text.contains(from), "{from}");
        let broken = Objects::parse(&text.replace(from, to));
        let found = problems(&broken.pod());
        assert!(found.iter().any(|what| what.contains(expected)), "{from} -> {to}: {found:?}");
    }
}
