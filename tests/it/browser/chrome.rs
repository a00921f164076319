//! Chromium, headless and by itself: a fresh profile, no calls home, and an account of all that it says and asks for.

use std::{process::Stdio, time::Instant};

use fantoccini::{Client, ClientBuilder, elements::Element, wd::WebDriverCompatibleCommand};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::support::DEADLINE;

/// axe-core, as `make sdks` installs it.
const AXE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.local/sdks/node_modules/axe-core/axe.min.js");

/// A browser window. Ended when dropped.
pub struct Chrome {
    pub client: Client,
    driver: Child,
    profile: TempDir,
}

/// A test that fails must not leave a browser behind: chromedriver is killed with it, Chromium is told by the profile that it alone has.
impl Drop for Chrome {
    fn drop(&mut self) {
        drop(self.driver.start_kill());
        let profile = self.profile.path().display().to_string();
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let id = process.file_name().to_string_lossy().into_owned();
            let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let is_number = id.bytes().all(|byte| byte.is_ascii_digit());
            if is_number && String::from_utf8_lossy(&words).contains(&profile) {
                drop(std::process::Command::new("kill").args(["-KILL", &id]).stderr(Stdio::null()).status());
            }
        }
    }
}

/// A command of chromedriver that WebDriver does not have.
#[derive(Debug)]
struct Extra(&'static str, Value);

impl WebDriverCompatibleCommand for Extra {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.1.to_string()))
    }
}

impl Chrome {
    pub async fn start() -> Self {
        let profile =
            tempfile::Builder::new().prefix("payonce-chrome-").tempdir().expect("a temporary folder");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect(
                "chromedriver is installed: `make test` does it, by hand `scripts/services install chromium`",
            );
        let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = async {
            while let Some(line) = lines.next_line().await.expect("text") {
                if let Some((_, port)) = line.split_once("started successfully on port ") {
                    return port.trim_end_matches('.').to_owned();
                }
            }
            panic!("chromedriver ended before it listened");
        };
        let port = tokio::time::timeout(DEADLINE, port).await.expect("chromedriver listens in time");
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let arguments = [
            "--headless=new",
            // Chromium's own sandbox refuses to run as root.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--window-size=1280,900",
        ];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("an object") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("Chromium starts");
        let chrome = Self { client, driver, profile };
        // What the browser's own first page asked for is not ours.
        chrome.open("about:blank").await;
        drop((chrome.complaints().await, chrome.requests().await));
        chrome
    }

    /// Ends the browser politely.
    pub async fn close(self) {
        self.client.clone().close().await.expect("the session ends");
    }

    async fn extra(&self, name: &'static str, body: Value) -> Value {
        self.client.issue_cmd(Extra(name, body)).await.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A command of the DevTools protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.extra("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    pub async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    pub async fn script(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// The text of the first element that fits.
    pub async fn text(&self, css: &str) -> String {
        let quoted = json!(css);
        let script = format!("return document.querySelector({quoted})?.textContent ?? null");
        self.script(&script).await.as_str().unwrap_or_else(|| panic!("{css} is not on the page")).to_owned()
    }

    pub async fn find(&self, css: &str) -> Element {
        let locator = fantoccini::Locator::Css(css);
        self.client.find(locator).await.unwrap_or_else(|error| panic!("{css}: {error}"))
    }

    /// Clicks what leads to another page, and waits until that is there.
    pub async fn click_through(&self, css: &str) {
        self.script("window.stale = true").await;
        self.find(css).await.click().await.unwrap_or_else(|error| panic!("{css}: {error}"));
        self.until("the next page is there", "return !window.stale && document.readyState === 'complete'")
            .await;
    }

    /// Waits until a script gives true.
    pub async fn until(&self, what: &str, script: &str) {
        let started = Instant::now();
        // While one page goes and another comes there is nothing to ask.
        while self.client.execute(script, Vec::new()).await.ok() != Some(json!(true)) {
            assert!(started.elapsed() < DEADLINE, "{what}: not by the deadline ({script})");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// A window of this size, as a phone or a screen has it.
    pub async fn resize(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// What the person's system prefers: `light` or `dark`.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// The page as a PNG, down to `height_max`.
    pub async fn screenshot(&self, height_max: u32) -> Vec<u8> {
        let script = format!(
            "return [innerWidth, Math.min(Math.ceil(document.body.getBoundingClientRect().bottom), {height_max})]"
        );
        let size = self.script(&script).await;
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let shot = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let answer = self.devtools("Page.captureScreenshot", shot).await;
        decode_base64(answer["data"].as_str().expect("a picture"))
    }

    /// What the console complained of since the last look.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.extra("se/log", json!({ "type": "browser" })).await;
        let entries = log.as_array().cloned().unwrap_or_default();
        let bad = entries.iter().filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        bad.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The addresses that pages asked for since the last look.
    pub async fn requests(&self) -> Vec<String> {
        let log = self.extra("se/log", json!({ "type": "performance" })).await;
        let messages = log.as_array().cloned().unwrap_or_default();
        let messages = messages
            .iter()
            .filter_map(|entry| serde_json::from_str::<Value>(entry["message"].as_str()?).ok())
            .filter(|message| message["message"]["method"] == "Network.requestWillBeSent");
        messages
            .filter_map(|message| Some(message["message"]["params"]["request"]["url"].as_str()?.to_owned()))
            .collect()
    }

    /// Serious and critical accessibility faults of the page, by axe-core.
    pub async fn accessibility_faults(&self) -> Vec<String> {
        let axe = std::fs::read_to_string(AXE).expect("axe-core is installed: run `make sdks`");
        let script = format!(
            "{axe};\nconst done = arguments[arguments.length - 1];\n\
             axe.run(document, {{ resultTypes: ['violations'] }}).then((found) => done(found.violations\
               .filter((fault) => ['serious', 'critical'].includes(fault.impact))\
               .map((fault) => `${{fault.id}}: ${{fault.help}}: ${{fault.nodes.map((node) => node.html + ' ' + node.failureSummary).join(' | ')}}`)), \
               (error) => done([String(error)]));"
        );
        let found = self.client.execute_async(&script, Vec::new()).await.expect("axe runs");
        found.as_array().expect("a list").iter().map(Value::to_string).collect()
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |byte: u8| DIGITS.iter().position(|digit| *digit == byte).map(|at| at as u32);
    let digits: Vec<u32> = text.bytes().filter_map(value).collect();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}
