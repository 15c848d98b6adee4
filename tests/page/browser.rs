//! Chromium through WebDriver (<https://www.w3.org/TR/webdriver2/>).

use crate::common::http::{Answer, Client, JSON};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Neither updates nor reports: the browser speaks with the server alone.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];
/// For what the page does by itself.
const PATIENCE: Duration = Duration::from_secs(300);

/// A browser with one window, that ends with its test.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `None` where there is no chromedriver.
    pub fn start() -> Option<Browser> {
        let mut command = Command::new("chromedriver");
        let mut driver = command.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let lines = BufReader::new(driver.stdout.take().expect("a pipe")).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse::<u16>().ok()
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port.expect("the port of chromedriver")));
        let profile = tempfile::tempdir().expect("a folder");
        let folder = format!("--user-data-dir={}", profile.path().display());
        let flags: Vec<&str> = FLAGS.into_iter().chain([folder.as_str()]).collect();
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": flags }, "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let mut browser = Browser { driver, address, session: String::new(), _profile: profile };
        let session = browser.ask("POST", "/session", &wanted);
        browser.session = format!("/session/{}", session["sessionId"].as_str().expect("a session"));
        Some(browser)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut client = Client::connect(self.address).expect("chromedriver");
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let answer: Answer = client.send(method, path, &[JSON], body.as_bytes()).expect("an answer");
        assert_eq!(answer.status, 200, "{method} {path} {body}: {}", answer.text());
        answer.json()["value"].clone()
    }

    fn post(&self, path: &str, body: Value) -> Value {
        self.ask("POST", &format!("{}{path}", self.session), &body)
    }

    pub fn open(&self, address: SocketAddr) {
        self.post("/url", json!({ "url": format!("http://{address}/") }));
    }

    fn element(&self, selector: &str) -> String {
        let found = self.post("/element", json!({ "using": "css selector", "value": selector }));
        let id = found.as_object().expect("an element").values().next().expect("an id");
        format!("/element/{}", id.as_str().expect("text"))
    }

    pub fn click(&self, selector: &str) {
        self.post(&format!("{}/click", self.element(selector)), json!({}));
    }

    /// Types, or gives paths to a field of files.
    pub fn keys(&self, selector: &str, text: &str) {
        self.post(&format!("{}/value", self.element(selector)), json!({ "text": text }));
    }

    /// Presses a key wherever the focus is.
    pub fn press(&self, key: &str) {
        let action = |kind: &str| json!({ "type": kind, "value": key });
        let keys = json!({ "type": "key", "id": "keys", "actions": [action("keyDown"), action("keyUp")] });
        self.post("/actions", json!({ "actions": [keys] }));
    }

    /// The value of a script's `return`.
    pub fn run(&self, script: &str, args: Value) -> Value {
        self.post("/execute/sync", json!({ "script": script, "args": args }))
    }

    pub fn text(&self, selector: &str) -> String {
        let text = self.run("return document.querySelector(arguments[0]).textContent", json!([selector]));
        text.as_str().expect("text").to_string()
    }

    pub fn count(&self, selector: &str) -> u64 {
        let count = self.run("return document.querySelectorAll(arguments[0]).length", json!([selector]));
        count.as_u64().expect("a number")
    }

    /// Waits until the text of an element has this in it.
    pub fn wait(&self, selector: &str, part: &str) {
        let began = Instant::now();
        while !self.text(selector).contains(part) {
            assert!(began.elapsed() < PATIENCE, "{selector} says {:?}, not {part:?}", self.text(selector));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A command of the Chrome DevTools protocol.
    pub fn devtools(&self, command: &str, params: Value) -> Value {
        self.post("/goog/cdp/execute", json!({ "cmd": command, "params": params }))
    }

    /// Drags a file or a folder from elsewhere and drops it.
    pub fn drop(&self, selector: &str, path: &Path) {
        let middle =
            "const at = document.querySelector(arguments[0]); at.scrollIntoView({ block: 'center' });
            const box = at.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2];";
        let at = self.run(middle, json!([selector]));
        for kind in ["dragEnter", "dragOver", "drop"] {
            let data = json!({ "items": [], "files": [path], "dragOperationsMask": 1 });
            self.devtools(
                "Input.dispatchDragEvent",
                json!({ "type": kind, "x": at[0], "y": at[1], "data": data }),
            );
        }
    }

    /// The window: so many pixels wide, light or dark.
    pub fn show(&self, width: u32, scheme: &str) {
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size);
        let scheme = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": [scheme] }));
    }

    /// What the browser complained of: scripts and policies, not answers that refuse.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", json!({ "type": "browser" }));
        let lines = log.as_array().expect("a list").iter();
        let bad = lines.filter(|line| line["level"] == "SEVERE" && line["source"] != "network");
        bad.map(|line| line["message"].as_str().unwrap_or_default().to_string()).collect()
    }

    /// Writes the whole page as a PNG.
    pub fn shoot(&self, path: &Path) {
        use base64::Engine;
        self.devtools("Emulation.setScrollbarsHidden", json!({ "hidden": true }));
        let shot = self.devtools("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        let bytes = base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().expect("data"));
        std::fs::write(path, bytes.expect("base64")).expect("a file");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(self.address) {
            let _ = client.send("DELETE", &self.session, &[], b"");
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
