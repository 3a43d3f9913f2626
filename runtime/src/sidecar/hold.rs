//! Pausing the driver: by the agent's operating mode, and for as long as the agent container is being stopped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::agent::http::HttpAgent;
use crate::driver::{Demand, Report};

/// How long an agent that was asked to stop may still answer before it is taken to have stayed.
const GONE_WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Hold {
    demand: Arc<watch::Sender<Demand>>,
    reports: watch::Receiver<Report>,
    drained: Arc<Notify>,
    agent: HttpAgent,
    paused: bool,
}

impl Hold {
    pub fn new(paused: bool, reports: watch::Receiver<Report>, agent: HttpAgent) -> Self {
        let (demand, _) = watch::channel(if paused { Demand::Hold } else { Demand::Run });
        Self { demand: Arc::new(demand), reports, drained: Arc::default(), agent, paused }
    }

    pub fn demand(&self) -> watch::Receiver<Demand> {
        self.demand.subscribe()
    }

    pub fn ask(&self, demand: Demand) {
        self.demand.send_if_modified(|now| {
            let changes = *now != demand && *now != Demand::Stop;
            if changes {
                *now = demand;
            }
            changes
        });
    }

    /// Returns when nothing is in flight; the agent may be stopped then.
    pub async fn drain(&self) {
        self.ask(Demand::Hold);
        let mut reports = self.reports.clone();
        // A driver that is not attached has nothing in flight.
        let idle = reports.wait_for(|report| report.in_flight == 0 && (report.held || !report.attached));
        let _ = idle.await;
        self.drained.notify_one();
    }

    /// After each drain: waits until the agent is gone and back, and lets the driver go on.
    pub async fn follow(self) -> anyhow::Result<()> {
        loop {
            self.drained.notified().await;
            let gone = async {
                while self.agent.describe().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            let _ = tokio::time::timeout(GONE_WITHIN, gone).await;
            while self.agent.describe().await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if !self.paused {
                self.ask(Demand::Run);
            }
        }
    }
}
