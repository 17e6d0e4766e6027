//! `delete`: what people want gone, and what was found of it.

use super::INCOMPLETE;
use super::admin::{away, open};
use super::operate::{LOOK, NO_ID, UNREAD, print, tell};
use crate::config::{StoreArgs, StoreConfig};
use crate::job::{JobId, UnixMs};
use crate::store::view::View;
use crate::store::{Belongings, Delete, Deleted, Fault};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long the jobs of a user are waited for that had to be cancelled first.
const CANCELLED: Duration = Duration::from_secs(10);
/// Walks for jobs of a user, until one finds no more: what was on its way into a record is there by the next.
const WALKS: usize = 5;

/// Arguments of `delete`.
#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Ids of the jobs
    #[arg(value_name = "ID", required_unless_present = "user")]
    ids: Vec<String>,
    /// All jobs of this user, whatever their state: what runs is cancelled first
    #[arg(
        long,
        value_name = "USER",
        conflicts_with = "ids",
        allow_hyphen_values = true
    )]
    user: Option<String>,
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

impl DeleteArgs {
    pub(super) fn store(&self) -> &StoreArgs {
        &self.store
    }
}

/// `delete`: a line a job; exit 1 if something is left of one, or nothing was known of it.
pub(super) fn delete(args: &DeleteArgs, store: &StoreConfig) -> u8 {
    let done = open(store).and_then(|mut view| match &args.user {
        Some(user) => delete_user(args, &mut view, user).map_err(|fault| away(&fault)),
        None => delete_jobs(args, &mut view).map_err(|fault| away(&fault)),
    });
    match done {
        Ok(code) | Err(code) => code,
    }
}

fn delete_jobs(args: &DeleteArgs, view: &mut View) -> Result<u8, Fault> {
    let mut whose = Belongings::default();
    let mut since: Option<UnixMs> = None;
    let mut all: Vec<(String, Option<Deleted>)> = Vec::new();
    let mut unread = BTreeSet::new();
    for id in args.ids.iter().filter_map(|name| JobId::new(name)) {
        whose.files.extend(view.input_files(&id)?);
    }
    if !args.dry_run {
        // Only the jobs name them: were Redis away once those are gone, no second run would find them. What a worker
        // notes anew until then goes with the rest.
        view.erase_uploads(&whose.files)?;
    }
    for name in &args.ids {
        let Some(id) = JobId::new(name) else {
            all.push((name.clone(), None));
            continue;
        };
        let deleted = view.delete(&id, args.dry_run)?;
        if deleted.delete == Delete::Gone && view.in_inbox(&id)?.is_some() {
            unread.insert(name.clone());
        } else if !matches!(deleted.delete, Delete::Running | Delete::Newer) {
            whose.jobs.insert(name.clone());
            since = Some(since.map_or(deleted.since, |other| other.min(deleted.since)));
        }
        all.push((name.clone(), Some(deleted)));
    }
    if !whose.jobs.is_empty() {
        for id in view.redeliveries_of(&whose.jobs)? {
            let deleted = view.delete(&id, args.dry_run)?;
            if matches!(deleted.delete, Delete::Running | Delete::Newer) {
                all.push((id.to_string(), Some(deleted)));
            }
        }
    }
    let events = match since {
        Some(since) => view.erase_events(&whose, since, args.dry_run)?,
        None => BTreeMap::new(),
    };
    if !args.dry_run {
        view.erase_belongings(&whose)?;
    }
    let mut failed = false;
    for (name, deleted) in &all {
        let events = events.get(name).copied().unwrap_or(0);
        failed |= if unread.contains(name) {
            tell_of(args, name, ("unread", UNREAD), ("", 0), false);
            true
        } else {
            !say(args, name, deleted.as_ref(), events)
        };
    }
    Ok(if failed { INCOMPLETE } else { 0 })
}

