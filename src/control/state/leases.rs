//! The lease file of a hub: records of its DHCP server, one after the other, on disk before anybody hears of them.
//!
//! The worker that has the gateway hands records over and goes on; the thread of the file writes what has come
//! together, waits for the disk, and tells the worker up to which record all is safe. A disk that fails stops answers,
//! not the server. The file grows until it is some times as long as its content needs; then the server writes it anew.
//!
//! What a record says is the DHCP server's business ([`crate::gateway::dhcp`]); here they are bytes.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::{StateError, files};
use crate::worker::router::host::Journal;

/// What the thread is given.
enum Entry {
    /// A record and its number.
    Record(u64, Box<[u8]>),
    /// The whole content, in place of all records before.
    Whole(Vec<u8>),
}

/// Hands records to the thread. Lives on the worker that has the gateway.
pub struct LeaseWriter {
    entries: Sender<Entry>,
    next: u64,
}

impl Journal for LeaseWriter {
    /// Where there is no room the number is one that is never reached, so that nobody is told of what is not on disk.
    fn record(&mut self, record: &[u8]) -> u64 {
        let number = self.next;
        if self.entries.try_send(Entry::Record(number, record.into())).is_err() {
            return u64::MAX;
        }
        self.next += 1;
        number
    }

    /// Left out where there is no room: it will be asked for again.
    fn whole(&mut self, content: Vec<u8>) {
        let _ = self.entries.try_send(Entry::Whole(content));
    }
}

/// What the thread has to tell.
pub trait LeaseHolder: Send {
    /// All records up to this one are on disk.
    fn durable(&self, record: u64);
    /// The file is much longer than it needs to be: have its whole content given to [`Journal::whole`].
    fn rewrite(&self);
}

/// Where the leases of `hub` are.
pub fn path(state: &Path, hub: &str) -> PathBuf {
    // Names of hubs may hold what a file's name may not.
    let name: String = hub.bytes().map(|byte| format!("{byte:02x}")).collect();
    let plain = hub.bytes().all(|byte| byte.is_ascii_alphanumeric());
    state.join(if plain { format!("leases-{}", hub.to_ascii_uppercase()) } else { format!("leases-x{name}") })
}

/// What the file holds; nothing if there is none.
///
/// # Errors
/// When it cannot be read, or others may read it: who was where is nobody's business.
pub fn read(path: &Path) -> Result<Vec<u8>, StateError> {
    Ok(files::read(path, BYTES_MAX, 0o077)?.map(|bytes| bytes.to_vec()).unwrap_or_default())
}

/// Replaces the file by `content`, then starts the thread, which ends when the writer is gone.
///
/// # Errors
/// If the file cannot be written or the thread not be started.
pub fn start(
    path: &Path,
    content: &[u8],
    holder: Box<dyn LeaseHolder>,
) -> Result<(LeaseWriter, JoinHandle<()>), StateError> {
    let failed = |error| StateError::io(path, "write", &error);
    let file = replace(path, content)?;
    let (entries, received) = bounded(ROOM);
    let length = content.len() as u64;
    let mut keeper = Keeper { path: path.to_owned(), file, holder, length, needed: length, asked: false };
    let thread =
        thread::Builder::new().name("leases".to_owned()).spawn(move || keeper.run(&received)).map_err(failed)?;
    Ok((LeaseWriter { entries, next: 1 }, thread))
}

fn replace(path: &Path, content: &[u8]) -> Result<File, StateError> {
    files::replace(path, content)?;
    OpenOptions::new().write(true).open(path).map_err(|error| StateError::io(path, "open", &error))
}

/// The thread.
struct Keeper {
    path: PathBuf,
    file: File,
    holder: Box<dyn LeaseHolder>,
    /// Bytes of the file, and of its content when it was last written as a whole.
    length: u64,
    needed: u64,
    /// Whether the content was asked for and has not come.
    asked: bool,
}

impl Keeper {
    fn run(&mut self, entries: &Receiver<Entry>) {
        let mut batch = Vec::new();
        while let Ok(first) = entries.recv() {
            let mut last = None;
            batch.clear();
            for entry in std::iter::once(first).chain(entries.try_iter().take(BATCH_MAX)) {
                match entry {
                    Entry::Record(number, record) => {
                        batch.extend_from_slice(&record);
                        last = Some(number);
                    }
                    Entry::Whole(content) => {
                        // Whatever came before is part of it.
                        if self.rewrite(&content) {
                            batch.clear();
                        }
                    }
                }
            }
            self.append(&batch);
            if let Some(last) = last {
                self.holder.durable(last);
            }
            if !self.asked && self.length > REWRITE_MIN.max(self.needed * REWRITE_FACTOR) {
                self.asked = true;
                self.holder.rewrite();
            }
        }
    }

