//! `outboxd setup`: creates publication, slot and RabbitMQ topology. Nothing is created unless everything can be, and existing
//! objects are left alone, so the command can be repeated.
//!
//! `postgres.create` and `rabbitmq.declare` concern `run` only: the operator who calls this command wants objects created.

use std::collections::HashSet;

use super::{
    Failure, answer, answer_verbatim,
    check::{self, BROKER, title},
    checklist::{Section, conclusion},
};
use crate::{
    cli::Setup,
    preflight::dba_script::{self, SlotMaker, comment},
    rabbitmq::{self, cures, publishing::Pattern, rabbitmqctl},
    relay::{BacklogPolicy, fence_queue},
    settings::{Settings, Source},
    setup::creation::Creation,
};
use amqp_publisher::PublisherOptions;

const APPLICATION_NAME: &str = "outboxd setup";

pub(super) async fn run(mut settings: Settings, options: &Setup) -> Result<(), Failure> {
    if options.print_sql {
        return answer_verbatim(&scripts(&settings));
    }
    if options.print_rabbitmqctl {
        return answer_verbatim(&administration(&settings)?);
    }
    if let Some([exchange, queue, key]) = options.unbind.as_deref() {
        let broker = &settings.broker;
        let unbound = rabbitmq::inspection::unbind(broker, APPLICATION_NAME, exchange, queue, key).await;
        let sections = [Section::new(BROKER, unbound)];
        answer(&sections[0].to_string())?;
        return conclusion(&sections).1;
    }
    let may_run_create: HashSet<String> = settings
        .sources
        .iter_mut()
        .filter_map(|(name, source)| {
            std::mem::replace(&mut source.database.create, true).then(|| name.clone())
        })
        .collect();
    settings.broker.topology.declare = true;

    let checked = check::online(&settings).await;
    let (_, result) = conclusion(&checked);
    if result.is_err() {
        let failed = checked.into_iter().filter(Section::has_failed).map(Section::failures);
        answer(&failed.map(|section| section.to_string()).collect::<String>())?;
        return Err(Failure::Runtime(
            "nothing has been created: correct what failed above, then repeat the command".to_owned(),
        ));
    }

    // Queues before slots: a slot without them would only hold back WAL.
    let topology = rabbitmq::inspection::establish(&settings.broker, APPLICATION_NAME).await;
    let mut sections = vec![Section::new(BROKER, topology)];
    answer(&sections[0].to_string())?;
    if sections[0].has_failed() {
        return conclusion(&sections).1;
    }
    for (name, source) in &settings.sources {
        let creation = Creation {
            database: &source.database,
            backlog: source.relay.backlog,
            may_run_create: may_run_create.contains(name),
            application_name: APPLICATION_NAME,
        };
        let section = Section::new(title(name, source), creation.run().await);
        // Printed at once, because the next source may have to wait.
        answer(&section.to_string())?;
        sections.push(section);
    }
    conclusion(&sections).1
}

/// Output of `--print-rabbitmqctl`.
fn administration(settings: &Settings) -> Result<String, Failure> {
    let sources = settings.sources.values();
    let publishing: Vec<_> = sources.clone().map(|source| check::publishing(&source.mapping)).collect();
    let fence = |source: &Source| Pattern::new([Some(&*fence_queue(&source.database.slot, "")), None]);
    let fences: Vec<_> = sources.map(fence).collect();
    let PublisherOptions { connection, topology, .. } = &settings.broker;
    rabbitmqctl::commands(connection, topology, &publishing, &fences)
        .map_err(|error| Failure::Runtime(cures::explain(&error)))
}

/// Output of `--print-sql`: statements for each source's database, and the broker's topology as comments.
fn scripts(settings: &Settings) -> String {
    let mut text = String::new();
    for (name, source) in &settings.sources {
        let slot = match source.relay.backlog {
            BacklogPolicy::Publish if source.database.create => SlotMaker::Run,
            BacklogPolicy::Publish | BacklogPolicy::Skip => SlotMaker::Script,
        };
        text += &comment(&format!(
            "==== {}: run this in that database, as a superuser ====",
            title(name, source)
        ));
        text += &dba_script::script(&source.database, &source.mapping.columns, slot);
        text.push('\n');
    }
    let needed = settings.broker.topology.plan();
    if !needed.is_empty() {
        let by = if settings.broker.topology.declare {
            "`run` declares it"
        } else {
            "`outboxd setup` declares it"
        };
        text += &comment(&format!("==== {BROKER}: {by} ===="));
        text.extend(needed.iter().map(|declaration| comment(&declaration.to_string())));
        text += &comment("`outboxd setup --print-rabbitmqctl` prints the rights that this needs");
    }
    text
}
