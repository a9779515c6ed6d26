//! The services' documents under the tools of others: schemathesis for OpenAPI, the AsyncAPI parser for AsyncAPI. Run by `make test-api`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use testkit::{
    Service, Shop,
    process::{self, Process},
    run, shared_opensearch, shared_postgres, shared_rabbitmq, unique,
};

/// Limit of a wait, long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).canonicalize().unwrap()
}

/// Returns how long each service is fuzzed: TIME, in seconds.
fn time() -> u64 {
    env::var("TIME").map_or(300, |seconds| seconds.parse().expect("TIME is a number of seconds"))
}

async fn shop(name: &str) -> Shop {
    Shop::open_with("orchestration", name, shared_postgres().await, shared_rabbitmq().await).await
}

/// Starts an order-search beside the shop, if `make test-views` has built OpenSearch.
async fn search(shop: &Shop) -> Option<Service> {
    if !repository().join("target/views/opensearch.made").exists() {
        println!("order-search: left out, for it needs OpenSearch, which make test-views builds");
        return None;
    }
    let name = unique("schemathesis");
    let database = shared_postgres().await.create_database(&format!("{name}_search")).await;
    let prefix = name.replace('_', "-");
    let mut search = Service::prepare("order-search", &database, &shop.amqp_url)
        .with("VIEW_URL", &shared_opensearch().await.url(&prefix));
    search.start_again();
    search.wait_ready(PATIENCE).await;
    Some(search)
}

/// Runs a command to its end. Returns whether it succeeded, and its output.
async fn ended(command: std::process::Command, limit: Duration) -> (bool, String) {
    let folder = run::folder("tool");
    let log = folder.join("log");
    let mut process = Process::spawn(command, &folder, &log);
    let status = process.wait(limit).await;
    let output = fs::read_to_string(&log).unwrap_or_default();
    (status.is_some_and(|status| status.success()), output)
}

/// Runs schemathesis on a service's OpenAPI document (examples, boundary values, random values, sequences of calls) again and again,
/// for as long as the test is to take: in turn with any ids, and with one that exists, `PREFIX{id}`. Returns whether it found
/// nothing, and what it says.
///
/// Its command `fuzz` does not do: the pool of ids that it draws from grows under hypothesis, which then reports
/// FlakyStrategyDefinition.
async fn schemathesis((service, prefix, id): (&Service, &str, i64)) -> (bool, String) {
    let program = repository().join("target/tools/schemathesis/bin/st");
    let document = format!("http://127.0.0.1:{}/openapi.json", service.port());
    let known = run::folder("known").join("schemathesis.toml");
    let parameter = format!(
        "[[operations]]\ninclude-path-regex = '^{prefix}[{{]id[}}]'\nparameters = {{ 'path.id' = {id} }}\n"
    );
    fs::write(&known, parameter).unwrap();
    let any_id: &[&str] = &[];
    let known_id: &[&str] = &["--config-file", known.to_str().unwrap()];
    let deadline = Instant::now() + Duration::from_secs(time());
    let mut found = (true, String::new());
    for (round, arguments) in [any_id, known_id].into_iter().cycle().enumerate() {
        // Once each at least.
        if round >= 2 && Instant::now() >= deadline {
            break;
        }
        let mut command = process::command(&program);
        command.args(arguments).args([
            "run",
            &document,
            "--max-examples",
            &time().clamp(10, 100).to_string(),
        ]);
        // This answer never ends.
        command.args(["--exclude-path", "/api/events"]);
        command.args(["--continue-on-failure", "--no-color", "--generation-database", ":memory:"]);
        let (succeeded, output) = ended(command, Duration::from_secs(time() + 600)).await;
        found = (found.0 && succeeded, found.1 + &output);
    }
    found
}

