//! `enqueue`: jobs from a file, a pipe or flags into the inbox, each checked first, and followed to its end.

use super::admin::{away, open};
use super::table::visible;
use super::{EnqueueArgs, INCOMPLETE};
use crate::config::StoreConfig;
use crate::job::failure::Kind;
use crate::job::spec;
use crate::job::{JobId, UnixMs};
use crate::store::view::{SILENT, View, field};
use crate::store::{Fault, made_id};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::time::Duration;

/// Time between two looks of `--wait`.
const LOOK: Duration = Duration::from_millis(200);
/// Jobs pushed between two waits of `--wait-replicas`, and how long one may take.
const BATCH: usize = 100;
const REPLICAS: Duration = Duration::from_secs(3);
/// Unknown fields that are named.
const NAMED: usize = 20;

/// `enqueue`: checks each job first; a bad line is not pushed, is named by its number and makes the exit 1.
pub(super) fn enqueue(args: &EnqueueArgs, store: &StoreConfig) -> u8 {
    match enqueue_all(args, store) {
        Ok(code) | Err(code) => code,
    }
}

fn enqueue_all(args: &EnqueueArgs, store: &StoreConfig) -> Result<u8, u8> {
    let mut view = open(store)?;
    let now = view.now().map_err(|fault| away(&fault))?;
    let before = match args.wait {
        true => Some(Before {
            stream: view.newest_id().map_err(|fault| away(&fault))?,
            at: now,
        }),
        false => None,
    };
    let mut code = 0;
    let mut ids = Vec::new();
    let mut unsure = 0;
    let mut named = BTreeSet::new();
    let mut put = |entry: &[u8], place: &str| -> Result<(), u8> {
        match checked(entry, now) {
            Ok((id, entry)) => {
                for name in spec::ignored(&entry) {
                    if named.len() < NAMED && !named.contains(&name) {
                        let shown = visible(&name);
                        eprintln!(
                            "fal-worker: {place}{shown}: no such field, ignored here and in later jobs"
                        );
                        named.insert(name);
                    }
                }
                if let Err(fault) = view.push(&entry) {
                    let code = away(&fault);
                    if let Fault::Away(_) = fault {
                        // With the id it is safe to push it again; a new one would be paid once more.
                        eprintln!(
                            "fal-worker: {place}{id} may be pushed or not: push it again with this id, \
                             a duplicate is dropped"
                        );
                    }
                    return Err(code);
                }
                if writeln!(std::io::stdout(), "{id}").is_err() {
                    // Whoever reads the ids has gone: what follows would be pushed without a trace.
                    eprintln!(
                        "fal-worker: {id} is pushed, but nobody reads the ids any more; stopped"
                    );
                    return Err(INCOMPLETE);
                }
                ids.push(id);
                unsure += 1;
                if unsure == BATCH {
                    replicated(args, &mut view, std::mem::take(&mut unsure), &mut code)?;
                }
            }
            Err(why) => {
                eprintln!("fal-worker: {place}{why}");
                code = INCOMPLETE;
            }
        }
        Ok(())
    };
    match &args.model {
        Some(model) => put(built(args, model)?.as_bytes(), "")?,
        None => {
            for (number, line) in lines(args)?.enumerate() {
                let line = line.map_err(|error| {
                    eprintln!("fal-worker: line {}: {error}", number + 1);
                    INCOMPLETE
                })?;
                let line = line.trim_ascii();
                if !line.is_empty() {
                    put(line, &format!("line {}: ", number + 1))?;
                }
            }
        }
    }
    replicated(args, &mut view, unsure, &mut code)?;
    // A pipe that reads ids must have them before we wait.
    let _ = std::io::stdout().flush();
    if let Some(before) = before
        && !all_done(&mut view, store, ids, before)?
    {
        code = INCOMPLETE;
    }
    Ok(code)
}

/// `--wait-replicas`: the last `jobs` stand in so many replicas, or a warning says that they do not. They are
/// pushed all the same: to push them again is safe only with the same ids.
fn replicated(args: &EnqueueArgs, view: &mut View, jobs: usize, code: &mut u8) -> Result<(), u8> {
    let (Some(wanted), 1..) = (args.wait_replicas, jobs) else {
        return Ok(());
    };
    // The ids go out first: a reader of a pipe knows them whatever comes now.
    let _ = std::io::stdout().flush();
    let have = view.wait_replicas(wanted, REPLICAS);
    let have = have.map_err(|fault| away(&fault))?;
    if have < wanted {
        eprintln!(
            "fal-worker: the last {jobs} jobs are pushed, but {have} of {wanted} replicas said within {} s \
             that they have them",
            REPLICAS.as_secs()
        );
        *code = INCOMPLETE;
    }
    Ok(())
}

type Lines = Box<dyn Iterator<Item = std::io::Result<Vec<u8>>>>;

fn lines(args: &EnqueueArgs) -> Result<Lines, u8> {
    let input: Box<dyn Read> = match &args.file {
        Some(path) if path.as_os_str() != "-" => match File::open(path) {
            Ok(file) => Box::new(file),
            Err(error) => {
                eprintln!("fal-worker: {}: {error}", path.display());
                return Err(INCOMPLETE);
            }
        },
        Some(_) | None => {
            if std::io::stdin().is_terminal() {
                eprintln!(
                    "fal-worker: reading jobs from the terminal, one JSON object a line; end with Ctrl-D"
                );
            }
            Box::new(std::io::stdin())
        }
    };
    Ok(Box::new(BufReader::new(input).split(b'\n')))
}

