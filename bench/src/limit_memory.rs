//! Mode `limit memory`: what frames cost a server that has nothing but memory to move them in.
//!
//! On one thread and without sockets, valid records full of frames are opened, their frames copied one by one into
//! another record, and that one sealed: the least a hub must do for frames that enter and leave by TLS. Taking
//! turns with it, the same records are opened, copied whole and sealed: the part of the cost that goes with bytes.
//!
//! The input is sealed before the clock runs, some MiB at a time, so that records come from memory and not from the
//! cache of the processor nearest by; the output goes to the same place again and again.

use std::error::Error;
use std::time::{Duration, Instant};

use clap::Args;
use hublane::metrics::closes::CloseReason;
use hublane::sys::clock::thread_cpu_ns;
use hublane::tls::aead::AeadBackend;
use hublane::tls::keys::Suite;
use hublane::tls::layer::{Opened, RecordLayer, connected_pair};
use hublane::tls::record::{PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX, record_len};
use hublane::tunnel::deframe::{Block, BlockPool, Deframer};
use hublane::tunnel::enframe::{Batch, WORD_BYTES};
use serde::Serialize;

use crate::tls_choice::{TlsChoice, describe};

/// Options of the mode.
#[derive(Args)]
pub(crate) struct LimitMemory {
    /// Length of the frames in bytes, 60 to 1514.
    #[arg(long, default_value_t = 1400, value_name = "SIZE", value_parser = clap::value_parser!(u16).range(60..=1514))]
    frame: u16,
    /// Plaintext of a record in bytes, at most: as many frames as fit, 16384 at most.
    #[arg(long, default_value_t = 16_384, value_name = "N", value_parser = clap::value_parser!(u16).range(68..=16_384))]
    record_bytes: u16,
    #[command(flatten)]
    tls: TlsChoice,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 5, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Input sealed at a time, in MiB.
    #[arg(long, default_value_t = 16, value_name = "MIB", value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch_mib: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What came of it. Bytes are those of frames in both ways of carrying them, so that the figures can be compared.
#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    frame: String,
    record_bytes: u16,
    tls: String,
    seconds: f64,
    frames: u64,
    bytes: u64,
    frames_per_record: usize,
    cpu_s_per_gb: f64,
    cpu_us_per_frame: f64,
    bytes_only_cpu_s_per_gb: f64,
    bytes_only_cpu_us_per_frame: f64,
}

impl LimitMemory {
    /// Runs the mode.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let suite = *self.tls.suites().first().ok_or("no suite is left")?;
        let plain = plaintext(self.frame.into(), self.record_bytes.into());
        if plain.frames == 0 {
            let wanted = usize::from(self.frame) + 2 * WORD_BYTES;
            return Err(format!("a frame of {} bytes needs a record of {wanted}", self.frame).into());
        }
        let mut bench = Bench::new(suite, &plain, usize::from(self.batch_mib) << 20);
        let began = Instant::now();
        let (mut by_frame, mut by_bytes, mut frames) = (0, 0, 0);
        while began.elapsed() < Duration::from_secs(self.seconds) {
            bench.seal_input().map_err(CloseReason::label)?;
            let before = thread_cpu_ns();
            frames += bench.frame_by_frame().map_err(CloseReason::label)?;
            by_frame += thread_cpu_ns() - before;
            bench.seal_input().map_err(CloseReason::label)?;
            let before = thread_cpu_ns();
            bench.whole().map_err(CloseReason::label)?;
            by_bytes += thread_cpu_ns() - before;
        }
        let bytes = frames * u64::from(self.frame);
        let per_gb = |ns: u64| ns as f64 / bytes as f64;
        let per_frame = |ns: u64| ns as f64 / 1e3 / frames as f64;
        let report = Report {
            mode: "limit memory",
            frame: self.frame.to_string(),
            record_bytes: self.record_bytes,
            tls: describe(suite),
            seconds: began.elapsed().as_secs_f64(),
            frames,
            bytes,
            frames_per_record: plain.frames,
            cpu_s_per_gb: per_gb(by_frame),
            cpu_us_per_frame: per_frame(by_frame),
            bytes_only_cpu_s_per_gb: per_gb(by_bytes),
            bytes_only_cpu_us_per_frame: per_frame(by_bytes),
        };
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            print_table(&report);
        }
        Ok(())
    }
}

/// The plaintext of one record.
struct Plain {
    bytes: Vec<u8>,
    frames: usize,
}

/// As many frames of `frame` bytes as fit into `record` bytes.
fn plaintext(frame: usize, record: usize) -> Plain {
    let mut bytes = vec![0; record.min(PLAINTEXT_BYTES_MAX)];
    let mut batch = Batch::begin(&mut bytes);
    let mut frames = 0;
    // Bytes of no pattern: a copy costs the same whatever they are, but so nobody need wonder.
    let content: Vec<u8> = (0..frame).map(|at| (at * 167 % 251).to_le_bytes()[0]).collect();
    while batch.push(&mut bytes, &content) {
        frames += 1;
    }
    let len = batch.finish(&mut bytes);
    bytes.truncate(len);
    Plain { bytes, frames }
}

/// Sealed input, and all that is needed to carry it.
struct Bench<'a> {
    suite: Suite,
    plain: &'a Plain,
    /// Whole records, one behind the other.
    input: Vec<u8>,
    rx: RecordLayer,
    tx: RecordLayer,
    arena: Vec<u8>,
    out: Vec<u8>,
}

