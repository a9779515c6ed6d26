//! Two ways to ask for a customer with its orders: composed by the gateway, and from the view.

use super::{
    show::{AT_ONCE, NOW_AND_THEN, Outcome, ensure, eventually, screen::Screen},
    stage::Stage,
};
use hyper::{Method, Response};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Orders of an answer that are shown.
const SHOWN: usize = 2;
/// The service that is away.
const AWAY: &str = "customer-service";

/// Shows the partial answer beside the whole one, until the circuit of the service that is away opens.
pub(crate) async fn partial_beside_whole(
    screen: Screen,
    stage: &Stage,
    customer: i64,
    orders: &[i64],
) -> Outcome<()> {
    let composed = format!("/api/customers/{customer}/orders");
    let has = |list: &Value| {
        let ids: Vec<i64> =
            list.as_array().into_iter().flatten().filter_map(|order| order["orderId"].as_i64()).collect();
        orders.iter().all(|order| ids.contains(order))
    };
    let mut asked = 0;
    let what = format!("GET {composed} has the orders, and names {AWAY} as unavailable");
    let (answer, took) = eventually(AT_ONCE, &what, async || {
        let (answer, took) = ask(stage, &composed).await?;
        asked += 1;
        let told = json(&answer)?;
        let is_partial = answer.status() == 200
            && told["customer"].is_null()
            && told["unavailable"] == json!([AWAY])
            && has(&told["orders"]);
        Ok(is_partial.then_some((answer, took)))
    })
    .await?;
    show(screen, "Composed from both services", &composed, &answer, took);

    let view = format!("/api/customers/{customer}/orderhistory");
    let (answer, took) = ask(stage, &view).await?;
    let told = json(&answer)?;
    ensure(answer.status() == 200 && told["name"] == "Ada" && has(&told["orders"]), || {
        format!("GET {view}: {answer:?}")
    })?;
    show(screen, "From the view, which needs neither", &view, &answer, took);
    println!();

    let begin = Instant::now();
    eventually(AT_ONCE, &format!("the circuit of {AWAY} opens"), async || {
        ask(stage, &composed).await?;
        asked += 1;
        Ok((circuit(stage).await? == "open").then_some(()))
    })
    .await?;
    let text =
        format!("open after {asked} queries, {} ms: {AWAY} is left alone", begin.elapsed().as_millis());
    screen.fact("its circuit", &text);
    Ok(())
}

/// Waits until the composed answer is whole again, and shows when.
pub(crate) async fn whole_again(screen: Screen, stage: &Stage, customer: i64, since: Instant) -> Outcome<()> {
    let composed = format!("/api/customers/{customer}/orders");
    eventually(NOW_AND_THEN, "the composed answer is whole again", async || {
        let (answer, _) = ask(stage, &composed).await?;
        let told = json(&answer)?;
        Ok((told["customer"]["name"] == "Ada" && told["unavailable"] == json!([])).then_some(()))
    })
    .await?;
    let state = circuit(stage).await?;
    ensure(state == "closed", || format!("the circuit of {AWAY} is {state}, although the answer is whole"))?;
    let text = format!(
        "closed by itself {} ms after the start; the composed answer is whole",
        since.elapsed().as_millis()
    );
    screen.fact("its circuit", &text);
    Ok(())
}

async fn ask(stage: &Stage, path: &str) -> Outcome<(Response<String>, Duration)> {
    let begin = Instant::now();
    let answer = stage.gateway.send(Method::GET, path, &[], String::new()).await;
    Ok((answer, begin.elapsed()))
}

/// Returns the state of the circuit: `closed`, `open` or `half-open`.
async fn circuit(stage: &Stage) -> Outcome<String> {
    let (_, answer) = stage.gateway.get("/api/circuits").await;
    let circuits = answer["circuits"].as_array();
    let circuit = circuits.and_then(|circuits| circuits.iter().find(|circuit| circuit["service"] == AWAY));
    let state = circuit.and_then(|circuit| circuit["state"].as_str());
    Ok(state.ok_or_else(|| format!("GET /api/circuits: {answer}"))?.to_owned())
}

fn json(answer: &Response<String>) -> Outcome<Value> {
    Ok(serde_json::from_str(answer.body())?)
}

/// Shows an answer: its first line, and its last orders.
fn show(screen: Screen, from: &str, path: &str, answer: &Response<String>, took: Duration) {
    let took = took.as_secs_f64() * 1000.0;
    screen.headline(&format!("{from}: {} in {took:.1} ms", answer.status()));
    screen.fact("GET", path);
    let body = answer.body().replace(",\"unavailable\"", ",\n\"unavailable\"");
    let parts: Vec<&str> = body.split("{\"orderId\"").collect();
    let earlier = parts.len().saturating_sub(1 + SHOWN);
    screen.quote(parts[0]);
    if earlier > 0 {
        screen.quote(&format!("  ... {earlier} earlier orders"));
    }
    for order in &parts[1 + earlier..] {
        screen.quote(&format!("  {{\"orderId\"{}", order.replace(",\"rej", ",\n   \"rej")));
    }
}
