//! Services that are away, for long or for good, or that hang.

use super::circuit;
use crate::{PATIENCE, eventually, settled, shared_shop, shop};
use serde_json::{Value, json};
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};
use testkit::{Service, http, ports::Port};
use tokio::{io::AsyncReadExt, net::TcpListener, task::JoinHandle};

/// Time limits of the tests' gateways.
const LIMIT_MS: &str = "1000";
/// More than a limit, for a busy machine.
const WITHIN: Duration = Duration::from_secs(4);

/// Sets short limits.
fn impatient(gateway: Service) -> Service {
    gateway
        .with("QUERY_TIMEOUT_MS", LIMIT_MS)
        .with("COMMAND_TIMEOUT_MS", LIMIT_MS)
        .with("CIRCUIT_OPEN_MS", LIMIT_MS)
        .with("CIRCUIT_FAILURES", "3")
}

async fn started(mut gateway: Service) -> Service {
    gateway.start_again();
    gateway.wait_ready(PATIENCE).await;
    gateway
}

async fn phase_is(gateway: &Service, service: &str, state: &str) -> Value {
    eventually(&format!("the circuit of {service} is {state}"), async || {
        Some(circuit(gateway, service).await).filter(|circuit| circuit["state"] == state)
    })
    .await
}

/// A service that accepts connections and never answers.
struct Hung {
    port: u16,
    accepting: JoinHandle<()>,
}

impl Hung {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
        Self { port, accepting }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[tokio::test]
async fn a_customer_service_that_is_away_costs_its_part_until_it_returns() {
    let mut shop = shop("away").await;
    let gateway = started(impatient(shop.prepare_gateway())).await;
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "1").await;
    settled(&shop, order).await;
    shop.customers.sigterm(PATIENCE).await;

