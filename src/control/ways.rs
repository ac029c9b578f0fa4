//! The hubs' ways out, as control threads reach them: which worker has a gateway, which one a public port.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::workers::WorkerHandle;
use crate::ids::HubId;
use crate::worker::router::orders::Order;
use crate::worker::router::plan::RouterPlan;
use crate::worker::seeds::Command;

/// A hub with a gateway.
pub struct WayOut {
    /// What its workers share.
    pub plan: Arc<RouterPlan>,
    /// The device of its NAT.
    pub device: Option<String>,
}

impl WayOut {
    /// Which hub.
    pub fn hub(&self) -> HubId {
        self.plan.hub
    }

    /// Asks one worker: `order` makes what it is told of the place for the answer. `None`: it has no such part, or does
    /// not answer in time.
    pub async fn ask<T>(
        &self,
        workers: &[WorkerHandle],
        worker: usize,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
    ) -> Option<T> {
        answer(self.put(workers, worker, order)).await
    }

    /// Asks every worker, at the same time; answers by number.
    pub async fn ask_all<T>(
        &self,
        workers: &[WorkerHandle],
        order: impl Fn(oneshot::Sender<T>) -> Order,
    ) -> Vec<Option<T>> {
        let asked: Vec<_> = (0..workers.len()).map(|worker| self.put(workers, worker, &order)).collect();
        let mut answers = Vec::new();
        for answered in asked {
            answers.push(answer(answered).await);
        }
        answers
    }

    fn put<T>(
        &self,
        workers: &[WorkerHandle],
        worker: usize,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
    ) -> oneshot::Receiver<T> {
        let (answer, answered) = oneshot::channel();
        workers[worker].tell(Command::Router(self.hub(), order(answer)));
        answered
    }
}

async fn answer<T>(answered: oneshot::Receiver<T>) -> Option<T> {
    timeout(WORKER_MAX, answered).await.ok()?.ok()
}

/// How long a worker may take to answer; a turn is far shorter.
pub const WORKER_MAX: Duration = Duration::from_secs(2);
