//! `events`: the stream, readable; `--follow` goes on with what comes, across outages of Redis, until somebody
//! ends it.

use super::EventsArgs;
use super::admin::{away, end_cleanly, is_read, kind, no_such, open, say};
use super::table::{event_words, json_line, visible};
use crate::config::StoreConfig;
use crate::job::{UnixMs, gathered};
use crate::report::EVENTS;
use crate::store::Fault;
use crate::store::view::{EventView, View, field};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// One wait for what comes: shorter than a call may take, and so long an end of the reader goes unseen.
const WAIT: Duration = Duration::from_secs(1);
/// Between two tries to reach a Redis that is away.
const AGAIN: Duration = Duration::from_millis(250);
/// Events shown when nothing says how many: at once, and before those that are followed.
const USUAL: usize = 100;
const BEFORE: usize = 10;
/// Entries looked at, at most: the stream is trimmed near this by default.
const LOOK_AT: usize = 200_000;

/// `events`.
pub(super) fn events(args: &EventsArgs, store: &StoreConfig) -> u8 {
    match read(args, store) {
        Ok(code) | Err(code) => code,
    }
}

fn read(args: &EventsArgs, store: &StoreConfig) -> Result<u8, u8> {
    kind(args.kind.as_deref())?;
    if let Some(name) = args.event.as_deref()
        && !EVENTS.contains(&name)
    {
        return Err(no_such("--event", name, "event", &EVENTS));
    }
    let mut view = open(store)?;
    let now = view.now().map_err(|fault| away(&fault))?;
    let since = args.since.map(|span| {
        UnixMs(
            now.0
                .saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
        )
    });
    let usual = match (args.follow, since) {
        (_, Some(_)) => usize::MAX,
        (true, None) => BEFORE,
        (false, None) => USUAL,
    };
    let most = args
        .limit
        .map_or(usual, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let found = view
        .newest_events(since, most, LOOK_AT, |event| fits(args, event))
        .map_err(|fault| away(&fault))?;
    if found.cut && !args.follow && !args.json {
        eprintln!(
            "only the newest {} are shown: there are more (--limit)",
            found.events.len()
        );
    }
    if !print(args, &found.events) || !args.follow {
        return Ok(0);
    }
    end_cleanly("");
    follow(args, store, view, found.last);
    Ok(0)
}

/// Until nobody reads it any more. What was printed last is remembered, so an outage neither loses nor repeats.
fn follow(args: &EventsArgs, store: &StoreConfig, view: View, mut last: String) {
    let mut view = Some(view);
    let mut lost: Option<Instant> = None;
    while is_read() {
        let came = match &mut view {
            Some(view) => view.follow_events(&last, WAIT),
            None => {
                match View::open(&store.redis.server(), &store.namespace, &store.inbox) {
                    Ok(fresh) => view = Some(fresh),
                    Err(_) => std::thread::sleep(AGAIN),
                }
                continue;
            }
        };
        match came {
            Ok(events) => {
                if let Some(since) = lost.take() {
                    eprintln!("redis is back after {:.1} s", since.elapsed().as_secs_f64());
                }
                if let Some((id, _)) = events.last() {
                    last.clone_from(id);
                }
                let fit: Vec<EventView> = events
                    .into_iter()
                    .filter(|event| fits(args, event))
                    .collect();
                if !print(args, &fit) {
                    return;
                }
            }
            Err(fault) => {
                if lost.is_none() {
                    lost = Some(Instant::now());
                    let (Fault::Away(why) | Fault::Unable(why) | Fault::Refused(why)) = &fault;
                    eprintln!("redis lost ({}), trying again", visible(why));
                }
                view = None;
                std::thread::sleep(AGAIN);
            }
        }
    }
}

fn fits(args: &EventsArgs, event: &EventView) -> bool {
    let is = |wanted: &Option<String>, name: &str| {
        wanted
            .as_deref()
            .is_none_or(|wanted| field(event, name) == wanted)
    };
    is(&args.job, "job")
        && is(&args.user, "user")
        && is(&args.kind, "kind")
        && is(&args.event, "event")
}

/// False when nobody reads it any more.
fn print(args: &EventsArgs, events: &[EventView]) -> bool {
    let mut out = String::new();
    for event in events {
        if args.json {
            out += &json_line(&as_json(event));
        } else {
            out += &format!("{}\n", event_line(event));
        }
    }
    out.is_empty() || say(&out)
}

/// As it stands in the stream, with its id.
fn as_json((id, fields): &EventView) -> Value {
    let fields = fields
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)));
    let id = [("id".to_owned(), json!(id))].into_iter();
    Value::Object(gathered(id.chain(fields)))
}

fn event_line(event: &EventView) -> String {
    let at = field(event, "at")
        .parse()
        .map_or_else(|_| String::new(), super::table::clock);
    let (user, model) = (field(event, "user"), field(event, "model"));
    let mut line = format!(
        "{at}  {:<10}  {}",
        visible(field(event, "event")),
        visible(field(event, "job"))
    );
    if !model.is_empty() {
        line += &format!("  {}", visible(model));
    }
    if !user.is_empty() {
        line += &format!("  user {}", visible(user));
    }
    let words = event_words(event);
    if !words.is_empty() {
        line += &format!("  {words}");
    }
    line
}
