//! Random sagas through the orchestrator, participant, inbox and outbox of the chassis on a database: each ends completed, or
//! fully compensated.
//!
//! The test is relay and broker. It repeats, delays and mixes messages, and crashes a service before its commit or before its
//! acknowledgement. One seed decides a run. A failure prints the seed, and `SAGA_SEED` repeats the run.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use chassis::{
    database::DatabaseError,
    inbox::{Handler, HandlingError, Message, apply_once},
    saga::{
        self, Command, Definition, Orchestrator, Outcome, Sagas, Step, TABLES, Work,
        headers::{IN_REPLY_TO, REPLY_TYPE, SAGA_ID},
        participant,
    },
    schema::Schema,
    trace::TraceContext,
};
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio_postgres::{Client, Transaction, types::Json};

use testkit::{shared_postgres, unique};

const COMMANDS: &str = "participant.commands";
const REPLIES: &str = "orchestrator.replies";
const MANY: usize = 6;
const DO: [&str; MANY] = ["do 1", "do 2", "do 3", "do 4", "do 5", "do 6"];
const UNDO: [&str; MANY] = ["undo 1", "undo 2", "undo 3", "undo 4", "undo 5", "undo 6"];
const TYPES: [&str; 3] = ["First", "Second", "Third"];
/// Deliveries until a saga has surely ended.
const DELIVERIES_MAX: usize = 2_000;

const SCHEMA: Schema = Schema {
    migrations: &[
        TABLES,
        "CREATE TABLE public.effect (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, saga text NOT NULL, work text NOT NULL)",
    ],
    derived: &[],
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Data {
    saga: String,
    work: String,
    replies: usize,
}

/// Sagas as a run has drawn them, and in each the action that fails.
#[derive(Clone)]
struct Plan {
    definitions: Vec<Definition>,
    fails: Vec<Option<&'static str>>,
}

/// The service that carries the commands out.
struct Participant(Plan);

/// A handler whose service crashes before it commits, when it is to.
struct Mortal<H> {
    handler: H,
    dies: AtomicBool,
}

impl Plan {
    fn draw(rng: &mut Rng) -> Self {
        let (definitions, fails) = TYPES
            .iter()
            .map(|saga_type| {
                let steps: Vec<Step> = (0..rng.usize(1..=MANY)).map(|step| Self::step(rng, step)).collect();
                let fails = rng.bool().then(|| rng.usize(..steps.len()));
                let fails = fails.and_then(|step| Some(steps[step].action?.name()));
                // As the definitions of a service live.
                (Definition { saga_type, steps: steps.leak() }, fails)
            })
            .unzip();
        Self { definitions, fails }
    }

    fn step(rng: &mut Rng, step: usize) -> Step {
        let mut work = |name: &'static str, replies| match rng.u8(..6) {
            0 => None,
            1 => Some(Work::Local(name)),
            _ => Some(command(name, replies)),
        };
        Step { action: work(DO[step], DONE), compensation: work(UNDO[step], UNDONE) }
    }

    fn fails(&self, saga: &str, work: &str) -> bool {
        let number = TYPES.iter().position(|saga_type| *saga_type == saga).unwrap();
        self.fails[number] == Some(work)
    }

    /// Returns the effects that a saga has in the end, and its state.
    fn expected(&self, number: usize) -> (Vec<String>, &'static str) {
        let steps = self.definitions[number].steps;
        let failing = |step: &Step| step.action.map(Work::name) == self.fails[number];
        let fails = self.fails[number].is_some();
        let reached = if fails { steps.iter().position(failing).unwrap() } else { steps.len() };
        let done = steps[..reached].iter().filter_map(|step| step.action);
        let undone = steps[..reached].iter().rev().filter_map(|step| step.compensation).filter(|_| fails);
        let effects = done.chain(undone).map(|work| work.name().to_owned()).collect();
        (effects, if fails { "COMPENSATED" } else { "COMPLETED" })
    }
}

const DONE: &[(&str, Outcome)] = &[("Done", Outcome::Success), ("Refused", Outcome::Failure)];
const UNDONE: &[(&str, Outcome)] = &[("Undone", Outcome::Success)];

