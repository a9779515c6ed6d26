//! The two styles of saga side by side, and a saga that is compensated.

use super::{
    books::Bookkeeper,
    journey::{APPROVED, APPROVED_BY_COMMANDS, End, Journey},
    show::{
        AT_ONCE, Outcome, ensure, eventually,
        screen::{Cell, Screen},
    },
    stage::{Stage, Style},
};
use serde_json::Value;

const REFUSED: End = End {
    state: "REJECTED INSUFFICIENT_CREDIT",
    messages: &["OrderCreated", "ReserveCredit", "CreditLimitExceeded", "OrderRejected"],
    in_history: true,
};
const CANCELLED: End = End {
    state: "CANCELLED",
    messages: &[
        "OrderCreated",
        "ReserveCredit",
        "CreditReserved",
        "OrderApproved",
        "OrderCancelled",
        "ReleaseCredit",
        "CreditReleased",
    ],
    in_history: true,
};

/// Places an order in each style at the same time, then shows a saga that fails and one that cancels.
pub(crate) async fn side_by_side(
    screen: Screen,
    stage: &Stage,
    bookkeeper: &Bookkeeper,
    ada: i64,
) -> Outcome<()> {
    screen.step(
        4,
        "The same saga by orchestration, beside choreography",
        "Now one service coordinates: the second order service sends commands to the customer service's channel, and each reply moves \
         the saga's row. Ada places two orders for 10.00 at the same time, one in each style. Both end alike.",
    );
    // Its first connection to the database belongs to no order.
    stage.coordinator.get("/orders?limit=1").await;
    let whole = async |style, end| {
        let mut journey = Journey::begin(stage, style, ada, "10").await?;
        journey.follow(stage, end).await?;
        Outcome::Ok(journey)
    };
    let (danced, mut conducted) = tokio::try_join!(
        whole(Style::Choreography, &APPROVED),
        whole(Style::Orchestration, &APPROVED_BY_COMMANDS),
    )?;
    show_beside(screen, stage, &danced, &conducted)?;

    screen.headline(
        "Ada orders for 90.00, of which 67.66 are left: GET /orders/{id}/saga shows the compensation",
    );
    let mut refused = Journey::begin(stage, Style::Orchestration, ada, "90").await?;
    refused.follow(stage, &REFUSED).await?;
    show_saga(screen, stage, &refused, "COMPENSATED").await?;

    screen.headline("Ada cancels the orchestrated order for 10.00: another saga releases its credit");
    conducted.cancel(stage).await?;
    conducted.follow(stage, &CANCELLED).await?;
    show_saga(screen, stage, &conducted, "COMPLETED").await?;

    println!();
    let books = bookkeeper.balanced().await?;
    let reserved = books.reserved(ada).to_string();
    ensure(reserved == "22.34", || format!("{reserved} of Ada's credit is reserved, instead of 22.34"))?;
    screen.checked(
        "Both styles keep the same books: of Ada's credit 22.34 is reserved, for her two approved orders.",
    );
    Ok(())
}

/// Shows two orders side by side, each with its own clock.
pub(crate) fn show_beside(
    screen: Screen,
    stage: &Stage,
    choreography: &Journey,
    orchestration: &Journey,
) -> Outcome<()> {
    let (mut left, mut right) =
        (choreography.timeline(stage)?.into_iter(), orchestration.timeline(stage)?.into_iter());
    let cells = |moment: Option<(std::time::Duration, Cell)>| match moment {
        Some((at, what)) => [Cell::number(format!("{:.1}", at.as_secs_f64() * 1000.0)), what],
        None => [Cell::plain(""), Cell::plain("")],
    };
    let mut rows = Vec::new();
    loop {
        let (one, other) = (left.next(), right.next());
        if one.is_none() && other.is_none() {
            break;
        }
        rows.push(cells(one).into_iter().chain(cells(other)).collect());
    }
    let [ms, what] = [format!("{:>6}", "ms"), format!("{:<34}", "state or message")];
    screen.tables(["choreography", "orchestration"], 2, &[&ms, &what, &ms, &what], rows);
    Ok(())
}

/// Shows the steps of an order's saga, once it has ended in this state.
async fn show_saga(screen: Screen, stage: &Stage, journey: &Journey, state: &str) -> Outcome<()> {
    let what = format!("the saga of order {} is {state}", journey.order);
    let saga = eventually(AT_ONCE, &what, async || {
        Ok(Some(journey.saga(stage).await?).filter(|saga| saga["state"] == state))
    })
    .await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = saga["steps"].as_array().into_iter().flatten().map(|step| {
        let kind = if step["compensation"] == true { "compensation" } else { "action" };
        let work = match step["command"].as_str() {
            Some(command) => format!("command {command}"),
            None => format!("local: {}", text(&step["local"])),
        };
        // 2026-01-02T03:04:05.678901Z
        let time: String = text(&step["endedAt"]).chars().skip(11).take(12).collect();
        let cells = [kind.to_owned(), work, text(&step["reply"]), text(&step["outcome"]), time];
        let cells = cells.into_iter().map(Cell::plain);
        [Cell::plain(step["step"].to_string())].into_iter().chain(cells).collect()
    });
    screen.table(&["step", "kind", "work", "reply", "outcome", "ended"], rows.collect());
    screen.fact("saga", &format!("{} {}: {state}", text(&saga["type"]), saga["sagaId"]));
    Ok(())
}
