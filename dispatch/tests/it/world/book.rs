//! A ledger that remembers all it was told, and can say no.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex};

use systole_dispatch::Place;
use systole_dispatch::event::{Cursor, Event};
use systole_dispatch::ledger::{Backlog, Changes, Exception, GivenUp, Health, Ledger, LedgerFault};
use systole_dispatch::notice::{DisabledReason, EndpointDisabled};

use super::{Carried, Hook, hook::Deliveries};

#[derive(Debug, Default)]
pub(crate) struct Book {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stored: Stored,
    saved: Vec<Saved>,
    refused: usize,
    fails: bool,
    /// Saves find the disk full.
    is_full: bool,
    /// What frames go by stays as it is.
    refuses_floor: bool,
    /// How many of the next saves panic.
    panics: usize,
    /// Saves wait, and how many do.
    held: Option<usize>,
    switch_offs: Vec<EndpointDisabled>,
    /// How many of the next calls to switch off fail.
    switch_off_failures: usize,
    /// How many of the next calls to switch off panic.
    switch_off_panics: usize,
    watched: Vec<(String, Arc<Deliveries>)>,
}

/// What a restart finds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) routed: u64,
    pub(crate) rows: BTreeMap<String, Cursor>,
    pub(crate) exceptions: BTreeMap<(String, Place), Exception>,
    pub(crate) switched_off: BTreeSet<String>,
    pub(crate) health: BTreeMap<String, Health>,
    pub(crate) backlogs: BTreeMap<(String, u64), Backlog>,
    pub(crate) given_up: Vec<(String, GivenUp)>,
}

/// One save.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub(crate) changes: Changes,
    /// Answers that each watched receiver had given by then.
    answers: Vec<usize>,
}

impl Stored {
    /// As the catalog does it.
    fn apply(&mut self, changes: &Changes) {
        self.routed = changes.routed;
        self.exceptions.retain(|(endpoint, _), _| !changes.wiped.contains(endpoint));
        self.backlogs.retain(|(endpoint, _), _| !changes.wiped.contains(endpoint));
        self.health.retain(|endpoint, _| !changes.wiped.contains(endpoint));
        self.rows.extend(changes.cursors.iter().cloned());
        for endpoint in &changes.caught_up {
            self.rows.remove(endpoint);
        }
        for (endpoint, exception) in &changes.failed {
            self.exceptions.insert((endpoint.clone(), exception.place), exception.clone());
        }
        for settled in &changes.settled {
            self.exceptions.remove(settled);
        }
        for (endpoint, health) in &changes.health {
            match *health == Health::default() {
                true => drop(self.health.remove(endpoint)),
                false => drop(self.health.insert(endpoint.clone(), *health)),
            }
        }
        for (endpoint, backlog) in &changes.backlogs {
            self.backlogs.insert((endpoint.clone(), backlog.number), *backlog);
        }
        for finished in &changes.finished {
            self.backlogs.remove(finished);
        }
        self.given_up.extend(changes.given_up.iter().cloned());
    }
}

impl Book {
    pub(crate) fn stored(&self) -> Stored {
        self.state.lock().unwrap().stored.clone()
    }

    /// What is stored at first.
    pub(crate) fn store(&self, store: impl FnOnce(&mut Stored)) {
        store(&mut self.state.lock().unwrap().stored);
    }

    pub(crate) fn saved(&self) -> Vec<Saved> {
        self.state.lock().unwrap().saved.clone()
    }

    /// Saves that were refused.
    pub(crate) fn refused(&self) -> usize {
        self.state.lock().unwrap().refused
    }

    /// Whether saves fail from now on.
    pub(crate) fn fail(&self, fails: bool) {
        self.state.lock().unwrap().fails = fails;
    }

    /// Whether what frames go by stays as it is from now on.
    pub(crate) fn refuse_floor(&self, refuses: bool) {
        self.state.lock().unwrap().refuses_floor = refuses;
    }

    /// Whether saves find the disk full from now on.
    pub(crate) fn fill(&self, is_full: bool) {
        self.state.lock().unwrap().is_full = is_full;
    }

    /// This many of the next saves panic.
    pub(crate) fn panic(&self, saves: usize) {
        self.state.lock().unwrap().panics = saves;
    }

    /// Saves that are still to panic.
    pub(crate) fn panics(&self) -> usize {
        self.state.lock().unwrap().panics
    }

    /// Endpoints that were switched off, in order.
    pub(crate) fn switch_offs(&self) -> Vec<(String, DisabledReason)> {
        self.disabled().into_iter().map(|disabled| (disabled.endpoint.to_string(), disabled.reason)).collect()
    }

    /// What was stored of them.
    pub(crate) fn disabled(&self) -> Vec<EndpointDisabled> {
        self.state.lock().unwrap().switch_offs.clone()
    }

    /// This many of the next calls to switch off fail.
    pub(crate) fn fail_switch_offs(&self, calls: usize) {
        self.state.lock().unwrap().switch_off_failures = calls;
    }

