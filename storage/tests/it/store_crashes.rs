//! A store whose machine stops at each operation of its disk and its catalog, whose
//! disk is full there, or fails there once.

use std::ops::Range;

use systole_storage::AttemptRow;
use systole_storage::hidden::{EVERY_METRIC, RetentionRule};

use super::erasing::{Order, forget_aged, newest_of};
use super::fixture::{Samples, attempt, everything_of, range_of};
use super::machine::{Machine, Promise, Refused, Running, Step, Survivor, all_rows};
use super::simulated_disk::Fault;

const JUNE_2026: i64 = 1_782_805_500_000;
const DAY: i64 = 86_400_000;

/// Power losses tried for each crash beside the kill; more with
/// `SYSTOLE_CRASH_SEEDS`.
fn seeds() -> u64 {
    std::env::var("SYSTOLE_CRASH_SEEDS").map_or(1, |seeds| seeds.parse().unwrap())
}

fn batch(user: u64, metric: &'static str, start: i64, count: i64, value: f64) -> Samples {
    Samples {
        org: org(user),
        user: format!("u_{user}"),
        metric,
        source: "garmin",
        device: user.is_multiple_of(2).then_some("d_1"),
        rows: (0..count).map(|at| (start + 1000 * at, value + at as f64)).collect(),
    }
}

/// Attempts of three messages in a row, over midnight.
fn attempts(round: u32, rows: u32) -> Step {
    let org = if round.is_multiple_of(2) { "acme" } else { "default" };
    let row = |at: u32| AttemptRow {
        at_ms: JUNE_2026 + i64::from(round % 2) * DAY + i64::from(at % 2),
        ..attempt(&format!("ep_{}", at % 2), u64::from(round * 10 + at), at.is_multiple_of(3))
    };
    Step::Attempts(org, (0..rows).map(row).collect())
}

/// Every kind of work, with corrections that cross flushes, periods and restarts.
fn history() -> Vec<Step> {
    let mut steps = Vec::new();
    for round in 0..8_u32 {
        let start = JUNE_2026 + i64::from(round) * 3_000;
        let user = u64::from(round) % 4;
        // Overlaps the round before: its last samples are corrected.
        let mut group = vec![batch(user, "heart_rate", start, 5, f64::from(round) * 100.0)];
        if round % 3 == 1 {
            group.push(batch(1, "heart_rate", JUNE_2026, 3, f64::from(round)));
            group.push(batch(2, "steps", JUNE_2026 - 370 * DAY, 2, 7.0));
        }
        steps.push(Step::Commit(group));
        if round % 3 == 0 {
            steps.push(attempts(round, 3));
        }
        steps.push(Step::Flush);
    }
    steps.extend([attempts(9, 2), Step::Flush, Step::CompactSome, attempts(10, 1), Step::Checkpoint]);
    // More than a segment in one group, more than a buffer until the restart.
    let long = |user| batch(user, "heart_rate", JUNE_2026 + 20 * DAY, 60, 0.5);
    steps.push(Step::Commit((0..4).map(long).collect()));
    steps.push(Step::Commit((0..2).map(long).collect()));
    steps.push(attempts(11, 30));
    steps.push(Step::Restart);
    steps.push(Step::Commit(vec![batch(1, "heart_rate", JUNE_2026 + 1000, 2, -1.0)]));
    steps.extend([Step::Flush, Step::Compact]);
    steps.push(Step::Commit(vec![batch(1, "heart_rate", JUNE_2026, 4, -7.0), batch(5, "steps", 0, 1, 1.0)]));
    steps.extend([Step::Flush, Step::Compact, Step::Checkpoint, Step::Rewrite]);
    steps.push(Step::Commit(vec![batch(2, "steps", JUNE_2026, 2, 3.0)]));
    steps.push(Step::Restart);
    steps
}

/// A user whose name is found wherever it is left.
fn named(user: u64, metric: &'static str, start: i64, count: i64, value: f64) -> Samples {
    Samples { user: name(user), ..batch(user, metric, start, count, value) }
}

fn name(user: u64) -> String {
    format!("user_number_{user}")
}

fn erase(user: u64, block: bool) -> Step {
    Step::Erase(Order { org: org(user), erased: everything_of(&name(user), block) })
}

/// Deletes heart rates of one user.
fn delete(user: u64, times: Range<i64>) -> Step {
    Step::Erase(Order { org: org(user), erased: range_of(Some(&name(user)), Some("heart_rate"), times) })
}

