// The library's replication listener, as its manual sets it up, with a handler that publishes and waits for the confirm.
// usual: one message after the other. best: ten at a time, and without the two counters that guard against poisonous
// messages, which cost an UPDATE each.
const {
  createReplicationMutexConcurrencyController,
  createReplicationSemaphoreConcurrencyController,
  initializeReplicationMessageListener,
} = require('pg-transactional-outbox');
const amqp = require('amqplib');

const { AMQP_HOST, AMQP_PORT, AMQP_VHOST, EXCHANGE, PEER_NAME, PEER_SETTINGS, PEER_TABLE } = process.env;
const best = PEER_SETTINGS === 'best';

async function main() {
  const broker = await amqp.connect(
    `amqp://guest:guest@${AMQP_HOST}:${AMQP_PORT}/${encodeURIComponent(AMQP_VHOST)}`,
  );
  const channel = await broker.createConfirmChannel();
  const handler = {
    handle: (message) => new Promise((resolve, reject) => {
      const options = {
        persistent: true,
        mandatory: true,
        messageId: message.id,
        contentType: 'application/json',
        headers: { 'aggregate-type': message.aggregateType, 'aggregate-id': message.aggregateId },
      };
      const body = Buffer.from(JSON.stringify(message.payload));
      channel.publish(EXCHANGE, message.messageType, body, options, (error) => (error ? reject(error) : resolve()));
    }),
  };
  const listener = {
    host: process.env.PGHOST,
    port: Number(process.env.PGPORT),
    user: process.env.PGUSER,
    database: process.env.PGDATABASE,
  };
  const config = {
    outboxOrInbox: 'outbox',
    dbListenerConfig: listener,
    dbHandlerConfig: listener,
    settings: {
      dbSchema: 'public',
      dbTable: PEER_TABLE,
      dbPublication: PEER_NAME,
      dbReplicationSlot: PEER_NAME,
      ...(best && { enableMaxAttemptsProtection: false, enablePoisonousMessageProtection: false }),
    },
  };
  const quiet = () => {};
  const logger = {
    level: 'warn', fatal: console.error, error: console.error, warn: console.error, info: quiet, debug: quiet,
    trace: quiet, silent: quiet,
  };
  const concurrencyStrategy = best
    ? createReplicationSemaphoreConcurrencyController(10)
    : createReplicationMutexConcurrencyController();
  const [shutdown] = initializeReplicationMessageListener(config, handler, logger, { concurrencyStrategy });
  process.on('SIGTERM', async () => {
    await shutdown();
    process.exit(0);
  });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
