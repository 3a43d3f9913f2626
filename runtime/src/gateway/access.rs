//! What a caller may do: `spec.gateway.access`, decided from values alone. Without an entry, nothing.

use std::collections::BTreeSet;

use rhizon_api::settings::Access;
use rhizon_kernel::EventType;

use super::auth::Identity;

/// Sources with these beginnings are agents' own, and the gateway's; no entry can give them away.
const AGENTS_SOURCE: &str = rhizon_kernel::config::RESERVED_SOURCE;
const GATEWAYS_SOURCE: &str = "/gateway/";

/// The entries of one caller.
#[derive(Debug, Clone)]
pub(super) struct Rights<'a> {
    entries: Vec<&'a Access>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AccessError {
    #[error("'{0}' may not do anything in this workspace; add it to spec.gateway.access")]
    Stranger(String),
    #[error("'{actor}' may not send the type '{event_type}'")]
    Type { actor: String, event_type: String },
    #[error("'{actor}' may not send events of the source '{source_uri}'")]
    Source { actor: String, source_uri: String },
    #[error(
        "sources that begin with '{AGENTS_SOURCE}' belong to agents, and those with '{GATEWAYS_SOURCE}' to the gateway"
    )]
    ReservedSource,
    #[error(
        "'{actor}' may not give the command '{command}'; spec.gateway.access has to name it in send, and ctl.*.* does not"
    )]
    Command { actor: String, command: String },
    #[error("'{0}' may not read in this workspace")]
    Read(String),
}

impl AccessError {
    /// The attribute of the event that is refused.
    pub(super) fn field(&self) -> Option<&'static str> {
        match self {
            Self::Type { .. } => Some("type"),
            Self::Source { .. } | Self::ReservedSource => Some("source"),
            Self::Stranger(_) | Self::Read(_) | Self::Command { .. } => None,
        }
    }
}

impl<'a> Rights<'a> {
    /// The entries for a caller, of all of the workspace.
    pub(super) fn of(identity: &Identity, access: &'a [Access]) -> Result<Self, AccessError> {
        let is_callers = |entry: &&Access| entry.issuer == identity.issuer && entry.subject == identity.subject;
        let entries: Vec<&Access> = access.iter().filter(is_callers).collect();
        if entries.is_empty() { Err(AccessError::Stranger(identity.actor.clone())) } else { Ok(Self { entries }) }
    }

    /// The roles that an event of this type and source carries: of the entries that allow both, and no others.
    pub(super) fn send(&self, actor: &str, event_type: &EventType, source: &str) -> Result<Vec<String>, AccessError> {
        if source.starts_with(AGENTS_SOURCE) || source.starts_with(GATEWAYS_SOURCE) {
            return Err(AccessError::ReservedSource);
        }
        let mut of_type = self.entries.iter().filter(|entry| may_send(entry, event_type)).peekable();
        if of_type.peek().is_none() {
            return Err(AccessError::Type { actor: actor.to_owned(), event_type: event_type.to_string() });
        }
        let mut allowing = of_type.filter(|entry| may_name(entry, source)).peekable();
        if allowing.peek().is_none() {
            return Err(AccessError::Source { actor: actor.to_owned(), source_uri: source.to_owned() });
        }
        Ok(roles(allowing))
    }

    /// The roles with which a command to a sidecar is given. Only an entry that spells out its noun allows it.
    pub(super) fn command(&self, actor: &str, command: &EventType) -> Result<Vec<String>, AccessError> {
        let names = |entry: &&&Access| {
            entry.send.iter().any(|pattern| pattern.names_noun() && pattern.matches(command.as_str()))
        };
        let mut allowing = self.entries.iter().filter(names).peekable();
        if allowing.peek().is_none() {
            return Err(AccessError::Command { actor: actor.to_owned(), command: command.to_string() });
        }
        Ok(roles(allowing))
    }

    /// May read states, histories and journals.
    pub(super) fn read(&self, actor: &str) -> Result<(), AccessError> {
        if self.entries.iter().any(|entry| entry.read) { Ok(()) } else { Err(AccessError::Read(actor.to_owned())) }
    }
}

