//! What the runs of chaos share: jobs of mixed kinds, and the judge, who compares what the worker counted with
//! what the stand-ins saw.

use super::{World, job, said};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::telegram::{Kind as Shown, Message};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

/// Models of the runs, one a kind of job.
const MODELS: [&str; 7] = [
    "chaos/fresh",
    "chaos/edit",
    "chaos/two",
    "chaos/nobody",
    "chaos/large",
    "chaos/upload",
    "chaos/direct",
];

/// What a job leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A picture by URL.
    Fresh,
    /// A status message that becomes the picture.
    Edit,
    /// An album of two.
    Two,
    /// Only events.
    Nobody,
    /// A picture whose result does not fit into a record.
    Large,
    /// A picture that is uploaded.
    Upload,
    /// One blocking call, which cannot be resumed: cut off, the job is dead and nobody knows whether it was paid.
    Direct,
}

/// The last ones only where they are asked for.
const KINDS: [Kind; 7] = [
    Kind::Fresh,
    Kind::Edit,
    Kind::Two,
    Kind::Nobody,
    Kind::Large,
    Kind::Upload,
    Kind::Direct,
];

/// A job that was pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    pub id: String,
    pub kind: Kind,
    pub chat: i64,
}

/// The jobs of a run, pushed at a steady rate.
pub struct Stream {
    pub pushed: Vec<Pushed>,
    per_second: f64,
    due: f64,
    looked: Instant,
    max_attempts: u32,
    /// How many of the kinds there are.
    kinds: usize,
    /// Entries that were pushed a second time.
    pub repeated: usize,
    /// Ends seen in the stream of events, by job.
    pub ends: HashMap<String, usize>,
    cursor: String,
}

impl Stream {
    /// Sets the models up; generations take between nothing and `slowest`.
    pub fn new(world: &World, slowest: Duration, per_second: f64, max_attempts: u32) -> Stream {
        let large = json!({"images": [{"url": "{files}/0.png"}], "log": "x".repeat(100 << 10)});
        let outcomes = [
            Outcome::Images(1),
            Outcome::Images(1),
            Outcome::Images(2),
            Outcome::Images(1),
            Outcome::Json(large),
            Outcome::DataUri(fal_worker::sandbox::media::png(64, 64, Some(7))),
            Outcome::Images(1),
        ];
        for (model, outcome) in MODELS.iter().zip(outcomes) {
            let script = Script::new(outcome).taking_between(Duration::ZERO, slowest);
            world.sandbox.fal.model(model, script);
        }
        Stream {
            pushed: Vec::new(),
            per_second,
            due: 0.0,
            looked: Instant::now(),
            max_attempts,
            kinds: KINDS.len() - 1,
            repeated: 0,
            ends: HashMap::new(),
            cursor: "-".to_owned(),
        }
    }

    /// With direct calls too, of which a kill leaves dead jobs.
    pub fn with_direct_calls(mut self) -> Stream {
        self.kinds = KINDS.len();
        self
    }

    /// Pushes what is due by now, at most `most` jobs in all.
    pub fn go_on(&mut self, world: &mut World, most: usize) {
        let now = Instant::now();
        self.due += (now - self.looked).as_secs_f64() * self.per_second;
        self.looked = now;
        let number = (self.due as usize).min(most.saturating_sub(self.pushed.len()));
        if number > 0 {
            self.due -= number as f64;
            self.push(world, number);
        }
    }

    /// Pushes so many now.
    pub fn push(&mut self, world: &mut World, number: usize) {
        let mut entries: Vec<String> = (0..number).map(|_| self.next(world)).collect();
        if self.pushed.len().is_multiple_of(20) {
            // A producer that is not sure pushes again: the id makes it one job.
            entries.extend(entries.last().cloned());
            self.repeated += 1;
        }
        world.push_all(&entries);
    }

