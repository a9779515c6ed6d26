//! What a person reads on the page.

use serde::Deserialize;
use serde_json::Value;

use crate::browser::Browser;

/// An order of the list. Texts are those that can be seen; the way is read also while it is folded.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ShownOrder {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) total: String,
    pub(crate) reason: String,
    pub(crate) problem: String,
    pub(crate) settled: String,
    pub(crate) can_be_cancelled: bool,
    pub(crate) events: Vec<ShownEvent>,
    pub(crate) saga: String,
    pub(crate) steps: Vec<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ShownEvent {
    pub(crate) name: String,
    pub(crate) time: String,
    pub(crate) position: String,
}

/// One of the two answers about the customer.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ShownAnswer {
    pub(crate) took: String,
    pub(crate) parts: Vec<String>,
    pub(crate) facts: Vec<(String, String)>,
    pub(crate) notices: Vec<String>,
}

const ORDERS: &str = "
    const seen = (within, query) => within.querySelector(query)?.innerText ?? '';
    const all = (within, query) => [...within.querySelectorAll(query)];
    return all(document, '#orders > li').map((order) => ({
        id: order.querySelector('.id').innerText.slice(1),
        state: seen(order, '.badge'),
        total: seen(order, '.total'),
        reason: seen(order, '.reason'),
        problem: seen(order, '.notice'),
        settled: seen(order, '.settled'),
        can_be_cancelled: order.querySelector('.cancel').checkVisibility(),
        events: all(order, '.events > li').map((event) => ({
            name: event.querySelector('strong').textContent,
            time: event.querySelector('time').textContent,
            position: event.querySelector('code').textContent,
        })),
        saga: order.querySelector('caption')?.textContent ?? '',
        steps: all(order, 'tbody tr').map((row) => all(row, 'td').map((cell) => cell.textContent)),
    }));";

const ANSWERS: &str = "
    const texts = (within, query) => [...within.querySelectorAll(query)].map((each) => each.innerText);
    return ['composed', 'view'].map((id) => document.getElementById(id)).map((answer) => ({
        took: texts(answer, '.took').join(),
        parts: texts(answer, '.parts li span:first-child'),
        facts: texts(answer, 'dt').map((term, at) => [term, texts(answer, 'dd')[at]]),
        notices: texts(answer, '.notice'),
    }));";

impl Browser {
    /// Waits until the stream of events is open.
    pub(crate) async fn is_live(&self) {
        self.eventually("Live", async |browser| (browser.text("#live").await == "Live").then_some(())).await;
    }

    /// Text of the first element that a CSS selector finds; empty when there is none or nobody sees it.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("return document.querySelector(`{selector}`)?.innerText ?? ''")).await;
        text.as_str().unwrap().to_owned()
    }

    /// The orders, the newest first.
    pub(crate) async fn orders(&self) -> Vec<ShownOrder> {
        serde_json::from_value(self.run(ORDERS).await).unwrap()
    }

    /// The answers of the composition and of the view.
    pub(crate) async fn answers(&self) -> [ShownAnswer; 2] {
        serde_json::from_value(self.run(ANSWERS).await).unwrap()
    }

    /// Makes a customer, and waits until its orders are shown.
    pub(crate) async fn make_customer(&self, name: &str, limit: &str) -> String {
        self.fill("Name", name).await;
        self.fill("Credit limit", limit).await;
        self.press("Make customer").await;
        let made = format!("{name} is a customer now.");
        self.eventually("the customer is made", async |browser| {
            (browser.text("#make-customer-outcome").await == made).then_some(())
        })
        .await;
        let id: Value = self.run("return document.getElementById('customer').value").await;
        id.as_str().unwrap().to_owned()
    }

    /// Places an order and waits until it is in the list.
    pub(crate) async fn place_order(&self, total: &str) -> String {
        let before: Vec<String> = self.orders().await.into_iter().map(|order| order.id).collect();
        self.fill("Total", total).await;
        self.press("Place order").await;
        self.eventually("the order is in the list", async |browser| {
            let orders = browser.orders().await;
            orders.into_iter().map(|order| order.id).find(|id| !before.contains(id))
        })
        .await
    }

    /// Waits until an order is shown in this state, with all that comes with it.
    pub(crate) async fn shows(&self, order: &str, state: &str) -> ShownOrder {
        self.shows_that(order, state, |shown| shown.state == state).await
    }

    /// Waits until an order is shown so.
    pub(crate) async fn shows_that(
        &self,
        order: &str,
        what: &str,
        is_so: impl Fn(&ShownOrder) -> bool,
    ) -> ShownOrder {
        self.eventually(&format!("order {order}: {what}"), async |browser| {
            browser.orders().await.into_iter().find(|shown| shown.id == order && is_so(shown))
        })
        .await
    }

    /// State and explanation of a service's circuit.
    pub(crate) async fn circuit(&self, service: &str) -> (String, String) {
        let of = format!("#circuits [data-service='{service}']");
        (self.text(&format!("{of} .badge")).await, self.text(&format!("{of} .hint")).await)
    }

    /// Waits until a service's circuit is shown in this state.
    pub(crate) async fn circuit_is(&self, service: &str, state: &str) {
        self.eventually(&format!("the circuit of {service} is {state}"), async |browser| {
            (browser.circuit(service).await.0 == state).then_some(())
        })
        .await;
    }
}
