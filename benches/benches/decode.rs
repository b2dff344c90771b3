//! Points into drafts, samples a second.

use criterion::{Criterion, Throughput};
use systole_benches::Size;
use systole_benches::decode::{Shape, bodies};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("decode");
    for shape in Shape::ALL {
        let mut bodies = bodies(shape, Size::of_this_run());
        eprintln!("{}", bodies.outcome());
        group.throughput(Throughput::Elements(bodies.samples()));
        group.bench_function(shape.name(), |bencher| bencher.iter(|| bodies.decode()));
    }
    group.finish();
    criterion.final_summary();
}
