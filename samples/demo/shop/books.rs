//! Bookkeeping: checks that the books of three services agree. It reads each database by the service's own role;
//! PostgreSQL adds up.

use super::{
    amount::Amount,
    show::{
        NOW_AND_THEN, Outcome, ensure, eventually,
        screen::{Cell, Screen},
    },
};
use std::{cell::RefCell, collections::BTreeMap, time::Duration};
use tokio_postgres::{Client, NoTls};

/// Silence after which nothing is in progress.
const SILENCE: Duration = Duration::from_millis(500);

/// Reader of the databases of orders, customers and history.
pub(crate) struct Bookkeeper {
    orders: Client,
    customers: Client,
    history: Client,
}

/// Content of the three databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Books {
    /// Accounts of the customer service, by id.
    accounts: BTreeMap<i64, Account>,
    orders: Vec<Order>,
    /// States of the sagas that create orders, by order.
    sagas: BTreeMap<i64, String>,
    /// Sagas that have not ended, of all types.
    running: i64,
    /// Customers and orders in the history.
    view: (BTreeMap<i64, (String, Amount)>, Vec<Order>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    name: String,
    limit: Amount,
    /// Reserved amount of the account.
    reserved: Amount,
    /// Sum of its reservations.
    reservations: Amount,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    id: i64,
    customer: i64,
    total: Amount,
    state: String,
    reason: Option<String>,
}

impl Bookkeeper {
    /// Connects to each service's database.
    pub(crate) async fn start([orders, customers, history]: &[String; 3]) -> Outcome<Self> {
        let (orders, customers, history) =
            tokio::try_join!(client(orders), client(customers), client(history))?;
        Ok(Self { orders, customers, history })
    }

    /// Returns the number of orders that are not PENDING.
    pub(crate) async fn settled(&self) -> Outcome<usize> {
        let count = "SELECT count(*) FROM orders WHERE state <> 'PENDING'";
        let settled: i64 = self.orders.query_one(count, &[]).await?.get(0);
        Ok(usize::try_from(settled)?)
    }

    /// Returns the books as soon as they agree, if they still do a little later.
    pub(crate) async fn balanced(&self) -> Outcome<Books> {
        let last = RefCell::new(String::new());
        let agreed = eventually(NOW_AND_THEN, "the books agree", async || {
            let books = self.read().await?;
            let disagreement = books.disagreement();
            *last.borrow_mut() = disagreement.clone().unwrap_or_default();
            Ok(disagreement.is_none().then_some(books))
        });
        let agreed = agreed.await.map_err(|error| format!("{error}; {}", last.borrow()))?;
        tokio::time::sleep(SILENCE).await;
        let still = self.read().await?;
        ensure(still == agreed, || {
            format!("the books changed after they had agreed: {:?}", still.disagreement())
        })?;
        Ok(agreed)
    }

    async fn read(&self) -> Outcome<Books> {
        let accounts = "SELECT id, name, (credit_limit * 10000)::bigint, (reserved * 10000)::bigint, \
                          (SELECT (coalesce(sum(amount), 0) * 10000)::bigint FROM credit \
                           WHERE customer_id = customers.id AND credit.state = 'RESERVED') \
                        FROM customers";
        let accounts = self.customers.query(accounts, &[]).await?.into_iter().map(|row| {
            let amount = |column| Amount(row.get(column));
            let account =
                Account { name: row.get(1), limit: amount(2), reserved: amount(3), reservations: amount(4) };
            (row.get(0), account)
        });
        let known = "SELECT id, name, (credit_limit * 10000)::bigint FROM customers";
        let known = self.history.query(known, &[]).await?;
        let known = known.iter().map(|row| (row.get(0), (row.get(1), Amount(row.get(2)))));
        let sagas = "SELECT (data ->> 'orderId')::bigint, state FROM saga WHERE type = 'CreateOrder'";
        let sagas = self.orders.query(sagas, &[]).await?;
        let running = "SELECT count(*) FROM saga WHERE state = 'RUNNING'";
        Ok(Books {
            accounts: accounts.collect(),
            orders: orders(&self.orders).await?,
            sagas: sagas.iter().map(|row| (row.get(0), row.get(1))).collect(),
            running: self.orders.query_one(running, &[]).await?.get(0),
            view: (known.collect(), orders(&self.history).await?),
        })
    }
}

