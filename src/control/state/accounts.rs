//! The accounts: `users.json` in the state directory.
//!
//! JSON, because a file that was cut off anywhere is then never valid. Every change reads the file again
//! under a lock, changes it and replaces it as a whole; a running server sees that it is another file
//! and reads it at the next login. A file that cannot be read changes nothing in a running server.
//!
//! The file holds password equivalents (see [`Verifier`]); it is of mode 0600 and belongs in no backup
//! that others may read.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::secrets::{self, Verifier};
use super::{StateError, files, make_dir};
use crate::config::values::{check_hub_name, check_user_name};
use crate::ids::MemberId;
use crate::tunnel::sha0;

/// A user of a hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Hub he may enter; case does not count.
    pub hub: String,
    /// As written when he was added; case does not count.
    pub name: String,
    /// Number; never given twice.
    member: u32,
    /// What his password is compared with.
    pub hashed_password: Verifier,
    /// Fingerprint (SHA-256, hexadecimal digits) of the certificate by which he logs in instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// When he was added (RFC 3339).
    pub created: String,
    /// True: he may not log in.
    #[serde(default)]
    pub disabled: bool,
}

impl Account {
    /// Who he is in logs and lists.
    pub fn member(&self) -> MemberId {
        MemberId(self.member)
    }
}

/// All accounts, as last read. Shared by reference.
#[derive(Debug)]
pub struct AccountStore {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

impl AccountStore {
    /// Reads the accounts in `state`; a directory without any has none.
    ///
    /// # Errors
    /// When the file is there but cannot be read, is damaged, of another version, or open to others.
    pub fn open(state: &Path) -> Result<Self, StateError> {
        make_dir(state)?;
        let path = state.join(FILE);
        let loaded = Mutex::new(Loaded::read(&path)?);
        Ok(Self { path, loaded })
    }

    /// True if no account was ever made here.
    pub fn is_new(&self) -> bool {
        self.lock().mark.is_none()
    }

    /// The account of `name` in `hub`, by what the file says now.
    pub fn find(&self, hub: &str, name: &str) -> Option<Arc<Account>> {
        let mut loaded = self.lock();
        if let Err(error) = loaded.refresh(&self.path) {
            tracing::error!("accounts stay as they were: {error}");
        }
        loaded.by_name.get(&key(hub, name)).cloned()
    }

