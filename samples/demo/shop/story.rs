//! Four orders, one for each possible end.

use super::{
    books::Bookkeeper,
    journey::{APPROVED, End, Journey},
    show::{AT_ONCE, Outcome, ensure, eventually, screen::Screen},
    stage::{Stage, Style},
    trace,
};
use hyper::Method;

/// Ada's credit limit.
const LIMIT: &str = "100.00";

const OVER_THE_LIMIT: End = End {
    state: "REJECTED INSUFFICIENT_CREDIT",
    messages: &["OrderCreated", "CustomerCreditReservationFailed", "OrderRejected"],
    in_history: true,
};
const OF_NOBODY: End = End {
    state: "REJECTED UNKNOWN_CUSTOMER",
    messages: &["OrderCreated", "CustomerValidationFailed", "OrderRejected"],
    in_history: false,
};
const CANCELLED: End = End {
    state: "CANCELLED",
    messages: &["OrderCreated", "CustomerCreditReserved", "OrderApproved", "OrderCancelled"],
    in_history: true,
};

/// Places the orders, shows their journeys and their customer's history, and returns the customer.
pub(crate) async fn four_orders(screen: Screen, stage: &Stage, bookkeeper: &Bookkeeper) -> Outcome<i64> {
    screen.step(
        3,
        "Four orders by choreography, and what becomes of each",
        "POST /orders answers at once, while nobody knows yet whether the customer can pay: the order is PENDING. The services \
         settle it by events, each written into its service's outbox and carried by outboxd. A consumer of the demo's own \
         listens to all of them.",
    );
    let ada = stage.customer("Ada", LIMIT).await?;
    screen.fact("customer", &format!("{ada}, Ada, with a credit limit of {LIMIT}"));
    eventually(AT_ONCE, "the history knows Ada", async || {
        Ok((stage.shop.history.get(&format!("/customers/{ada}/orderhistory")).await.0 == 200).then_some(()))
    })
    .await?;

    let mut first =
        order(screen, stage, "Ada orders for 12.34, which is within the limit", ada, "12.34").await?;
    end(screen, stage, &mut first, &APPROVED).await?;

    let text = "Ada orders for 90.00, of which 87.66 are left";
    let mut second = order(screen, stage, text, ada, "90").await?;
    end(screen, stage, &mut second, &OVER_THE_LIMIT).await?;

    let nobody = i64::MAX;
    let text = format!("Somebody orders for 5.00 as customer {nobody}, whom nobody knows");
    let mut third = order(screen, stage, &text, nobody, "5").await?;
    end(screen, stage, &mut third, &OF_NOBODY).await?;

    let text = "Ada orders for 50.00, and cancels when it is approved: the credit is free again";
    let mut fourth = order(screen, stage, text, ada, "50").await?;
    fourth.follow(stage, &APPROVED).await?;
    fourth.cancel(stage).await?;
    end(screen, stage, &mut fourth, &CANCELLED).await?;

    println!("\n  What the order history answers to GET /customers/{ada}/orderhistory:\n");
    let path = format!("/customers/{ada}/orderhistory");
    let history = stage.shop.history.send(Method::GET, &path, &[], String::new()).await.into_body();
    let broken = history.replace("{\"orderId\"", "\n  {\"orderId\"").replace(",\"rej", ",\n   \"rej");
    screen.quote(&broken);
    let (status, answer) = stage.shop.history.get(&format!("/customers/{nobody}/orderhistory")).await;
    ensure(status == 404, || format!("the history of customer {nobody} is {answer}"))?;

    println!("\n  The first order in the services' logs:\n");
    trace::show(screen, stage, first.trace_id()).await?;
    println!();
    screen.checked("Each order has one trace id, by which it is found in the logs of all three services.");
    screen.checked(&format!("The history of customer {nobody} is 404."));
    let books = bookkeeper.balanced().await?;
    let reserved = books.reserved(ada).to_string();
    ensure(reserved == "12.34", || format!("{reserved} of Ada's credit is reserved, instead of 12.34"))?;
    screen
        .checked("Of Ada's credit 12.34 is reserved: for the approved order, and not for the cancelled one.");
    Ok(ada)
}

async fn order(screen: Screen, stage: &Stage, text: &str, customer: i64, total: &str) -> Outcome<Journey> {
    screen.headline(text);
    Journey::begin(stage, Style::Choreography, customer, total).await
}

async fn end(screen: Screen, stage: &Stage, journey: &mut Journey, end: &End) -> Outcome<()> {
    journey.follow(stage, end).await?;
    journey.show(screen, stage)?;
    trace::find(stage, journey.trace_id()).await?;
    println!();
    screen.fact("trace id", journey.trace_id());
    Ok(())
}
