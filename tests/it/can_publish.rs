//! `check` finds obstacles to publishing before `run` does, and publishes nothing. The printed rabbitmqctl commands grant enough
//! permissions.

use std::process::Command;

use hyper::Method;
use serde_json::{Value, json};

use crate::stage::{PATIENCE, Said, Stage, eventually, say, until_alive, until_state};
use testkit::{Daemon, RabbitMq, shared_rabbitmq, unique};

/// A source, its virtual host, and a user whose permissions the test sets.
struct Shop {
    stage: Stage,
    node: &'static RabbitMq,
    user: String,
}

impl Shop {
    async fn open(test: &str) -> Self {
        let mut stage = Stage::shared(test).await;
        let (node, user) = (shared_rabbitmq().await, unique("shop"));
        node.create_user(&user, "secret").await;
        node.allow(&user, &stage.name, [".*"; 3]).await;
        stage.amqp_url = stage.amqp_url.replace("guest:guest@", &format!("{user}:secret@"));
        Self { stage, node, user }
    }

    async fn exchange(&self, name: &str, kind: &str, internal: bool) {
        let body = json!({ "type": kind, "durable": true, "internal": internal });
        self.node.api(Method::PUT, &format!("/api/exchanges/{}/{name}", self.stage.name), body).await;
    }

    /// Limits the routing keys that the user may write to an exchange.
    async fn allow_keys(&self, exchange: &str, write: &str) {
        let body = json!({ "exchange": exchange, "write": write, "read": ".*" });
        let path = format!("/api/topic-permissions/{}/{}", self.stage.name, self.user);
        self.node.api(Method::PUT, &path, body).await;
    }

    async fn check(&self, declare: bool, source: &str) -> Said {
        say(&Daemon::prepare(&self.config(declare, source)), &["check"]).await
    }

    fn config(&self, declare: bool, source: &str) -> String {
        let config =
            self.stage.config().replace("[rabbitmq]\n", &format!("[rabbitmq]\ndeclare = {declare}\n"));
        config + source
    }

    /// Contents of the virtual host: exchanges, queues with their messages, bindings.
    async fn contents(&self) -> Vec<String> {
        let mut all = Vec::new();
        for kind in ["exchanges", "queues", "bindings"] {
            let list =
                self.node.api(Method::GET, &format!("/api/{kind}/{}", self.stage.name), Value::Null).await;
            all.extend(list.as_array().unwrap().iter().map(|item| {
                format!("{kind} {} {} {}", item["name"], item["destination"], item["routing_key"])
            }));
        }
        all
    }
}

impl Said {
    #[track_caller]
    fn shows(&self, word: &str, name: &str, finding: &str) {
        let line = self.stdout.lines().find(|line| line.starts_with(&format!("  {word:<7}  {name}")));
        let line = line.unwrap_or_else(|| panic!("no {word} {name} in {}", self.stdout));
        assert!(line.contains(finding), "{line}");
        assert_eq!(self.status == 1, self.stdout.contains("  FAILED "), "{}", self.stdout);
    }
}

