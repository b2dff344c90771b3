//! Histories that the model runs, at random and by hand.

use super::*;

fn live(seed: u64, steps: usize) -> Model {
    live_on(Model::new(seed), steps)
}

fn live_on(mut model: Model, steps: usize) -> Model {
    for _ in 0..steps {
        model.step();
        // A receiver that only fails for 5 days would be switched off.
        if model.state.health.failing_since_ms.is_some_and(|since| model.now_ms - since > 4 * 24 * 3_600_000)
        {
            model.receiver = Receiver::Up;
            (0..50).for_each(|_| {
                model.pass(50_000);
                model.state.wake(model.now_ms);
                (0..64).for_each(|_| {
                    model.fill();
                });
                model.begin(10);
                (0..10).for_each(|_| model.finish());
            });
            model.state.health.failing_since_ms = None;
            model.state.health.failed_ms = None;
        }
    }
    model.come_to_rest();
    model
}

#[test]
fn whatever_happens_each_event_is_delivered_or_given_up() {
    let (mut pauses, mut events) = (0, 0);
    for seed in 0..60 {
        let model = live(seed, 1500);
        let missing: Vec<u64> = model
            .events
            .iter()
            .filter(|event| !model.decided.contains(&event.place))
            .map(|event| event.place.sequence)
            .collect();
        assert!(missing.is_empty(), "seed {seed}: {missing:?} of {} are lost", model.events.len());
        let stored = &model.stored;
        assert!(stored.exceptions.is_empty() && stored.backlogs.is_empty(), "seed {seed}: {stored:?}");
        assert_eq!((stored.row, stored.health), (None, Health::default()), "seed {seed}");
        pauses += stored.given_up.len();
        events += model.events.len();
    }
    assert!(pauses > 0 && events > 10_000, "{pauses} {events}");
}

#[test]
fn whatever_happens_each_event_of_windows_and_batches_is_delivered_or_given_up() {
    let shapes = [(Some(100), None), (None, Some(7)), (Some(5_000), Some(20))];
    for (number, (coalesce_ms, batch_events)) in shapes.into_iter().enumerate() {
        let mut composite = 0;
        for seed in 0..20 {
            let seed = 1000 * number as u64 + seed;
            let model = live_on(Model::shaped(seed, coalesce_ms, batch_events), 1500);
            let missing = model.events.iter().filter(|event| !model.decided.contains(&event.place));
            let missing: Vec<u64> = missing.map(|event| event.place.sequence).collect();
            assert!(missing.is_empty(), "seed {seed}: {missing:?} of {} are lost", model.events.len());
            let stored = &model.stored;
            assert!(stored.exceptions.is_empty() && stored.backlogs.is_empty(), "seed {seed}: {stored:?}");
            assert!(model.state.carried.is_empty(), "seed {seed}: {:?}", model.state.carried);
            composite += model.composite;
        }
        assert!(composite > 100, "{coalesce_ms:?} {batch_events:?}: {composite}");
    }
}

/// A lane that crashes often, of a receiver that fails some and never so many that it
/// pauses, beside others that hold back the position.
fn crash_often(coalesce_ms: u32, batch_events: Option<u32>, seed: u64) -> Model {
    let mut model = Model::shaped(seed, Some(coalesce_ms), batch_events);
    model.is_held_back = true;
    for _ in 0..1500 {
        // As in `Model::step`, with neither pauses nor long times.
        model.receiver = if model.random.below(2) == 0 { Receiver::Up } else { Receiver::Flaky(5) };
        match model.random.below(100) {
            0..10 => {
                let count = model.random.below(60);
                model.append(count);
            }
            10..30 => {
                let count = model.random.below(100);
                model.route(count);
            }
            30..50 => model.begin(16),
            50..75 => (0..16).for_each(|_| model.finish()),
            75..85 => (0..64).for_each(|_| {
                model.fill();
            }),
            85..90 => model.save(),
            90..97 => {
                let ms = [20, 100, 3_000][usize::try_from(model.random.below(3)).unwrap()];
                model.pass(ms);
                model.close_windows();
                model.state.wake(model.now_ms);
            }
            _ => model.crash(),
        }
        model.check();
        assert!(!matches!(model.state.mode, Mode::Paused(_)), "seed {seed}");
    }
    model.come_to_rest();
    model
}

