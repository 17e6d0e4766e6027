//! The floor: what a job costs at least where each step is one blocking call. N threads, each in a loop:
//! submit, one status, result, sendPhoto by URL, and six small commands to Redis; no record, no claim, no
//! retry, no log. In place of the commands it can keep records by lean scripts (see `records`). With ureq and redis as anybody would use them, a caching resolver (ureq's own starts a
//! thread and a look-up for each request with a time limit), one shared agent and a connection to Redis a
//! thread. It runs as a process of its own, so that the kernel counts its time as it counts the worker's.

use crate::records::{Claimed, Records};
use fal_worker::sandbox::Sandbox;
use fal_worker::sandbox::child::Usage;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::ToSocketAddrs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use ureq::Agent;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

/// The word by which the bench starts itself as the floor.
pub const WORD: &str = "the-floor";
/// Commands to Redis a job.
const COMMANDS: u32 = 6;

/// What it tells Redis of a job.
#[derive(Clone, Copy, PartialEq)]
pub enum Keeps {
    /// Six small values.
    Values,
    /// A record, its events and its claim, by scripts.
    Records,
}

/// What a run of it took.
pub struct Run {
    pub cpu: Duration,
    pub took: Duration,
    pub peak_kib: u64,
}

/// Runs it as a child: so many jobs on so many threads.
pub fn run(sandbox: &Sandbox, keeps: Keeps, jobs: u64, threads: usize) -> Run {
    start(sandbox, keeps, 1, jobs, threads)
}

/// So many of them at once, with so many threads each, share the jobs.
pub fn run_beside(sandbox: &Sandbox, processes: u64, jobs: u64, threads: usize) -> Run {
    start(sandbox, Keeps::Values, processes, jobs, threads)
}

fn start(sandbox: &Sandbox, keeps: Keeps, processes: u64, jobs: u64, threads: usize) -> Run {
    let keeps = match keeps {
        Keeps::Values => "values",
        Keeps::Records => "records",
    };
    let children: Vec<_> = (0..processes)
        .map(|_| {
            Command::new(std::env::current_exe().expect("our own path"))
                .args([WORD, &(jobs / processes).to_string(), &threads.to_string()])
                .args([sandbox.fal.queue_url(), sandbox.fal.key()])
                .args([sandbox.telegram.url(), sandbox.telegram.token()])
                .args([sandbox.redis.url().as_str(), keeps])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("the floor")
        })
        .collect();
    let mut all = Run {
        cpu: Duration::ZERO,
        took: Duration::ZERO,
        peak_kib: 0,
    };
    for mut child in children {
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("its output"));
        out.read_line(&mut line).expect("its time");
        let used = Usage::of(child.id()).expect("/proc");
        drop(child.stdin.take()); // it may go
        assert!(child.wait().expect("its end").success());
        let took = Duration::from_secs_f64(line.trim().parse().expect("seconds"));
        all.cpu += used.cpu;
        all.took = all.took.max(took);
        all.peak_kib = all.peak_kib.max(used.peak_kib);
    }
    all
}

/// The child's side.
pub fn child(args: &[String]) {
    let [jobs, threads, queue, key, telegram, token, redis, keeps] = args else {
        panic!("the floor's arguments");
    };
    let (jobs, threads): (u64, usize) = (jobs.parse().unwrap(), threads.parse().unwrap());
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .max_idle_connections(threads * 2)
        .max_idle_connections_per_host(threads)
        .build();
    let agent = Agent::with_parts(config, DefaultConnector::default(), Caching::default());
    let job = Job {
        agent,
        submit: format!("{queue}/fal-ai/flux/dev"),
        auth: format!("Key {key}"),
        send: format!("{telegram}/bot{token}/sendPhoto"),
    };
    let client = redis::Client::open(redis.as_str()).unwrap();
    let next = AtomicU64::new(0);
    let take = |most: u64| {
        let from = next.fetch_add(most, Ordering::Relaxed);
        from.min(jobs)..(from + most).min(jobs)
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut con = client.get_connection().unwrap();
                if keeps == "records" {
                    job.run_all_with_records(&mut con, take);
                } else {
                    while let Some(number) = take(1).next() {
                        job.run(number, &mut con);
                    }
                }
            });
        }
    });
    println!("{}", began.elapsed().as_secs_f64());
    let _ = std::io::stdin().read(&mut [0]); // until our time has been read
}