/// Deletes samples of all users of an organisation, of one metric or of all.
fn delete_of_all(org: &'static str, metric: Option<&str>, times: Range<i64>) -> Step {
    Step::Erase(Order { org, erased: range_of(None, metric, times) })
}

fn org(user: u64) -> &'static str {
    if user.is_multiple_of(3) { "acme" } else { "default" }
}

/// Attempts about users of one organisation, of messages that stand in frame `sequence`.
fn attempts_about(org: &'static str, users: &[u64], sequence: u64) -> Step {
    let row = |(at, user): (i64, &u64)| AttemptRow {
        at_ms: JUNE_2026 + at,
        user: Some(name(*user)),
        ..attempt("ep_1", sequence, true)
    };
    Step::Attempts(org, (0..).zip(users).map(row).collect())
}

/// Orders of each kind, of what lies in files of periods, in runs, in the journal and
/// in checkpoints; with what others and the same users have beside, before and behind.
fn erasures() -> Vec<Step> {
    vec![
        everyone(JUNE_2026, 1.0),
        Step::Flush,
        Step::Compact,
        Step::Checkpoint,
        everyone(JUNE_2026 + 2_000, 2.0),
        attempts_about("default", &[1, 2, 4], 0),
        attempts_about("acme", &[3], 0),
        Step::Flush,
        everyone(JUNE_2026 + 4_000, 3.0),
        attempts_about("default", &[1, 1, 2], 0),
        erase(1, false),
        // Of a message from before.
        attempts_about("default", &[1, 2, 4], 2),
        // Its newest samples, and one of the second batch.
        delete(2, JUNE_2026 + 5_000..i64::MAX),
        Step::Commit(vec![named(1, "steps", JUNE_2026 + 1_000, 2, 4.0)]),
        erase(3, true),
        // On its way in that moment.
        Step::Commit(vec![named(3, "steps", JUNE_2026 + 9_000, 1, 4.0)]),
        attempts_about("acme", &[3], 0),
        Step::Restart,
        Step::CarryOut,
        attempts_about("default", &[1, 2, 4], 0),
        Step::Commit(vec![named(2, "heart_rate", JUNE_2026 + 5_000, 1, 5.0)]),
        erase(1, false),
        delete(2, JUNE_2026..JUNE_2026 + 2_500),
        Step::CarryOut,
        Step::Flush,
        Step::Compact,
        Step::Restart,
    ]
}

/// Samples of two metrics of users of both organisations.
fn everyone(start: i64, value: f64) -> Step {
    let metrics = |user| [named(user, "heart_rate", start, 4, value), named(user, "steps", start, 2, value)];
    Step::Commit((1..=4).flat_map(metrics).collect())
}

/// Orders about all users of an organisation, wherever their samples lie: of a metric from
/// the middle of what there is, of all metrics up to the newest, and beside orders about
/// single users.
fn deletions_of_all_users() -> Vec<Step> {
    vec![
        everyone(JUNE_2026, 1.0),
        Step::Flush,
        Step::Compact,
        Step::Checkpoint,
        everyone(JUNE_2026 + 2_000, 2.0),
        Step::Flush,
        everyone(JUNE_2026 + 4_000, 3.0),
        delete_of_all("default", Some("heart_rate"), JUNE_2026 + 1_000..JUNE_2026 + 5_000),
        // Sent after it for the deleted time: the same key again, and another.
        Step::Commit(vec![named(2, "heart_rate", JUNE_2026 + 3_000, 1, 4.0)]),
        Step::Commit(vec![named(4, "heart_rate", JUNE_2026 + 3_500, 1, 4.0)]),
        Step::Flush,
        delete_of_all("acme", None, JUNE_2026 + 4_000..i64::MAX),
        Step::CompactSome,
        Step::Restart,
        Step::CarryOut,
        Step::Commit(vec![named(1, "heart_rate", JUNE_2026 + 1_000, 2, 5.0)]),
        delete_of_all("default", None, JUNE_2026..JUNE_2026 + 2_500),
        delete(4, JUNE_2026 + 5_000..i64::MAX),
        erase(2, false),
        Step::Commit(vec![named(3, "steps", JUNE_2026 + 9_000, 1, 6.0)]),
        Step::CarryOut,
        Step::Flush,
        Step::Compact,
        Step::Restart,
    ]
}