#[test]
fn what_is_drawn_together_is_sent_under_one_id_whatever_crashes() {
    for (coalesce_ms, batch_events) in [(100, None), (1_000, Some(7)), (5_000, None)] {
        let (mut composite, mut events) = (0, 0);
        for seed in 0..20 {
            let model = crash_often(coalesce_ms, batch_events, 5000 + seed);
            let several: Vec<_> = model.ids.iter().filter(|(_, ids)| ids.len() > 1).collect();
            assert!(several.is_empty(), "seed {seed} of {coalesce_ms} ms: {several:?}");
            let missing = model.events.iter().filter(|event| !model.decided.contains(&event.place)).count();
            assert_eq!(missing, 0, "seed {seed} of {coalesce_ms} ms");
            assert_eq!((model.stored.row, model.stored.exceptions.len()), (None, 0), "seed {seed}");
            composite += model.sent.values().filter(|places| places.len() > 1).count();
            events += model.events.len();
        }
        assert!(composite > 500 && events > 5_000, "{coalesce_ms} ms: {composite} of {events}");
    }
}

#[test]
fn a_first_try_success_costs_no_row() {
    let mut model = Model::new(7);
    for _ in 0..100 {
        model.append(50);
        model.route(50);
        while !model.state.queues.is_empty() || !model.in_flight.is_empty() {
            model.begin(64);
            model.finish();
        }
        model.pass(200);
        model.save();
    }
    assert_eq!((model.first_try, model.stored.rows), (5000, 0));
    assert_eq!(model.stored.routed, 5000);
}

#[test]
fn a_receiver_that_was_down_for_a_day_costs_a_few_rows_and_no_memory() {
    let mut model = Model::new(3);
    model.receiver = Receiver::Down;
    let began_ms = model.now_ms;
    // A second each; 40 events each of them.
    for second in 0..86_400_u64 {
        if second.is_multiple_of(40) {
            model.append(5);
            model.route(5);
        }
        model.state.wake(model.now_ms);
        model.fill();
        model.begin(64);
        (0..4).for_each(|_| model.finish());
        model.pass(1000);
        if second.is_multiple_of(10) {
            model.save();
        }
    }
    model.save();
    let state = &model.state;
    assert!(matches!(state.mode, Mode::Paused(_)));
    assert!(state.exceptions.len() < 64 && state.taken.is_empty() && state.queues.is_empty());
    assert!(state.ahead.len() < 64, "{}", state.ahead.len());
    let rows = model.stored.exceptions.len() + usize::from(model.stored.row.is_some()) + 1;
    assert!(rows < 64 && model.stored.backlogs.is_empty(), "{rows}");
    assert!(model.stored.health.paused_at_ms.is_some_and(|at| at - began_ms < 120_000));
    // It comes back: within a probe live events are taken from where the router is.
    model.receiver = Receiver::Up;
    let back_ms = model.now_ms;
    while model.state.mode != Mode::Live {
        model.pass(1000);
        model.state.wake(model.now_ms);
        model.fill();
        model.begin(1);
        model.finish();
    }
    assert!(model.now_ms - back_ms <= 42_000, "{}", model.now_ms - back_ms);
    model.save();
    assert_eq!(model.stored.backlogs.len(), 1);
    model.append(1);
    model.events.last_mut().unwrap().backfill = false;
    model.route(1);
    model.fill();
    let job = model.state.next_job(model.now_ms).unwrap();
    assert!(matches!(job.origin, Origin::Live(_)), "{job:?}");
    assert_eq!(job.place.sequence, model.events.len() as u64);
}

#[test]
fn what_has_outlived_its_schedule_is_given_up_as_one_range() {
    let mut model = Model::new(5);
    model.receiver = Receiver::Down;
    let drive = |model: &mut Model, ms: u64| {
        model.pass(ms);
        model.state.wake(model.now_ms);
        model.fill();
        model.begin(64);
        (0..64).for_each(|_| model.finish());
        model.save();
    };
    for _ in 0..60 {
        model.append(1);
        model.route(1);
        drive(&mut model, 1000);
    }
    assert!(matches!(model.state.mode, Mode::Paused(_)));
    let Mode::Paused(Pause { from: Some(from), .. }) = model.state.mode.clone() else {
        panic!("nothing rests")
    };
    // The standard schedule is over after 27 h 35 min 5 s.
    for _ in 0..30 {
        model.append(1);
        model.route(1);
        drive(&mut model, 3_600_000);
    }
    model.receiver = Receiver::Up;
    while model.state.mode != Mode::Live {
        drive(&mut model, 5000);
    }
    model.save();
    let [range] = model.stored.given_up[..] else { panic!("{:?}", model.stored.given_up) };
    assert_eq!(range.from, from);
    // Of 30 that came hourly the last 27 are young enough.
    assert!((61..=64).contains(&range.through.sequence), "{range:?}");
    let [backlog] = model.stored.backlogs.values().copied().collect::<Vec<_>>()[..] else {
        panic!("{:?}", model.stored.backlogs)
    };
    assert_eq!((backlog.kind, backlog.from), (BacklogKind::Passed, range.through));
    assert_eq!(backlog.through, model.routed);
}