    /// Tries until the disk takes it: who waits for these records is not answered meanwhile.
    fn append(&mut self, batch: &[u8]) {
        let mut told = false;
        while !batch.is_empty() {
            match self.try_append(batch) {
                Ok(()) => break,
                Err(error) if !told => {
                    told = true;
                    tracing::error!("{}: {error}; no lease is given until it can be written", self.path.display());
                }
                Err(_) => {}
            }
            thread::sleep(PAUSE);
        }
        self.length += batch.len() as u64;
    }

    fn try_append(&mut self, batch: &[u8]) -> io::Result<()> {
        // What an attempt that failed left behind is cut off first.
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(batch)?;
        self.file.sync_data()
    }

    fn rewrite(&mut self, content: &[u8]) -> bool {
        self.asked = false;
        match replace(&self.path, content) {
            Ok(file) => {
                self.file = file;
                self.length = content.len() as u64;
                self.needed = self.length;
                true
            }
            Err(error) => {
                tracing::error!("the file stays as long as it is: {error}");
                false
            }
        }
    }
}

/// Far more than the largest pool needs.
const BYTES_MAX: u64 = 1 << 30;
/// Records that may wait; a boot of every member makes some 10,000.
const ROOM: usize = 65_536;
/// Records that reach the disk together.
const BATCH_MAX: usize = 4096;
/// A file of less is never written anew.
const REWRITE_MIN: u64 = 4 << 20;
/// How many times as long as needed it may grow.
const REWRITE_FACTOR: u64 = 4;
/// Between attempts at a disk that fails.
const PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Told {
        durable: u64,
        rewrites: usize,
    }

    struct Ear(Arc<Mutex<Told>>);

    impl LeaseHolder for Ear {
        fn durable(&self, record: u64) {
            self.0.lock().unwrap().durable = record;
        }

        fn rewrite(&self) {
            self.0.lock().unwrap().rewrites += 1;
        }
    }

    fn until(told: &Mutex<Told>, what: impl Fn(&Told) -> bool) {
        for _ in 0..1000 {
            if what(&told.lock().unwrap()) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("not within five seconds");
    }

    #[test]
    fn records_are_on_disk_when_it_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), "PUBLIC");
        let told = Arc::new(Mutex::new(Told::default()));
        assert_eq!(read(&path).unwrap(), b"");
        let (mut writer, thread) = start(&path, b"old\n", Box::new(Ear(Arc::clone(&told)))).unwrap();
        let last = (0..1000).map(|n| writer.record(format!("record {n}\n").as_bytes())).last().unwrap();
        until(&told, |told| told.durable == last);
        let text = String::from_utf8(read(&path).unwrap()).unwrap();
        assert!(text.starts_with("old\nrecord 0\nrecord 1\n") && text.ends_with("record 999\n"), "{text}");
        writer.whole(b"all\n".to_vec());
        let last = writer.record(b"more\n");
        until(&told, |told| told.durable == last);
        assert_eq!(read(&path).unwrap(), b"all\nmore\n");
        drop(writer);
        thread.join().unwrap();
        assert_eq!(told.lock().unwrap().rewrites, 0);
    }

    #[test]
    fn a_file_grown_long_is_asked_for_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), "a b");
        let told = Arc::new(Mutex::new(Told::default()));
        let (mut writer, thread) = start(&path, b"", Box::new(Ear(Arc::clone(&told)))).unwrap();
        let record = vec![b'x'; 1 << 20];
        for round in 1..=2 {
            let last = (0..6).map(|_| writer.record(&record)).last().unwrap();
            until(&told, |told| told.durable == last);
            assert_eq!(told.lock().unwrap().rewrites, round);
            writer.whole(b"short".to_vec());
        }
        drop(writer);
        thread.join().unwrap();
        assert_eq!(read(&path).unwrap(), b"short");
    }

    #[test]
    fn names_of_hubs_become_names_of_files() {
        let name = |hub| path(Path::new("/s"), hub).display().to_string();
        assert_eq!(name("Public"), "/s/leases-PUBLIC");
        assert_eq!(name("../x"), "/s/leases-x2e2e2f78");
    }
}