    /// All accounts as last read, by hub and name.
    pub fn list(&self) -> Vec<Arc<Account>> {
        let mut all: Vec<_> = self.lock().by_name.iter().map(|(key, account)| (key.clone(), account.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.into_iter().map(|(_, account)| account).collect()
    }

    /// Reads the file again if it is another one than the last time. True if it was.
    ///
    /// # Errors
    /// As [`Self::open`]; the accounts stay as they were.
    pub fn refresh(&self) -> Result<bool, StateError> {
        self.lock().refresh(&self.path)
    }

    /// Adds a user.
    ///
    /// # Errors
    /// When he exists, a name or the password does not fit, or the file cannot be written.
    pub fn add(&self, hub: &str, name: &str, password: &str) -> Result<Arc<Account>, StateError> {
        let wrong = |what: &str, hint: &str| StateError::new(&self.path, what, hint);
        check_hub_name(hub).map_err(|hint| wrong(&format!("{hub:?} cannot be the name of a hub"), hint))?;
        check_user_name(name).map_err(|hint| wrong(&format!("{name:?} cannot be the name of a user"), hint))?;
        let hashed_password = self.verifier(name, password)?;
        self.change(|stored| {
            if stored.users.iter().any(|user| key(&user.hub, &user.name) == key(hub, name)) {
                return Err(wrong(
                    &format!("user {name:?} of hub {hub:?} exists"),
                    "`hublane user reset` gives a new password",
                ));
            }
            if stored.users.len() >= USERS_MAX {
                return Err(wrong("too many users", &format!("at most {USERS_MAX}")));
            }
            let member = stored.next_member;
            stored.next_member =
                member.checked_add(1).ok_or_else(|| wrong("no member number is left", "start with a new directory"))?;
            let (hub, name) = (hub.to_owned(), name.to_owned());
            let created = now();
            stored.users.push(Account {
                hub,
                name,
                member,
                hashed_password,
                certificate: None,
                created,
                disabled: false,
            });
            Ok(())
        })?;
        self.lock()
            .by_name
            .get(&key(hub, name))
            .cloned()
            .ok_or_else(|| wrong("user was removed meanwhile", "try again"))
    }

    /// Has a user log in by the certificate with this fingerprint, and by no password.
    ///
    /// # Errors
    /// When he does not exist or the file cannot be written.
    pub fn set_certificate(&self, hub: &str, name: &str, fingerprint: &str) -> Result<(), StateError> {
        let mut nobody_knows = Verifier([0; 20]);
        secrets::random(&mut nobody_knows.0);
        self.change(|stored| {
            let user = stored.users.iter_mut().find(|user| key(&user.hub, &user.name) == key(hub, name));
            let user = user.ok_or_else(|| self.unknown(hub, name))?;
            (user.hashed_password, user.certificate) = (nobody_knows, Some(fingerprint.to_owned()));
            Ok(())
        })
    }

    /// Gives a user another password, by which he logs in from then on.
    ///
    /// # Errors
    /// When he does not exist, the password does not fit, or the file cannot be written.
    pub fn reset(&self, hub: &str, name: &str, password: &str) -> Result<(), StateError> {
        let hashed_password = self.verifier(name, password)?;
        self.change(|stored| {
            let user = stored.users.iter_mut().find(|user| key(&user.hub, &user.name) == key(hub, name));
            let user = user.ok_or_else(|| self.unknown(hub, name))?;
            (user.hashed_password, user.certificate) = (hashed_password, None);
            Ok(())
        })
    }

    /// Lets a user log in no more, or again.
    ///
    /// # Errors
    /// When he does not exist or the file cannot be written.
    pub fn set_disabled(&self, hub: &str, name: &str, disabled: bool) -> Result<(), StateError> {
        self.change(|stored| {
            let user = stored.users.iter_mut().find(|user| key(&user.hub, &user.name) == key(hub, name));
            user.ok_or_else(|| self.unknown(hub, name))?.disabled = disabled;
            Ok(())
        })
    }

    /// Removes a user. His sessions live on until they end or are kicked.
    ///
    /// # Errors
    /// When he does not exist or the file cannot be written.
    pub fn remove(&self, hub: &str, name: &str) -> Result<(), StateError> {
        self.change(|stored| {
            let before = stored.users.len();
            stored.users.retain(|user| key(&user.hub, &user.name) != key(hub, name));
            if stored.users.len() == before { Err(self.unknown(hub, name)) } else { Ok(()) }
        })
    }

    fn verifier(&self, name: &str, password: &str) -> Result<Verifier, StateError> {
        let fits =
            !password.is_empty() && password.len() <= PASSWORD_BYTES_MAX && !password.chars().any(char::is_control);
        if !fits {
            let hint = format!("1 to {PASSWORD_BYTES_MAX} bytes without control characters");
            return Err(StateError::new(&self.path, "this cannot be a password", hint));
        }
        Ok(Verifier(*sha0::hashed_password(password, name)))
    }

    fn unknown(&self, hub: &str, name: &str) -> StateError {
        let what = format!("hub {hub:?} has no user {name:?}");
        StateError::new(&self.path, what, "`hublane user list` shows all; --hub HUB names the hub")
    }

    /// Read, change, replace: alone, since several commands may run at once.
    fn change(&self, edit: impl FnOnce(&mut Stored) -> Result<(), StateError>) -> Result<(), StateError> {
        // The directory itself is locked: a lock file would belong to whoever typed the first command.
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let opened = File::open(folder).map_err(|error| StateError::io(folder, "open", &error))?;
        let _lock = Flock::lock(opened, FlockArg::LockExclusive)
            .map_err(|(_, errno)| StateError::io(folder, "lock", &errno.into()))?;
        let mut stored = Stored::read(&self.path)?.unwrap_or_default();
        edit(&mut stored)?;
        let mut text = Zeroizing::new(serde_json::to_vec_pretty(&stored).expect("accounts are plain data"));
        text.push(b'\n');
        files::replace(&self.path, &text)?;
        self.refresh().map(|_| ())
    }

    fn lock(&self) -> MutexGuard<'_, Loaded> {
        // What is behind the lock is only ever replaced as a whole.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells one version of the file from another: a replaced file has another inode.
type Mark = (u64, u64, i64, i64);

#[derive(Debug)]
struct Loaded {
    mark: Option<Mark>,
    /// Version that could not be read: not tried, and not complained about, at every login.
    damaged: Option<Mark>,
    by_name: HashMap<String, Arc<Account>>,
}

impl Loaded {
    fn read(path: &Path) -> Result<Self, StateError> {
        // The mark is taken first: a file replaced in between is read again the next time.
        let mark = mark(path);
        let users = Stored::read(path)?.map(|stored| stored.users).unwrap_or_default();
        let by_name = users.into_iter().map(|user| (key(&user.hub, &user.name), Arc::new(user))).collect();
        Ok(Self { mark, damaged: None, by_name })
    }

    fn refresh(&mut self, path: &Path) -> Result<bool, StateError> {
        let mark = mark(path);
        if mark == self.mark || (mark.is_some() && mark == self.damaged) {
            return Ok(false);
        }
        if mark.is_none() {
            // Not emptiness: `users.json` is never removed by us, so it was by mistake.
            self.mark = None;
            return Err(StateError::new(path, "is gone", "put it back, or restart the server to begin anew"));
        }
        match Self::read(path) {
            Ok(loaded) => {
                *self = loaded;
                Ok(true)
            }
            Err(error) => {
                self.damaged = mark;
                Err(error)
            }
        }
    }
}

fn mark(path: &Path) -> Option<Mark> {
    // Without a descriptor: a server that has none left still has its accounts.
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

/// The file as written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    next_member: u32,
    users: Vec<Account>,
}

impl Default for Stored {
    fn default() -> Self {
        Self { version: VERSION, next_member: 1, users: Vec::new() }
    }
}

impl Stored {
    fn read(path: &Path) -> Result<Option<Stored>, StateError> {
        let Some(bytes) = files::read(path, FILE_BYTES_MAX, files::PRIVATE)? else { return Ok(None) };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |what: String| StateError::new(path, what, RESTORE);
        let version =
            serde_json::from_slice::<Version>(&bytes).map_err(|error| damaged(format!("damaged: {error}")))?;
        if version.version != VERSION {
            let what = format!("has version {}, this program knows version {VERSION}", version.version);
            return Err(StateError::new(path, what, "use the program that wrote it, or a newer one"));
        }
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| damaged(format!("damaged: {error}")))?;
        stored.check().map_err(damaged)?;
        Ok(Some(stored))
    }

    fn check(&self) -> Result<(), String> {
        let (mut names, mut members) = (HashSet::new(), HashSet::new());
        if self.users.len() > USERS_MAX {
            return Err(format!("more than {USERS_MAX} users"));
        }
        for user in &self.users {
            let who = format!("user {:?} of hub {:?}", user.name, user.hub);
            check_hub_name(&user.hub).map_err(|hint| format!("{who}: hub must be {hint}"))?;
            check_user_name(&user.name).map_err(|hint| format!("{who}: name must be {hint}"))?;
            if !names.insert(key(&user.hub, &user.name)) {
                return Err(format!("{who} stands twice"));
            }
            if !members.insert(user.member) || user.member >= self.next_member {
                return Err(format!("{who}: member number {} is not unique or not below next_member", user.member));
            }
            let is_fingerprint =
                |text: &String| text.len() == 64 && text.bytes().all(|b| b"0123456789abcdef".contains(&b));
            if !user.certificate.as_ref().is_none_or(is_fingerprint) {
                return Err(format!("{who}: certificate must be 64 hexadecimal digits in lower case"));
            }
            if user.created.len() > 40 || user.created.chars().any(char::is_control) {
                return Err(format!("{who}: created is not a time"));
            }
        }
        Ok(())
    }
}

/// Case does not count (protocol note §3.2), as for [`sha0::hashed_password`]. Stored names have no NUL.
fn key(hub: &str, name: &str) -> String {
    format!("{}\0{}", hub.to_ascii_uppercase(), name.to_ascii_uppercase())
}

fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(0).unwrap_or(now);
    now.format(&Rfc3339).expect("the present has four digits of years")
}

const FILE: &str = "users.json";
const VERSION: u32 = 1;
const RESTORE: &str = "restore the file from a backup; or move it away: the next start makes a new one with a new user";
/// Some hundred bytes each: the file is read at once, at a login.
const USERS_MAX: usize = 100_000;
/// The largest set of users fits, with the longest names.
const FILE_BYTES_MAX: u64 = 128 << 20;
/// Longest password of the protocol (note §3.3).
pub const PASSWORD_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn store() -> (tempfile::TempDir, AccountStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = AccountStore::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn add_find_reset_remove() {
        let (dir, store) = store();
        assert!(store.is_new());
        let alice = store.add("PUBLIC", "Alice", "secret").unwrap();
        assert!(!store.is_new());
        assert_eq!(super::super::secrets::hex(&alice.hashed_password.0), "0e782dacdb78918d73007999da81bc408906d451");
        assert_eq!(store.find("public", "ALICE").as_deref(), Some(&*alice));
        assert_eq!(store.find("other", "alice"), None);
        assert!(store.add("Public", "aLICE", "x").unwrap_err().what.contains("exists"));
        let bob = store.add("PUBLIC", "bob", "x").unwrap();
        assert_ne!(alice.member(), bob.member());
        store.reset("PUBLIC", "bob", "y").unwrap();
        assert_ne!(store.find("PUBLIC", "bob").unwrap().hashed_password, bob.hashed_password);
        for disabled in [true, false] {
            store.set_disabled("public", "Bob", disabled).unwrap();
            assert_eq!(store.find("PUBLIC", "bob").unwrap().disabled, disabled);
        }
        assert!(store.set_disabled("PUBLIC", "eve", true).unwrap_err().what.contains("no user \"eve\""));
        store.remove("PUBLIC", "BOB").unwrap();
        assert_eq!(store.find("PUBLIC", "bob"), None);
        assert_ne!(store.add("PUBLIC", "bob", "x").unwrap().member(), bob.member(), "numbers are never given twice");
        for error in [store.reset("PUBLIC", "eve", "x").unwrap_err(), store.remove("PUBLIC", "eve").unwrap_err()] {
            assert!(error.what.contains("no user \"eve\""), "{error}");
        }
        let names: Vec<_> = AccountStore::open(dir.path()).unwrap().list().iter().map(|a| a.name.clone()).collect();
        assert_eq!(names, ["Alice", "bob"]);
        assert_eq!(dir.path().join(FILE).metadata().unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn names_and_passwords_are_checked() {
        let (_dir, store) = store();
        for (hub, name, password) in
            [("a/b", "u", "p"), ("h", "administrator", "p"), ("h", "u\n", "p"), ("h", "u", ""), ("h", "u", "a\nb")]
        {
            assert!(store.add(hub, name, password).is_err(), "{hub:?} {name:?} {password:?}");
        }
        assert!(store.add("h", "u", &"p".repeat(256)).is_err());
        assert!(store.is_new());
    }

    #[test]
    fn a_running_server_sees_what_a_command_changed() {
        let (dir, server) = store();
        let command = AccountStore::open(dir.path()).unwrap();
        command.add("PUBLIC", "u", "old").unwrap();
        let old = server.find("PUBLIC", "u").unwrap();
        command.reset("PUBLIC", "u", "new").unwrap();
        assert_ne!(server.find("PUBLIC", "u").unwrap().hashed_password, old.hashed_password);
        assert!(!server.refresh().unwrap(), "nothing changed since");
        command.remove("PUBLIC", "u").unwrap();
        assert!(server.refresh().unwrap());
        assert_eq!(server.find("PUBLIC", "u"), None);
    }

    #[test]
    fn damage_is_told_and_changes_nothing_in_a_running_server() {
        let (dir, server) = store();
        server.add("PUBLIC", "u", "p").unwrap();
        let path = dir.path().join(FILE);
        let good = std::fs::read(&path).unwrap();
        for end in 0..good.len() - 2 {
            files::replace(&path, &good[..end]).unwrap();
            let error = AccountStore::open(dir.path()).expect_err("cut off");
            assert!(error.what.starts_with("damaged: ") && error.hint.contains("backup"), "{error}");
        }
        assert!(server.refresh().is_err());
        assert!(!server.refresh().unwrap(), "told once");
        assert!(server.find("PUBLIC", "u").is_some());
        assert!(server.add("PUBLIC", "v", "p").is_err(), "a damaged file is not written over");
        std::fs::remove_file(&path).unwrap();
        assert!(server.refresh().unwrap_err().what.contains("is gone"));
        assert!(server.find("PUBLIC", "u").is_some());
        files::replace(&path, &good).unwrap();
        assert!(server.refresh().unwrap());
    }

    #[test]
    fn every_inconsistency_is_refused() {
        let (dir, store) = store();
        store.add("PUBLIC", "u", "p").unwrap();
        store.add("PUBLIC", "v", "p").unwrap();
        let path = dir.path().join(FILE);
        let good = std::fs::read_to_string(&path).unwrap();
        for (from, to, want) in [
            ("\"version\": 1", "\"version\": 2", "has version 2, this program knows version 1"),
            ("\"name\": \"v\"", "\"name\": \"U\"", "stands twice"),
            ("\"member\": 2", "\"member\": 1", "not unique"),
            ("\"member\": 2", "\"member\": 3", "not below next_member"),
            ("\"name\": \"v\"", "\"name\": \"v/\"", "name must be"),
            ("\"hub\": \"PUBLIC\"", "\"hub\": \"\"", "hub must be"),
            ("\"created\"", "\"certificate\": \"AB\", \"created\"", "64 hexadecimal digits in lower case"),
            ("\"disabled\"", "\"enabled\"", "unknown field `enabled`"),
            ("\"hashed_password\": \"", "\"hashed_password\": \"z", "40 hexadecimal digits"),
        ] {
            assert!(good.contains(from), "{from}");
            files::replace(&path, good.replacen(from, to, 1).as_bytes()).unwrap();
            let error = AccountStore::open(dir.path()).expect_err(to);
            assert!(error.what.contains(want), "{to}: {error}");
        }
        files::replace(&path, &[0xff, 0, 1]).unwrap();
        assert!(AccountStore::open(dir.path()).unwrap_err().what.starts_with("damaged"));
        files::replace(&path, good.as_bytes()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(AccountStore::open(dir.path()).unwrap_err().hint.contains("chmod 600"));
    }
}
