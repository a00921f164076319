//! PgBouncer before a PostgreSQL, as `scripts/services` starts it: it drops the options with which a session begins.

use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::Command;

/// Ended and removed when dropped.
pub struct Pooler {
    folder: TempDir,
}

impl Pooler {
    /// Before the PostgreSQL of this address, in pool mode `session` or `transaction`.
    pub async fn start(mode: &str, database_url: &str) -> Self {
        let port = url::Url::parse(database_url).expect("an address").port().expect("a port").to_string();
        // It becomes another user, who must be able to read its files.
        let folder = tempfile::Builder::new()
            .prefix("payonce-it-pooler-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .expect("a temporary folder");
        let pooler = Self { folder };
        let output = pooler.services(&["pooler", mode, &port]).output().await.expect("scripts/services runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        pooler
    }

    /// This address by way of the pooler.
    pub fn before(&self, database_url: &str) -> String {
        let port = std::fs::read_to_string(self.folder.path().join("pgbouncer.port")).expect("a port");
        let mut url = url::Url::parse(database_url).expect("an address");
        url.set_port(Some(port.trim().parse().expect("a port"))).expect("an address with a host");
        url.to_string()
    }

    fn services(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services"));
        command.args(arguments).env("PAYONCE_LOCAL_DIR", self.folder.path()).stdin(Stdio::null());
        command
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // Best effort: the folder may be gone when the machine shuts down.
        drop(self.services(&["pooler", "off"]).into_std().status());
    }
}
