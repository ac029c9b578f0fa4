//! Sealing and opening of TLS records, by size and AEAD: time per record.
#![allow(clippy::unwrap_used, reason = "a measurement may fail by panicking")]

mod settings;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hublane::tls::aead::AeadBackend;
use hublane::tls::keys::Suite;
use hublane::tls::layer::{Opened, RecordLayer, connected_pair};

const SUITE: Suite = Suite::Tls13Aes128GcmSha256;
const PLAIN_BYTES: [usize; 3] = [64, 1_400, 16_384];

/// Records of one key, far below what a key may seal.
const BATCH: u64 = 64;

fn records(criterion: &mut Criterion) {
    for backend in [AeadBackend::AwsLc, AeadBackend::RustCrypto] {
        for (name, measure) in [("seal", seal as Measure), ("open", open)] {
            let mut group = criterion.benchmark_group(format!("{name} {backend:?}"));
            for bytes in PLAIN_BYTES {
                group.throughput(Throughput::Bytes(bytes as u64));
                group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
                    bencher.iter_custom(|records| {
                        let full = (0..records / BATCH).map(|_| measure(backend, bytes, BATCH)).sum::<Duration>();
                        full + measure(backend, bytes, records % BATCH)
                    });
                });
            }
        }
    }
}

/// Time for a number of records of some bytes.
type Measure = fn(AeadBackend, usize, u64) -> Duration;

fn seal(backend: AeadBackend, bytes: usize, records: u64) -> Duration {
    let (_, mut layer) = connected_pair(SUITE, backend);
    let mut buf = vec![7; layer.prefix_len() + bytes + layer.suffix_len()];
    let begin = Instant::now();
    for _ in 0..records {
        black_box(layer.seal(&mut buf, bytes).unwrap());
    }
    begin.elapsed()
}

fn open(backend: AeadBackend, bytes: usize, records: u64) -> Duration {
    let (mut server, mut client) = connected_pair(SUITE, backend);
    let sealed: Vec<Vec<u8>> = (0..records).map(|_| record(&mut client, bytes)).collect();
    let mut out = vec![0; bytes + 64];
    let begin = Instant::now();
    for record in &sealed {
        assert_eq!(server.open(record, &mut out).unwrap(), Opened::Data(bytes));
    }
    begin.elapsed()
}

fn record(layer: &mut RecordLayer, bytes: usize) -> Vec<u8> {
    let mut buf = vec![7; layer.prefix_len() + bytes + layer.suffix_len()];
    layer.seal(&mut buf, bytes).unwrap();
    buf
}

criterion_group! { name = all; config = settings::short(); targets = records }
criterion_main!(all);