/// Runs the steps until the machine stops.
fn run_until_crash(machine: &Machine, steps: &[Step], promise: &mut Promise) {
    let Ok(mut running) = machine.start() else { return };
    for step in steps {
        if let Step::Restart = step {
            drop(running);
            match machine.start() {
                Ok(restarted) => running = restarted,
                Err(_) => return,
            }
            continue;
        }
        let done = running.run(step, promise);
        if running.has_crashed() {
            return;
        }
        done.unwrap_or_else(|error| panic!("{step:?}: {error:?}"));
    }
}

fn start(machine: &Machine, what: &str) -> Running {
    machine.start().unwrap_or_else(|error| panic!("{what}: {error:?}"))
}

/// Starts a machine that was stopped, twice, and lets it go on; at last what was ordered
/// is carried out.
fn check_restart(stopped: &Machine, power_loss: Option<u64>, mut promise: Promise, what: &str) {
    let what = format!("{what}, {power_loss:?}");
    let machine = stopped.after(power_loss);
    let mut running = start(&machine, &what);
    running.check(&mut promise, &what);
    running.check_erased(&machine, &promise, &what);
    machine.check_files(&running, &what);
    // What the start made of it survives the next loss.
    drop(running);
    let machine = machine.after(power_loss.map(|seed| seed + 1));
    running = start(&machine, &what);
    running.check(&mut promise, &format!("{what}, again"));
    machine.check_files(&running, &what);
    let more = Step::Commit(vec![batch(1, "heart_rate", JUNE_2026 + 2000, 3, 5.0)]);
    for step in [more, Step::Flush, Step::Compact, Step::CarryOut] {
        running.run(&step, &mut promise).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        running.check(&mut promise, &format!("{what}, then {step:?}"));
    }
    running.check_erased(&machine, &promise, &what);
    machine.check_files(&running, &what);
    drop(running);
    let machine = machine.after(power_loss.map(|seed| seed + 2));
    // Before anything could remove it once more.
    machine.check_without(&promise, &format!("{what}, erased and lost"));
    start(&machine, &what).check(&mut promise, &format!("{what}, at last"));
}

/// Stops a machine at each operation of a history; returns how many there are.
fn stop_everywhere(steps: &[Step]) -> usize {
    let mut stops = 0;
    for operation in 0.. {
        let machine = Machine::default();
        machine.disk.fault_at(operation, Fault::Crash);
        let mut promise = Promise::default();
        run_until_crash(&machine, steps, &mut promise);
        if !machine.disk.has_crashed() {
            break;
        }
        stops += 1;
        let what = format!("operation {operation}");
        check_restart(&machine, None, promise.clone(), &what);
        for seed in 0..seeds() {
            check_restart(&machine, Some(seed * 1000 + operation as u64), promise.clone(), &what);
        }
    }
    println!("{stops} operations");
    stops
}

#[test]
fn a_store_is_whole_after_a_stop_at_every_operation() {
    let stops = stop_everywhere(&history());
    assert!(stops > 200, "only {stops} operations");
}

#[test]
fn an_erasure_is_carried_out_to_the_end_after_a_stop_at_every_operation() {
    let stops = stop_everywhere(&erasures());
    assert!(stops > 400, "only {stops} operations");
}

#[test]
fn a_deletion_of_all_users_is_carried_out_to_the_end_after_a_stop_at_every_operation() {
    let stops = stop_everywhere(&deletions_of_all_users());
    assert!(stops > 350, "only {stops} operations");
}

/// What a flush left that was stopped is removed by a start that brings the journal into files
/// in other pieces, before the machine stops again.
#[test]
fn what_a_start_removed_does_not_come_back_after_a_stop_at_every_operation_behind_it() {
    let long = |user| batch(user, "heart_rate", JUNE_2026 + 20 * DAY, 60, 0.5);
    let mut steps = vec![attempts(1, 3)];
    steps.extend((0..4).map(|user| Step::Commit(vec![long(user), long(user + 4)])));
    steps.push(attempts(2, 3));
    let (mut flushes, mut stops) = (0, 0);
    for first in 0.. {
        let (machine, mut promise) = (Machine::default(), Promise::default());
        let mut running = start(&machine, "new");
        for step in &steps {
            running.run(step, &mut promise).unwrap();
        }
        machine.disk.fault_at(first, Fault::Crash);
        let _stopped = running.run(&Step::Flush, &mut promise);
        if !machine.disk.has_crashed() {
            break;
        }
        flushes += 1;
        drop(running);
        // All of them take minutes: they are stopped at where more power losses are tried.
        let each = if seeds() > 1 { 1 } else { 5 };
        for second in (first % each..).step_by(each) {
            let (machine, mut promise) = (machine.after(None), promise.clone());
            machine.disk.fault_at(second, Fault::Crash);
            run_until_crash(&machine, &[Step::Flush], &mut promise);
            if !machine.disk.has_crashed() {
                break;
            }
            stops += 1;
            let what = format!("operation {first} of a flush, {second} of the start behind it");
            for seed in 0..seeds() {
                check_restart(&machine, Some(seed * 1000 + second as u64), promise.clone(), &what);
            }
        }
    }
    println!("{flushes} operations of a flush, {stops} of the starts behind them");
    assert!(flushes > 10 && stops > 50, "only {flushes} and {stops} operations");
}

