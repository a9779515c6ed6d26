//! Kubernetes objects of a YAML file, as JSON, and the outboxd in them.

use std::{collections::BTreeMap, fs};

use outboxd::settings;
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Value, json};
use testkit::Authority;

/// Folder of the files of the Secret.
const SECRETS: &str = "/run/secrets/outboxd/";

/// Folder of a volume of the user's own, in one of the values files.
const AUTHORITIES: &str = "/etc/ssl/shop/";

/// The objects of a file.
pub(crate) struct Objects(pub(crate) Vec<Value>);

/// A pod template with outboxd in it.
pub(crate) struct Pod<'a> {
    /// `spec` of the pod.
    pub(crate) spec: &'a Value,
    pub(crate) container: &'a Value,
    /// outboxd stands beside an application.
    pub(crate) is_sidecar: bool,
}

impl Objects {
    pub(crate) fn parse(text: &str) -> Self {
        let documents = Yaml::load_from_str(text).unwrap_or_else(|error| panic!("{error} in:\n{text}"));
        Self(documents.iter().map(json_of).filter(|object| !object.is_null()).collect())
    }

    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// The one object of a kind.
    pub(crate) fn one<'a>(&'a self, kind: &'a str) -> &'a Value {
        let mut found = self.of_kind(kind);
        match (found.next(), found.next()) {
            (Some(one), None) => one,
            (found, _) => {
                panic!("{kind}: {} objects, expected one", if found.is_some() { "several" } else { "no" })
            }
        }
    }

    /// The pod with outboxd.
    pub(crate) fn pod(&self) -> Pod<'_> {
        let spec = &self.one("Deployment")["spec"]["template"]["spec"];
        let named = |list: &str| {
            let containers = spec[list].as_array().into_iter().flatten();
            containers.into_iter().find(|container| container["name"] == "outboxd")
        };
        match (named("containers"), named("initContainers")) {
            (Some(container), None) => Pod { spec, container, is_sidecar: false },
            (None, Some(container)) => Pod { spec, container, is_sidecar: true },
            _ => panic!("no container outboxd, or two: {spec:#}"),
        }
    }

    /// What outboxd says to the configuration as the pod gets it: problems, or none. `None` when the ConfigMap is made by others.
    pub(crate) fn problems_of_the_configuration(&self) -> Option<Vec<String>> {
        let text = self.of_kind("ConfigMap").next()?["data"]["outboxd.toml"].as_str().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("shop");
        let (certificate, key) = authority.issue("outboxd", &["outboxd"]);
        // Each file that the configuration names is there, as the Secret has it.
        let here = format!("{}/", folder.path().display());
        for rest in [SECRETS, AUTHORITIES].iter().flat_map(|mounted| text.split(mounted).skip(1)) {
            let file = rest.split(['"', '\'', ' ', '\n']).next().unwrap();
            let made = self.of_kind("Secret").map(|secret| &secret["stringData"][file]).next();
            let content = match made.map(|content| content.as_str()) {
                Some(content) => content.unwrap_or_else(|| panic!("the Secret lacks {file}")),
                None if file == "ca.pem" => authority.certificate(),
                None if file == "client.pem" => &certificate,
                None if file == "client.key" => &key,
                None if file == "rabbitmq-url" => "amqp://rabbitmq.example",
                None if file == "postgres-url" => "postgresql://outboxd@db.example/orders",
                None => "from the test",
            };
            fs::write(folder.path().join(file), content).unwrap();
        }
        let file = folder.path().join("outboxd.toml");
        fs::write(&file, text.replace(SECRETS, &here).replace(AUTHORITIES, &here)).unwrap();
        let read = settings::load_with(Some(&file), &self.pod().environment());
        let problems = read.err().map(|error| error.problems).unwrap_or_default();
        Some(
            problems
                .iter()
                .map(|problem| format!("{}: {}; {}", problem.key, problem.what, problem.cure))
                .collect(),
        )
    }
}

impl Pod<'_> {
    /// Variables of the container. One that comes from elsewhere is empty.
    pub(crate) fn environment(&self) -> BTreeMap<String, String> {
        let variables = self.container["env"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        variables.map(|variable| (text(&variable["name"]), text(&variable["value"]))).collect()
    }
}

fn json_of(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::String(text)) => json!(text),
        Yaml::Value(Scalar::Integer(number)) => json!(number),
        Yaml::Value(Scalar::Boolean(flag)) => json!(flag),
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Sequence(items) => items.iter().map(json_of).collect(),
        Yaml::Mapping(entries) => {
            entries.iter().map(|(key, value)| (key.as_str().unwrap().to_owned(), json_of(value))).collect()
        }
        other => panic!("a value that no object here has: {other:?}"),
    }
}
