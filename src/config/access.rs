//! Who may use the pages of `payonce ops`, as the settings have it: tokens, proxies that name people, and which of those have which role. What must
//! not live here: what a role may do (`ops/access/rights.rs`), and settings of anything else.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    OidcConfig, Secret,
    roles::{Role, Roles},
    setting::{Typed, listed},
};

/// Shortest token of `payonce ops`.
const TOKEN_BYTES_MIN: usize = 16;
/// Shortest key of sessions: as long as what HMAC-SHA-256 makes of it (RFC 2104, 3).
const SESSION_KEY_BYTES_MIN: usize = 32;

/// Who may use the pages of `payonce ops`.
#[derive(Debug, Clone)]
pub struct AccessConfig {
    /// Opens everything; `None`: not set.
    pub operator_token: Option<Secret>,
    /// Opens what only shows.
    pub readonly_token: Option<Secret>,
    /// Who acts where there is no login.
    pub local_name: String,
    /// Who stands between the people and us.
    pub proxy: ProxyConfig,
    /// Which people have which roles, whom a proxy names.
    pub roles: RoleRules,
    /// What sessions are signed with.
    pub session_keys: SessionKeys,
    /// Where people log in; `None`: nowhere else.
    pub oidc: Option<OidcConfig>,
}

/// The keys of sessions.
#[derive(Debug, Clone, Default)]
pub struct SessionKeys {
    /// Signs and proves; `None`: made of the secrets that let people in.
    pub current: Option<Secret>,
    /// Proves what was signed before the key was replaced.
    pub previous: Option<Secret>,
}

/// Proxies, and what is believed of what they say.
#[derive(Debug, Clone, Default)]
pub struct ProxyConfig {
    /// Where they are; empty: there is none.
    pub addresses: Networks,
    /// Names the person; `None`: they log nobody in.
    pub user_header: Option<String>,
    /// Names the person's groups.
    pub groups_header: Option<String>,
}

impl AccessConfig {
    /// Tokens are guessed at over the network: short ones are refused, and one that opens two roles would make the lesser one useless.
    /// What a session key is made of where none is set. A token that opens less than a session may open is none of it, or whoever has that token
    /// could make sessions: so the read-only token counts only where it is all that there is.
    #[must_use]
    pub fn session_secrets(&self) -> Vec<&Secret> {
        let client_secret = self.oidc.as_ref().and_then(|oidc| oidc.client_secret.as_ref());
        let mut secrets: Vec<&Secret> = self.operator_token.iter().chain(client_secret).collect();
        if secrets.is_empty() && self.oidc.is_none() && self.proxy.user_header.is_none() {
            secrets.extend(&self.readonly_token);
        }
        secrets
    }

    pub(super) fn check(&self, wrong: &mut impl FnMut(&str, String)) {
        for (name, token) in
            [("ops_token", &self.operator_token), ("ops_readonly_token", &self.readonly_token)]
        {
            if token.as_ref().is_some_and(|token| token.expose().len() < TOKEN_BYTES_MIN) {
                wrong(
                    name,
                    format!("shorter than {TOKEN_BYTES_MIN} bytes; `openssl rand -hex 32` makes a good one"),
                );
            }
        }
        if self.operator_token.is_some() && self.operator_token == self.readonly_token {
            wrong("ops_readonly_token", "the same as ops_token; use two tokens".to_owned());
        }
        if self.local_name.trim().is_empty() {
            wrong("ops_local_name", "empty; name who acts".to_owned());
        }
        for (name, key) in [
            ("ops_session_key", &self.session_keys.current),
            ("ops_session_key_previous", &self.session_keys.previous),
        ] {
            if key.as_ref().is_some_and(|key| key.expose().len() < SESSION_KEY_BYTES_MIN) {
                let problem = format!(
                    "shorter than {SESSION_KEY_BYTES_MIN} bytes; `openssl rand -hex 32` makes a good one"
                );
                wrong(name, problem);
            }
        }
        self.proxy.check(wrong);
        if let Some(oidc) = &self.oidc {
            oidc.check(wrong);
        }
        let names_people = self.proxy.user_header.is_some() || self.oidc.is_some();
        if names_people && self.session_keys.current.is_none() && self.session_secrets().is_empty() {
            let problem = "not set, and there is no ops_token and no client secret that it could be made of, so that other replicas, and this one after a \
                 restart, would take no form of its pages; `openssl rand -hex 32` makes one";
            wrong("ops_session_key", problem.to_owned());
        }
        if names_people && self.roles.0.is_empty() {
            let problem = "not set, so that nobody whom the proxy or the provider names has any role; everyone=viewer lets all of them look";
            wrong("ops_roles", problem.to_owned());
        }
    }
}

