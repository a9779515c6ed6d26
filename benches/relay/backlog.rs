//! Rows of the outbox, written by the server itself, which is fastest and costs this process nothing.

use tokio_postgres::Client;

/// Distribution of aggregates.
#[derive(Clone, Copy, Debug)]
pub enum Aggregates {
    /// Equal shares of this many aggregates.
    Uniform(u32),
    /// Shares of this many aggregates by Zipf's law (exponent 1, continuous): the share falls with the number.
    #[allow(dead_code)]
    Zipf(u32),
}

/// Rows to write.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    /// Number of rows, numbered from 1 in commit order: `n` of the payload; `a` is the aggregate.
    pub rows: u32,
    /// Rows of each transaction.
    pub per_transaction: u32,
    /// Aggregates of the events.
    pub aggregates: Aggregates,
    /// Length of the payload as text, at least 60.
    pub payload_bytes: u32,
}

impl Default for Backlog {
    /// Default backlog of all figures.
    fn default() -> Self {
        Self {
            rows: 100_000,
            per_transaction: 1,
            aggregates: Aggregates::Uniform(10_000),
            payload_bytes: 300,
        }
    }
}

impl Backlog {
    /// Writes the rows. [`create_table`] has created the table.
    pub async fn write(&self, client: &Client) {
        let aggregate = match self.aggregates {
            Aggregates::Uniform(count) => format!("1 + floor(random() * {count})"),
            Aggregates::Zipf(count) => format!("floor(power({}, random()))", count + 1),
        };
        let Self { rows, per_transaction, payload_bytes, .. } = self;
        let write = format!(
            "DO $$
             DECLARE
                 -- Incompressible enough for TOAST to store what a real payload of this size would take.
                 filler text := (SELECT string_agg(md5(n::text), '') FROM generate_series(0, {payload_bytes} / 32) n);
                 head text;
                 aggregate text;
             BEGIN
                 FOR n IN 1..{rows} LOOP
                     aggregate := ({aggregate})::bigint;
                     head := '{{\"n\": ' || n || ', \"a\": \"' || aggregate || '\", \"filler\": \"';
                     INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
                     VALUES ('Order', aggregate, 'OrderCreated',
                             (head || left(filler, {payload_bytes} - 2 - length(head)) || '\"}}')::jsonb);
                     IF n % {per_transaction} = 0 THEN COMMIT; END IF;
                 END LOOP;
                 COMMIT;
             END $$"
        );
        client.batch_execute("SET synchronous_commit = off").await.expect("faster commits");
        client.batch_execute(&write).await.expect("backlog written");
    }
}
