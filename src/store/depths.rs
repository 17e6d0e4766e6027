//! How much waits where, for those who watch: one call, bounded whatever waits.

use super::*;

/// Users whose lines one call looks at.
const USERS: usize = 300;

/// What waits, and since when the one that waits longest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Waiting {
    pub(crate) jobs: u64,
    pub(crate) oldest: Duration,
}

/// The queues at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Depths {
    /// Entries not taken in yet.
    pub(crate) inbox: u64,
    /// Jobs that wait for a time.
    pub(crate) later: u64,
    /// Dead letters.
    pub(crate) dead: u64,
    /// Living instances.
    pub(crate) workers: u64,
    /// `resume`, `high`, `default`, `low`. Oldest: among those that are served next.
    pub(crate) ready: [Waiting; 4],
    /// Behind their users' turns, their slots or a limit of their model; `None` until the first walk over
    /// all users is complete.
    pub(crate) lines: Option<Waiting>,
}

/// The walk over the users' lines, which goes on with each call.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    lane: u64,
    cursor: String,
    jobs: u64,
    since: i64,
    /// What the last complete one found.
    found: Option<(u64, i64)>,
}

impl Default for Walk {
    fn default() -> Walk {
        Walk {
            lane: 1,
            cursor: "0".to_owned(),
            jobs: 0,
            since: 0,
            found: None,
        }
    }
}

impl Walk {
    fn goes_on(&mut self, (lane, cursor): (u64, String), jobs: u64, since: i64) {
        self.jobs += jobs;
        if since > 0 && (self.since == 0 || since < self.since) {
            self.since = since;
        }
        (self.lane, self.cursor) = (lane, cursor);
        if lane == 0 {
            *self = Walk {
                found: Some((self.jobs, self.since)),
                ..Walk::default()
            };
        }
    }
}

impl Session {
    /// Reads the queues; `walk` goes on from call to call.
    pub(crate) fn depths(&self, walk: &mut Walk) -> Result<Depths, Fault> {
        let keys = &self.store.keys;
        let [resume, high, default, low] = &keys.ready;
        let names = [
            keys.inbox.as_str(),
            resume,
            high,
            default,
            low,
            &keys.later,
            &keys.dead,
            &keys.workers,
        ];
        let call = Call::new(&self.store.scripts.depths, &names)
            .arg(&keys.namespace)
            .arg(walk.lane)
            .arg(&walk.cursor)
            .arg(USERS);
        let mut parts = read::<Vec<Value>>(self.script(&call)?)?.into_iter();
        let mut part = || parts.next().unwrap_or(Value::Nil);
        let now: i64 = read(part())?;
        let waiting = |jobs: u64, since: i64| Waiting {
            jobs,
            oldest: match since {
                0 => Duration::ZERO,
                since => Duration::from_millis(u64::try_from(now - since).unwrap_or(0)),
            },
        };
        let mut depths = Depths {
            inbox: read(part())?,
            later: read(part())?,
            dead: read(part())?,
            workers: read(part())?,
            ..Depths::default()
        };
        for ready in &mut depths.ready {
            let (jobs, since) = read(part())?;
            *ready = waiting(jobs, since);
        }
        let next = (read(part())?, read(part())?);
        walk.goes_on(next, read(part())?, read(part())?);
        depths.lines = walk.found.map(|(jobs, since)| waiting(jobs, since));
        Ok(depths)
    }
}
