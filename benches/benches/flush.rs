//! A buffer into Parquet, samples a second.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use systole_benches::Size;
use systole_benches::flush::{Shape, buffered};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("flush");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for shape in Shape::ALL {
        let mut first = buffered(shape, Size::of_this_run());
        group.throughput(Throughput::Elements(first.samples()));
        first.flush();
        eprintln!("{}", first.outcome());
        drop(first);
        group.bench_function(shape.name(), |bencher| {
            bencher.iter_custom(|times| {
                let mut taken = Duration::ZERO;
                for _ in 0..times {
                    let mut buffered = buffered(shape, Size::of_this_run());
                    let started = Instant::now();
                    buffered.flush();
                    taken += started.elapsed();
                }
                taken
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
