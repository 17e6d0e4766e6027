//! A list of jobs: by the index of their state where there is one, else by a walk over all records. Bounded: a
//! list that may lack something says so.

use super::{Fault, View};
use crate::job::UnixMs;
use crate::store::keys::glob;

/// Records that are looked at, at most.
const LOOK_AT: usize = 200_000;
/// Records in one exchange.
const PAGE: usize = 500;

/// Fields that a row holds, in this order.
pub const FIELDS: [&str; 18] = [
    "state",
    "phase",
    "kind",
    "error",
    "model",
    "user",
    "priority",
    "attempt",
    "queued_at",
    "due_at",
    "ended_at",
    "worker",
    "request_id",
    "charged",
    "units",
    "message_ids",
    "meta",
    "redelivers",
];

/// One job of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub id: String,
    values: Vec<Option<String>>,
}

impl Row {
    /// A field of [`FIELDS`]; empty where the record has none.
    pub fn get(&self, name: &str) -> &str {
        let place = FIELDS.iter().position(|field| *field == name);
        let value = place.and_then(|place| self.values.get(place));
        value.and_then(Option::as_deref).unwrap_or("")
    }

    /// A time of it.
    pub fn at(&self, name: &str) -> Option<UnixMs> {
        self.get(name).parse().ok().map(UnixMs)
    }
}

/// Some jobs.
#[derive(Debug, Default)]
pub struct Rows {
    /// Dead ones by their end, others by when they came in; the newest first.
    pub rows: Vec<Row>,
    /// More fit than were asked for, or not all could be looked at.
    pub cut: bool,
}

impl View {
    /// Jobs that fit, at most `most`. `state`: the state that all of them are in, which finds them quicker.
    pub fn jobs(
        &mut self,
        state: Option<&str>,
        most: usize,
        fits: impl Fn(&Row) -> bool,
    ) -> Result<Rows, Fault> {
        let fits = |row: &Row| state.is_none_or(|state| row.get("state") == state) && fits(row);
        match state {
            Some("dead") => self.dead_jobs(most, fits),
            Some("later") => {
                let mut cmd = redis::cmd("ZRANGE");
                cmd.arg(&self.keys.later).arg(0).arg(LOOK_AT - 1);
                let ids = self.ask(&cmd)?;
                self.these(ids, most, fits)
            }
            Some("running") => {
                let mut ids: Vec<String> = Vec::new();
                for (instance, _) in self.living()? {
                    let held = redis::cmd("HKEYS")
                        .arg(self.keys.claims(&instance))
                        .to_owned();
                    ids.extend(self.ask::<Vec<String>>(&held)?);
                }
                self.these(ids, most, fits)
            }
            Some("queued") => {
                let mut ids: Vec<String> = Vec::new();
                // Who waits for a place of his model is ready too, by his user's turn.
                let mut lists = self.keys.ready.to_vec();
                for (pattern, _) in self.model_limits()? {
                    let there = ["high", "default", "low"].map(|p| format!("model:{p}:{pattern}"));
                    lists.extend(there.iter().map(|there| self.keys.list(there)));
                }
                for list in lists {
                    let mut cmd = redis::cmd("LRANGE");
                    cmd.arg(list).arg(-(LOOK_AT as isize)).arg(-1);
                    ids.extend(self.ask::<Vec<String>>(&cmd)?);
                }
                self.these(ids, most, fits)
            }
            _ => self.all_jobs(most, fits),
        }
    }

    fn dead_jobs(&mut self, most: usize, fits: impl Fn(&Row) -> bool) -> Result<Rows, Fault> {
        let mut found = Rows::default();
        for page in 0..LOOK_AT / PAGE {
            let mut cmd = redis::cmd("ZREVRANGE");
            cmd.arg(&self.keys.dead)
                .arg(page * PAGE)
                .arg((page + 1) * PAGE - 1);
            let ids: Vec<String> = self.ask(&cmd)?;
            let last = ids.len() < PAGE;
            for row in self.rows(ids)? {
                if !fits(&row) {
                    continue;
                }
                if found.rows.len() == most {
                    found.cut = true;
                    return Ok(found);
                }
                found.rows.push(row);
            }
            if last {
                return Ok(found);
            }
        }
        found.cut = true;
        Ok(found)
    }