/// Samples of 1970, and rules that keep them, drop them and keep what is left of them.
fn age(machine: &Machine) -> Result<(), Refused> {
    const OLD: i64 = 1_000;
    let rule = RetentionRule { metric: EVERY_METRIC.to_owned(), days: Some(20_000) };
    let (mut running, mut promise) = (machine.start()?, Promise::default());
    let mut run = |running: &mut Running, steps: &[Step]| {
        steps.iter().try_for_each(|step| running.run(step, &mut promise))
    };
    let later = Step::Commit(vec![named(1, "heart_rate", JUNE_2026, 3, 2.0)]);
    run(&mut running, &[everyone(OLD, 1.0), Step::Flush, Step::Checkpoint, later, Step::Flush])?;
    for org in ["default", "acme"] {
        running.store.set_retention(org, vec![rule.clone()])?;
    }
    let hidden = Step::Commit(vec![named(4, "steps", OLD + 500, 1, 3.0), named(2, "steps", OLD, 1, 3.0)]);
    run(&mut running, &[Step::Compact, hidden, Step::Checkpoint])?;
    running.store.set_retention("default", Vec::new())?;
    forget_aged(&running)?;
    run(&mut running, &[Step::Flush, Step::Compact])?;
    drop(running);
    running = machine.start()?;
    running.store.set_retention("acme", Vec::new())?;
    forget_aged(&running)?;
    Ok(())
}

/// Checks that a newest value has its sample, unless it is known that it may be gone.
fn check_aged(running: &Running, what: &str) {
    let hidden = running.store.hidden();
    let rows = all_rows(&running.store.snapshot(), &hidden, what);
    for (user, metric) in (1..=4).flat_map(|user| [(user, "heart_rate"), (user, "steps")]) {
        let (org, user) = (org(user), name(user));
        let latest = running.store.series().latest(org, &user).unwrap();
        let told = latest.iter().find(|value| value.metric == metric).map(|value| value.recorded_at);
        let there = newest_of(&rows, org, &user, metric).map(|newest| newest.recorded_at);
        let asked = told.is_some_and(|time| hidden.may_be_dropped(org, metric, time));
        assert!(asked || told == there, "{what}: {user} {metric}: {told:?}, and {there:?} is there");
    }
}

#[test]
fn a_value_whose_sample_age_took_is_known_to_be_gone_after_a_stop_at_every_operation() {
    let mut stops = 0;
    for operation in 0.. {
        let machine = Machine::default();
        machine.disk.fault_at(operation, Fault::Crash);
        let aged = age(&machine);
        if !machine.disk.has_crashed() {
            aged.unwrap();
            break;
        }
        stops += 1;
        for power_loss in [None, Some(operation as u64)] {
            let what = format!("operation {operation}, {power_loss:?}");
            let machine = machine.after(power_loss);
            let running = start(&machine, &what);
            check_aged(&running, &what);
            for org in ["default", "acme"] {
                running.store.set_retention(org, Vec::new()).unwrap();
                check_aged(&running, &format!("{what}, {org} kept"));
            }
            forget_aged(&running).unwrap();
            check_aged(&running, &format!("{what}, swept"));
            drop(running);
            check_aged(&start(&machine, &what), &format!("{what}, again"));
        }
    }
    assert!(stops > 100, "only {stops} operations");
}