/// Waits until an order is approved.
async fn approved(shop: &Shop, order: i64) {
    let deadline = Instant::now() + PATIENCE;
    while shop.state_of(order).await.0 != "APPROVED" {
        assert!(Instant::now() < deadline, "{:?}", shop.state_of(order).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
#[ignore = "needs Python packages: make test-api"]
async fn no_request_that_the_openapi_documents_allow_or_forbid_makes_a_service_fail_or_answer_otherwise() {
    let shop = shop("schemathesis").await;
    let customer = shop.customer("1000").await;
    // A busy machine may take long, and a time limit gives 5xx.
    let patient =
        [("QUERY_TIMEOUT_MS", "20000"), ("COMMAND_TIMEOUT_MS", "20000"), ("CIRCUIT_OPEN_MS", "20000")];
    let mut gateway = shop.prepare_gateway();
    let search = search(&shop).await;
    if let Some(search) = &search {
        gateway.set("ORDER_SEARCH_URL", &format!("http://127.0.0.1:{}", search.port()));
    }
    patient.into_iter().for_each(|(variable, limit)| gateway.set(variable, limit));
    gateway.start_again();
    gateway.wait_ready(PATIENCE).await;
    let order = shop.order(customer, "12.34").await;
    approved(&shop, order).await;
    let mut services = vec![
        (&shop.orders, "/orders/", order),
        (&shop.customers, "/customers/", customer),
        (&shop.history, "/customers/", customer),
        (&gateway, "/api/customers/", customer),
    ];
    // It has no path with an id: the parameter meets nothing.
    services.extend(search.iter().map(|search| (search, "/orders/", order)));
    // Side by side, for they mostly wait.
    let runs = futures_util::future::join_all(services.iter().copied().map(schemathesis)).await;
    let mut failed = Vec::new();
    for ((service, ..), (succeeded, output)) in services.into_iter().zip(runs) {
        println!("{}:\n{output}", service.program());
        if !succeeded {
            failed.push(service.program());
        }
        let metrics = service.metrics().await;
        // Before a service has its tables, it is not ready.
        let errors = metrics.lines().filter(|line| {
            let is_error = line.starts_with("http_requests_total") && line.contains("status=\"5");
            is_error && !line.contains("path=\"/readyz\"")
        });
        assert_eq!(errors.collect::<Vec<_>>(), Vec::<&str>::new(), "{}", service.program());
        assert!(!service.log().contains("panicked"), "{}", service.program());
        assert_eq!(service.get_text("/readyz").await.0, 200, "{}", service.program());
    }
    assert!(failed.is_empty(), "{failed:?}");
    // What was sent has hurt nobody: an order takes its way.
    let other = shop.customer("10").await;
    approved(&shop, shop.order(other, "1").await).await;
}

#[tokio::test]
#[ignore = "needs Node packages: make test-api"]
async fn the_asyncapi_parser_accepts_each_document_without_a_warning() {
    let published = repository().join("samples/contract/published");
    let mut checked = 0;
    for entry in fs::read_dir(published).unwrap() {
        let path = entry.unwrap().path();
        let (accepted, output) = validated(&path).await;
        println!("{}: {output}", path.display());
        assert!(accepted, "{}: {output}", path.display());
        checked += 1;
    }
    assert!(checked >= 3, "{checked} documents");
    // The parser does refuse.
    let broken = run::folder("broken").join("broken.json");
    let text =
        fs::read_to_string(repository().join("samples/contract/published/order-service.json")).unwrap();
    fs::write(&broken, text.replace("\"action\": \"send\"", "\"action\": \"shout\"")).unwrap();
    let (accepted, output) = validated(&broken).await;
    assert!(!accepted, "{output}");
}

async fn validated(document: &std::path::Path) -> (bool, String) {
    let tools = repository().join("target/tools/asyncapi");
    let mut command = process::command("sh");
    command
        .args(["-c", r#"cd "$0" && exec node "$@""#])
        .arg(tools)
        .arg(repository().join("tests/api/validate.mjs"))
        .arg(document);
    ended(command, PATIENCE).await
}