fn delete_user(args: &DeleteArgs, view: &mut View, user: &str) -> Result<u8, Fault> {
    let mut whose = Belongings {
        user: Some(user.to_owned()),
        ..Belongings::default()
    };
    let mut entries = 0;
    let mut all: Vec<(JobId, Deleted)> = Vec::new();
    for _ in 0..WALKS {
        // First what is not read yet: it may become a record while those are walked through.
        entries += view.unread_of_user(user, args.dry_run)?;
        let mut found = view.jobs_of_user(user)?;
        found.retain(|id| !whose.jobs.contains(id.as_str()));
        if found.is_empty() {
            break;
        }
        for id in &found {
            whose.jobs.insert(id.to_string());
            whose.files.extend(view.input_files(id)?);
        }
        if !args.dry_run {
            view.erase_uploads(&whose.files)?; // as in `delete_jobs`
        }
        all.extend(delete_all(view, found, args.dry_run)?);
        if args.dry_run {
            break;
        }
    }
    // The stream may know jobs of his of which no record is left.
    let events = view.erase_events(&whose, UnixMs(0), args.dry_run)?;
    if !args.dry_run {
        view.erase_belongings(&whose)?;
    }
    let mut left = 0;
    for (id, deleted) in &all {
        let events = events.get(id.as_str()).copied().unwrap_or(0);
        if !say(args, id.as_str(), Some(deleted), events) {
            left += 1;
        }
    }
    let (jobs, events) = (all.len() - left, events.values().sum::<u64>());
    let so = if args.dry_run { "would be " } else { "" };
    let mut text = format!("{jobs} jobs, {entries} unread entries and {events} events {so}deleted");
    if left > 0 {
        text += &format!("; {left} jobs are left: run it again once they have ended");
    }
    let line = json!({
        "user": user, "jobs": jobs, "entries": entries, "events": events, "left": left,
        "text": text, "done": left == 0, "dry_run": args.dry_run,
    });
    match args.json {
        true => print(true, &line),
        false => tell(&text),
    }
    Ok(if left > 0 { INCOMPLETE } else { 0 })
}

/// Deletes these; what runs is cancelled first and deleted once it has stopped.
fn delete_all(
    view: &mut View,
    ids: Vec<JobId>,
    dry_run: bool,
) -> Result<Vec<(JobId, Deleted)>, Fault> {
    let mut done = Vec::new();
    let mut open: Vec<JobId> = Vec::new();
    for id in ids {
        let deleted = view.delete(&id, dry_run)?;
        if deleted.delete == Delete::Running && !dry_run {
            view.cancel(&id)?;
            open.push(id);
        } else {
            done.push((id, deleted));
        }
    }
    let until = Instant::now() + CANCELLED;
    while !open.is_empty() {
        let last = Instant::now() >= until;
        let mut still = Vec::new();
        for id in open {
            let deleted = view.delete(&id, false)?;
            if deleted.delete == Delete::Running && !last {
                // It may have gone back into a queue, where nobody has marked it.
                view.cancel(&id)?;
                still.push(id);
            } else {
                done.push((id, deleted));
            }
        }
        open = still;
        if !open.is_empty() {
            std::thread::sleep(LOOK);
        }
    }
    Ok(done)
}

/// Prints what became of one; gives whether nothing but its id is left.
fn say(args: &DeleteArgs, id: &str, deleted: Option<&Deleted>, events: u64) -> bool {
    let so = if args.dry_run {
        "would be deleted"
    } else {
        "deleted"
    };
    let ended = |state: &str| matches!(state, "done" | "dead" | "cancelled");
    let (word, text, done) = match deleted {
        None => ("unknown", NO_ID.to_owned(), false),
        Some(one) => match one.delete {
            Delete::Ok if ended(&one.state) => ("deleted", so.to_owned(), true),
            Delete::Ok => {
                let text = format!(
                    "{so} before its end ({}, charged: {}): its user is not told",
                    one.state, one.charged
                );
                ("deleted", text, true)
            }
            Delete::Bare => ("deleted", format!("{so}: only its id was known"), true),
            Delete::Running if args.user.is_some() && args.dry_run => {
                ("deleted", "would be cancelled and deleted".to_owned(), true)
            }
            Delete::Running if args.user.is_some() => (
                "running",
                "is asked to stop, and has not stopped yet".to_owned(),
                false,
            ),
            Delete::Running => ("running", "runs: cancel it first".to_owned(), false),
            Delete::Newer => ("newer", "was written by a newer version".to_owned(), false),
            Delete::Gone if events > 0 || args.user.is_some() => (
                "deleted",
                format!("{so}: only events of it were known"),
                true,
            ),
            Delete::Gone => ("unknown", "is not known".to_owned(), false),
        },
    };
    let state = deleted.map_or("", |one| one.state.as_str());
    tell_of(args, id, (word, &text), (state, events), done);
    done
}

fn tell_of(
    args: &DeleteArgs,
    id: &str,
    (word, text): (&str, &str),
    (state, events): (&str, u64),
    done: bool,
) {
    let line = json!({
        "id": id, "outcome": word, "text": text, "done": done, "state": state, "events": events,
        "dry_run": args.dry_run,
    });
    print(args.json, &line);
}