    fn these(
        &mut self,
        mut ids: Vec<String>,
        most: usize,
        fits: impl Fn(&Row) -> bool,
    ) -> Result<Rows, Fault> {
        let mut newest = Newest::new(most);
        newest.cut = ids.len() > LOOK_AT;
        ids.truncate(LOOK_AT);
        ids.sort_unstable();
        ids.dedup(); // one that moved between two lists
        for batch in ids.chunks(PAGE) {
            for row in self.rows(batch.to_vec())?.into_iter().filter(&fits) {
                newest.add(row);
            }
        }
        Ok(newest.rows())
    }

    fn all_jobs(&mut self, most: usize, fits: impl Fn(&Row) -> bool) -> Result<Rows, Fault> {
        let prefix = self.keys.job("");
        let pattern = glob(&prefix) + "*";
        let mut newest = Newest::new(most);
        let (mut cursor, mut looked) = ("0".to_owned(), 0);
        let mut seen = std::collections::HashSet::new();
        loop {
            let mut cmd = redis::cmd("SCAN");
            cmd.arg(&cursor)
                .arg("MATCH")
                .arg(&pattern)
                .arg("COUNT")
                .arg(1000);
            let (next, keys): (String, Vec<String>) = self.ask(&cmd)?;
            // A walk may give a key twice.
            let ids = keys.iter().filter_map(|key| key.strip_prefix(&prefix));
            let ids: Vec<String> = ids
                .filter(|id| seen.insert((*id).to_owned()))
                .map(str::to_owned)
                .collect();
            looked += ids.len();
            for batch in ids.chunks(PAGE) {
                for row in self.rows(batch.to_vec())?.into_iter().filter(&fits) {
                    newest.add(row);
                }
            }
            cursor = next;
            if cursor == "0" {
                return Ok(newest.rows());
            }
            if looked >= LOOK_AT {
                newest.cut = true;
                return Ok(newest.rows());
            }
        }
    }

    fn rows(&mut self, ids: Vec<String>) -> Result<Vec<Row>, Fault> {
        let mut pipe = redis::pipe();
        for id in &ids {
            pipe.cmd("HMGET").arg(self.keys.job(id)).arg(&FIELDS);
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let all: Vec<Vec<Option<Vec<u8>>>> = self.ask_all(&pipe)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let rows = ids.into_iter().zip(all).map(|(id, values)| Row {
            id,
            values: values.into_iter().map(|value| value.map(text)).collect(),
        });
        // One that ended its life meanwhile, or is not known any more.
        Ok(rows.filter(|row| !row.get("state").is_empty()).collect())
    }
}

/// Keeps the newest of many.
struct Newest {
    most: usize,
    kept: Vec<Row>,
    cut: bool,
}

impl Newest {
    fn new(most: usize) -> Newest {
        Newest {
            most,
            kept: Vec::new(),
            cut: false,
        }
    }

    fn add(&mut self, row: Row) {
        self.kept.push(row);
        if self.kept.len() >= self.most.saturating_mul(2).max(1024) {
            self.trim();
        }
    }

    fn trim(&mut self) {
        self.kept
            .sort_unstable_by(|a, b| (b.at("queued_at"), &b.id).cmp(&(a.at("queued_at"), &a.id)));
        if self.kept.len() > self.most {
            self.kept.truncate(self.most);
            self.cut = true;
        }
    }

    fn rows(mut self) -> Rows {
        self.trim();
        Rows {
            rows: self.kept,
            cut: self.cut,
        }
    }
}
