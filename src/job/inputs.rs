//! A job's files on their way into fal's storage, which comes before its submit: what is known of them,
//! and what the record says. Pure.

use super::UnixMs;
use super::flight::{Flight, Patch};
use super::state::{Change, Next};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a file in fal's storage may be used again. fal keeps files at least seven days (fal-api section
/// 7), and a job may take up a URL at the end of one such span and be submitted at the end of the next.
pub(crate) const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The record's word while the files move: the submit certainly has not been made (see requeue.lua).
const UPLOADING: &str = "uploading";

/// What of a job's files is in fal's storage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Brought {
    /// The record says that they are on their way.
    pub begun: bool,
    /// URL by file; as long as the list of files once it has begun.
    pub urls: Vec<Option<String>>,
    /// When the last of them was there; recorded, or about to be.
    pub at: Option<UnixMs>,
    /// How often the file under way was said to be missing.
    pub missing: u32,
    /// Earlier owners have said that it waits for its files.
    pub is_told: bool,
}

/// The failure of a file begins with this: in a record that waits, or has just waited, it says for what.
pub(crate) const OF_A_FILE: &str = "input_files.";

#[derive(Serialize, Deserialize)]
struct Recorded {
    at: i64,
    urls: Vec<String>,
}

impl Brought {
    /// Reads the record's field, for so many files. What cannot be read counts as nothing.
    pub(crate) fn parse(text: &str, files: usize) -> Brought {
        if text == UPLOADING {
            return Brought {
                begun: true,
                ..Brought::default()
            };
        }
        if text.is_empty() {
            return Brought::default(); // most jobs: no parser need say so
        }
        match serde_json::from_str::<Recorded>(text) {
            Ok(Recorded { at, urls }) if urls.len() == files => Brought {
                urls: urls.into_iter().map(Some).collect(),
                at: Some(UnixMs(at)),
                ..Brought::default()
            },
            _ => Brought::default(),
        }
    }

    /// What the record should say; `None`: nothing.
    pub(crate) fn to_text(&self) -> Option<String> {
        match self.at {
            Some(at) => {
                let urls = self.urls.iter().flatten().cloned().collect();
                serde_json::to_string(&Recorded { at: at.0, urls }).ok()
            }
            None => self.begun.then(|| UPLOADING.to_owned()),
        }
    }

    /// All URLs, once all are there.
    pub fn all(&self) -> Vec<String> {
        self.urls.iter().flatten().cloned().collect()
    }
}

impl Flight {
    /// Whether files are to be brought to fal before the submit.
    pub(crate) fn brings_files(&self) -> bool {
        self.order
            .as_ref()
            .is_some_and(|order| !order.files.is_empty() && order.brought.at.is_none())
    }
}

/// Files that have lain in the storage for too long are brought anew.
pub(crate) fn look_at_age(flight: &mut Flight, now: UnixMs) {
    if let Some(order) = &mut flight.order
        && order.brought.at.is_some_and(|at| at.until(now) > KEPT)
    {
        order.brought = Brought::default();
    }
}

/// The write before the first byte moves.
pub(crate) fn begin(flight: &mut Flight) -> Change {
    let mut text = None;
    if let Some(order) = &mut flight.order {
        order.brought.begun = true;
        order.in_line = false;
        text = order.brought.to_text();
    }
    let patch = Patch::default().set_some("inputs", text);
    Change::save(patch.del(&["waits"]), Next::Now)
}

/// The write after the last one, without which there is no submit. Progress: a crash is counted anew.
pub(crate) fn all_brought(flight: &mut Flight, now: UnixMs) -> Change {
    flight.step_tries = 0;
    let mut text = None;
    let mut patch = Patch::default().del(&["crashes"]);
    if let Some(order) = &mut flight.order {
        order.brought.at = Some(now);
        text = order.brought.to_text();
        if std::mem::take(&mut order.brought.is_told) {
            // That is over; what comes next is told, and waited for, anew.
            flight.tries = 0;
            patch = patch.del(&["tries", "error", "kind"]);
        }
    }
    let patch = patch.set_some("inputs", text);
    // By way of the pool: the submit needs a place at fal, and a direct call other threads.
    Change::save(patch, Next::In(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Phase;
    use crate::job::flight::{Write, sample};
    use crate::job::spec;

    fn flight() -> Flight {
        let mut flight = sample::flight(Phase::Submitting);
        let entry = br#"{"model":"a/b","input":{},"input_files":{"a":["x","y"],"b":"z"}}"#;
        let files = spec::parse(entry, None).unwrap().files;
        flight.order.as_mut().unwrap().files = files;
        flight
    }

    fn recorded(change: &Change) -> &str {
        let Some(Write::Save { patch, .. }) = &change.write else {
            panic!("{change:?}");
        };
        let field = patch.set.iter().find(|(name, _)| *name == "inputs");
        field.map(|(_, text)| text.as_str()).unwrap()
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let mut flight = flight();
        assert!(flight.brings_files());
        let change = begin(&mut flight);
        assert_eq!(recorded(&change), "uploading");
        let back = Brought::parse("uploading", 3);
        assert!(back.begun && back.at.is_none());
        let urls = ["u0", "u1", "u2"].map(|url| Some(url.to_owned()));
        flight.order.as_mut().unwrap().brought.urls = urls.to_vec();
        let change = all_brought(&mut flight, UnixMs(5));
        let text = recorded(&change).to_owned();
        assert_eq!(text, r#"{"at":5,"urls":["u0","u1","u2"]}"#);
        assert!(!flight.brings_files());
        let back = Brought::parse(&text, 3);
        assert_eq!((back.at, back.all().len()), (Some(UnixMs(5)), 3));
        assert_eq!(back.to_text(), Some(text.clone()));
        for (broken, files) in [(text.as_str(), 2), ("", 1), ("{}", 0), ("null", 0)] {
            assert_eq!(Brought::parse(broken, files), Brought::default());
        }
    }

    #[test]
    fn files_that_have_lain_too_long_are_brought_anew() {
        let mut flight = flight();
        let late = UnixMs(5 + KEPT.as_millis() as i64);
        flight.order.as_mut().unwrap().brought =
            Brought::parse(r#"{"at":5,"urls":["a","b","c"]}"#, 3);
        look_at_age(&mut flight, late);
        assert!(!flight.brings_files());
        look_at_age(&mut flight, UnixMs(late.0 + 1));
        assert!(flight.brings_files());
    }
}
