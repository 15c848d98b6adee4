//! `l2p-engine serve` as a process of its own.

use super::http::{self, Answer, Client, MULTIPART, form};
use super::process::engine;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};

/// A server that ends with its test.
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
    /// The line that it printed.
    pub says: String,
}

impl Server {
    pub fn start(workdir: &Path, more: &[&str]) -> Server {
        let mut command = engine();
        command
            .args(["serve", "--device", "cpu", "--listen", "127.0.0.1:0", "--workdir"])
            .arg(workdir)
            .args(more);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut says = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut says).expect("a line");
        let address = says.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let address =
            address.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no address in {says:?}"));
        Server { child, address, says }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address).expect("a connection")
    }

    pub fn get(&self, path: &str) -> Answer {
        http::send(self.address, "GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        http::send(self.address, "POST", path, headers, body)
    }

    /// All answers for these images, from one request.
    pub fn predict(&self, images: &[Vec<u8>]) -> serde_json::Value {
        let answer = self.post("/v1/predict?top=1000", &[MULTIPART], &form(&[], images));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Starts to teach a class.
    pub fn teach(&self, name: &str, images: &[Vec<u8>]) -> Answer {
        self.post("/v1/classes", &[MULTIPART], &form(&[("name", name)], images))
    }

    /// The events of a job: names and jobs, until it is over.
    pub fn events(&self, job: u64) -> Vec<(String, serde_json::Value)> {
        let mut client = self.client();
        client.write("GET", &format!("/v1/jobs/{job}/events"), &[], b"").expect("a request");
        let (status, headers) = client.read_head().expect("an answer");
        let kind = headers.iter().find(|(name, _)| name == "content-type").map(|(_, kind)| kind.as_str());
        assert_eq!((status, kind), (200, Some("text/event-stream")));
        let mut text = String::new();
        while let Ok(Some(chunk)) = client.chunk() {
            text += &String::from_utf8(chunk).expect("UTF-8");
        }
        let blocks = text.split("\n\n").filter(|block| block.contains("data:"));
        let event = |block: &str| {
            let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let name = line("event:").expect("a name").to_string();
            (name, serde_json::from_str(line("data:").expect("data")).expect("JSON"))
        };
        blocks.map(event).collect()
    }

    pub fn signal(&self, name: &str) {
        let sent = std::process::Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the end of the server")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