fn command(command_type: &'static str, replies: &'static [(&'static str, Outcome)]) -> Work {
    Work::Command(Command { channel: COMMANDS, command_type, replies })
}

async fn effect(transaction: &Transaction<'_>, saga: &str, work: &str) -> Result<(), HandlingError> {
    let insert = "INSERT INTO public.effect (saga, work) VALUES ($1, $2)";
    transaction.execute(insert, &[&saga, &work]).await?;
    Ok(())
}

impl Sagas for Plan {
    const REPLY_CHANNEL: &'static str = REPLIES;
    type Data = Data;

    fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    fn command(&self, command_type: &str, data: &Data) -> serde_json::Result<Box<RawValue>> {
        to_raw_value(&Data { work: command_type.to_owned(), ..data.clone() })
    }

    fn replied(&self, _: &str, data: &mut Data) {
        data.replies += 1;
    }

    async fn local(
        &self,
        transaction: &mut Transaction<'_>,
        _: &TraceContext,
        name: &str,
        data: &mut Data,
    ) -> Result<Outcome, HandlingError> {
        if self.fails(&data.saga, name) {
            return Ok(Outcome::Failure);
        }
        effect(transaction, &data.saga, name).await?;
        Ok(Outcome::Success)
    }
}

impl Handler for Participant {
    const TAKES_REPLAYS: bool = true;

    async fn handle(
        &self,
        transaction: &mut Transaction<'_>,
        message: &Message,
    ) -> Result<(), HandlingError> {
        let command = participant::Command::of(message, &[REPLIES])?;
        let Data { saga, work, .. } = message.json()?;
        let (reply_type, outcome) = match work.as_str() {
            work if self.0.fails(&saga, work) => ("Refused", Outcome::Failure),
            work if UNDO.contains(&work) => ("Undone", Outcome::Success),
            _ => ("Done", Outcome::Success),
        };
        if outcome == Outcome::Success {
            effect(transaction, &saga, &work).await?;
        }
        command.reply(transaction, reply_type, outcome, &()).await
    }
}

impl<H: Handler> Handler for Mortal<H> {
    const TAKES_REPLAYS: bool = H::TAKES_REPLAYS;

    async fn handle(
        &self,
        transaction: &mut Transaction<'_>,
        message: &Message,
    ) -> Result<(), HandlingError> {
        self.handler.handle(transaction, message).await?;
        if self.dies.swap(false, Ordering::Relaxed) {
            return Err(HandlingError::Database(DatabaseError::Busy));
        }
        Ok(())
    }
}

struct World {
    client: Client,
    rng: Rng,
    orchestrator: Mortal<Orchestrator<Plan>>,
    participant: Mortal<Participant>,
    /// Published and not acknowledged: channel and message.
    channel: Vec<(String, Message)>,
    /// The last row of the outbox that was published.
    relayed: i64,
}

impl World {
    async fn begin(client: Client, mut rng: Rng, plan: Plan) -> Self {
        let orchestrator = Mortal { handler: Orchestrator(plan.clone()), dies: AtomicBool::new(false) };
        let participant = Mortal { handler: Participant(plan.clone()), dies: AtomicBool::new(false) };
        let mut client = client;
        for saga_type in TYPES {
            // A crash before the commit leaves nothing, and the caller tries again.
            for crashes in [rng.bool(), false] {
                let mut transaction = client.transaction().await.unwrap();
                let data = Data { saga: saga_type.to_owned(), work: String::new(), replies: 0 };
                saga::begin(&plan, &mut transaction, &TraceContext::begin(), saga_type, data).await.unwrap();
                if !crashes {
                    transaction.commit().await.unwrap();
                    break;
                }
            }
        }
        Self { client, rng, orchestrator, participant, channel: Vec::new(), relayed: 0 }
    }

    /// Publishes what the outbox has committed.
    async fn relay(&mut self) {
        let select = "SELECT seq, channel, id::text, type, payload::text, headers FROM outbox WHERE seq > $1 ORDER BY seq";
        for row in self.client.query(select, &[&self.relayed]).await.unwrap() {
            self.relayed = row.get(0);
            let Json(headers) = row.get::<_, Json<BTreeMap<String, String>>>(5);
            let message = Message {
                id: row.get(2),
                event_type: row.get(3),
                body: row.get::<_, String>(4).into_bytes(),
                headers,
                source: None,
                position: None,
                committed_at: None,
                replayed: false,
                trace: TraceContext::begin(),
            };
            self.channel.push((row.get(1), message));
        }
    }

    /// Delivers any message, with a crash before the commit, after it, or none.
    async fn deliver(&mut self) {
        let chosen = self.rng.usize(..self.channel.len());
        let (channel, message) = self.channel[chosen].clone();
        let crashes = self.rng.u8(..4) == 0;
        let client = &mut self.client;
        let handled = if channel == COMMANDS {
            self.participant.dies.store(crashes, Ordering::Relaxed);
            apply_once(client, COMMANDS, &message, &self.participant).await
        } else {
            self.orchestrator.dies.store(crashes, Ordering::Relaxed);
            apply_once(client, REPLIES, &message, &self.orchestrator).await
        };
        match handled {
            // Crashed before its acknowledgement, or repeated by a relay that crashed: it comes again, at any later time.
            Ok(_) if self.rng.bool() => self.forge(&channel, message),
            Ok(_) => drop(self.channel.swap_remove(chosen)),
            Err(HandlingError::Database(DatabaseError::Busy)) => {}
            Err(HandlingError::Permanent(_)) => drop(self.channel.swap_remove(chosen)),
            Err(error) => panic!("{error}"),
        }
    }

    /// Adds now and then a copy of a reply with another id: the same, of another saga, to an unknown command, of an unknown type.
    fn forge(&mut self, channel: &str, message: Message) {
        let mut forged = Message { id: unique("forged"), ..message };
        let saga: i64 = forged.parsed(SAGA_ID).unwrap();
        let (header, text) = match self.rng.u8(..8) {
            0..=3 => (SAGA_ID, saga.to_string()),
            4 => (SAGA_ID, (saga + 1).to_string()),
            5 => (SAGA_ID, "7".to_owned()),
            6 => (IN_REPLY_TO, "nothing".to_owned()),
            _ => (REPLY_TYPE, "Perhaps".to_owned()),
        };
        if channel == REPLIES {
            forged.headers.insert(header.to_owned(), text);
            self.channel.push((channel.to_owned(), forged));
        }
    }

    /// Checks each saga's state and effects at the end.
    async fn verdict(&self) -> Result<(), String> {
        let Orchestrator(plan) = &self.orchestrator.handler;
        for (number, saga_type) in TYPES.iter().enumerate() {
            let effects = "SELECT work FROM effect WHERE saga = $1 ORDER BY id";
            let effects = self.client.query(effects, &[saga_type]).await.unwrap();
            let effects: Vec<String> = effects.iter().map(|row| row.get(0)).collect();
            let state = "SELECT state, (data ->> 'replies')::bigint, \
                           (SELECT count(*) FROM saga_step WHERE saga_id = saga.id AND message_id IS NOT NULL) \
                         FROM saga WHERE type = $1";
            let row = self.client.query_one(state, &[saga_type]).await.unwrap();
            let (state, replies, commands): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
            let (expected, expected_state) = plan.expected(number);
            if (&effects, state.as_str(), replies) != (&expected, expected_state, commands) {
                return Err(format!(
                    "{saga_type} is {state} with {replies} replies to {commands} commands and {effects:?}, and not {expected_state} \
                     with {expected:?}: {:?}",
                    plan.definitions[number]
                ));
            }
        }
        Ok(())
    }
}

async fn run(seed: u64, plan: impl FnOnce(&mut Rng) -> Plan) -> Result<(), String> {
    let postgres = shared_postgres().await;
    let name = unique("random_sagas");
    postgres.create_database(&name).await;
    let mut client = postgres.client(&name).await;
    SCHEMA.migrate(&mut client).await.unwrap();
    let mut rng = Rng::with_seed(seed);
    let plan = plan(&mut rng);
    let mut world = World::begin(client, rng, plan).await;
    for _ in 0..DELIVERIES_MAX {
        world.relay().await;
        if world.channel.is_empty() {
            return world.verdict().await;
        }
        world.deliver().await;
    }
    Err(format!("{} messages never end", world.channel.len()))
}

#[tokio::test]
async fn every_random_saga_ends_completed_or_fully_compensated_and_each_effect_is_there_once() {
    let seed = std::env::var("SAGA_SEED").ok().map(|seed| seed.parse().unwrap());
    let first: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    for number in 0..if seed.is_some() { 1 } else { 40 } {
        let seed = first.wrapping_add(number);
        run(seed, Plan::draw).await.unwrap_or_else(|wrong| panic!("SAGA_SEED={seed}: {wrong}"));
    }
}

#[tokio::test]
async fn three_steps_that_fail_at_the_last_are_compensated_in_reverse_once_each() {
    let step = |step: usize| Step {
        action: Some(command(DO[step], DONE)),
        compensation: Some(command(UNDO[step], UNDONE)),
    };
    let steps: &[Step] = vec![step(0), step(1), step(2)].leak();
    let definitions = TYPES.map(|saga_type| Definition { saga_type, steps }).to_vec();
    let plan = Plan { definitions, fails: vec![Some(DO[2]); TYPES.len()] };
    let (effects, state) = plan.expected(0);
    assert_eq!((effects.join(", ").as_str(), state), ("do 1, do 2, undo 2, undo 1", "COMPENSATED"));
    for seed in 0..3 {
        run(seed, |_| plan.clone()).await.unwrap();
    }
}
