//! Writers with a ledger each, and somebody who asks for flushes and compactions all
//! the time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Answer, Caller};
use crate::ledger::{Counts, Ledger};
use crate::server::Server;

const BULK: &str = "/api/v1/wearables/bulk-ingest";
/// How long a writer rests after 429.
const REST: Duration = Duration::from_millis(5);
/// Pause between two flushes that are asked for.
const FLUSH_PAUSE: Duration = Duration::from_millis(20);
/// How long a compaction may take under load on a busy machine.
const COMPACTION_MAX: Duration = Duration::from_secs(60);
/// Every which of them is a compaction instead.
const COMPACT_EVERY: u64 = 3;

/// Writers, one connection each.
pub(crate) struct Fleet {
    ledgers: Vec<Ledger>,
    flushes: AtomicU64,
    compactions: AtomicU64,
}

/// What the one who ends the load tells the writers.
#[derive(Default)]
pub(crate) struct Signals {
    cut_expected: AtomicBool,
    enough: AtomicBool,
    compacted: AtomicBool,
}

/// Whether a writer goes on.
#[derive(PartialEq)]
enum Next {
    Write,
    End,
}

impl Signals {
    /// From now on connections may end and requests be refused.
    pub(crate) fn expect_cut(&self) {
        self.cut_expected.store(true, Ordering::SeqCst);
    }

    /// Writers end after the request they are in.
    pub(crate) fn end(&self) {
        self.enough.store(true, Ordering::SeqCst);
    }

    pub(crate) fn ended(&self) -> bool {
        self.enough.load(Ordering::SeqCst)
    }

    /// Waits until a compaction was done under this load.
    pub(crate) fn await_compaction(&self) {
        let deadline = Instant::now() + COMPACTION_MAX;
        while !self.compacted.load(Ordering::SeqCst) {
            assert!(Instant::now() < deadline, "no compaction was done in {COMPACTION_MAX:?}");
            thread::sleep(FLUSH_PAUSE);
        }
    }

    fn is_cut_expected(&self) -> bool {
        self.cut_expected.load(Ordering::SeqCst)
    }
}

impl Fleet {
    pub(crate) fn new(writers: usize, seed: u64) -> Fleet {
        let ledgers = (0..writers).map(|writer| Ledger::new(writer, seed)).collect();
        Fleet { ledgers, flushes: AtomicU64::new(0), compactions: AtomicU64::new(0) }
    }

    /// Loads the server until `end` has ended it, or has told the writers to end.
    pub(crate) fn load<R>(&mut self, server: Server, end: impl FnOnce(Server, &Signals) -> R) -> R {
        let signals = Signals::default();
        let (operator, flushes, compactions) = (server.operator(), &self.flushes, &self.compactions);
        thread::scope(|scope| {
            for ledger in &mut self.ledgers {
                scope.spawn(|| write(&operator, ledger, &signals));
            }
            scope.spawn(|| flush(&operator, flushes, compactions, &signals));
            end(server, &signals)
        })
    }

    /// Compares every series with its ledger.
    pub(crate) fn check(&mut self, server: &Server, when: &str) {
        for ledger in &mut self.ledgers {
            ledger.check(&server.operator(), when);
        }
    }

    /// What each writer was told.
    pub(crate) fn ledgers(&self) -> &[Ledger] {
        &self.ledgers
    }

    pub(crate) fn counts(&self) -> Counts {
        self.ledgers.iter().map(|ledger| ledger.counts).fold(Counts::default(), |sum, one| Counts {
            batches: sum.batches + one.batches,
            points: sum.points + one.points,
            corrections: sum.corrections + one.corrections,
            refused: sum.refused + one.refused,
            unanswered_stored: sum.unanswered_stored + one.unanswered_stored,
            unanswered_lost: sum.unanswered_lost + one.unanswered_lost,
        })
    }

    /// Flushes that were asked for and done.
    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::SeqCst)
    }

    /// Compactions that were asked for and done.
    pub(crate) fn compactions(&self) -> u64 {
        self.compactions.load(Ordering::SeqCst)
    }
}

fn write(caller: &Caller, ledger: &mut Ledger, signals: &Signals) {
    let Ok(mut connection) = caller.connect() else {
        assert!(signals.is_cut_expected(), "a running server accepts connections");
        return;
    };
    while !signals.ended() {
        let plan = ledger.plan();
        match connection.post(BULK, &ledger.body(plan)) {
            Ok(answer) if answer.status == 200 => {
                ledger.acknowledge(plan);
                if answer.closes {
                    return;
                }
            }
            Ok(answer) => {
                ledger.refuse();
                if after_refusal(&answer, signals) == Next::End {
                    return;
                }
            }
            Err(fault) => {
                assert!(signals.is_cut_expected(), "a running server answered nothing: {fault}");
                return ledger.doubt(plan);
            }
        }
    }
}

/// Refusals that promise that nothing was stored.
fn after_refusal(answer: &Answer, signals: &Signals) -> Next {
    match answer.status {
        429 => {
            thread::sleep(REST);
            Next::Write
        }
        503 if signals.is_cut_expected() && answer.text().contains("\"stopping\"") => Next::End,
        507 => {
            signals.end();
            Next::End
        }
        status => panic!("{status} under load: {}", answer.text()),
    }
}

fn flush(caller: &Caller, flushes: &AtomicU64, compactions: &AtomicU64, signals: &Signals) {
    let Ok(mut connection) = caller.connect() else { return };
    for round in 1.. {
        if signals.ended() {
            return;
        }
        let (path, done) = match (round - 1) % COMPACT_EVERY {
            0 => ("/api/v1/admin/compact", compactions),
            _ => ("/api/v1/admin/flush", flushes),
        };
        let Ok(answer) = connection.post(path, b"") else { return };
        match answer.status {
            200 => {
                done.fetch_add(1, Ordering::SeqCst);
                signals.compacted.fetch_or(std::ptr::eq(done, compactions), Ordering::SeqCst);
            }
            507 => return,
            503 if signals.is_cut_expected() => return,
            status => panic!("{status} for {path}: {}", answer.text()),
        };
        thread::sleep(FLUSH_PAUSE);
    }
}
