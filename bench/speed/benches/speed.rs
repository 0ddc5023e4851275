//! `make bench-speed`: the time of a tick, a command and an explanation, by how much the town has stored.

#![allow(missing_docs, reason = "criterion's macros write undocumented functions")]

use criterion::{Criterion, criterion_group, criterion_main};
use gastown_speed::{SIZES, Stored, Verb};

fn verbs(criterion: &mut Criterion) {
    for size in SIZES {
        let stored = Stored::new(size);
        for verb in Verb::ALL {
            let name = format!("{}/{size}", verb.name());
            criterion.bench_function(&name, |bench| bench.iter(|| stored.run(verb)));
        }
    }
}

criterion_group!(benches, verbs);
criterion_main!(benches);