#[tokio::test]
async fn check_fails_where_run_cannot_publish() {
    let shop = Shop::open("canpublish").await;
    let to = |exchange: &str| format!("message.exchange = \"{exchange}\"\n");
    for (exchange, kind, internal) in
        [("fan", "fanout", false), ("inside", "topic", true), ("open", "topic", false)]
    {
        shop.exchange(exchange, kind, internal).await;
    }
    let before = shop.contents().await;

    // Type and properties of the exchange.
    shop.check(true, &to("fan")).await.shows("FAILED", "exchange 'fan' (topic)", "exists, but differently");
    shop.check(true, &to("inside")).await.shows(
        "FAILED",
        "exchange 'inside' (topic)",
        "exists, but differently",
    );
    shop.check(false, &to("inside")).await.shows("FAILED", "publishing to exchange 'inside'", "is internal");
    shop.check(false, &to("fan")).await.shows("OK", "publishing to exchange 'fan'", "may publish");
    shop.check(false, &to("absent")).await.shows("FAILED", "exchange 'absent' (topic)", "is missing");
    shop.check(true, &to("absent")).await.shows("OK", "exchange 'absent' (topic)", "will declare it");
    shop.check(true, &to("amq.rabbitmq.trace")).await.shows(
        "FAILED",
        "publishing to exchange 'amq.rabbitmq.trace'",
        "is internal",
    );

    // Permissions.
    let fenced = r"^outboxd\.publisher\.";
    shop.node.allow(&shop.user, &shop.stage.name, [".*", "^fan$", ".*"]).await;
    shop.check(true, &to("open")).await.shows(
        "FAILED",
        "publishing to exchange 'open'",
        "is closed to this user",
    );
    shop.check(true, &to("absent")).await.shows(
        "FAILED",
        "publishing to exchange 'absent'",
        "is closed to this user",
    );
    shop.check(true, "").await.shows(
        "warning",
        "publishing to exchanges '*.events'",
        "is closed to this user",
    );
    shop.node.allow(&shop.user, &shop.stage.name, [fenced, ".*", ".*"]).await;
    let said = shop.check(true, &to("absent")).await;
    said.shows("FAILED", "exchange 'absent' (topic)", "is closed to this user");
    assert!(said.stdout.contains("--print-rabbitmqctl"), "{}", said.stdout);
    shop.node.allow(&shop.user, &shop.stage.name, [".*"; 3]).await;

    // Topic permissions.
    shop.allow_keys("open", "^Ok").await;
    let by = |key: &str| to("open") + &format!("message.routing_key = \"{key}\"\n");
    shop.check(true, &by("{event_type}")).await.shows(
        "warning",
        "publishing to exchange 'open'",
        "topic permissions",
    );
    shop.check(true, &by("Okay")).await.shows("OK", "publishing to exchange 'open'", "Okay");
    let said = shop.check(true, &by("Nope")).await;
    said.shows("FAILED", "publishing to exchange 'open'", "is closed to this user for that routing key");
    let cure =
        format!("rabbitmqctl set_topic_permissions -p {} {} open WRITE READ", shop.stage.name, shop.user);
    assert!(said.stdout.contains(&cure), "{}", said.stdout);
    let subscription = |keys: &str| {
        to("open")
            + &format!("[[subscriptions]]\nqueue = \"q\"\nexchange = \"open\"\nbinding_keys = {keys}\n")
    };
    shop.check(true, &subscription("[\"OkDone\"]")).await.shows(
        "OK",
        "publishing to exchange 'open'",
        "OkDone",
    );
    shop.check(true, &subscription("[\"OkDone\", \"Nope\"]")).await.shows(
        "FAILED",
        "publishing to exchange 'open'",
        "'Nope'",
    );
    assert_eq!(shop.contents().await, before, "check has left something behind");
}

#[tokio::test]
async fn what_check_tries_reaches_no_queue() {
    let shop = Shop::open("probe").await;
    shop.exchange("fan", "fanout", false).await;
    let path = |what: &str| format!("/api/{what}");
    let (vhost, none) = (&shop.stage.name, json!({}));
    shop.node.api(Method::PUT, &path(&format!("queues/{vhost}/all")), json!({ "durable": true })).await;
    shop.node.api(Method::POST, &path(&format!("bindings/{vhost}/e/fan/q/all")), none).await;
    let exchange = "message.exchange = \"fan\"\n";
    for _ in 0..3 {
        assert_eq!(shop.check(false, exchange).await.status, 0);
    }
    // One published message proves that the earlier checks left nothing in the queue.
    let mut daemon = Daemon::start(&shop.config(false, exchange));
    daemon.wait_ready(PATIENCE).await;
    shop.stage.write_unseen("a", "OrderCreated").await;
    let get = json!({ "count": 10, "ackmode": "ack_requeue_false", "encoding": "auto" });
    eventually("the message is confirmed", async || {
        daemon.count("orders", "messages_confirmed_total").await == 1
    })
    .await;
    let got = shop.node.api(Method::POST, &path(&format!("queues/{vhost}/all/get")), get).await;
    let got: Vec<_> = got.as_array().unwrap().iter().map(|message| message["payload"].to_string()).collect();
    assert_eq!(got.len(), 1, "{got:?}");
    assert!(got[0].contains("hidden"), "{got:?}");
}

