//! How a running server gets a new configuration: whole, numbered, by one pointer.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::Config;

/// A configuration and its number. Holders compare epochs to see whether theirs is still the last one.
#[derive(Clone, Debug)]
pub struct ConfigSnapshot {
    /// Grows by one with each configuration; the first one has 1.
    pub epoch: u64,
    /// What holds now.
    pub config: Arc<Config>,
}

/// The configuration that holds now. Read by any thread without waiting.
#[derive(Debug)]
pub struct CurrentConfig {
    current: ArcSwap<ConfigSnapshot>,
    publishing: Mutex<()>,
}

impl CurrentConfig {
    /// Starts with `config` as epoch 1.
    pub fn new(config: Config) -> Self {
        let first = ConfigSnapshot { epoch: 1, config: Arc::new(config) };
        Self { current: ArcSwap::from_pointee(first), publishing: Mutex::new(()) }
    }

    /// What holds now.
    pub fn load(&self) -> Arc<ConfigSnapshot> {
        self.current.load_full()
    }

    /// Makes `config` the one that holds; returns its snapshot. An equal configuration changes nothing.
    pub fn publish(&self, config: Config) -> Arc<ConfigSnapshot> {
        // The lock guards no data that a panic could leave half-written.
        let _guard = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.load();
        if *last.config == config {
            return last;
        }
        let next = Arc::new(ConfigSnapshot { epoch: last.epoch + 1, config: Arc::new(config) });
        self.current.store(Arc::clone(&next));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::RawServer;

    #[test]
    fn epochs_count_changes_only() {
        let config = Config::load(None, RawServer::default()).unwrap();
        let current = CurrentConfig::new(config.clone());
        assert_eq!(current.load().epoch, 1);
        assert_eq!(current.publish(config.clone()).epoch, 1);
        let mut other = config;
        other.server.handshakes_max = 7;
        assert_eq!(current.publish(other).epoch, 2);
        assert_eq!(current.load().config.server.handshakes_max, 7);
    }
}
