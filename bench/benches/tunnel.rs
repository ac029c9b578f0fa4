//! The stream of blocks, the mailbox and the flow hash: time per frame.
#![allow(clippy::unwrap_used, reason = "a measurement may fail by panicking")]

mod fixture;
mod settings;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fixture::{RECORD_PLAIN_MAX, batch, frame, frame_v6, frames_per_record, station};
use hublane::tunnel::deframe::{Block, BlockPool, Deframer};
use hublane::tunnel::enframe::Batch;
use hublane::wire::flow::flow_hash;
use hublane::worker::exchange::{Mailbox, mesh};

const FRAME_BYTES: [usize; 4] = [64, 256, 1_400, 1_514];

/// A full record's plaintext → frames.
fn deframe(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deframe");
    for bytes in FRAME_BYTES {
        let frames = frames_per_record(bytes);
        let plain = batch(&frame(station(2), station(1), bytes), frames);
        let (mut deframer, mut pool) = (Deframer::new(), BlockPool::default());
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| {
                let each = |block: Block<'_>| {
                    black_box(block);
                };
                deframer.push_with(black_box(&plain), &mut pool, each).unwrap();
            });
        });
    }
}

/// Frames → a full record's plaintext.
fn enframe(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("enframe");
    for bytes in FRAME_BYTES {
        let frames = frames_per_record(bytes);
        let frame = frame(station(2), station(1), bytes);
        let mut area = vec![0; RECORD_PLAIN_MAX];
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| {
                let mut batch = Batch::begin(&mut area);
                while batch.push(&mut area, black_box(&frame)) {}
                batch.finish(&mut area)
            });
        });
    }
}

/// Into a mailbox and out of it, 64 frames at a time, in one thread.
fn mailbox(criterion: &mut Criterion) {
    const FRAMES: u64 = 64;
    let mut group = criterion.benchmark_group("mailbox");
    for bytes in FRAME_BYTES {
        let [mut from, mut to]: [Mailbox; 2] = mesh(2, 1 << 18).try_into().ok().unwrap();
        let frame = frame(station(2), station(1), bytes);
        group.throughput(Throughput::Elements(FRAMES));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| {
                for _ in 0..FRAMES {
                    assert!(from.outbox.push(1, &[1, 2, 3, 4], black_box(&frame)));
                }
                from.outbox.flush(|_| {});
                while let Some(message) = to.inbox.receive() {
                    black_box(message.frame());
                }
            });
        });
    }
}

fn flow(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow_hash");
    let mut other = frame(station(2), station(1), 64);
    other[12..14].copy_from_slice(&[0x88, 0xb5]);
    for (name, frame) in [("ipv4", frame(station(2), station(1), 64)), ("ipv6", frame_v6(64)), ("other", other)] {
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| bencher.iter(|| flow_hash(black_box(&frame))));
    }
}

criterion_group! { name = all; config = settings::short(); targets = deframe, enframe, mailbox, flow }
criterion_main!(all);
