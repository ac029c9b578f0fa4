//! SIGHUP: accounts and configuration are read again, sessions go on.
//!
//! What a hub grants at a login can change; what listeners, workers and hubs were made from cannot, and a file
//! that would change it is refused as a whole, as is one with a mistake: the server never runs on half of one.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::raw::RawServer;
use crate::config::snapshot::{ConfigSnapshot, CurrentConfig};
use crate::config::{Config, Hub};

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The file; `None` for the defaults.
    pub file: Option<PathBuf>,
    /// What was typed, which comes before the file.
    pub typed: RawServer,
}

impl Origin {
    /// For the log.
    pub fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "defaults".into(), |file| file.display().to_string())
    }
}

/// Reads the configuration again and publishes it.
///
/// # Errors
/// The text for the log; the configuration that holds stays.
pub fn reload(origin: &Origin, current: &CurrentConfig) -> Result<Arc<ConfigSnapshot>, String> {
    let next = Config::load(origin.file.as_deref(), origin.typed.clone()).map_err(|e| e.to_string())?;
    match made_from(&current.load().config, &next) {
        Some(what) => Err(format!("{what} changed, which takes a restart; nothing of the new file is used")),
        None => Ok(current.publish(next)),
    }
}

/// What differs of that which listeners, workers and hubs are made from.
fn made_from(now: &Config, next: &Config) -> Option<String> {
    if now.server != next.server {
        return Some("[server]".into());
    }
    let names = |config: &Config| config.hubs.iter().map(|hub| hub.name.clone()).collect::<Vec<_>>();
    if names(now) != names(next) {
        return Some("the list of hubs".into());
    }
    let made_of = |hub: &Hub| (hub.profile, hub.isolate_members, hub.members_ipv6, hub.ageing, hub.fdb_entries);
    let changed = now.hubs.iter().zip(&next.hubs).find(|(now, next)| made_of(now) != made_of(next));
    changed.map(|(hub, _)| format!("profile, isolate_members, ipv6, ageing_s or fdb_entries of hub {:?}", hub.name))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FIRST: &str = "[[hub]]\nname = \"a\"\nmax_connections = 4\n[[hub]]\nname = \"b\"\n";

    fn reloaded(next: &str) -> (Result<u64, String>, u8) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hublane.toml");
        let current = CurrentConfig::new(Config::build("x", FIRST, Path::new(""), RawServer::default()).unwrap());
        std::fs::write(&file, next).unwrap();
        let origin = Origin { file: Some(file), typed: RawServer::default() };
        let done = reload(&origin, &current).map(|snapshot| snapshot.epoch);
        (done, current.load().config.hubs[0].max_connections)
    }

    #[test]
    fn what_a_login_grants_changes_with_the_next_login() {
        assert_eq!(reloaded(&FIRST.replace('4', "8")), (Ok(2), 8));
        assert_eq!(reloaded(FIRST), (Ok(1), 4), "nothing new");
    }

    #[test]
    fn what_needs_a_restart_and_what_is_wrong_change_nothing() {
        for (next, said) in [
            (format!("[server]\nqueue_depth = 64\n{FIRST}"), "[server]"),
            (FIRST.replace("\"b\"", "\"c\""), "list of hubs"),
            (FIRST.replace("= 4", "= 8\nageing_s = 99"), "ageing_s"),
            (FIRST.replace("= 4", "= 99"), "max_connections"),
        ] {
            let (done, connections) = reloaded(&next);
            let error = done.unwrap_err();
            assert!(error.contains(said), "{said}: {error}");
            assert_eq!(connections, 4);
        }
    }
}
