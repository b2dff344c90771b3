//! The saver: what of the lanes must survive a crash, gathered every 200 ms and saved
//! in one transaction.
//!
//! A save that fails, or panics, loses nothing: the lanes that it looked at are looked
//! at by the next one too. Only a stop ends it.
//!
//! With thousands of lanes that wait for receivers that do not answer it takes some
//! milliseconds, in which others would wait for its core though it gives way: a thread
//! that runs has its slice. So it offers its core on its way (see `crew`), as the ledger
//! does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;

use crate::client::chain;
use crate::crew::offer_core;
use crate::dispatcher::Shared;
use crate::event::Cursor;
use crate::lane::{Collected, Lane, Positions, Rest};
use crate::ledger::{Changes, LedgerFault, SAVE_INTERVAL};
use crate::notice::Notice;

/// Lanes looked at before the core is offered.
const LANES_AT_ONCE: usize = 64;

/// What a save takes for the position and the floor that all share.
const POSITION_STATEMENTS: u64 = 2;

/// What came of a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Save {
    /// All is durable that lanes had to keep when it began.
    Done,
    /// Nothing was written: the disk was full.
    DiskFull,
    /// Nothing was written: it failed otherwise or panicked, or the server has stopped.
    Failed,
}

/// What saving remembers.
#[derive(Debug)]
pub(crate) struct Saver {
    /// The position of lanes without a row, as the ledger has it.
    saved: Cursor,
    /// The positions that were saved last, unless frames still go by others.
    last: Option<(u64, u64)>,
    /// The first frame that each lane needs that has nothing to save, if it needs one.
    resting: HashMap<Arc<str>, u64>,
    /// The agenda is empty for good.
    has_ended: bool,
}

impl Saver {
    /// One that begins where the ledger has the router.
    pub(crate) fn new(saved: Cursor) -> Saver {
        Saver { saved, last: None, resting: HashMap::new(), has_ended: false }
    }

    /// Whether the ledger does not have it.
    fn is_new(&self, changes: &Changes) -> bool {
        changes.row_count() > 0 || self.last != Some((changes.routed, changes.floor))
    }

    /// Finds the positions that hold for all lanes.
    fn place(&mut self, lanes: &[Arc<Lane>], collected: &[Collected], routed: Cursor, changes: &mut Changes) {
        for lane in lanes {
            self.resting.remove(&lane.id);
        }
        let holds = collected.iter().filter_map(|lane| lane.holds).min().unwrap_or(routed).min(routed);
        changes.routed = holds.sequence.saturating_sub(1);
        let needs = collected.iter().map(|lane| lane.needs).chain(self.resting.values().copied());
        changes.floor = needs.min().unwrap_or(u64::MAX).min(holds.sequence).saturating_sub(1);
    }
}

impl Shared {
    /// Gathers what must survive a crash and saves it, if there is anything new. What
    /// fails is said.
    pub(crate) fn save(&self) -> Save {
        catch_unwind(AssertUnwindSafe(|| self.gather_and_save())).unwrap_or_else(|_| {
            tracing::error!("saving delivery positions panicked, trying again");
            Save::Failed
        })
    }

    fn gather_and_save(&self) -> Save {
        let mut saver = self.saver.lock();
        if saver.has_ended {
            return Save::Failed;
        }
        let now_ms = self.clock.now_ms();
        // Before the lanes: what was offered before it is in those that are open.
        let routed = *self.routed.lock();
        let mut open = self.agenda.take_open();
        let mut changes = Changes::default();
        let at = Positions { routed, saved: saver.saved };
        let mut collected = Vec::with_capacity(open.lanes.len());
        for lanes in open.lanes.chunks(LANES_AT_ONCE) {
            collected.extend(lanes.iter().map(|lane| lane.collect(at, &mut changes, now_ms)));
            offer_core();
        }
        saver.place(&open.lanes, &collected, routed, &mut changes);
        // What is decided here is in the delivery log then, also after a crash.
        if saver.is_new(&changes) && !self.deliveries.settle() {
            tracing::warn!(
                "attempts are long on their way into the journal, positions are saved before them"
            );
        }
        let written = self.write(&mut saver, &changes);
        if written != Save::Done {
            return written;
        }
        let saved = Cursor::behind(changes.routed);
        saver.saved = saved;
        let notices = std::mem::take(&mut changes.notices);
        for (lane, collected) in open.lanes.iter().zip(&collected) {
            lane.saved(collected, &changes, now_ms);
        }
        for failed in notices {
            self.notices.publish(Notice::MessageFailed(failed));
        }
        let mut busy = collected.iter().map(|lane| lane.is_busy);
        open.lanes.retain(|lane| {
            // Not asked again: that costs as much as to look at it.
            if busy.next() == Some(true) {
                return true;
            }
            match lane.rest(saved) {
                Rest::Busy => true,
                Rest::Needs(sequence) => {
                    saver.resting.insert(lane.id.clone(), sequence);
                    false
                }
                Rest::Idle => false,
            }
        });
        Save::Done
    }

    /// Ends saving. Whoever saves later would find no lanes, and take all that was routed
    /// for decided.
    pub(crate) fn end_saving(&self) {
        let mut saver = self.saver.lock();
        saver.has_ended = true;
        self.agenda.clear();
    }

    /// Has the ledger write what changed, if anything did.
    fn write(&self, saver: &mut Saver, changes: &Changes) -> Save {
        if !saver.is_new(changes) {
            return Save::Done;
        }
        let has_floor = match self.ledger.save(changes) {
            Ok(has_floor) => has_floor,
            Err(fault) => {
                tracing::error!(error = chain(&fault), "delivery positions could not be saved, trying again");
                return match fault {
                    LedgerFault::DiskFull(_) => Save::DiskFull,
                    LedgerFault::Failed(_) => Save::Failed,
                };
            }
        };
        saver.last = has_floor.then_some((changes.routed, changes.floor));
        let positions = if self.lanes.lock().is_empty() { 0 } else { POSITION_STATEMENTS };
        let rows = changes.row_count() as u64;
        self.counters.statements.fetch_add(rows + positions, Ordering::Relaxed);
        Save::Done
    }
}

/// Saves until the server stops, on a thread of its own that gives way to those that
/// deliver: with many failures to keep it takes the CPU for milliseconds.
pub(crate) fn save_often(shared: &Shared) {
    while !shared.is_stopping() {
        // It says itself how that went, and what failed is saved by the next one.
        shared.save();
        std::thread::park_timeout(SAVE_INTERVAL);
    }
}
