//! The caller of a request, as handlers get it: proven before anything else of the request is looked at.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use rhizon_api::settings::Agent;
use tokio::sync::watch;

use super::access::Rights;
use super::auth::{Authenticator, Identity};
use super::control::Command;
use super::policy::Policy;
use super::problem::Problem;

/// A proven identity, and the policy that was in force when the request came.
pub(super) struct Caller {
    policy: Arc<Policy>,
    pub(super) identity: Identity,
}

impl Caller {
    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(super) fn rights(&self) -> Result<Rights<'_>, Problem> {
        Rights::of(&self.identity, &self.policy.access).map_err(|error| Problem::forbidden(error.to_string()))
    }

    pub(super) fn may_read(&self) -> Result<(), Problem> {
        self.rights()?.read(&self.identity.actor).map_err(|error| Problem::forbidden(error.to_string()))
    }

    /// Only who may read learns which agents there are. One that the settings do not name may be new: its sidecar knows.
    pub(super) fn may_read_of(&self, agent: &str) -> Result<(), Problem> {
        self.may_read()?;
        if is_agent_name(agent) { Ok(()) } else { Err(self.no_such_agent(agent)) }
    }

    /// The roles with which the caller commands an agent's sidecar.
    pub(super) fn may_command(&self, command: Command) -> Result<Vec<String>, Problem> {
        let roles = self.rights()?.command(&self.identity.actor, &command.event_type());
        roles.map_err(|error| Problem::forbidden(error.to_string()))
    }

    /// The agents to ask: all that are known, or the one that is meant.
    pub(super) fn agents(&self, only: Option<&str>) -> Result<Vec<Agent>, Problem> {
        match only {
            None => Ok(self.policy.agents.clone()),
            Some(name) => self.agent(name).map(|agent| vec![agent]),
        }
    }

    /// One that the settings do not name may be new, and counts as one shard until they say something else.
    pub(super) fn agent(&self, name: &str) -> Result<Agent, Problem> {
        if !is_agent_name(name) {
            return Err(self.no_such_agent(name));
        }
        let known = self.policy.agents.iter().find(|agent| agent.name == name).cloned();
        Ok(known.unwrap_or_else(|| Agent { name: name.to_owned(), subscribes: Vec::new(), shards: 1 }))
    }

    pub(super) fn no_such_agent(&self, agent: &str) -> Problem {
        let known: Vec<&str> = self.policy.agents.iter().map(|agent| agent.name.as_str()).collect();
        let known = known.join(", ");
        Problem::not_found(format!("there is no agent '{agent}' in this workspace; it has: {known}"))
    }
}

/// A DNS label of at most 40 characters, which is also one token of a subject.
fn is_agent_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=40).contains(&name.len()) && name.bytes().all(plain)
}

impl<S: Sync> FromRequestParts<S> for Caller
where
    watch::Receiver<Arc<Policy>>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let policy = watch::Receiver::from_ref(state).borrow().clone();
        if matches!(policy.authenticator, Authenticator::Everyone(_)) && !names_loopback(parts) {
            return Err(Problem::forbidden("local mode answers to localhost only"));
        }
        let authorization = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let identity = policy
            .authenticator
            .identify(authorization)
            .map_err(|error| Problem::unauthenticated(error.to_string()))?;
        Ok(Self { policy, identity })
    }
}

/// A web page can make a browser call a loopback address under a name of its own (DNS rebinding), but not under ours.
fn names_loopback(parts: &Parts) -> bool {
    let given = parts.headers.get(HOST).and_then(|value| value.to_str().ok()).or(parts.uri.host()).unwrap_or_default();
    given.parse::<Authority>().is_ok_and(|name| matches!(name.host(), "localhost" | "127.0.0.1" | "[::1]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_token_of_a_subject_is_no_agents() {
        assert!(is_agent_name("permits-2"));
        for name in ["", "*", ">", "a.b", "a b", "Permits", &"x".repeat(41)] {
            assert!(!is_agent_name(name), "{name}");
        }
    }

    #[test]
    fn only_loopback_names_are_local() {
        let local = |host: &str| {
            let request = axum::http::Request::builder().header(HOST, host).body(()).unwrap();
            names_loopback(&request.into_parts().0)
        };
        for host in ["localhost", "localhost:8088", "127.0.0.1:1", "127.0.0.1", "[::1]:8088", "[::1]"] {
            assert!(local(host), "{host}");
        }
        for host in ["", "evil.example", "evil.example:8088", "localhost.evil.example", "127.0.0.1.evil:80"] {
            assert!(!local(host), "{host}");
        }
    }
}
