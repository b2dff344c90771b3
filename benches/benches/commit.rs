//! Drafts to acknowledgements, samples a second.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use systole_benches::Size;
use systole_benches::commit::{LOADS, submissions};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for load in LOADS {
        let mut first = submissions(load, Size::of_this_run());
        group.throughput(Throughput::Elements(first.samples()));
        first.commit();
        eprintln!("{}", first.outcome());
        group.bench_function(load.name, |bencher| {
            bencher.iter_custom(|times| {
                let mut taken = Duration::ZERO;
                for _ in 0..times {
                    let mut submissions = submissions(load, Size::of_this_run());
                    let started = Instant::now();
                    submissions.commit();
                    taken += started.elapsed();
                    std::hint::black_box(submissions.outcome());
                }
                taken
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