    /// This many of the next calls to switch off panic.
    pub(crate) fn panic_switch_offs(&self, calls: usize) {
        self.state.lock().unwrap().switch_off_panics = calls;
    }

    /// Saves wait until they are let go.
    pub(crate) fn hold(&self) {
        self.state.lock().unwrap().held = Some(0);
    }

    /// Saves that wait.
    pub(crate) fn held(&self) -> usize {
        self.state.lock().unwrap().held.unwrap_or_default()
    }

    pub(crate) fn let_go(&self) {
        self.state.lock().unwrap().held = None;
        self.opened.notify_all();
    }

    /// Notes at each save how far a receiver is.
    pub(crate) fn watch(&self, endpoint: &str, hook: &Hook) {
        self.state.lock().unwrap().watched.push((endpoint.to_owned(), hook.deliveries_of()));
    }

    /// At each save, no position was past an event that its watched endpoint neither
    /// had answered 2xx nor had saved as failed. All of them want everything.
    pub(crate) fn check_positions(&self, events: &[Event]) {
        let state = self.state.lock().unwrap();
        for (index, (endpoint, deliveries)) in state.watched.iter().enumerate() {
            let deliveries = deliveries.lock().unwrap();
            let mut stored = Stored::default();
            let mut decided: BTreeSet<Place> = BTreeSet::new();
            let mut known = 0;
            for saved in &state.saved {
                stored.apply(&saved.changes);
                let answered = deliveries[known..saved.answers[index]].iter().filter(|one| one.is_success());
                decided.extend(answered.flat_map(|one| &one.events).flat_map(Carried::places));
                known = saved.answers[index];
                let failed = saved.changes.failed.iter().filter(|(failed, _)| failed == endpoint);
                decided.extend(failed.flat_map(|(_, exception)| places_of(exception)));
                let position = stored.rows.get(endpoint).copied();
                let position = position.unwrap_or(Cursor::behind(stored.routed));
                let passed = events.iter().take_while(|event| event.cursor() < position);
                let missing: Vec<&Event> = passed.filter(|event| !decided.contains(&event.place)).collect();
                assert!(missing.is_empty(), "{endpoint} passed {missing:?} with {:?}", saved.changes);
                assert!(
                    saved.changes.floor < position.sequence,
                    "{endpoint} needs {position:?} with {:?}",
                    saved.changes
                );
            }
        }
    }
}

impl Ledger for Book {
    fn save(&self, changes: &Changes) -> Result<bool, LedgerFault> {
        let mut state = self.state.lock().unwrap();
        if let Some(held) = &mut state.held {
            *held += 1;
            state = self.opened.wait_while(state, |state| state.held.is_some()).unwrap();
        }
        if state.panics > 0 {
            state.panics -= 1;
            drop(state);
            panic!("told to panic");
        }
        if state.fails {
            state.refused += 1;
            return Err(LedgerFault::Failed("told to fail".into()));
        }
        if state.is_full {
            return Err(LedgerFault::DiskFull("told to be full".into()));
        }
        state.stored.apply(changes);
        let answers = state.watched.iter().map(|(_, deliveries)| deliveries.lock().unwrap().len()).collect();
        state.saved.push(Saved { changes: changes.clone(), answers });
        Ok(!state.refuses_floor)
    }

    fn switch_off(
        &self,
        disabled: &EndpointDisabled,
        is_ending: &dyn Fn() -> bool,
        ended: &dyn Fn(),
    ) -> Result<bool, LedgerFault> {
        if !is_ending() {
            ended();
            return Ok(false);
        }
        let mut state = self.state.lock().unwrap();
        if state.switch_off_panics > 0 {
            state.switch_off_panics -= 1;
            drop(state);
            panic!("told to panic");
        }
        if state.switch_off_failures > 0 {
            state.switch_off_failures -= 1;
            return Err(LedgerFault::Failed("told to fail".into()));
        }
        state.switch_offs.push(disabled.clone());
        state.stored.switched_off.insert(disabled.endpoint.to_string());
        // A save may have what it locks.
        drop(state);
        ended();
        Ok(true)
    }

    fn given_up(&self, endpoint: &str, sequences: RangeInclusive<u64>) -> Result<Vec<GivenUp>, LedgerFault> {
        let state = self.state.lock().unwrap();
        let own =
            state.stored.given_up.iter().filter(|(of, _)| of == endpoint).map(|(_, given_up)| *given_up);
        let meets = |given_up: &GivenUp| {
            given_up.from.sequence <= *sequences.end() && *sequences.start() <= given_up.through.sequence
        };
        Ok(own.filter(meets).collect())
    }
}

/// The events of an exception.
fn places_of(exception: &Exception) -> Vec<Place> {
    if exception.members.is_empty() {
        return vec![exception.place];
    }
    exception.members.iter().map(|member| member.place).collect()
}