/// One job from `--model`, `--input` and `--chat`, put together as text: the input stays as it is typed.
fn built(args: &EnqueueArgs, model: &str) -> Result<String, u8> {
    let input = args.input.as_deref().unwrap_or("{}");
    let telegram = match args.chat.as_deref() {
        None => String::new(),
        Some(chat) if chat.starts_with('@') => {
            format!(r#","telegram":{{"chat_id":{}}}"#, json!(chat))
        }
        Some(chat) => match chat.parse::<i64>() {
            Ok(chat) => format!(r#","telegram":{{"chat_id":{chat}}}"#),
            Err(_) => {
                eprintln!("fal-worker: --chat: expected a number or @name");
                return Err(super::USAGE);
            }
        },
    };
    Ok(format!(
        r#"{{"model":{},"input":{input}{telegram}}}"#,
        json!(model)
    ))
}

/// Checks an entry, and gives it an id if it has none; every other byte stays.
fn checked(entry: &[u8], now: UnixMs) -> Result<(JobId, Vec<u8>), String> {
    let spec = spec::parse(entry, Some(now)).map_err(|invalid| invalid.error)?;
    if let Some(id) = spec.id {
        return Ok((id, entry.to_vec()));
    }
    let id = made_id();
    let brace = entry.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let mut with_id = entry[..=brace].to_vec();
    with_id.extend_from_slice(format!(r#""id":"{id}","#).as_bytes());
    with_id.extend_from_slice(&entry[brace + 1..]);
    // `"id": null` counts as absent, but stays in the entry: two of the key would not pass.
    spec::parse(&with_id, Some(now))
        .map_err(|_| "id: null is no id: give one, or leave the key out".to_owned())?;
    Ok((id, with_id))
}

/// Where the stream and Redis's clock stood before the first push: what was before it is no end of ours.
struct Before {
    stream: String,
    at: UnixMs,
}

/// Entries of one id that are waited for.
#[derive(Default)]
struct Waited {
    /// Entries that no worker has been seen to read.
    unread: usize,
    /// One of them has become the job of this id.
    is_job: bool,
    /// Its events are seen.
    is_seen: bool,
    /// It has ended without an event of it.
    ended_unseen: bool,
}

impl Waited {
    /// Whether an end that the record shows is that of an entry of ours. Its event says so; where the stream was
    /// trimmed too soon the time does, once the events of before the last look are read.
    fn is_ours(&mut self, came_in: Option<UnixMs>, before: &Before) -> bool {
        let fresh = came_in.is_some_and(|at| at >= before.at) && !self.is_seen;
        self.is_job || (fresh && std::mem::replace(&mut self.ended_unseen, true))
    }
}

/// Follows jobs to their end.
fn all_done(
    view: &mut View,
    store: &StoreConfig,
    ids: Vec<JobId>,
    mut before: Before,
) -> Result<bool, u8> {
    let mut waited: BTreeMap<JobId, Waited> = BTreeMap::new();
    for id in ids {
        waited.entry(id).or_default().unread += 1;
    }
    let (mut all, mut is_alone) = (true, false);
    loop {
        // First the events: what the records say then is no older.
        all &= none_is_duplicate(view, &mut waited, &mut before.stream)
            .map_err(|fault| away(&fault))?;
        let ids: Vec<JobId> = waited.keys().cloned().collect();
        let states = view.states(&ids).map_err(|fault| away(&fault))?;
        for (id, (state, came_in)) in ids.iter().zip(states) {
            let Some(one) = waited.get_mut(id) else {
                continue;
            };
            let state = state.as_deref().unwrap_or_default();
            if !matches!(state, "done" | "dead" | "cancelled") || !one.is_ours(came_in, &before) {
                continue;
            }
            if state != "done" {
                let record = view.record(id).map_err(|fault| away(&fault))?;
                let say = |name: &str| record.get(name).map_or("", String::as_str);
                eprintln!(
                    "fal-worker: {id} ended {state}: {} {}",
                    say("kind"),
                    visible(say("error"))
                );
                all = false;
            }
            if !std::mem::take(&mut one.is_job) {
                one.unread -= 1;
                one.is_seen = true;
            }
        }
        waited.retain(|_, one| one.is_job || one.unread > 0);
        if waited.is_empty() {
            return Ok(all);
        }
        if !is_alone {
            let living = view.living().map_err(|fault| away(&fault))?;
            is_alone = living.iter().all(|(_, age)| *age >= SILENT);
            if is_alone {
                let namespace = &store.namespace;
                eprintln!("fal-worker: no worker runs in namespace {namespace}: waiting for one");
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// Reads on in the stream, until it is known what each entry has become; says which were duplicates. False where
/// there was one.
fn none_is_duplicate(
    view: &mut View,
    waited: &mut BTreeMap<JobId, Waited>,
    last: &mut String,
) -> Result<bool, Fault> {
    let mut none = true;
    while waited.values().any(|one| one.unread > 0) {
        let events = view.next_events(last)?;
        let Some((id, _)) = events.last() else {
            break;
        };
        last.clone_from(id);
        for event in &events {
            let of = |name: &str| field(event, name);
            let one = JobId::new(of("job")).and_then(|id| waited.get_mut(&id));
            let Some(one) = one.filter(|one| one.unread > 0) else {
                continue;
            };
            match of("event") {
                "duplicate" => {
                    eprintln!(
                        "fal-worker: {}: duplicate, the first one is {}: nothing was run or paid; take a new id",
                        of("job"),
                        visible(of("state"))
                    );
                    none = false;
                }
                // With `life`: somebody has retried the first one.
                "queued" if of("life").is_empty() => one.is_job = true,
                // What the worker does not take for a job has no other event.
                "failed" if of("kind") == Kind::InvalidJob.as_str() => one.is_job = true,
                _ => continue,
            }
            one.unread -= 1;
            one.is_seen = true;
        }
    }
    Ok(none)
}
