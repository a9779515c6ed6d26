// A plain polling relay: takes rows in order, publishes them, waits for the confirms, deletes them.
const { Client } = require('pg');
const amqp = require('amqplib');

const batch = Number(process.env.BATCH ?? 1000);
const idleMs = Number(process.env.IDLE_MS ?? 100);
const { AMQP_HOST, AMQP_PORT, AMQP_VHOST, EXCHANGE, OUTBOX } = process.env;

async function main() {
  const database = new Client();
  await database.connect();
  const broker = await amqp.connect(
    `amqp://guest:guest@${AMQP_HOST}:${AMQP_PORT}/${encodeURIComponent(AMQP_VHOST)}`,
  );
  const channel = await broker.createConfirmChannel();
  let wanted = true;
  process.on('SIGTERM', () => { wanted = false; });
  while (wanted) {
    await database.query('BEGIN');
    const { rows } = await database.query({
      name: 'take',
      text: `SELECT id, aggregatetype, aggregateid, type, payload::text FROM ${OUTBOX}
             ORDER BY seq LIMIT $1 FOR UPDATE SKIP LOCKED`,
      values: [batch],
    });
    if (rows.length === 0) {
      await database.query('COMMIT');
      await new Promise((resolve) => setTimeout(resolve, idleMs));
      continue;
    }
    for (const row of rows) {
      channel.publish(EXCHANGE, row.type, Buffer.from(row.payload ?? ''), {
        persistent: true,
        mandatory: true,
        messageId: row.id,
        contentType: 'application/json',
        headers: { 'aggregate-type': row.aggregatetype, 'aggregate-id': row.aggregateid },
      });
    }
    await channel.waitForConfirms();
    await database.query({
      name: 'delete',
      text: `DELETE FROM ${OUTBOX} WHERE id = ANY($1)`,
      values: [rows.map((row) => row.id)],
    });
    await database.query('COMMIT');
  }
  await broker.close();
  await database.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
