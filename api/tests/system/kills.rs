//! `kill -9` at random moments under load: what was acknowledged is there, once.

use std::time::Duration;

use crate::ledger::Random;
use crate::load::Fleet;
use crate::server::{Stopped, announce, data_files, systole};

const CYCLES: u64 = 5;
const SEED: u64 = 0x5e11_e5ee;
const WRITERS: usize = 8;
/// When a server is killed, counted from the first request.
const KILL_AFTER_MS: std::ops::Range<u64> = 50..800;
/// In every which cycle the kill waits for a compaction under load: on a busy machine
/// it mostly comes before one is done.
const COMPACTED_EVERY: u64 = 5;
/// Of this many restarts one is itself killed, while it recovers.
const KILLED_RECOVERY_EVERY: u64 = 3;
const RECOVERY_KILL_MS_MAX: u64 = 80;

#[test]
fn acknowledged_samples_are_there_once_after_kills_at_random_moments() {
    let (cycles, seed) = (number("SYSTOLE_KILL_CYCLES", CYCLES), number("SYSTOLE_KILL_SEED", SEED));
    let (mut random, mut fleet) = (Random(seed), Fleet::new(WRITERS, seed));
    let mut stopped = always_flushing();
    for cycle in 1..=cycles {
        let moment = KILL_AFTER_MS.start + random.below(KILL_AFTER_MS.end - KILL_AFTER_MS.start);
        stopped = fleet.load(stopped.start(), |server, signals| {
            if cycle % COMPACTED_EVERY == 0 {
                signals.await_compaction();
            }
            std::thread::sleep(Duration::from_millis(moment));
            signals.expect_cut();
            server.kill()
        });
        stopped.assert_sound(&format!("after kill {cycle} at {moment} ms of seed {seed}"));
        if cycle % KILLED_RECOVERY_EVERY == 0 {
            stopped.start_and_kill_after(Duration::from_millis(random.below(RECOVERY_KILL_MS_MAX)));
        }
        let server = stopped.start();
        fleet.check(&server, &format!("after kill {cycle} at {moment} ms of seed {seed}"));
        stopped = server.kill();
    }
    let files = check_files(stopped, &mut fleet);
    let counts = fleet.counts();
    let flushes = fleet.flushes();
    let compactions = fleet.compactions();
    assert!(counts.batches > 0 && counts.corrections > 0 && flushes > 0, "{counts:?}, {flushes} flushes");
    assert!(cycles < COMPACTED_EVERY || compactions > 0, "no compaction was asked for and done");
    announce(&format!(
        "kills: {cycles} cycles of seed {seed}, {flushes} flushes and {compactions} compactions asked for and done, {files} files, {counts:?}"
    ));
}

/// Small segments and buffers, so that rolls and flushes are under way all the time.
fn always_flushing() -> Stopped {
    systole()
        .set("SYSTOLE_STORAGE_SEGMENT_BYTES", "1 MiB")
        .set("SYSTOLE_STORAGE_FLUSH_BYTES", "256 KiB")
        .set("SYSTOLE_STORAGE_FLUSH_INTERVAL_SECONDS", "0.2")
}

/// Everything is still there when all of it is in files, and no other file is.
fn check_files(stopped: Stopped, fleet: &mut Fleet) -> usize {
    let server = stopped.start();
    server.flush();
    fleet.check(&server, "after the last flush");
    let server = server.kill().start();
    fleet.check(&server, "from files alone");
    server.compact();
    fleet.check(&server, "after the last compaction");
    assert_eq!(server.figure("systole_runs"), 0.0);
    // A query that was just answered may be a replaced file's last reader.
    let stopped = server.kill();
    stopped.assert_sound("after the last compaction");
    let server = stopped.start();
    let count = |folder: &str| data_files(&server.data_dir().join(folder)).len();
    let files = count("samples") + count("runs");
    assert_eq!(files as f64, server.figure("systole_files"), "files that no catalog lists");
    fleet.check(&server, "from compacted files alone");
    files
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}
