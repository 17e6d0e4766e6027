//! A real headless Chromium, driven over the WebDriver protocol of `chromedriver`: plain HTTP and JSON on
//! loopback. Ended by its own process id when dropped.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A browser starts slowly on a busy machine.
const STARTS: Duration = Duration::from_secs(60);

/// One window of one browser.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: tempfile::TempDir,
    /// Kept open: the driver writes to it.
    _said: Lines<BufReader<ChildStdout>>,
}

impl Browser {
    /// `None`, and a word why, where there is no Chromium or no driver for it.
    pub fn start() -> Option<Browser> {
        for program in ["chromium", "chromedriver"] {
            let there = Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if !there.is_ok_and(|status| status.success()) {
                println!("SKIPPED: no `{program}` here (packages chromium, chromium-driver)");
                return None;
            }
        }
        let profile = tempfile::tempdir().unwrap();
        // It takes a free port and says which: to look whether somebody listens there would not do, since such
        // a look may itself become the port's owner.
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", profile.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = said.find_map(|line| {
            let line = line.ok()?;
            let port = line
                .split("successfully on port ")
                .nth(1)?
                .trim_end_matches('.');
            port.parse().ok()
        });
        let mut browser = Browser {
            driver,
            port: port.expect("chromedriver says its port"),
            session: String::new(),
            _profile: profile,
            _said: said,
        };
        let folder = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments = [
            "--headless=new",
            // Chromium's own sandbox does not work for root, as whom tests may run in a container.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            &folder,
        ];
        let options = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = browser.call("POST", "/session", &options);
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        Some(browser)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "GET" {
            String::new()
        } else {
            body.to_string()
        };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(STARTS)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.port,
            body.len()
        )
        .unwrap();
        let mut answer = Vec::new();
        let mut piece = [0; 1 << 16];
        // The driver may keep the connection open: its answer says how long it is.
        let whole = |answer: &[u8]| {
            let head = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
            let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
            let length = text.split("content-length:").nth(1)?.lines().next()?;
            let length: usize = length.trim().parse().ok()?;
            (answer.len() >= head + length).then_some(head)
        };
        let head = loop {
            if let Some(head) = whole(&answer) {
                break head;
            }
            let got = stream.read(&mut piece).unwrap();
            let so_far = String::from_utf8_lossy(&answer);
            assert!(got > 0, "{method} {path}: {so_far}");
            answer.extend_from_slice(&piece[..got]);
        };
        let answer: Value = serde_json::from_slice(&answer[head..]).unwrap();
        let value = answer["value"].clone();
        assert!(value["error"].is_null(), "{method} {path}: {value}");
        value
    }

    fn ask(&self, path: &str, body: Value) -> Value {
        self.call("POST", &format!("/session/{}{path}", self.session), &body)
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        self.ask("/url", json!({"url": url}));
    }

    /// Runs a function's body in the page and gives what it returns. The page's policy does not bind it.
    pub fn run(&self, body: &str) -> Value {
        self.ask("/execute/sync", json!({"script": body, "args": []}))
    }

    /// All that a reader sees.
    pub fn text(&self) -> String {
        let text = self.run("return document.body.innerText");
        text.as_str().unwrap_or_default().to_owned()
    }

    /// What the console said since the last time: errors of scripts, of loading, of the policy.
    pub fn console(&self) -> Vec<String> {
        let log = self.ask("/se/log", json!({"type": "browser"}));
        let lines = log.as_array().into_iter().flatten();
        lines
            .map(|line| format!("{} {}", line["level"], line["message"]))
            .collect()
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.ask(
            "/goog/cdp/execute",
            json!({"cmd": command, "params": parameters}),
        )
    }

    /// The size of the window in CSS pixels, a phone's or not, and what the reader's system prefers.
    pub fn look(&self, width: u32, height: u32, phone: bool, dark: bool) {
        let scale = if phone { 2 } else { 1 };
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}),
        );
        let scheme = if dark { "dark" } else { "light" };
        self.devtools(
            "Emulation.setEmulatedMedia",
            json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
        );
    }

    /// A picture of the window, or of the page as a whole, into a file.
    pub fn shoot(&self, whole: bool, file: &Path) {
        let mut parameters = json!({"format": "png", "captureBeyondViewport": whole});
        if whole {
            let size = self.devtools("Page.getLayoutMetrics", json!({}));
            let size = &size["cssContentSize"];
            parameters["clip"] = json!({"x": 0, "y": 0, "width": size["width"],
                "height": size["height"], "scale": 1});
        }
        let shot = self.devtools("Page.captureScreenshot", parameters);
        let bytes = BASE64_STANDARD.decode(shot["data"].as_str().unwrap());
        std::fs::write(file, bytes.unwrap()).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends the browser; the driver alone would leave it behind. Nothing here may panic.
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let path = format!("/session/{}", self.session);
            let request = format!("DELETE {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
            drop(stream.set_read_timeout(Some(Duration::from_secs(10))));
            drop(stream.write_all(request.as_bytes()));
            drop(stream.read(&mut [0; 1024]));
        }
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}