impl Books {
    /// Returns the amount that a customer's approved orders reserve.
    pub(crate) fn reserved(&self, customer: i64) -> Amount {
        self.accounts.get(&customer).map(|account| account.reserved).unwrap_or_default()
    }

    /// Returns the number of orders.
    pub(crate) fn orders(&self) -> usize {
        self.orders.len()
    }

    /// Returns the numbers of completed and of compensated sagas that create orders.
    pub(crate) fn sagas(&self) -> [usize; 2] {
        ["COMPLETED", "COMPENSATED"].map(|ended| self.sagas.values().filter(|state| *state == ended).count())
    }

    /// Shows a line for each customer.
    pub(crate) fn show(&self, screen: Screen) {
        let rows = self.accounts.iter().map(|(customer, account)| {
            let mut row = vec![Cell::plain(account.name.as_str())];
            row.extend([account.limit, account.reserved, self.approved(*customer)].map(Cell::number));
            row.extend(["APPROVED", "REJECTED", "CANCELLED"].map(|state| {
                let of_customer = self.orders.iter().filter(|order| order.customer == *customer);
                Cell::number(of_customer.filter(|order| order.state == state).count())
            }));
            row
        });
        let titles =
            ["customer service", "order service: approved orders cost, and how many came to which end"];
        let head = ["customer", "limit", "reserved", "cost", "APPROVED", "REJECTED", "CANCELLED"];
        screen.tables(titles, 3, &head, rows.collect());
    }

    /// Returns the first disagreement.
    fn disagreement(&self) -> Option<String> {
        let pending = self.orders.iter().filter(|order| order.state == "PENDING").count();
        if pending > 0 {
            return Some(format!("{pending} orders are PENDING"));
        }
        if self.running > 0 {
            return Some(format!("{} sagas are RUNNING", self.running));
        }
        for (order, saga) in &self.sagas {
            let state = self.orders.iter().find(|known| known.id == *order).map(|order| order.state.as_str());
            let agrees = match state {
                Some("APPROVED" | "CANCELLED") => saga == "COMPLETED",
                Some("REJECTED") => saga == "COMPENSATED",
                _ => false,
            };
            if !agrees {
                return Some(format!("the saga of order {order} is {saga}, and the order {state:?}"));
            }
        }
        for (customer, account) in &self.accounts {
            let &Account { limit, reserved, reservations, .. } = account;
            let approved = self.approved(*customer);
            if reserved != reservations || reserved != approved || reserved > limit {
                return Some(format!(
                    "customer {customer} with limit {limit} has {reserved} reserved, in reservations of {reservations}, for \
                     approved orders of {approved}"
                ));
            }
        }
        let approved = self.orders.iter().filter(|order| order.state == "APPROVED");
        if let Some(order) = approved.into_iter().find(|order| !self.accounts.contains_key(&order.customer)) {
            return Some(format!("{order:?} was approved, but there is no such customer"));
        }
        let (known, view) = &self.view;
        let accounts = self.accounts.iter();
        let limits = accounts.map(|(id, account)| (*id, (account.name.clone(), account.limit)));
        if *known != limits.collect::<BTreeMap<_, _>>() {
            return Some(format!("the history knows other customers than there are: {known:?}"));
        }
        if let Some((order, seen)) = self.orders.iter().zip(view).find(|(order, seen)| order != seen) {
            return Some(format!("the history has {seen:?} for {order:?}"));
        }
        let (orders, seen) = (self.orders.len(), view.len());
        (orders != seen).then(|| format!("the history has {seen} of {orders} orders"))
    }

    fn approved(&self, customer: i64) -> Amount {
        let approved = |order: &&Order| order.customer == customer && order.state == "APPROVED";
        self.orders.iter().filter(approved).map(|order| order.total).sum()
    }
}

async fn orders(client: &Client) -> Outcome<Vec<Order>> {
    let select =
        "SELECT id, customer_id, (total * 10000)::bigint, state, rejection_reason FROM orders ORDER BY id";
    let rows = client.query(select, &[]).await?;
    let order = |row: &tokio_postgres::Row| Order {
        id: row.get(0),
        customer: row.get(1),
        total: Amount(row.get(2)),
        state: row.get(3),
        reason: row.get(4),
    };
    Ok(rows.iter().map(order).collect())
}

async fn client(url: &str) -> Outcome<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
