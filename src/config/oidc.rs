//! The OpenID Connect provider at which people log in to `payonce ops`, as the settings have it. What must not live here: how a login goes.

use url::{Host, Url};

use super::Secret;

/// Where people log in, and what is read of what it says about them.
#[derive(Debug, Clone)]
pub struct OidcConfig {
    /// As the provider spells it.
    pub issuer: String,
    /// What we are called there.
    pub client_id: String,
    /// What proves that it is us; `None`: a public client, which PKCE alone protects.
    pub client_secret: Option<Secret>,
    /// Where browsers find us.
    pub public_url: String,
    /// With spaces between them.
    pub scopes: String,
    /// Names the person.
    pub name_claim: String,
    /// Names the person's groups.
    pub groups_claim: String,
}

impl OidcConfig {
    /// Where the provider sends people back to; it has to know this address.
    #[must_use]
    pub fn redirect_uri(&self) -> String {
        format!("{}/login/oidc/back", self.public_url.trim_end_matches('/'))
    }

    pub(super) fn check(&self, wrong: &mut impl FnMut(&str, String)) {
        for (name, text) in [("ops_oidc_issuer", &self.issuer), ("ops_public_url", &self.public_url)] {
            let url = Url::parse(text).ok();
            let is_fit = |url: &Url| is_safe(url) && url.query().is_none() && url.fragment().is_none();
            if !url.is_some_and(|url| is_fit(&url)) {
                let problem = format!(
                    "{text:?}: expected an address that begins with https:// (on this machine http:// is enough), without a query"
                );
                wrong(name, problem);
            }
        }
        if self.client_id.is_empty() {
            wrong("ops_oidc_client_id", "not set, and the provider knows payonce by it".to_owned());
        }
        if !self.scopes.split(' ').any(|scope| scope == "openid") {
            wrong("ops_oidc_scopes", format!("{:?}: without openid it is no OpenID Connect", self.scopes));
        }
        if self.name_claim.is_empty() {
            wrong("ops_oidc_name_claim", "empty; the audit log has to name people".to_owned());
        }
    }
}

/// Whether what goes there is encrypted, or stays inside this machine.
#[must_use]
pub fn is_safe(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback)
}