#[tokio::test]
async fn the_printed_user_is_enough_for_check_setup_and_run() {
    let mut shop = Shop::open("printed").await;
    shop.stage.source = "message.routing_key = \"{event_type}\"\n[[subscriptions]]\nqueue = \"it's.orders\"\nexchange = \
                         \"Order.events\"\nbinding_keys = [\"OrderCreated\"]\n[[subscriptions]]\nqueue = \"parts\"\nexchange = \
                         \"Order.events\"\npartitions = 2\nqueue_type = \"classic\"\n"
        .to_owned();
    shop.node.allow(&shop.user, &shop.stage.name, ["^$"; 3]).await;
    let config = shop.stage.config();
    let daemon = Daemon::prepare(&config);
    assert_eq!(say(&daemon, &["check"]).await.status, 1);

    let printed = say(&daemon, &["setup", "--print-rabbitmqctl"]).await;
    assert_eq!((printed.status, printed.stderr.as_str()), (0, ""));
    assert!(!printed.stdout.contains("secret"));
    for line in printed.stdout.lines().filter(|line| line.starts_with("rabbitmqctl set_")) {
        let script = format!("rabbitmqctl() {{ printf '%s\\n' \"$@\"; }}; {line}");
        let words = Command::new("sh").args(["-c", &script]).output().unwrap();
        let words = String::from_utf8(words.stdout).unwrap();
        shop.node.ctl(&words.lines().collect::<Vec<_>>()).await;
    }
    for command in ["check", "setup", "check"] {
        let said = say(&daemon, &[command]).await;
        assert_eq!(said.status, 0, "{}{}", said.stdout, said.stderr);
        let broker = said.stdout.split("\nbroker\n").last().unwrap();
        assert!(!broker.contains("  warning "), "{broker}");
    }
    let mut daemon = Daemon::start(&config);
    daemon.wait_ready(PATIENCE).await;
    shop.stage.write_unseen("a", "OrderCreated").await;
    eventually("the message is confirmed", async || {
        daemon.count("orders", "messages_confirmed_total").await == 1
    })
    .await;
    assert!(!daemon.log().contains("without a fence"), "{}", daemon.log());
}

#[tokio::test]
async fn a_removed_binding_key_stays_bound_until_it_is_unbound() {
    let shop = Shop::open("unbind").await;
    let config = |keys: &str| {
        let subscription = "[[subscriptions]]\nexchange = \"Order.events\"\nqueue_type = \"classic\"\n";
        let keys = format!("binding_keys = {keys}\n");
        shop.config(
            true,
            &format!(
                "{subscription}{keys}queue = \"one\"\n{subscription}{keys}queue = \"many\"\npartitions = 2\n"
            ),
        )
    };
    let both = Daemon::prepare(&config("[\"OrderCreated\", \"OrderCancelled\"]"));
    assert_eq!(say(&both, &["setup"]).await.status, 0);
    let one = Daemon::prepare(&config("[\"OrderCreated\"]"));
    let said = say(&one, &["setup"]).await;
    assert_eq!(said.status, 0);
    said.shows("OK", "other bindings", "stay bound");
    let bound = async || {
        let contents = shop.contents().await;
        contents.iter().filter(|line| line.contains("\"OrderCancelled\"")).count()
    };
    assert_eq!(bound().await, 2, "setup removes nothing");
    let said = say(&one, &["check"]).await;
    said.shows("OK", "other bindings", "stay bound");
    assert!(said.stdout.contains("outboxd setup --unbind EXCHANGE QUEUE KEY"), "{}", said.stdout);

    // A binding of the configuration is not removed.
    let said = say(&one, &["setup", "--unbind", "Order.events", "one", "OrderCreated"]).await;
    said.shows("FAILED", "binding of queue one", "is in the configuration");
    for queue in ["one", "many", "one"] {
        let said = say(&one, &["setup", "--unbind", "Order.events", queue, "OrderCancelled"]).await;
        assert_eq!(said.status, 0, "{}", said.stderr);
    }
    assert_eq!(bound().await, 0);
}

#[tokio::test]
async fn what_check_finds_is_what_run_says() {
    let shop = Shop::open("runsays").await;
    shop.exchange("fan", "fanout", false).await;
    shop.stage.write_unseen("a", "OrderCreated").await;
    let config = shop.config(true, "message.exchange = \"fan\"\n");
    assert_eq!(say(&Daemon::prepare(&config), &["check"]).await.status, 1);
    let daemon = Daemon::start(&config);
    until_alive(&daemon).await;
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(reason.contains("exchange 'fan' (topic) exists, but differently"), "{reason}");
}
