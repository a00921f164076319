//! A real `payonce ops` process, and the plainest of HTTP clients to ask it.

use std::{process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use super::{DEADLINE, World};

/// `payonce ops` on a port of its own. Killed when dropped.
pub struct Dashboard {
    pub address: String,
    pub process: Child,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map_or("", |(_, value)| value)
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Dashboard {
    pub async fn start(world: &World) -> Self {
        Self::start_with(world, |_| {}).await
    }

    /// With other settings in its environment.
    pub async fn start_with(world: &World, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = world.program(&["ops", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        for token in ["PAYONCE_OPS_TOKEN", "PAYONCE_OPS_READONLY_TOKEN"] {
            command.env_remove(token);
        }
        change(&mut command);
        Self::of(command).await
    }

    /// A `payonce ops` whose log is JSON.
    pub async fn of(mut command: Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().expect("the payonce binary runs");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let found = async {
            while let Some(line) = lines.next_line().await.expect("text") {
                eprintln!("ops: {line}");
                let value: Value = serde_json::from_str(&line).unwrap_or_default();
                if let Some(address) = value["fields"]["address"].as_str() {
                    return address.to_owned();
                }
            }
            panic!("payonce ops ended before it served");
        };
        let address = tokio::time::timeout(DEADLINE, found).await.expect("payonce ops serves in time");
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("ops: {line}");
            }
        });
        Self { address, process }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// Asks whoever listens at another address.
    pub async fn ask(address: &str, path: &str) -> Answer {
        Self::send_to(address, "GET", path, &[], "").await
    }

    /// Sends one request on a connection of its own, and reads to the end.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        Self::send_to(&self.address, method, path, headers, body).await
    }

    async fn send_to(
        address: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut stream = TcpStream::connect(address).await.expect("somebody listens");
        let has_host = headers.iter().any(|(name, _)| *name == "host");
        let host = if has_host { String::new() } else { format!("host: {address}\r\n") };
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("the request is written");
        let mut bytes = Vec::new();
        let reading = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes));
        reading.await.expect("an answer in time").expect("an answer");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        Answer { status: status.expect("a status"), headers, body: body.to_owned() }
    }

    /// Posts a form as a page would, with the token that pages carry.
    pub async fn act(&self, cookie: &str, csrf: &str, fields: &[(&str, &str)]) -> Answer {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("csrf", csrf);
        for (name, value) in fields {
            form.append_pair(name, value);
        }
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("cookie", cookie)];
        self.send("POST", "/quarantine/act", &headers, &form.finish()).await
    }

    /// Opens the live stream and leaves it open: its first event, and the connection.
    pub async fn listen(&self) -> (Value, TcpStream) {
        self.listen_as("").await
    }

    /// The same with a cookie.
    pub async fn listen_as(&self, cookie: &str) -> (Value, TcpStream) {
        let mut stream = TcpStream::connect(&self.address).await.expect("payonce ops listens");
        let request = format!("GET /live HTTP/1.1\r\nhost: {}\r\ncookie: {cookie}\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).await.expect("the request is written");
        let mut lines = BufReader::new(&mut stream).lines();
        let first = async {
            while let Some(line) = lines.next_line().await.expect("text") {
                if let Some(data) = line.strip_prefix("data: ") {
                    return serde_json::from_str(data).expect("JSON");
                }
            }
            panic!("the stream ended before an event");
        };
        let event = tokio::time::timeout(DEADLINE, first).await.expect("an event in time");
        (event, stream)
    }

    /// Stops it as SIGTERM does, and fails where it does not end.
    pub async fn stop(mut self) {
        let id = self.process.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await.expect("kill runs");
        assert!(sent.success());
        let patience = DEADLINE.max(Duration::from_secs(60));
        let ended = tokio::time::timeout(patience, self.process.wait()).await.expect("it ends in time");
        assert!(ended.expect("it can be waited for").success());
    }
}

/// The token that a page's forms carry.
#[track_caller]
pub fn csrf_of(page: &Answer) -> String {
    let (_, rest) =
        page.body.split_once("name=\"csrf\" value=\"").unwrap_or_else(|| panic!("no form: {page:?}"));
    rest.split('"').next().unwrap_or_default().to_owned()
}
