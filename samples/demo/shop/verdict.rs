//! Verdict after the kill: nothing was lost or doubled, and copies had no effect.

use super::{
    books::Books,
    show::{
        Outcome, ensure,
        screen::{Screen, counted},
    },
    stage::Stage,
};

/// Inboxes: the service and the queue of each.
const QUEUES: [(&str, &str); 6] = [
    ("customer-service", "customer-service.orders"),
    ("customer-service", "customer-service.commands"),
    ("order-service", "order-service.customers"),
    ("order-service", "order-service.replies"),
    ("order-history", "order-history.orders"),
    ("order-history", "order-history.customers"),
];

/// Shows the verdict. The books agree.
pub(crate) async fn give(screen: Screen, stage: &Stage, books: &Books, copies_before: usize) -> Outcome<()> {
    screen.checked(
        "No credit was lost or doubled: for each customer, what the customer service has reserved is what the order service's \
         approved orders cost, to the last digit; and no limit was exceeded.",
    );
    screen.checked(&format!(
        "The history has every order in its state: {} in the order service's database, the same {} in the view.",
        counted(books.orders()),
        counted(books.orders())
    ));
    let [completed, compensated] = books.sagas();
    screen.checked(&format!(
        "Every saga has ended: of {} orders by orchestration {} sagas are COMPLETED and {} COMPENSATED, each as its order says. The \
         other {} orders were settled by choreography.",
        counted(completed + compensated),
        counted(completed),
        counted(compensated),
        counted(books.orders() - completed - compensated)
    ));
    let dead = outcomes(stage, "dead").await;
    ensure(dead == 0, || format!("{dead} messages are in dead-letter queues"))?;
    let (copies, dropped) = (stage.watcher()?.copies() - copies_before, outcomes(stage, "duplicate").await);
    screen.checked(&match copies {
        0 => format!(
            "Duplicates: none this time; inboxes dropped {dropped}. A crash may repeat what RabbitMQ had confirmed and \
             PostgreSQL had not yet been told of."
        ),
        _ => format!(
            "Duplicates: outboxd published {copies} messages twice, which RabbitMQ had and PostgreSQL had not yet been told of. An event \
             may go to two queues; the services' inboxes recognised and dropped {dropped} copies."
        ),
    });
    Ok(())
}

/// Returns the number of messages with this outcome in all inboxes. An instance counts from its last start.
async fn outcomes(stage: &Stage, outcome: &str) -> u64 {
    let mut count = 0;
    for (program, queue) in QUEUES {
        let series = format!("inbox_messages_total{{outcome=\"{outcome}\",queue=\"{queue}\"}}");
        for (_, service) in stage.services().into_iter().filter(|(_, service)| service.program() == program) {
            count += service.metric(&series).await.unwrap_or_default() as u64;
        }
    }
    count
}
