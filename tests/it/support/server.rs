//! A server of the test's own, to be stopped and started: `scripts/services` with a data folder that nobody else uses.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;
use tokio::process::Command;

/// One of `postgres`, `redis`, `rabbitmq`, running on a port of its own. Stopped and removed when dropped.
pub struct OwnServer {
    name: &'static str,
    folder: TempDir,
    url: String,
    /// Certificates, where it takes only TLS.
    tls: Option<PathBuf>,
}

impl OwnServer {
    pub async fn start(name: &'static str, variable: &str) -> Self {
        Self::start_as(name, variable, None).await
    }

    /// One that takes only TLS, with `ca.pem`, `server.pem` and `server.key` of this folder, and only clients with a certificate.
    pub async fn start_with_tls(name: &'static str, variable: &str, folder: &Path) -> Self {
        Self::start_as(name, variable, Some(folder.to_owned())).await
    }

    async fn start_as(name: &'static str, variable: &str, tls: Option<PathBuf>) -> Self {
        let folder = tempfile::Builder::new().prefix("payonce-it-").tempdir().expect("a temporary folder");
        let mut server = Self { name, folder, url: String::new(), tls };
        server.run("start").await;
        let env =
            std::fs::read_to_string(server.folder.path().join("env")).expect("scripts/services writes env");
        let line = env
            .lines()
            .find_map(|line| line.trim_start_matches("export ").strip_prefix(&format!("{variable}=")));
        server.url = line.expect("the address is in env").trim_matches(|c| c == '\'' || c == '"').to_owned();
        server
    }

    /// A PostgreSQL that follows this one.
    pub async fn standby(&self) -> Self {
        let folder = tempfile::Builder::new().prefix("payonce-it-").tempdir().expect("a temporary folder");
        let mut standby = Self { name: "postgres", folder, url: String::new(), tls: None };
        let port = url::Url::parse(&self.url).expect("an address").port().expect("a port").to_string();
        standby.call(&["standby", &port]).await;
        let file = standby.folder.path().join("postgres.port");
        let own = std::fs::read_to_string(file).expect("its port").trim().to_owned();
        standby.url = self.url.replacen(&format!(":{port}/"), &format!(":{own}/"), 1);
        assert_ne!(standby.url, self.url);
        standby
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        let files = std::fs::read_dir(self.folder.path().join("log")).expect("a folder of logs");
        let files = files.map(|file| std::fs::read(file.expect("a log").path()).expect("a log can be read"));
        files.map(|text| String::from_utf8_lossy(&text).into_owned()).collect()
    }

    /// Ends it as a crash would, and waits until it is gone.
    pub async fn kill(&self) {
        self.run("kill").await;
    }

    /// Starts it again, on the same port and data.
    pub async fn start_again(&self) {
        self.run("start").await;
    }

    /// Keeps a copy of a PostgreSQL's data under this label: `snapshot` of its disk while it is killed, `backup`, or `standby`.
    pub async fn copy(&self, label: &str, how: &str) {
        self.call(&["copy", label, how]).await;
    }

    /// Kills a PostgreSQL, and starts it on that copy, on the same port.
    pub async fn restore(&self, label: &str) {
        self.call(&["restore", label]).await;
    }

    /// A script of the project that calls `$RABBITMQCTL`, aimed at this broker.
    pub fn script(&self, path: &str) -> Command {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
        let mut command = Command::new(format!("{root}{path}"));
        command
            .env("RABBITMQCTL", format!("{root}scripts/services rabbitmqctl"))
            .env("PAYONCE_LOCAL_DIR", self.folder.path());
        command
    }

    async fn run(&self, verb: &str) {
        self.call(&[verb, self.name]).await;
    }

    async fn call(&self, arguments: &[&str]) {
        let output = self.command(arguments).output().await.expect("scripts/services runs");
        assert!(
            output.status.success(),
            "scripts/services {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services"));
        command.args(arguments).env("PAYONCE_LOCAL_DIR", self.folder.path()).stdin(Stdio::null());
        match &self.tls {
            Some(folder) => command.env("PAYONCE_TLS_DIR", folder),
            None => command.env_remove("PAYONCE_TLS_DIR"),
        };
        for variable in ["PAYONCE_DATABASE_URL", "PAYONCE_REDIS_URL", "PAYONCE_AMQP_URL"] {
            command.env_remove(variable);
        }
        command
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // Best effort: the folder may be gone when the machine shuts down.
        drop(self.command(&["clean", self.name]).into_std().status());
    }
}