fn roles<'a>(entries: impl Iterator<Item = &'a &'a Access>) -> Vec<String> {
    entries.flat_map(|entry| entry.roles.iter().cloned()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn may_send(entry: &Access, event_type: &EventType) -> bool {
    entry.send.iter().any(|pattern| pattern.matches(event_type.as_str()))
}

fn may_name(entry: &Access, source: &str) -> bool {
    entry.sources.iter().any(|prefix| source.starts_with(prefix.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(subject: &str, roles: &[&str], send: &str, sources: &[&str], read: bool) -> Access {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Access {
            issuer: "https://cluster".into(),
            subject: subject.into(),
            roles: owned(roles),
            send: vec![send.parse().unwrap()],
            sources: owned(sources),
            read,
        }
    }

    fn caller(subject: &str) -> Identity {
        Identity { issuer: "https://cluster".into(), subject: subject.into(), actor: subject.into() }
    }

    fn send(rights: &Rights, event_type: &str, source: &str) -> Result<Vec<String>, AccessError> {
        rights.send("me", &event_type.parse().unwrap(), source)
    }

    #[test]
    fn nobody_may_anything_by_default() {
        let entries = [access("clerk", &[], "cmd.permit.record", &["/logs/"], true)];
        let stranger = AccessError::Stranger("robot".into());
        assert_eq!(Rights::of(&caller("robot"), &entries).unwrap_err(), stranger);
        let same_subject = Identity { issuer: "https://elsewhere".into(), ..caller("clerk") };
        assert!(Rights::of(&same_subject, &entries).is_err());
    }

    #[test]
    fn type_and_source_must_both_be_allowed() {
        let entries = [access("clerk", &["clerk"], "cmd.permit.*", &["/logs/"], false)];
        let rights = Rights::of(&caller("clerk"), &entries).unwrap();
        assert_eq!(send(&rights, "cmd.permit.record", "/logs/permit"), Ok(vec!["clerk".into()]));
        assert_eq!(send(&rights, "cmd.other.record", "/logs/permit").unwrap_err().field(), Some("type"));
        assert_eq!(send(&rights, "cmd.permit.record", "/elsewhere").unwrap_err().field(), Some("source"));
        assert_eq!(rights.read("me"), Err(AccessError::Read("me".into())));
    }

    #[test]
    fn an_entry_without_sources_allows_none() {
        let entries = [access("clerk", &[], "cmd.permit.record", &[], true)];
        let rights = Rights::of(&caller("clerk"), &entries).unwrap();
        assert_eq!(send(&rights, "cmd.permit.record", "/logs/permit").unwrap_err().field(), Some("source"));
        assert_eq!(rights.read("me"), Ok(()));
    }

    #[test]
    fn agents_sources_cannot_be_given_away() {
        let entries = [access("clerk", &[], "evt.permit.recorded", &["/"], false)];
        let rights = Rights::of(&caller("clerk"), &entries).unwrap();
        let posing = send(&rights, "evt.permit.recorded", "/rhizon/permits/agents/permits");
        assert_eq!(posing, Err(AccessError::ReservedSource));
        let control = send(&rights, "evt.permit.recorded", "/gateway/control");
        assert_eq!(control, Err(AccessError::ReservedSource));
    }

    #[test]
    fn commands_are_granted_by_their_noun() {
        let may = |send: &str, command: &str| {
            let entries = [access("clerk", &["clerk"], send, &["/"], false)];
            let rights = Rights::of(&caller("clerk"), &entries).unwrap();
            rights.command("me", &command.parse().unwrap()).is_ok()
        };
        assert!(may("ctl.dead.*", "ctl.dead.drop") && may("ctl.timer.cancel", "ctl.timer.cancel"));
        assert!(!may("ctl.*.*", "ctl.dead.drop") && !may("ctl.*.drop", "ctl.dead.drop"));
        assert!(!may("ctl.dead.redrive", "ctl.dead.drop") && !may("cmd.*.*", "ctl.dead.drop"));
    }

    #[test]
    fn entries_do_not_lend_each_other_their_rights() {
        let entries = [
            access("clerk", &["clerk", "author"], "cmd.permit.record", &["/logs/"], false),
            access("clerk", &["head"], "cmd.permit.revoke", &["/office/"], false),
            access("clerk", &["auditor"], "cmd.permit.*", &["/logs/audit/"], false),
        ];
        let rights = Rights::of(&caller("clerk"), &entries).unwrap();
        assert_eq!(send(&rights, "cmd.permit.record", "/office/a").unwrap_err().field(), Some("source"));
        let both = send(&rights, "cmd.permit.record", "/logs/audit/a").unwrap();
        assert_eq!(both, ["auditor", "author", "clerk"]);
    }
}
