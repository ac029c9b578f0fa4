//! How long the benches measure: short, so that all of them together take a minute or two. A ratio between two builds
//! is looked at more closely with options of criterion (`--measurement-time`, `--sample-size`).

use std::time::Duration;

use criterion::Criterion;

pub(crate) fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .nresamples(5_000)
        .without_plots()
        .configure_from_args()
}