    let path = format!("/api/customers/{customer}/orders");
    let orders = json!([shop.orders.get(&format!("/orders/{order}")).await.1]);
    let begun = Instant::now();
    // Away for many times the circuit's time: every answer has the part that is there.
    while begun.elapsed() < Duration::from_secs(12) {
        let asked = Instant::now();
        let (status, answer) = gateway.get(&path).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer, json!({"customer": null, "orders": orders, "unavailable": ["customer-service"]}));
        assert!(asked.elapsed() < WITHIN, "{:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let open = phase_is(&gateway, "customer-service", "open").await;
    assert!(open["failures"].as_u64() >= Some(3), "{open}");
    assert!(open["retryInMs"].as_u64() <= Some(1000), "{open}");
    assert_eq!(circuit(&gateway, "order-service").await["state"], "closed");
    let state = |state| format!("circuit_state{{service=\"customer-service\",state=\"{state}\"}}");
    eventually("the metric shows it", async || {
        let (open, closed) = (gateway.metric(&state("open")).await, gateway.metric(&state("closed")).await);
        (open == Some(1.0) && closed == Some(0.0)).then_some(())
    })
    .await;
    assert_eq!(gateway.metric("circuit_opened_total{service=\"customer-service\"}").await, Some(1.0));
    // A request for this service alone is refused at once, with the time of the next attempt.
    let answer = gateway.send(hyper::Method::GET, "/api/customers", &[], String::new()).await;
    assert_eq!(answer.status(), 503, "{answer:?}");
    assert!(
        answer.headers().contains_key("retry-after") && answer.body().contains("nothing was done"),
        "{answer:?}"
    );

    // Nobody asks: the circuit closes by itself.
    shop.customers.start_again();
    shop.customers.wait_ready(PATIENCE).await;
    let closed = phase_is(&gateway, "customer-service", "closed").await;
    assert_eq!((&closed["failures"], &closed["retryInMs"]), (&json!(0), &Value::Null));
    let (_, answer) = gateway.get(&path).await;
    assert_eq!((&answer["customer"]["customerId"], &answer["unavailable"]), (&json!(customer), &json!([])));
}

#[tokio::test]
async fn nothing_left_is_503_and_the_gateway_stays_up() {
    let nobody = Port::reserve();
    let url = format!("http://127.0.0.1:{}", nobody.number());
    let shop = shared_shop().await;
    let mut gateway = impatient(shop.prepare_gateway());
    for variable in ["ORDER_SERVICE_URL", "CUSTOMER_SERVICE_URL", "ORDER_HISTORY_URL"] {
        gateway.set(variable, &url);
    }
    let gateway = started(gateway).await;
    for _ in 0..6 {
        let answer = gateway.send(hyper::Method::GET, "/api/customers/1/orders", &[], String::new()).await;
        assert_eq!(answer.status(), 503);
        assert!(answer.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
        let error: Value = serde_json::from_str(answer.body()).unwrap();
        let text = error["error"].as_str().unwrap();
        assert!(text.contains("customer-service") && text.contains("order-service"), "{text}");
    }
    for path in ["/api/orders", "/api/customers/1/orderhistory"] {
        assert_eq!(gateway.get(path).await.0, 503);
    }
    assert_eq!(gateway.get_text("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(gateway.get_text("/readyz").await.0, 200);
}

#[tokio::test]
async fn a_service_that_accepts_and_never_answers_fills_nothing() {
    let hung = Hung::start().await;
    let shop = shared_shop().await;
    let customer = shop.customer("10").await;
    let mut gateway = impatient(shop.prepare_gateway()).with("IN_FLIGHT_MAX", "8");
    gateway.set("CUSTOMER_SERVICE_URL", &hung.url());
    let gateway = started(gateway).await;
    let port = gateway.port();

    let begun = Instant::now();
    let asking: Vec<_> = (0..200)
        .map(|_| {
            tokio::spawn(async move {
                let asked = Instant::now();
                let path = format!("/api/customers/{customer}/orders");
                (http::get(port, &path).await.unwrap(), asked.elapsed())
            })
        })
        .collect();
    let mut refused = 0;
    for asked in asking {
        let ((status, body), took) = asked.await.unwrap();
        // As many of the other part as its bound allows; nothing left is 503.
        assert!(status == 200 || status == 503, "{status} {body}");
        refused += usize::from(status == 503);
        assert!(took < Duration::from_secs(15), "{took:?}");
    }
    println!("200 at once took {:?}, {refused} of them 503", begun.elapsed());
    phase_is(&gateway, "customer-service", "open").await;
    let outcome =
        |outcome| format!("upstream_requests_total{{outcome=\"{outcome}\",service=\"customer-service\"}}");
    assert!(gateway.metric(&outcome("overloaded")).await >= Some(1.0));
    let timed_out = gateway.metric(&outcome("timed out")).await.unwrap();
    assert!((3.0..=20.0).contains(&timed_out), "{timed_out}");

    // It hangs on. Each answer comes with the other part, at once while the circuit is open.
    for _ in 0..20 {
        let asked = Instant::now();
        let (status, answer) = gateway.get(&format!("/api/customers/{customer}/orders")).await;
        assert_eq!((status, &answer["unavailable"]), (200, &json!(["customer-service"])), "{answer}");
        assert!(asked.elapsed() < WITHIN, "{:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A change at a service that hangs: nobody knows, and the answer says so or that nothing was done.
    let (status, answer) =
        gateway.post("/api/customers", &json!({"name": "Ada", "creditLimit": {"amount": 1}})).await;
    assert!(status == 504 || status == 503, "{status} {answer}");
}

/// The caller of a query goes away before its time is over, again and again: the circuit opens all the same.
#[tokio::test]
async fn a_caller_that_leaves_takes_no_result_along() {
    let hung = Hung::start().await;
    let shop = shared_shop().await;
    let mut gateway = impatient(shop.prepare_gateway());
    gateway.set("ORDER_SERVICE_URL", &hung.url());
    let gateway = started(gateway).await;
    for _ in 0..3 {
        let leaving = http::get(gateway.port(), "/api/orders");
        assert!(tokio::time::timeout(Duration::from_millis(50), leaving).await.is_err());
    }
    phase_is(&gateway, "order-service", "open").await;
}

/// A POST goes out once, whatever becomes of it.
#[tokio::test]
async fn a_post_is_never_repeated() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let shop = shared_shop().await;
    let mut gateway = shop.prepare_gateway();
    gateway.set("ORDER_SERVICE_URL", &url);
    let gateway = started(gateway).await;
    let ending = tokio::spawn(async move {
        let mut requests = 0_u32;
        loop {
            let accepted = tokio::time::timeout(Duration::from_secs(3), listener.accept()).await;
            let Ok(Ok((mut stream, _))) = accepted else { return requests };
            // Closed before the answer.
            requests += u32::from(stream.read(&mut [0; 4096]).await.is_ok_and(|bytes| bytes > 0));
        }
    });
    let (status, answer) = gateway.post("/api/orders", &json!({})).await;
    assert_eq!(status, 502, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("look before you ask again"), "{answer}");
    assert_eq!(ending.await.unwrap(), 1);
}
