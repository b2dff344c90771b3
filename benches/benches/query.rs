//! Questions about one user among many, rows a second.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use systole_benches::Size;
use systole_benches::query::{Place, Question, filled};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for place in Place::ALL {
        let filled = filled(place, Size::of_this_run());
        eprintln!("{}", filled.outcome());
        let mut group = criterion.benchmark_group(format!("query/{}", place.name()));
        for question in Question::ALL {
            let mut users = filled.users();
            group.throughput(Throughput::Elements(filled.ask(question, 0).rows));
            group.bench_function(question.name(), |bencher| {
                bencher.iter(|| users.next().map(|user| black_box(filled.ask(question, user))));
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
