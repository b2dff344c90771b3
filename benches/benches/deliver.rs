//! Bodies to answers, deliveries a second.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use systole_benches::Size;
use systole_benches::deliver::{LOADS, deliveries};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("deliver");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for load in LOADS {
        let mut deliveries = deliveries(load, Size::of_this_run());
        group.throughput(Throughput::Elements(deliveries.count()));
        deliveries.post();
        eprintln!("{}", deliveries.outcome());
        group.bench_function(load.name, |bencher| {
            bencher.iter_custom(|times| {
                let mut taken = Duration::ZERO;
                for _ in 0..times {
                    let started = Instant::now();
                    deliveries.post();
                    taken += started.elapsed();
                }
                taken
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