struct Job {
    agent: Agent,
    submit: String,
    auth: String,
    send: String,
}

impl Job {
    fn run(&self, number: u64, con: &mut redis::Connection) {
        for part in 0..COMMANDS {
            redis::cmd("SET")
                .arg(format!("floor:{number}:{part}"))
                .arg("a value as long as what one step of a job would write down")
                .exec(con)
                .unwrap();
        }
        let answer = self.submit(number);
        let result = self.result(&answer);
        self.send(number, &result);
    }

    fn run_all_with_records(
        &self,
        con: &mut redis::Connection,
        take: impl Fn(u64) -> std::ops::Range<u64> + Copy,
    ) {
        let records = Records::new();
        loop {
            let claimed = records.claim(con, take);
            if claimed.is_empty() {
                return;
            }
            for job in claimed {
                self.run_with_records(&records, &job, con);
            }
        }
    }

    fn run_with_records(&self, records: &Records, job: &Claimed, con: &mut redis::Connection) {
        let answer = self.submit(job.number);
        let request = answer["request_id"].as_str().unwrap();
        records.submitted(con, job, request);
        let result = self.result(&answer);
        let files = json!([result["images"][0]["url"]]).to_string();
        records.save(con, job, request, &result.to_string(), &files);
        let sent = self.send(job.number, &result);
        let messages = json!([sent["result"]["message_id"]]).to_string();
        let photo = sent["result"]["photo"].as_array().unwrap();
        let sent = json!([photo.last().unwrap()["file_id"]]).to_string();
        records.end(con, job, &messages, &sent, &files);
    }

    fn submit(&self, number: u64) -> Value {
        let input = format!(r#"{{"prompt":"prompt {number}.","image_size":"square_hd"}}"#);
        self.post(&self.submit, &input)
    }

    /// Of one status and the result.
    fn result(&self, submitted: &Value) -> Value {
        let url = |name: &str| submitted[name].as_str().unwrap().to_owned();
        let status = self.get(&url("status_url"));
        assert_eq!(status["status"], "COMPLETED", "{status}");
        self.get(&url("response_url"))
    }

    fn send(&self, number: u64, result: &Value) -> Value {
        let photo = &result["images"][0]["url"];
        let chat = 1000 + number;
        let sent = json!({"chat_id": chat, "photo": photo, "allow_sending_without_reply": true});
        let sent = self.post(&self.send, &sent.to_string());
        assert_eq!(sent["ok"], true, "{sent}");
        sent
    }

    fn post(&self, url: &str, body: &str) -> Value {
        let request = self.agent.post(url).header("authorization", &self.auth);
        let mut answer = request.content_type("application/json").send(body).unwrap();
        serde_json::from_slice(&answer.body_mut().read_to_vec().unwrap()).unwrap()
    }

    fn get(&self, url: &str) -> Value {
        let request = self.agent.get(url).header("authorization", &self.auth);
        let mut answer = request.call().unwrap();
        serde_json::from_slice(&answer.body_mut().read_to_vec().unwrap()).unwrap()
    }
}

/// Each name is looked up once.
#[derive(Clone, Debug, Default)]
struct Caching(Arc<Mutex<HashMap<String, ResolvedSocketAddrs>>>);

impl Resolver for Caching {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let name = uri.authority().map_or("", |authority| authority.as_str());
        let mut known = self.0.lock().unwrap();
        if let Some(addrs) = known.get(name) {
            return Ok(addrs.clone());
        }
        let mut addrs = self.empty();
        for addr in name.to_socket_addrs()?.take(16) {
            addrs.push(addr);
        }
        known.insert(name.to_owned(), addrs.clone());
        Ok(addrs)
    }
}