    fn next(&mut self, world: &World) -> String {
        let n = self.pushed.len();
        let which = n % self.kinds;
        let (kind, chat, id) = (KINDS[which], 10_000 + n as i64, format!("c{n}"));
        let mut entry = job(&id)
            .model(MODELS[which])
            .with("max_attempts", self.max_attempts)
            .with("priority", ["default", "high", "low"][n % 3]);
        if kind == Kind::Direct {
            entry = entry.with("via", "direct");
        }
        if kind != Kind::Nobody {
            entry = entry.chat(chat).telegram("ping", "never");
        }
        if kind == Kind::Edit {
            let telegram = &world.sandbox.telegram;
            let status = telegram.plant_message(chat, Shown::Text, false);
            entry = entry.telegram("status_message_id", status);
        }
        self.pushed.push(Pushed { id, kind, chat });
        entry.json()
    }

    /// Reads the events that are new; gives how many jobs have not ended.
    pub fn open(&mut self, world: &mut World) -> usize {
        type Row = (String, Vec<(String, String)>);
        loop {
            let rows: Vec<Row> =
                world.redis(&["XRANGE", "fal:events", &self.cursor, "+", "COUNT", "5000"]);
            let Some((last, _)) = rows.last() else { break };
            self.cursor = format!("({last}");
            for (_, fields) in rows {
                let field = |name: &str| fields.iter().find(|(key, _)| key == name);
                let ends = field("event").is_some_and(|(_, event)| {
                    ["done", "failed", "cancelled"].contains(&event.as_str())
                });
                if let (true, Some((_, id))) = (ends, field("job")) {
                    *self.ends.entry(id.clone()).or_default() += 1;
                }
            }
        }
        self.pushed.len() - self.ends.len().min(self.pushed.len())
    }
}

/// What came of all jobs.
#[derive(Debug, Default)]
pub struct Judged {
    pub jobs: usize,
    pub done: usize,
    /// Ids by kind of failure.
    pub dead: BTreeMap<String, Vec<String>>,
    pub lost: Vec<String>,
    pub ended_twice: Vec<String>,
    pub submits: usize,
    /// Submits beyond the first of each job, as fal's ledger has them.
    pub paid_again: usize,
    /// What the worker counted of those.
    pub paid_counted: u64,
    /// Messages that a user sees once too often, and what the worker counted.
    pub sent_again: usize,
    pub sent_counted: u64,
    pub edits_twice: Vec<String>,
    /// Files that went as a link, since nobody could fetch them for a while.
    pub links: usize,
    /// Done, and its files are not all in the chat.
    pub unseen: Vec<String>,
    /// Paid or shown again, and no daemon had said so of this very job.
    pub unsaid: Vec<String>,
}

/// Looks at every job, from outside: records and events, fal's ledger, what the chats show.
pub fn judge(world: &mut World, stream: &mut Stream) -> Judged {
    stream.open(world);
    let mut submits: HashMap<String, usize> = HashMap::new();
    for submit in world.sandbox.fal.submits() {
        *submits.entry(job_of(&submit.input)).or_default() += 1;
    }
    let mut judged = Judged {
        jobs: stream.pushed.len(),
        submits: submits.values().sum(),
        paid_again: submits.values().map(|number| number - 1).sum(),
        paid_counted: world.counted("resubmitted_after_unknown"),
        sent_counted: world.counted("resent_after_unknown"),
        ..Judged::default()
    };
    let logs = world.logs();
    let paid_said = said(&logs, "submitted again after unknown");
    let sent_said = said(&logs, "sent again after unknown");
    for Pushed { id, kind, chat } in &stream.pushed {
        let again = submits.get(id).map_or(0, |number| number - 1);
        if again > paid_said.get(id.as_str()).copied().unwrap_or_default() {
            judged.unsaid.push(id.clone());
        }
        let record = world.record(id);
        let state = record.get("state").map_or("", String::as_str);
        match state {
            "done" => judged.done += 1,
            "dead" => {
                let why = record.get("kind").cloned().unwrap_or_default();
                judged.dead.entry(why).or_default().push(id.clone());
            }
            _ => judged.lost.push(id.clone()),
        }
        match stream.ends.get(id) {
            Some(1) => {}
            Some(_) => judged.ended_twice.push(id.clone()),
            None => {
                if !judged.lost.contains(id) {
                    judged.lost.push(id.clone());
                }
            }
        }
        let messages = world.sandbox.telegram.messages(*chat);
        // The same picture (or the same words) twice is what a user calls twice; an album is one send.
        let mut seen: HashMap<String, HashSet<String>> = HashMap::new();
        for message in &messages {
            let what = match &message.file {
                Some(file) => format!("{:?}", file.fingerprint),
                None => message.text.clone(),
            };
            let send = message.media_group.clone();
            let send = send.unwrap_or_else(|| message.id.to_string());
            seen.entry(what).or_default().insert(send);
        }
        let twice = seen
            .values()
            .map(|sends| sends.len() - 1)
            .max()
            .unwrap_or(0);
        if *kind == Kind::Edit && messages.len() > 1 && state == "done" {
            judged.edits_twice.push(id.clone());
        } else {
            judged.sent_again += twice;
            if twice > sent_said.get(id.as_str()).copied().unwrap_or_default() {
                judged.unsaid.push(id.clone());
            }
        }
        // A file that could not be fetched goes as a link in the end.
        let is_link = |message: &&Message| {
            message.file.is_none() && format!("{message:?}").contains("/files/")
        };
        let links = messages.iter().filter(is_link).count();
        let files = messages
            .iter()
            .filter(|message| message.file.is_some())
            .count();
        if state == "done" {
            judged.links += links;
        }
        let wanted = match kind {
            Kind::Nobody => 0,
            Kind::Two => 2,
            Kind::Fresh | Kind::Edit | Kind::Large | Kind::Upload | Kind::Direct => 1,
        };
        if state == "done" && (files + links < wanted || !submits.contains_key(id)) {
            judged.unseen.push(id.clone());
        }
    }
    judged
}

