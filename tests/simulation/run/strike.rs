//! Faults as they happen. Most are repaired after a random time.

use super::Run;
use crate::{
    link::Link,
    postgres::{data_directory::DataDirectory, state::Mode},
    scenario::Fault,
    wal::{EXCHANGES, ROUTING_KEYS},
    world::{World, WorldState},
};

impl Fault {
    pub(super) async fn happen(self, run: &mut Run) {
        run.world.look(|state| state.note(|| format!("*** {self:?}")));
        let world = run.world.clone();
        match self {
            Fault::PostgresCut => world.change(|state| {
                for id in state.some(|state| state.postgres.sessions.keys().copied().collect()) {
                    state.end_session(id);
                }
            }),
            Fault::PostgresHangs => world.change(|state| {
                let now = state.now();
                state.postgres.hung_at = Some(now);
                for id in state.some(|state| state.postgres.sessions.keys().copied().collect()) {
                    if let Some(session) = state.postgres.sessions.get_mut(&id).filter(|s| s.link == Link::Up)
                    {
                        session.link = Link::Hung(now);
                    }
                }
            }),
            Fault::PostgresCrashes => {
                world.change(|state| {
                    state.record_must_keep_up();
                    state.postgres.mode = Mode::Down;
                    state.end_all_sessions();
                    state.slot_forgets();
                });
                world.pause(0..=2_000).await;
                world.change(|state| state.postgres.mode = Mode::Up);
            }
            Fault::PostgresStops => {
                world.change(|state| {
                    state.postgres.mode = Mode::Ending;
                    let streams = state.postgres.active;
                    for id in state.postgres.sessions.keys().copied().collect::<Vec<_>>() {
                        if Some(id) != streams {
                            state.end_session(id);
                        }
                    }
                });
                // The server waits for its walsenders, and an administrator does not wait for ever.
                for _ in 0..40 {
                    world.pause(50..=50).await;
                    if world.look(|state| state.postgres.active.is_none()) {
                        break;
                    }
                }
                world.change(|state| {
                    state.postgres.mode = Mode::Down;
                    state.end_all_sessions();
                    if state.scenario.slot_unsaved_at_stop {
                        state.slot_forgets();
                    }
                });
                world.pause(0..=2_000).await;
                world.change(|state| state.postgres.mode = Mode::Up);
            }
            Fault::Failover => run.put_back(DataDirectory::promote).await,
            Fault::FailoverWithoutSlot => {
                let promote = |data: &mut DataDirectory| {
                    data.promote();
                    data.leave_slot("the slot is not on the new timeline");
                };
                run.put_back(promote).await;
            }
            Fault::SetBack => run.put_back(|_| ()).await,
            Fault::RestoredWithNewerRecord => run.restore_with_newer_record().await,
            Fault::SetBackWithoutSlot => run.put_back(|data| data.leave_slot("is gone")).await,
            Fault::OtherSystem => run.put_back(|data| data.system_id += 1).await,
            Fault::OtherSystemWithoutSlot => {
                let elsewhere = |data: &mut DataDirectory| {
                    data.system_id += 1;
                    data.leave_slot("was on another server");
                };
                run.put_back(elsewhere).await;
            }
            Fault::SlotDropped => {
                world.change(|state| state.drop_slot());
            }
            Fault::SlotDroppedWhileStopped => run.lose_slot_while_stopped(false).await,
            Fault::SlotMadeAnew => run.make_slot_anew().await,
            Fault::SlotMadeAnewWhileStopped => run.lose_slot_while_stopped(true).await,
            Fault::SlotLost => world.change(WorldState::lose_slot),
            Fault::PublicationMadeAnewWhileStopped => run.make_publication_anew_while_stopped().await,
            Fault::TornDown => world.change(WorldState::tear_down),
            Fault::ParkingFails => {
                world.change(|state| state.postgres.parks_nothing = true);
                run.mend(60_000, |state| state.postgres.parks_nothing = false);
            }
            Fault::BrokerCut => world.change(|state| {
                for id in state.some(|state| state.broker.connections.keys().copied().collect()) {
                    state.cut_broker_connection(id);
                }
            }),
            Fault::BrokerHangs => world.change(|state| {
                for id in state.some(|state| state.broker.connections.keys().copied().collect()) {
                    state.hang_broker_connection(id);
                }
            }),
            Fault::BrokerDown => {
                world.change(|state| {
                    state.broker.down = true;
                    state.cut_all_broker_connections();
                });
                run.mend(3_000, |state| state.broker.down = false);
            }
            Fault::BrokerBlocked => {
                world.change(|state| state.broker.alarm = true);
                run.mend(3_000, |state| state.broker.alarm = false);
            }
            Fault::BrokerReplaced => world.change(|state| {
                state.cut_all_broker_connections();
                state.broker.declared = false;
            }),
            Fault::QueueGone => {
                world.change(|state| state.broker.unbound = true);
                run.mend(2_000, |state| state.broker.unbound = false);
            }
            Fault::BrokerTrouble => {
                world.change(|state| state.broker.trouble = true);
                run.mend(2_000, |state| state.broker.trouble = false);
            }
            Fault::MessagesRefused => {
                world.change(|state| state.broker.lasting.refused = Some(state.routing_key()));
                run.mend(state_lasts(&world), |state| state.broker.lasting.refused = None);
            }
            Fault::ExchangeRefused => {
                world.change(|state| {
                    let exchange = EXCHANGES[state.rng.usize(0..EXCHANGES.len())];
                    state.broker.lasting.another_exchange = Some(exchange);
                    // A connection still knows what it has declared.
                    state.cut_all_broker_connections();
                });
                run.mend(state_lasts(&world), |state| state.broker.lasting.another_exchange = None);
            }
            Fault::ExchangeDeleted => {
                world.change(|state| {
                    let exchange = EXCHANGES[state.rng.usize(0..EXCHANGES.len())];
                    state.broker.lasting.missing = Some(exchange);
                    state.broker.unbound = true;
                });
                run.mend(2_000, |state| state.broker.unbound = false);
            }
            Fault::FenceTaken => {
                world.change(|state| {
                    state.cut_all_broker_connections();
                    state.broker.fence_taken = true;
                });
                run.mend(state_lasts(&world), |state| state.broker.fence_taken = false);
            }
            Fault::QueueFull => {
                world.change(|state| state.broker.lasting.full = Some(state.routing_key()));
                run.mend(state_lasts(&world), |state| state.broker.lasting.full = None);
            }
            Fault::QueueWithoutLeader => {
                world.change(|state| state.broker.lasting.leaderless = Some(state.routing_key()));
                run.mend(state_lasts(&world), WorldState::find_leader);
            }
            Fault::ProcessCrashes => run.crash().await,
            Fault::ProcessEnds => run.end(30_000).await,
            Fault::ProcessEndsInHaste => run.end(300).await,
            Fault::ProcessFreezes => run.freeze_one(),
        }
    }
}

/// Longest duration of such a state, in ms: beyond the last write, or only a moment.
fn state_lasts(world: &World) -> u64 {
    world.look(|state| if state.rng.bool() { 60_000 } else { 2_000 })
}

impl WorldState {
    fn routing_key(&mut self) -> &'static str {
        ROUTING_KEYS[self.rng.usize(0..ROUTING_KEYS.len())]
    }

    /// All of these, or each with a chance of one half.
    fn some(&mut self, of: impl FnOnce(&Self) -> Vec<u64>) -> Vec<u64> {
        let all = of(self);
        if self.rng.bool() {
            return all;
        }
        all.into_iter().filter(|_| self.rng.bool()).collect()
    }

    /// Replaces the data directory by a copy.
    pub(crate) fn replace_data(&mut self, data: DataDirectory) {
        self.end_all_sessions();
        self.postgres.data = data;
        self.postgres.judged.clear();
        let Self { oracle, postgres, .. } = self;
        oracle.history_changed(&postgres.data);
    }
}
