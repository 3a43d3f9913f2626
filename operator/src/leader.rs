//! One replica works, the other waits: a Lease in the operator's namespace says which.
//!
//! Expiry is measured on this machine's clock, from when the lease was last *seen* to change, so that clocks need not
//! agree.

use crate::{
    cluster::{Error, MANAGER, found},
    settings::Settings,
};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use std::time::{Duration, Instant};

const NAME: &str = "rhizon-operator";
const EXPIRES: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(4);

pub struct Leader {
    api: Api<Lease>,
    identity: String,
    seen: Option<(Option<MicroTime>, Instant)>,
}

/// What a look at the lease says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Take,
    Wait,
}

impl Leader {
    pub fn new(client: &Client, settings: &Settings) -> Self {
        let api = Api::namespaced(client.clone(), &settings.namespace);
        Self { api, identity: settings.identity.clone(), seen: None }
    }

    /// Returns when this replica is the leader.
    pub async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the lease cannot be read or written"),
            }
            tokio::time::sleep(RENEW).await;
        }
    }

    /// Renews, and returns when the lease is lost: then somebody else may work, and this process must not.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEW).await;
            match self.attempt().await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "the lease was not renewed");
                    if renewed.elapsed() + RENEW > EXPIRES {
                        return;
                    }
                }
            }
        }
    }

    /// Gives the lease away, so that the other replica need not wait for its end.
    pub async fn release(&mut self) {
        if let Ok(Some(mut lease)) = found(self.api.get(NAME).await)
            && let Some(spec) = lease.spec.as_mut()
            && spec.holder_identity.as_deref() == Some(&self.identity)
        {
            spec.holder_identity = None;
            // A lost race means that somebody else holds it already.
            let _ = self.api.replace(NAME, &PostParams::default(), &lease).await;
        }
    }

    async fn attempt(&mut self) -> Result<bool, Error> {
        let failed = |verb| move |e| Error::new(verb, "the leader's Lease", e);
        let live = found(self.api.get(NAME).await).map_err(failed("reading"))?;
        let spec = live.as_ref().and_then(|lease| lease.spec.as_ref());
        if self.judge(spec, Instant::now()) == Verdict::Wait {
            return Ok(false);
        }
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let wanted = self.lease(live.as_ref().map(|lease| &lease.metadata));
        let written = match live {
            None => self.api.create(&params, &wanted).await,
            // The resource version makes two replicas that try at once into one winner.
            Some(_) => self.api.replace(NAME, &params, &wanted).await,
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(failed("writing")(error)),
        }
    }

    fn judge(&mut self, spec: Option<&LeaseSpec>, now: Instant) -> Verdict {
        let Some(spec) = spec else { return Verdict::Take };
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return Verdict::Take;
        }
        match &self.seen {
            Some((renewed, since)) if *renewed == spec.renew_time => {
                if now.duration_since(*since) > EXPIRES {
                    Verdict::Take
                } else {
                    Verdict::Wait
                }
            }
            _ => {
                self.seen = Some((spec.renew_time.clone(), now));
                Verdict::Wait
            }
        }
    }

    fn lease(&self, live: Option<&ObjectMeta>) -> Lease {
        let metadata =
            live.cloned().unwrap_or_else(|| ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() });
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(EXPIRES.as_secs()).ok(),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_is_taken_when_it_is_free_ours_or_was_not_renewed_for_its_time() {
        let (service, _) =
            tower_test::mock::pair::<http::Request<kube::client::Body>, http::Response<kube::client::Body>>();
        let api = Api::namespaced(Client::new(service, "rhizon-system"), "rhizon-system");
        let mut leader = Leader { api, identity: "me".to_owned(), seen: None };
        let held = |by: &str, at: i64| LeaseSpec {
            holder_identity: Some(by.to_owned()),
            renew_time: Some(MicroTime(Timestamp::from_second(at).unwrap())),
            ..LeaseSpec::default()
        };
        let start = Instant::now();
        assert_eq!(leader.judge(None, start), Verdict::Take);
        assert_eq!(leader.judge(Some(&held("me", 1)), start), Verdict::Take);
        assert_eq!(leader.judge(Some(&held("", 1)), start), Verdict::Take);
        assert_eq!(leader.judge(Some(&held("other", 1)), start), Verdict::Wait);
        let later = start + EXPIRES + Duration::from_secs(1);
        // Renewed in between: the time begins anew.
        assert_eq!(leader.judge(Some(&held("other", 2)), later), Verdict::Wait);
        assert_eq!(leader.judge(Some(&held("other", 2)), later + EXPIRES + Duration::from_secs(1)), Verdict::Take);
    }
}
