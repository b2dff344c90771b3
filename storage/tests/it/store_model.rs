//! A store on a machine that stops, fails and fills up, against a plain map: any order
//! of commits, corrections, attempts, flushes, merges, checkpoints, orders to erase, restarts
//! and faults leaves what the map has.

use proptest::prelude::*;

use systole_storage::frame::AttemptRow;

use super::erasing::Order;
use super::fixture::{Samples, attempt, everything_of, range_of};
use super::machine::{Step, Survivor};
use super::simulated_disk::Fault;

/// Histories tried; more with `SYSTOLE_MODEL_CASES`.
fn cases() -> u32 {
    std::env::var("SYSTOLE_MODEL_CASES").map_or(200, |cases| cases.parse().unwrap())
}

/// Long enough that nothing else is taken for one.
const USERS: [&str; 3] = ["user_number_1", "user_number_2", "user_number_3"];

#[derive(Clone, Debug)]
enum Event {
    Do(Step),
    /// So many operations on, this goes wrong.
    Fault(usize, Fault),
    /// The process is killed, or with a seed the power fails.
    Lose(Option<u64>),
}

fn samples() -> impl Strategy<Value = Samples> {
    (
        prop::sample::select(vec!["default", "acme"]),
        prop::sample::select(USERS.to_vec()),
        prop::sample::select(vec!["heart_rate", "steps"]),
        prop::sample::select(vec!["garmin", "apple"]),
        prop::sample::select(vec![None, Some("d_1"), Some("d_2")]),
        prop::collection::btree_map(time(), -50..50i32, 1..20),
    )
        .prop_map(|(org, user, metric, source, device, rows)| Samples {
            org,
            user: user.to_owned(),
            metric,
            source,
            device,
            rows: rows.into_iter().map(|(time, value)| (time, f64::from(value))).collect(),
        })
}

/// Few enough to meet again, spread over minutes, months and years.
fn time() -> impl Strategy<Value = i64> {
    prop_oneof![0..40i64, (0..24i64).prop_map(|month| month * 2_592_000_000), Just(-2_000_000_000_000)]
}

fn attempts() -> impl Strategy<Value = Step> {
    let row = (prop::sample::select(USERS.to_vec()), 0..3i64).prop_map(|(user, day)| AttemptRow {
        at_ms: 1_782_805_500_000 + day * 86_400_000,
        user: Some(user.to_owned()),
        ..attempt("ep_1", 0, day == 0)
    });
    (prop::sample::select(vec!["default", "acme"]), prop::collection::vec(row, 1..4))
        .prop_map(|(org, rows)| Step::Attempts(org, rows))
}

fn order() -> impl Strategy<Value = Order> {
    let user = || prop::sample::select(USERS.to_vec());
    let metric = prop::sample::select(vec!["heart_rate", "steps"]);
    // Of one user or of all, of one metric or of all.
    let range = (prop::option::of(user()), prop::option::weighted(0.7, metric), time(), time())
        .prop_map(|(user, metric, one, other)| range_of(user, metric, one.min(other)..one.max(other) + 1));
    let erased = prop_oneof![
        3 => user().prop_map(|user| everything_of(user, false)),
        1 => user().prop_map(|user| everything_of(user, true)),
        6 => range,
    ];
    (prop::sample::select(vec!["default", "acme"]), erased).prop_map(|(org, erased)| Order { org, erased })
}

fn event() -> impl Strategy<Value = Event> {
    let step = prop_oneof![
        8 => prop::collection::vec(samples(), 1..4).prop_map(Step::Commit),
        6 => Just(Step::Flush),
        2 => Just(Step::CompactSome),
        1 => Just(Step::Compact),
        1 => Just(Step::Rewrite),
        1 => Just(Step::Checkpoint),
        2 => attempts(),
        2 => order().prop_map(Step::Erase),
        1 => Just(Step::CarryOut),
        1 => Just(Step::Restart),
    ];
    let fault = prop::sample::select(vec![Fault::Crash, Fault::Crash, Fault::Fail, Fault::Full]);
    prop_oneof![
        12 => step.prop_map(Event::Do),
        2 => (0..60usize, fault).prop_map(|(operation, fault)| Event::Fault(operation, fault)),
        1 => prop::option::of(any::<u64>()).prop_map(Event::Lose),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_with_faults_leaves_what_the_map_has(events in prop::collection::vec(event(), 1..40)) {
        let mut survivor = Survivor::new("model".to_owned());
        for event in &events {
            match event {
                Event::Do(step) => survivor.run(step),
                Event::Fault(operation, fault) => survivor.machine.disk.fault_at(*operation, *fault),
                Event::Lose(power_loss) => survivor.lose(*power_loss),
            }
        }
        survivor.finish();
        survivor.check();
        // A fault that came last may have kept one of them from its end, and what stopped the
        // machine is not done again by itself.
        for step in [Step::Flush, Step::Compact, Step::CarryOut].iter().cycle().take(6) {
            survivor.run(step);
        }
        prop_assert_eq!(survivor.file_rows(), survivor.promise.rows.len() as u64);
    }
}
