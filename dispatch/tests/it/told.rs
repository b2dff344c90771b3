//! What operators are told of faults: also what caused them.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use systole_dispatch::dispatcher::ManualFault;
use systole_dispatch::event::Cursor;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::world::{Hook, World, comes_within};

const SOON: Duration = Duration::from_secs(30);
/// One test listens at a time: whether a line is of interest is decided for the process.
static LISTENING: Mutex<()> = Mutex::new(());

/// The log of one thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn has(&self, what: &str, why: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line.contains(what) && line.contains(why))
    }
}

impl Subscriber for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A message and its fields.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

#[test]
fn a_router_that_cannot_read_the_journal_says_why() {
    let _listening = LISTENING.lock().unwrap();
    let (world, hook) = (World::new(), Hook::willing());
    let run = world.endpoint("ep_1", &hook.url()).start_without_router();
    world.log.append_many(1, 1);
    world.log.fail(1);
    let (lines, dispatcher) = (Lines::default(), run.dispatcher.clone());
    let told = lines.clone();
    let router = std::thread::spawn(move || {
        tracing::subscriber::with_default(told, || {
            tracing::callsite::rebuild_interest_cache();
            dispatcher.route(|_| Some(0));
        });
    });
    assert!(comes_within(SOON, || hook.count() == 1));
    run.stop();
    router.join().unwrap();
    assert!(lines.has("the router cannot read the journal", "told to fail"));
}

#[test]
fn who_cannot_save_where_deliveries_are_says_why() {
    let _listening = LISTENING.lock().unwrap();
    let (world, hook) = (World::new(), Hook::willing());
    world.log.append_many(1, 1);
    world.book.store(|stored| stored.routed = 1);
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.book.fail(true);
    let lines = Lines::default();
    let is_told = || lines.has("delivery positions could not be saved", "told to fail");
    tracing::subscriber::with_default(lines.clone(), || {
        // Another thread may be the first to come by the line, and nobody listens there.
        assert!(comes_within(SOON, || {
            tracing::callsite::rebuild_interest_cache();
            let asked = run.dispatcher.recover("ep_1", Cursor::behind(0), Cursor::behind(1));
            assert_eq!(asked, Err(ManualFault::Unsaved));
            is_told()
        }));
    });
    world.book.fail(false);
    run.stop();
}
