//! What holds in Redis at every instant, since each script is atomic: looked at after every test, in one
//! snapshot, also where a daemon died with work in hand. Written from the contract and the design, and on
//! purpose without a look at the daemon's own audit.

use redis::{Connection, RedisError, Value, from_redis_value};
use std::collections::{BTreeMap, BTreeSet};

/// Everything below a namespace, at one moment.
const SNAPSHOT: &str = r"
local out = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
  local kind, content = redis.call('TYPE', key).ok, {}
  if kind == 'hash' then content = redis.call('HGETALL', key)
  elseif kind == 'list' then content = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'zset' then content = redis.call('ZRANGE', key, 0, -1)
  elseif kind == 'set' then content = redis.call('SMEMBERS', key) end
  out[#out + 1] = {key, kind, redis.call('TTL', key), content}
end
return out";

const LISTS: [&str; 4] = ["resume", "high", "default", "low"];
/// Keys that a store may hold, by what follows the namespace.
const WORDS: [&str; 31] = [
    "inbox", "taken", "ready", "bell", "spec", "result", "later", "workers", "worker", "claims",
    "cancels", "dead", "stats", "models", "paused", "store", "run", "settling", "rate", "events",
    "job", "gone", "waiting", "turns", "waiters", "user", "config", "window", "minute", "id",
    "ids",
];
/// As above: upkeep's own notes.
const UPKEEP: [&str; 4] = ["audit", "suspects", "told", "upload"];

type Fields = BTreeMap<String, String>;

#[derive(Default)]
struct Snapshot {
    records: BTreeMap<String, Fields>,
    lists: BTreeMap<String, Vec<String>>,
    /// `<priority>:<user>`, then the ids that wait there.
    lines: BTreeMap<String, Vec<String>>,
    /// Priority, then user to the id that is his turn.
    turns: BTreeMap<String, Fields>,
    waiters: BTreeSet<String>,
    /// User, then the ids that use a slot.
    slots: BTreeMap<String, BTreeSet<String>>,
    held: BTreeSet<String>,
    /// Pattern of models (or '' for all), then the ids that are at fal.
    at_fal: BTreeMap<String, BTreeSet<String>>,
    config: Fields,
    /// Instance, then job id to token.
    claims: BTreeMap<String, Fields>,
    taken: BTreeSet<String>,
    later: BTreeSet<String>,
    dead: BTreeSet<String>,
    workers: BTreeSet<String>,
    gone: BTreeSet<String>,
    hashes: BTreeMap<String, Fields>,
    stats: Fields,
    rings: usize,
    /// Seconds to live of every key.
    ttl: BTreeMap<String, i64>,
    strange: Vec<String>,
}

/// What is wrong, in words; empty when all is well. `repairs`: the worker's own audit may have mended
/// something.
pub fn findings(
    con: &mut Connection,
    namespace: &str,
    repairs: bool,
) -> Result<Vec<String>, RedisError> {
    let snapshot = Snapshot::take(con, namespace)?;
    let mut wrong = snapshot.strange.clone();
    snapshot.records_stand_where_they_say(&mut wrong);
    snapshot.places_hold_only_what_stands_there(&mut wrong);
    snapshot.users_have_their_turns_and_slots(&mut wrong);
    snapshot.places_at_fal_are_those_of_jobs(&mut wrong);
    snapshot.keys_live_as_long_as_their_record(&mut wrong);
    snapshot.nothing_belongs_to_nobody(&mut wrong);
    if !repairs {
        let mended = snapshot.stats.iter();
        let mended = mended.filter(|(name, _)| name.starts_with("repairs:"));
        wrong.extend(mended.map(|(name, count)| format!("the audit mended: {name} {count}")));
    }
    Ok(wrong)
}

impl Snapshot {
    fn take(con: &mut Connection, namespace: &str) -> Result<Snapshot, RedisError> {
        type Row = (String, String, i64, Vec<Value>);
        let mut eval = redis::cmd("EVAL");
        let rows: Vec<Row> = eval.arg(SNAPSHOT).arg(0).arg(namespace).query(con)?;
        let mut all = Snapshot::default();
        for (key, kind, ttl, content) in rows {
            // In a cluster it is `{fal}`.
            let key = key.replacen(namespace, "fal", 1);
            all.ttl.insert(key.clone(), ttl);
            let bytes: Vec<Vec<u8>> = from_redis_value(Value::Array(content))?;
            let texts: Vec<String> = bytes
                .iter()
                .map(|text| String::from_utf8_lossy(text).into_owned())
                .collect();
            let pairs = || -> Fields {
                let both = |pair: &[String]| (pair[0].clone(), pair[1].clone());
                texts.chunks_exact(2).map(both).collect()
            };
            let (word, rest) = key["fal:".len()..]
                .split_once(':')
                .unwrap_or((&key["fal:".len()..], ""));
            let rest = rest.to_owned();
            match (word, kind.as_str()) {
                ("job", "hash") => drop(all.records.insert(rest, pairs())),
                ("ready", "list") => drop(all.lists.insert(rest, texts)),
                ("waiting", "list") => drop(all.lines.insert(rest, texts)),
                ("turns", "hash") => drop(all.turns.insert(rest, pairs())),
                ("waiters", "set") => all.waiters = texts.into_iter().collect(),
                ("user", "set") => {
                    let user = rest.strip_suffix(":running").unwrap_or(&rest).to_owned();
                    all.slots.insert(user, texts.into_iter().collect());
                }
                ("rate", "zset") if rest == "held" => all.held = texts.into_iter().collect(),
                ("at_fal", "set") => drop(all.at_fal.insert(rest, texts.into_iter().collect())),
                ("config", "hash") => all.config = pairs(),
                ("claims", "hash") => drop(all.claims.insert(rest, pairs())),
                ("taken", "list") => drop(all.taken.insert(rest)),
                ("later", "zset") => all.later = texts.into_iter().collect(),
                ("dead", "zset") => all.dead = texts.into_iter().collect(),
                ("workers", "zset") => all.workers = texts.into_iter().collect(),
                ("gone", "zset") => all.gone = texts.into_iter().collect(),
                ("worker", "hash") => drop(all.hashes.insert(rest, pairs())),
                ("stats", "hash") => all.stats = pairs(),
                ("bell", "list") => all.rings = texts.len(),
                _ if WORDS.contains(&word) || UPKEEP.contains(&word) => {}
                ("newer", "zset") => {} // met lately, and gone by itself
                _ => all.strange.push(format!("{key}: a key that nobody knows")),
            }
        }
        Ok(all)
    }

    fn records_stand_where_they_say(&self, wrong: &mut Vec<String>) {
        let mut listed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (list, ids) in &self.lists {
            for id in ids {
                listed.entry(id).or_default().push(list);
            }
        }
        for (id, record) in &self.records {
            let field = |name: &str| record.get(name).map(String::as_str);
            let mut say = |what: String| wrong.push(format!("job {id}: {what}; {record:?}"));
            match field("state") {
                Some("running") => {
                    let owner = field("worker").unwrap_or("nobody");
                    let claim = self.claims.get(owner).and_then(|claims| claims.get(id));
                    if field("token").is_none() || claim.map(String::as_str) != field("token") {
                        say(format!("running, but its owner's claim is {claim:?}"));
                    }
                    if field("phase").is_none() {
                        say("running in no phase".to_owned());
                    }
                }
                Some("queued") => {
                    let paid = field("request_id").is_some()
                        || field("phase").is_some_and(|phase| phase != "submitting");
                    let priority = field("priority").unwrap_or("default");
                    let right = match field("behind") {
                        _ if paid => "resume".to_owned(),
                        Some(pattern) => format!("model:{priority}:{pattern}"),
                        None => priority.to_owned(),
                    };
                    let now = listed.get(id.as_str()).cloned().unwrap_or_default();
                    if now != [right.as_str()] {
                        say(format!("queued for {right}, but it stands in {now:?}"));
                    }
                }
                Some("waiting") => {
                    let (p, user) = (field("priority"), field("user").unwrap_or_default());
                    let p = p.unwrap_or("default");
                    let line = match field("behind") {
                        Some(pattern) => format!("model:{p}:{pattern}:{user}"),
                        None => format!("{p}:{user}"),
                    };
                    let times = |ids: &Vec<String>| ids.iter().filter(|other| *other == id).count();
                    if self.lines.get(&line).map_or(0, times) != 1
                        || listed.contains_key(id.as_str())
                    {
                        say(format!("waiting, but not once in {line}"));
                    }
                    if field("request_id").is_some() || user.is_empty() {
                        say("waiting, though no limit holds it".to_owned());
                    }
                }
                Some("later") => {
                    if !self.later.contains(id) {
                        say("later, but at no time".to_owned());
                    }
                    if field("due_at").is_none() {
                        say("later, but when is not said".to_owned());
                    }
                }
                Some("done" | "dead" | "cancelled") => {
                    // What keeps nothing keeps the bare id, which is on no list.
                    let listed = self.dead.contains(id);
                    let bare = field("ended_at").is_none();
                    if field("state") == Some("dead") && !bare && !listed {
                        say("dead, but not on the list of the dead".to_owned());
                    }
                    if field("phase").is_some() || field("due_at").is_some() {
                        say("ended, but it says what comes next".to_owned());
                    }
                }
                state => say(format!("the state {state:?}")),
            }
        }
    }

    fn places_hold_only_what_stands_there(&self, wrong: &mut Vec<String>) {
        let state = |id: &str| {
            let record = self.records.get(id);
            record.and_then(|record| record.get("state").map(String::as_str))
        };
        for (list, ids) in &self.lists {
            if !LISTS.contains(&list.as_str()) && !list.starts_with("model:") {
                wrong.push(format!("ready:{list}: a list that nobody knows"));
            }
            for id in ids.iter().filter(|id| state(id) != Some("queued")) {
                wrong.push(format!("ready:{list} holds {id}, which is {:?}", state(id)));
            }
        }
        for id in self.later.iter().filter(|id| state(id) != Some("later")) {
            wrong.push(format!("later holds {id}, which is {:?}", state(id)));
        }
        for id in self.dead.iter().filter(|id| state(id) != Some("dead")) {
            wrong.push(format!("dead holds {id}, which is {:?}", state(id)));
        }
        let mut owners: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (instance, claims) in &self.claims {
            for (id, token) in claims {
                owners.entry(id).or_default().push(instance);
                let record = self.records.get(id);
                let says = |name: &str| record.and_then(|record| record.get(name));
                let matches = state(id) == Some("running")
                    && says("token") == Some(token)
                    && says("worker") == Some(instance);
                if !matches {
                    wrong.push(format!("{instance} claims {id} as {token}: {record:?}"));
                }
            }
        }
        let twice = owners.iter().filter(|(_, owners)| owners.len() > 1);
        wrong.extend(twice.map(|(id, owners)| format!("{id} is claimed by {owners:?}")));
        if self.rings > 64 {
            wrong.push(format!("the bell was rung {} times", self.rings));
        }
    }

    /// Whose line is not empty has a turn in the list, or all his slots are in use; and who uses a slot is
    /// at work, or paid.
    fn users_have_their_turns_and_slots(&self, wrong: &mut Vec<String>) {
        let record = |id: &str| self.records.get(id);
        let field = |id: &str, name: &str| record(id)?.get(name).map(String::as_str);
        let number = |name: &str| self.config.get(name).and_then(|text| text.parse().ok());
        let limit: usize = number("user_concurrency").unwrap_or(0);
        let settled =
            self.config.get("user_concurrency") == self.config.get("applied:user_concurrency");
        let used = |user: &str| self.slots.get(user).map_or(0, BTreeSet::len);
        for (line, ids) in &self.lines {
            // A pattern of models has no colon.
            let behind = line.strip_prefix("model:");
            let at = behind.and_then(|rest| rest.match_indices(':').nth(1));
            let (p, user) = match at {
                Some((at, _)) => (&line[..at + 6], &line[at + 7..]),
                None => line.split_once(':').unwrap_or((line, "")),
            };
            if self
                .turns
                .get(p)
                .is_none_or(|turns| !turns.contains_key(user))
            {
                wrong.push(format!("waiting:{line} is called by nobody"));
            }
            for id in ids
                .iter()
                .filter(|id| field(id, "state") != Some("waiting"))
            {
                wrong.push(format!(
                    "waiting:{line} holds {id}, which is {:?}",
                    record(id)
                ));
            }
        }
        let mut held = BTreeSet::new();
        for (p, turns) in &self.turns {
            for (user, id) in turns {
                let list = self.lists.get(p);
                if id.is_empty() {
                    held.insert(user.clone());
                    if settled && (limit == 0 || used(user) < limit) {
                        wrong.push(format!("{user} waits for a slot that is free ({p})"));
                    }
                } else if list.is_none_or(|list| !list.contains(id)) {
                    wrong.push(format!(
                        "the turn of {user} in {p} is {id}: {:?}",
                        record(id)
                    ));
                }
            }
        }
        if held != self.waiters {
            wrong.push(format!("waiters are {:?}, not {held:?}", self.waiters));
        }
        for (user, ids) in &self.slots {
            for id in ids {
                let paid = field(id, "request_id").is_some()
                    || field(id, "phase").is_some_and(|phase| phase != "submitting");
                let uses = match field(id, "state") {
                    Some("running") => true,
                    Some("queued" | "later") => paid,
                    _ => false,
                };
                if !uses || field(id, "user") != Some(user) {
                    wrong.push(format!("{id} uses a slot of {user}: {:?}", record(id)));
                }
            }
        }
        for (id, record) in &self.records {
            let user = record
                .get("user")
                .filter(|_| field(id, "state") == Some("running"));
            if let Some(user) = user
                && field(id, "phase") != Some("telling")
                && limit > 0
                && settled
                && self.slots.get(user).is_none_or(|ids| !ids.contains(id))
            {
                wrong.push(format!("{id} runs without a slot of {user}: {record:?}"));
            }
        }
        for id in &self.held {
            if field(id, "state") != Some("later") || field(id, "deferred_at").is_none() {
                wrong.push(format!("rate:held holds {id}, which is {:?}", record(id)));
            }
        }
    }

    /// Who stands at fal is on its way there, or was submitted and has no result yet, and says so itself.
    fn places_at_fal_are_those_of_jobs(&self, wrong: &mut Vec<String>) {
        let field = |id: &str, name: &str| self.records.get(id)?.get(name).map(String::as_str);
        let all = self.at_fal.get("").cloned().unwrap_or_default();
        for (pattern, ids) in &self.at_fal {
            for id in ids {
                let phase = field(id, "phase").unwrap_or("submitting");
                let there = match field(id, "state") {
                    Some("running") => true,
                    Some("queued" | "later") => field(id, "request_id").is_some(),
                    _ => false,
                };
                let right = there
                    && matches!(phase, "submitting" | "polling" | "collecting")
                    && all.contains(id)
                    && field(id, "at_fal").is_some_and(|at| pattern.is_empty() || at == pattern);
                if !right {
                    let record = self.records.get(id);
                    wrong.push(format!("at_fal:{pattern} holds {id}: {record:?}"));
                }
            }
        }
        for (id, record) in &self.records {
            if record.get("at_fal").is_some_and(|pattern| {
                let counted = |ids: &BTreeSet<String>| ids.contains(id);
                !(all.contains(id) && self.at_fal.get(pattern).is_some_and(counted))
            }) {
                wrong.push(format!(
                    "{id} stands at fal, but is not counted: {record:?}"
                ));
            }
        }
    }

    fn keys_live_as_long_as_their_record(&self, wrong: &mut Vec<String>) {
        let ended = |record: &Fields| {
            let state = record.get("state").map(String::as_str);
            matches!(state, Some("done" | "dead" | "cancelled"))
        };
        for (key, ttl) in &self.ttl {
            let Some((word, id)) = key["fal:".len()..].split_once(':') else {
                continue;
            };
            let record = self.records.get(id);
            let mut say = |what: &str| wrong.push(format!("{key} (ttl {ttl}): {what}; {record:?}"));
            match (word, record) {
                ("job", Some(record)) => match (ended(record), *ttl) {
                    (true, -1) => say("ended, and kept for ever"),
                    (false, 0..) => say("it will vanish under its owner"),
                    _ => {}
                },
                ("spec", Some(record)) if ended(record) => {
                    let dead = record.get("state").is_some_and(|state| state == "dead");
                    if !dead || *ttl == -1 {
                        say("the spec of a job that is over");
                    }
                }
                ("result", Some(record)) if ended(record) => say("a result that was delivered"),
                ("spec" | "result", Some(_)) if *ttl >= 0 => {
                    say("it will vanish while it is needed")
                }
                ("spec" | "result", None) if *ttl == -1 => say("its job is not known"),
                _ => {}
            }
        }
        for (id, record) in &self.records {
            let unpaid = record
                .get("phase")
                .is_none_or(|phase| phase == "submitting");
            let spec = self.ttl.contains_key(&format!("fal:spec:{id}"));
            if !ended(record) && unpaid && !record.contains_key("request_id") && !spec {
                wrong.push(format!(
                    "job {id}: to be submitted, but without a spec: {record:?}"
                ));
            }
        }
    }

    fn nothing_belongs_to_nobody(&self, wrong: &mut Vec<String>) {
        // Who was killed last may have work in hand, and whoever comes next takes it.
        let known =
            |instance: &str| self.workers.contains(instance) || self.gone.contains(instance);
        for instance in self.claims.keys().chain(&self.taken) {
            if !known(instance) {
                wrong.push(format!(
                    "{instance} holds something, and nobody will take it back"
                ));
            }
        }
        for instance in &self.workers {
            let hash = self.hashes.get(instance);
            if hash.is_none_or(|hash| hash.contains_key("dead") || !hash.contains_key("name")) {
                wrong.push(format!("{instance} lives, but it says of itself: {hash:?}"));
            }
        }
        for (instance, hash) in &self.hashes {
            let key = format!("fal:worker:{instance}");
            if !self.workers.contains(instance) && self.ttl[&key] == -1 {
                wrong.push(format!("{key}: not alive, and kept for ever: {hash:?}"));
            }
        }
    }
}