/// The states in which every seventh operation left a machine: torn journals, files
/// half written, transactions not made.
#[test]
fn a_store_is_whole_after_a_stop_at_every_operation_of_a_start() {
    let steps = history();
    let mut stops = 0;
    for operation in (0..).step_by(7) {
        let machine = Machine::default();
        machine.disk.fault_at(operation, Fault::Crash);
        let mut promise = Promise::default();
        run_until_crash(&machine, &steps, &mut promise);
        if !machine.disk.has_crashed() {
            break;
        }
        for again in 0.. {
            let seed = (operation * 100 + again) as u64;
            let restarted = machine.after(Some(seed));
            restarted.disk.fault_at(again, Fault::Crash);
            let started = restarted.start();
            if !restarted.disk.has_crashed() {
                break;
            }
            assert!(started.is_err() || again > 0, "a start that was stopped went on");
            drop(started);
            stops += 1;
            let what = format!("operation {operation}, then {again}");
            let restarted = restarted.after((again % 3 > 0).then_some(seed + 1));
            let running = start(&restarted, &what);
            running.check(&mut promise.clone(), &what);
            restarted.check_files(&running, &what);
        }
    }
    assert!(stops > 100, "only {stops} operations");
}

/// Runs the history with a fault at each operation; returns how many steps reported
/// it, and how many of these that the disk was full.
fn steps_are_tried_again(steps: &[Step], fault: Fault) -> (usize, usize) {
    let (mut reported, mut full) = (0, 0);
    for operation in 0.. {
        let mut survivor = Survivor::new(format!("{fault:?} at operation {operation}"));
        survivor.machine.disk.fault_at(operation, fault);
        steps.iter().for_each(|step| survivor.run(step));
        survivor.finish();
        if !survivor.had_fault {
            break;
        }
        reported += survivor.refusals;
        full += survivor.full;
    }
    println!("{fault:?}: {reported} reported, {full} as full");
    (reported, full)
}

#[test]
fn a_failure_at_any_operation_is_reported_and_the_step_can_be_done_again() {
    let (reported, full) = steps_are_tried_again(&history(), Fault::Fail);
    assert!(reported > 150 && full == 0, "{reported} reported, {full} as full");
}

#[test]
fn a_full_disk_at_any_operation_is_told_and_heals() {
    let (reported, full) = steps_are_tried_again(&history(), Fault::Full);
    assert!(reported > 150 && full > 100, "{reported} reported, {full} as full");
}

#[test]
fn an_erasure_that_met_a_failure_or_a_full_disk_can_be_carried_out_again() {
    let (reported, full) = steps_are_tried_again(&erasures(), Fault::Fail);
    assert!(reported > 450 && full == 0, "{reported} reported, {full} as full");
    let (reported, full) = steps_are_tried_again(&erasures(), Fault::Full);
    assert!(reported > 450 && full > 350, "{reported} reported, {full} as full");
}

#[test]
fn a_deletion_of_all_users_that_met_a_failure_or_a_full_disk_can_be_carried_out_again() {
    let (reported, full) = steps_are_tried_again(&deletions_of_all_users(), Fault::Fail);
    assert!(reported > 300 && full == 0, "{reported} reported, {full} as full");
    let (reported, full) = steps_are_tried_again(&deletions_of_all_users(), Fault::Full);
    assert!(reported > 300 && full > 250, "{reported} reported, {full} as full");
}

#[test]
fn while_the_disk_is_full_everything_is_read_and_no_try_leaves_anything() {
    let steps = history();
    let machine = Machine::default();
    let mut promise = Promise::default();
    let mut running = machine.start().unwrap();
    for step in steps.iter().filter(|step| !matches!(step, Step::Restart | Step::Compact)) {
        running.run(step, &mut promise).unwrap();
    }
    // A run to be merged.
    running.run(&Step::Flush, &mut promise).unwrap();
    machine.disk.set_full(true);
    let more = |round: i64| Step::Commit(vec![batch(1, "heart_rate", JUNE_2026 + round * 500, 20, 4.0)]);
    let mut refused = 0;
    for round in 0..20 {
        // Until the segment that was there before is used up.
        if let Err(error) = running.run(&more(round), &mut promise) {
            assert!(error.is_full(), "{error:?}");
            promise.on_its_way.clear();
            refused += 1;
        }
        for step in [Step::Flush, Step::Compact] {
            let error = running.run(&step, &mut promise).unwrap_err();
            assert!(error.is_full(), "{step:?}: {error:?}");
        }
        running.check(&mut promise, "full");
        machine.check_files(&running, "full");
    }
    assert!(refused > 10 && refused < 20, "{refused} refused");
    // A start needs no room, and goes on from memory.
    drop(running);
    running = start(&machine, "full");
    running.check(&mut promise, "full, restarted");
    machine.disk.set_full(false);
    for step in [more(30), Step::Flush, Step::Compact, more(31)] {
        running.run(&step, &mut promise).unwrap();
        running.check(&mut promise, "room again");
    }
    machine.check_files(&running, "room again");
}
