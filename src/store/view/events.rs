//! The stream of events: from a moment on, backwards, or as it grows.

use super::{EventView, Fault, View};
use crate::job::UnixMs;
use std::time::Duration;

/// Entries read at once.
const PAGE: usize = 1000;

/// What was found behind one another in the stream.
#[derive(Debug, Default)]
pub struct Found {
    /// Oldest first.
    pub events: Vec<EventView>,
    /// Id of the newest entry of the stream, `0-0` for an empty one: from here on it is followed.
    pub last: String,
    /// There are more that fit, older than these.
    pub cut: bool,
}

impl View {
    /// The newest events that fit, at most `most` of them and none older than `since`; looks at `look_at`
    /// entries at most.
    pub fn newest_events(
        &mut self,
        since: Option<UnixMs>,
        most: usize,
        look_at: usize,
        fits: impl Fn(&EventView) -> bool,
    ) -> Result<Found, Fault> {
        let mut found = Found {
            last: "0-0".to_owned(),
            ..Found::default()
        };
        let start = since.map_or("-".to_owned(), |at| format!("{}-0", at.0.max(0)));
        let (mut end, mut looked) = ("+".to_owned(), 0);
        loop {
            let mut cmd = redis::cmd("XREVRANGE");
            cmd.arg(&self.keys.events)
                .arg(&end)
                .arg(&start)
                .arg("COUNT")
                .arg(PAGE);
            let page: Vec<EventView> = self.ask(&cmd)?;
            if end == "+" {
                found.last = match page.first() {
                    Some((id, _)) => id.clone(),
                    None => self.newest_id()?,
                };
            }
            let full = page.len() == PAGE;
            looked += page.len();
            let Some((oldest, _)) = page.last() else {
                break;
            };
            let before = id_before(oldest);
            for event in page {
                if fits(&event) {
                    if found.events.len() == most {
                        found.cut = true;
                        found.events.reverse();
                        return Ok(found);
                    }
                    found.events.push(event);
                }
            }
            match before {
                Some(before) if full && looked < look_at => end = before,
                _ => {
                    found.cut = full;
                    break;
                }
            }
        }
        found.events.reverse();
        Ok(found)
    }

    /// Id of the newest entry, `0-0` for an empty stream: what comes stands behind it.
    pub fn newest_id(&mut self) -> Result<String, Fault> {
        let mut cmd = redis::cmd("XREVRANGE");
        cmd.arg(&self.keys.events)
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(1);
        let newest: Vec<EventView> = self.ask(&cmd)?;
        Ok(newest
            .into_iter()
            .next()
            .map_or("0-0".to_owned(), |(id, _)| id))
    }

    /// Events behind `last`; waits so long for the first of them. It must be shorter than a call may take.
    pub fn follow_events(&mut self, last: &str, wait: Duration) -> Result<Vec<EventView>, Fault> {
        let mut cmd = redis::cmd("XREAD");
        cmd.arg("COUNT")
            .arg(PAGE)
            .arg("BLOCK")
            .arg(u64::try_from(wait.as_millis()).unwrap_or(1000))
            .arg("STREAMS")
            .arg(&self.keys.events)
            .arg(last);
        let answer: Option<Vec<(String, Vec<EventView>)>> = self.ask(&cmd)?;
        let streams = answer.unwrap_or_default().into_iter();
        Ok(streams.flat_map(|(_, events)| events).collect())
    }

    /// The next page behind `last`, without a wait.
    pub fn next_events(&mut self, last: &str) -> Result<Vec<EventView>, Fault> {
        self.events_after(last, PAGE)
    }
}

/// The id before this one; `None`: there is none.
fn id_before(id: &str) -> Option<String> {
    let (ms, n) = id.split_once('-')?;
    match n.parse::<u64>().ok()? {
        0 => Some(format!(
            "{}-{}",
            ms.parse::<u64>().ok()?.checked_sub(1)?,
            u64::MAX
        )),
        n => Some(format!("{ms}-{}", n - 1)),
    }
}

/// A field of an event; empty where it has none.
pub fn field<'a>(event: &'a EventView, name: &str) -> &'a str {
    let (_, fields) = event;
    let found = fields.iter().find(|(field, _)| field == name);
    found.map_or("", |(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_before_another() {
        assert_eq!(id_before("5-3").as_deref(), Some("5-2"));
        assert_eq!(id_before("5-0").as_deref(), Some("4-18446744073709551615"));
        assert_eq!(id_before("0-0"), None);
        assert_eq!(id_before("x"), None);
    }
}
