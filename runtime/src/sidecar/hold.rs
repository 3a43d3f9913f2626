//! Pausing the driver: by the agent's operating mode, and for as long as the agent container is being stopped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::agent::http::HttpAgent;
use crate::driver::{Demand, Order, Report};

/// How long an agent that was asked to stop may still answer before it is taken to have stayed.
const GONE_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Clone)]
pub struct Hold {
    orders: Arc<watch::Sender<Order>>,
    reports: Vec<watch::Receiver<Report>>,
    drained: Arc<Notify>,
    agent: HttpAgent,
    /// What is asked when no agent container is being stopped.
    usual: Demand,
}

impl Hold {
    pub fn new(usual: Demand, reports: Vec<watch::Receiver<Report>>, agent: HttpAgent) -> Self {
        let (orders, _) = watch::channel(Order { number: 0, demand: usual });
        Self { orders: Arc::new(orders), reports, drained: Arc::default(), agent, usual }
    }

    pub fn orders(&self) -> watch::Receiver<Order> {
        self.orders.subscribe()
    }

    /// Gives the order, and answers its number. After a stop there is no other.
    pub fn ask(&self, demand: Demand) -> u64 {
        self.orders.send_modify(|order| {
            order.number += 1;
            if order.demand != Demand::Stop {
                order.demand = demand;
            }
        });
        self.orders.borrow().number
    }

    /// Returns when nothing is in flight; the agent may be stopped then.
    pub async fn drain(&self) {
        let number = self.ask(Demand::Hold);
        for mut reports in self.reports.clone() {
            // A driver that is not attached has nothing in flight.
            let idle = reports.wait_for(|report| report.in_flight == 0 && (report.heard >= number || !report.attached));
            let _ = idle.await;
        }
        self.drained.notify_one();
    }

    /// Returns when the drivers are asked to stop.
    pub async fn stopped(&self) {
        let _ = self.orders().wait_for(|order| order.demand == Demand::Stop).await;
    }

    /// After each drain: waits until the agent is gone and back, and lets the driver go on.
    pub async fn follow(self) -> anyhow::Result<()> {
        loop {
            self.drained.notified().await;
            let number = self.orders.borrow().number;
            let gone = async {
                while self.agent.describe().await.is_ok() {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            };
            let _ = tokio::time::timeout(GONE_WITHIN, gone).await;
            while self.agent.describe().await.is_err() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            // A newer drain is about the agent that is there now.
            if self.orders.borrow().number == number {
                self.ask(self.usual);
            }
        }
    }
}