impl Judged {
    /// What must never be, whatever was injected.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (what, ids) in [
            ("lost", &self.lost),
            ("ended twice", &self.ended_twice),
            ("edits shown twice", &self.edits_twice),
            ("done and not to be seen", &self.unseen),
            ("paid or shown again without a word", &self.unsaid),
            (
                "dead as crashed",
                self.dead.get("crashed").unwrap_or(&Vec::new()),
            ),
        ] {
            if !ids.is_empty() {
                broken.push(format!("{what}: {ids:?}"));
            }
        }
        if self.paid_again as u64 > self.paid_counted {
            broken.push(format!(
                "fal saw {} second submits, the worker counted {}",
                self.paid_again, self.paid_counted
            ));
        }
        if self.sent_again as u64 > self.sent_counted {
            broken.push(format!(
                "{} messages were shown twice, the worker counted {}",
                self.sent_again, self.sent_counted
            ));
        }
        broken
    }
}

/// Everything that is known of one job, for the one who has to find out.
pub fn story(world: &mut World, id: &str) -> String {
    let mut text = format!("---- {id}\nrecord {:?}\n", world.record(id));
    for event in world.events_of(id) {
        text += &format!("event {event:?}\n");
    }
    let chat = 10_000 + id[1..].parse::<i64>().unwrap_or_default();
    for submit in world.sandbox.fal.submits_for(&format!("prompt of {id}.")) {
        text += &format!(
            "submit {} at {} ended {:?}\n",
            submit.request_id, submit.unix_ms, submit.completed
        );
    }
    for entry in world.sandbox.telegram.journal() {
        if entry.chat == Some(chat) {
            text += &format!(
                "telegram {} at {} took {:?}: {} {} {:?}\n",
                entry.method,
                entry.unix_ms,
                entry.took,
                entry.status,
                entry.description,
                entry.message_ids
            );
        }
    }
    let needle = format!("job={id} ");
    for number in 1..=world.daemons {
        let log = world.folder.path().join(format!("daemon-{number}.log"));
        let log = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
        for line in log
            .lines()
            .filter(|line| format!("{line} ").contains(&needle))
        {
            text += &format!("daemon-{number} {line}\n");
        }
    }
    text
}

/// The job that an input belongs to.
pub fn job_of(input: &[u8]) -> String {
    let input: Value = serde_json::from_slice(input).unwrap_or_default();
    let prompt = input["prompt"].as_str().unwrap_or_default();
    prompt
        .trim_start_matches("prompt of ")
        .trim_end_matches('.')
        .to_owned()
}