impl ProxyConfig {
    fn check(&self, wrong: &mut impl FnMut(&str, String)) {
        let headers =
            [("ops_proxy_user_header", &self.user_header), ("ops_proxy_groups_header", &self.groups_header)];
        for (name, header) in headers.into_iter().filter_map(|(name, header)| Some((name, header.as_ref()?)))
        {
            if !header.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                let problem = format!(
                    "{header:?}: expected a name of letters, digits and '-'. No '_': some proxies drop such headers, and others take them for \
                     the same with '-'"
                );
                wrong(name, problem);
            }
            if self.addresses.0.is_empty() {
                let problem = "set without ops_proxy_addresses, so that it would be believed of nobody; name the addresses of the proxy";
                wrong(name, problem.to_owned());
            }
        }
        if self.groups_header.is_some() && self.user_header.is_none() {
            wrong(
                "ops_proxy_groups_header",
                "set without ops_proxy_user_header, which names whose groups".to_owned(),
            );
        }
    }
}

/// Addresses and networks.
#[derive(Debug, Clone, Default)]
pub struct Networks(Vec<IpNet>);

impl Typed for Networks {
    fn typed(text: &str) -> Option<Self> {
        listed(text).map(network).collect::<Option<_>>().map(Self)
    }
}

impl Networks {
    /// Whether a text is one.
    pub(super) fn has(text: &str) -> bool {
        network(text).is_some()
    }

    /// Whether this address is one of them. One of IPv4 that a socket of IPv6 shows is the same address.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// `10.1.2.3`, `10.0.0.0/8`, `::1` or `fd00::/8`.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Whose role it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Everyone,
    User(String),
    Group(String),
}

/// `user:alice=operator`, `group:finance-team=finance` or `everyone=viewer`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RoleRule {
    subject: Subject,
    role: Role,
}

impl RoleRule {
    fn parse(text: &str) -> Option<Self> {
        // Names of groups may have a '=', names of roles have none.
        let (subject, role) = text.rsplit_once('=')?;
        let subject = match subject.trim().split_once(':') {
            None if subject.trim() == "everyone" => Subject::Everyone,
            Some(("user", name)) if !name.is_empty() => Subject::User(name.to_owned()),
            Some(("group", name)) if !name.is_empty() => Subject::Group(name.to_owned()),
            None | Some(_) => return None,
        };
        Some(Self { subject, role: Role::parse(role.trim())? })
    }
}

/// Which people have which roles.
#[derive(Debug, Clone, Default)]
pub struct RoleRules(Vec<RoleRule>);

impl Typed for RoleRules {
    fn typed(text: &str) -> Option<Self> {
        listed(text).map(RoleRule::parse).collect::<Option<_>>().map(Self)
    }
}

impl RoleRules {
    /// Whether a text is a rule.
    pub(super) fn has(text: &str) -> bool {
        RoleRule::parse(text).is_some()
    }

    /// Those of these groups that a rule names.
    #[must_use]
    pub fn known(&self, groups: Vec<String>) -> Vec<String> {
        let is_named = |group: &String| {
            self.0.iter().any(|rule| matches!(&rule.subject, Subject::Group(name) if name == group))
        };
        groups.into_iter().filter(is_named).collect()
    }

    /// All roles of a person who is in these groups. Names are compared letter by letter.
    #[must_use]
    pub fn roles(&self, user: &str, groups: &[String]) -> Roles {
        let is_theirs = |rule: &&RoleRule| match &rule.subject {
            Subject::Everyone => true,
            Subject::User(name) => name == user,
            Subject::Group(name) => groups.contains(name),
        };
        self.0.iter().filter(is_theirs).map(|rule| rule.role).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_names_everyone_a_person_or_a_group_and_one_role() {
        let rules = ["everyone=viewer", "user:alice=operator", "group:a:b=c=finance", "user:alice=approver"];
        let rules = RoleRules(rules.into_iter().map(|rule| RoleRule::parse(rule).expect(rule)).collect());
        assert_eq!(rules.roles("alice", &[]).to_string(), "viewer, operator, approver");
        assert_eq!(
            rules.roles("Alice", &["a:b=c".to_owned(), "x".to_owned()]).to_string(),
            "viewer, finance"
        );
        for wrong in
            ["", "alice=admin", "user:=admin", "group:x", "user:x=root", "everyone", "everyone:x=viewer"]
        {
            assert_eq!(RoleRule::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_address_is_in_a_network_in_either_of_its_forms() {
        let networks = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"].map(|text| network(text).expect(text));
        let networks = Networks(networks.to_vec());
        for (address, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(networks.contain(address.parse().expect("an address")), expected, "{address}");
        }
        assert_eq!(network("10.0.0.0/33"), None);
        assert_eq!(network("localhost"), None);
    }
}