impl<'a> Bench<'a> {
    fn new(suite: Suite, plain: &'a Plain, batch_bytes: usize) -> Self {
        let (rx, peer) = connected_pair(suite, AeadBackend::AwsLc);
        let (_, tx) = connected_pair(suite, AeadBackend::AwsLc);
        let record = peer.prefix_len() + plain.bytes.len() + peer.suffix_len();
        let records = (batch_bytes / record).max(1);
        let input = vec![0; records * record];
        Self { suite, plain, input, rx, tx, arena: vec![0; RECORD_BYTES_MAX], out: vec![0; RECORD_BYTES_MAX] }
    }

    /// Fills the input with distinct records, all for keys of their own: none is ever used up.
    fn seal_input(&mut self) -> Result<(), CloseReason> {
        let (rx, mut peer) = connected_pair(self.suite, AeadBackend::AwsLc);
        (self.rx, (_, self.tx)) = (rx, connected_pair(self.suite, AeadBackend::AwsLc));
        let (plain, prefix) = (&self.plain.bytes, peer.prefix_len());
        for record in self.input.chunks_exact_mut(prefix + plain.len() + peer.suffix_len()) {
            record[prefix..][..plain.len()].copy_from_slice(plain);
            peer.seal(record, plain.len())?;
        }
        Ok(())
    }

    /// Opens every record of the input, copies its frames into another one and seals that; returns their number.
    fn frame_by_frame(&mut self) -> Result<u64, CloseReason> {
        let Self { input, rx, tx, arena, out, plain, .. } = self;
        let (mut deframer, mut blocks) = (Deframer::new(), BlockPool::default());
        let (mut input, mut frames, prefix) = (&input[..], 0, tx.prefix_len());
        while let Some(record) = next_record(&mut input)? {
            let Opened::Data(len) = rx.open(record, arena)? else { return Err(CloseReason::RecordUnexpected) };
            let area = &mut out[prefix..prefix + plain.bytes.len()];
            let mut batch = Batch::begin(area);
            deframer.push_with(&arena[..len], &mut blocks, |block| {
                if let Block::Data(frame) = block {
                    frames += u64::from(batch.push(area, frame));
                }
            })?;
            let len = batch.finish(area);
            tx.seal(out, len)?;
        }
        Ok(frames)
    }

    /// Opens every record of the input, copies its plaintext into another one and seals that; returns their number.
    fn whole(&mut self) -> Result<u64, CloseReason> {
        let Self { input, rx, tx, arena, out, .. } = self;
        let (mut input, mut records, prefix) = (&input[..], 0, tx.prefix_len());
        while let Some(record) = next_record(&mut input)? {
            let Opened::Data(len) = rx.open(record, arena)? else { return Err(CloseReason::RecordUnexpected) };
            out[prefix..prefix + len].copy_from_slice(&arena[..len]);
            tx.seal(out, len)?;
            records += 1;
        }
        Ok(records)
    }
}

/// Takes the first record off `input`.
fn next_record<'a>(input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CloseReason> {
    let Some(len) = record_len(input)? else { return Ok(None) };
    let (record, rest) = input.split_at(len);
    *input = rest;
    Ok(Some(record))
}

fn print_table(report: &Report) {
    println!("{}, frames of {} bytes, {} a record", report.tls, report.frame, report.frames_per_record);
    println!("                       {:>12} {:>12}", "CPU s/GB", "us/frame");
    println!("  open, copy, seal     {:>12.4} {:>12.4}", report.cpu_s_per_gb, report.cpu_us_per_frame);
    let (gb, frame) = (report.bytes_only_cpu_s_per_gb, report.bytes_only_cpu_us_per_frame);
    println!("  bytes only           {gb:>12.4} {frame:>12.4}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_the_input_comes_out_again() {
        for (suite, frame, record) in [
            (Suite::Tls13Aes128GcmSha256, 60, 16_384),
            (Suite::Tls13ChaCha20Poly1305Sha256, 1514, 1522),
            (Suite::EcdheEcdsaAes256GcmSha384, 1400, 8000),
        ] {
            let plain = plaintext(frame, record);
            assert!(plain.frames > 0 && plain.bytes.len() <= record);
            let mut bench = Bench::new(suite, &plain, 100_000);
            let records = bench.input.len() / (plain.bytes.len() + bench.rx.prefix_len() + bench.rx.suffix_len());
            bench.seal_input().unwrap();
            assert_eq!(bench.frame_by_frame().unwrap(), (records * plain.frames) as u64);
            // What was sealed last is what the peer of `tx` opens: the same frames.
            let (mut peer, _) = connected_pair(suite, AeadBackend::AwsLc);
            bench.seal_input().unwrap();
            bench.input.truncate(bench.input.len() / records);
            bench.frame_by_frame().unwrap();
            let sealed = record_len(&bench.out).unwrap().unwrap();
            let mut arena = vec![0; RECORD_BYTES_MAX];
            assert_eq!(peer.open(&bench.out[..sealed], &mut arena), Ok(Opened::Data(plain.bytes.len())));
            assert_eq!(&arena[..plain.bytes.len()], &plain.bytes[..]);
        }
        assert_eq!(plaintext(1514, 1000).frames, 0);
    }

    #[test]
    fn whole_records_are_carried_in_order() {
        let plain = plaintext(1400, 16_384);
        let mut bench = Bench::new(Suite::Tls13Aes256GcmSha384, &plain, 200_000);
        bench.seal_input().unwrap();
        let records = bench.whole().unwrap();
        assert!(records > 10, "{records}");
        // The record layer counts them: the same again is not valid.
        assert_eq!(bench.whole(), Err(CloseReason::RecordBadTag));
    }
}
