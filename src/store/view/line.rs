//! The place of a job in line: who is served before it. Within a priority users take turns, so it is not the
//! place in one list: whoever has many jobs waits behind one of everybody else's for each of them.

use super::{Fault, View};
use crate::job::JobId;
use std::collections::HashMap;

/// Ids of a list, and users of a priority, that are read at most; beyond that a place is a lower bound.
const READ: usize = 20_000;
/// Entries of the inbox that are looked at, and bytes of them.
const ENTRIES: usize = 1000;
const BYTES: usize = 16 << 20;
/// Entries in one exchange.
const PAGE: isize = 50;

/// Priorities in the order they are served.
const PRIORITIES: [&str; 3] = ["high", "default", "low"];

/// Where a job stands that is ready, or waits for its user's turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Paid jobs, which are always first.
    pub paid: u64,
    /// Jobs of higher priorities.
    pub higher: u64,
    /// Jobs of its own priority that are served before it.
    pub same: u64,
    /// Those of them that are its own user's.
    pub own: u64,
    /// Its user has all his slots in use, and this waits for one (`same` counts his jobs before it).
    pub for_slot: bool,
    /// There may be more: the lines are too long to be read whole.
    pub at_least: bool,
}

impl Place {
    /// All that are served before it.
    pub fn ahead(&self) -> u64 {
        self.paid + self.higher + self.same
    }
}

/// A job that no worker has read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InInbox {
    /// Entries that are read before it.
    pub ahead: u64,
    /// The worker that is reading it.
    pub taken_by: Option<String>,
}

/// One priority as it stands: `list` in the order it is served; of each user his turn (`""`: he waits for a
/// slot) and the length of his line.
#[derive(Debug, Default)]
struct Lines {
    list: Vec<String>,
    users: HashMap<String, (String, u64)>,
    whole: bool,
}

impl Lines {
    /// Jobs that stand here and may be served without a slot falling free.
    fn standing(&self) -> u64 {
        let lines = self.users.values().filter(|(turn, _)| !turn.is_empty());
        self.list.len() as u64 + lines.map(|(_, line)| line).sum::<u64>()
    }

    /// How many are served before `id`, and how many of those are its own user's. `line`: jobs of its user
    /// that stand before it in his line, behind his turn; `None`: it stands in the list.
    fn before(&self, id: &str, user: Option<&str>, line: Option<u64>) -> Option<(u64, u64)> {
        let turn_of: HashMap<&str, &str> = self
            .users
            .iter()
            .filter(|(_, (turn, _))| !turn.is_empty())
            .map(|(user, (turn, _))| (turn.as_str(), user.as_str()))
            .collect();
        let stands = match line {
            None => id,
            Some(_) => self.users.get(user?)?.0.as_str(),
        };
        let at = self.list.iter().position(|one| one == stands)?;
        let Some(line) = line else {
            let own = self.list[..at]
                .iter()
                .filter(|one| user.is_some() && turn_of.get(one.as_str()).copied() == user)
                .count();
            return Some((at as u64, own as u64));
        };
        // It is served in its user's (line + 2)th turn from now, `rounds` whole rounds after the present one.
        let rounds = line + 1;
        let own = rounds;
        let others = self
            .list
            .iter()
            .enumerate()
            .filter(|(place, _)| *place != at);
        let others: u64 = others
            .map(|(place, one)| match turn_of.get(one.as_str()) {
                Some(other) => {
                    let has = 1 + self.users.get(*other).map_or(0, |(_, line)| *line);
                    has.min(rounds + u64::from(place < at))
                }
                None => 1,
            })
            .sum();
        Some((others + own, own))
    }
}

impl View {
    /// The place of a job in `ready:<priority>` or its user's line. `behind`: the pattern of the limit of models
    /// that holds it back. `None`: it stands in neither.
    pub fn place_of(
        &mut self,
        id: &JobId,
        priority: &str,
        behind: Option<&str>,
        user: Option<&str>,
    ) -> Result<Option<Place>, Fault> {
        let mut place = Place {
            paid: self.ask(redis::cmd("LLEN").arg(&self.keys.ready[0]))?,
            ..Place::default()
        };
        let standing = match behind {
            None => {
                let above = PRIORITIES.iter().take_while(|other| **other != priority);
                for other in above {
                    let lines = self.lines(other)?;
                    place.higher += lines.standing();
                    place.at_least |= !lines.whole;
                }
                priority.to_owned()
            }
            Some(pattern) => {
                let above = PRIORITIES.iter().take_while(|other| **other != priority);
                for other in above {
                    let lines = self.lines(&format!("model:{other}:{pattern}"))?;
                    place.higher += lines.standing();
                }
                format!("model:{priority}:{pattern}")
            }
        };
        let lines = self.lines(&standing)?;
        place.at_least |= !lines.whole;
        let mut in_line = None;
        if !lines.list.iter().any(|one| one == id.as_str()) {
            let Some(user) = user else { return Ok(None) };
            let mut key = self.keys.line(&standing, "");
            key.push_str(user);
            let line: Vec<String> =
                self.ask(redis::cmd("LRANGE").arg(key).arg(-(READ as isize)).arg(-1))?;
            let before = line.iter().rev().position(|one| one == id.as_str());
            match before {
                Some(before) => in_line = Some(before as u64),
                None => return Ok(None),
            }
            let turn = lines.users.get(user).map(|(turn, _)| turn.as_str());
            if turn.is_none_or(str::is_empty) {
                place.for_slot = true;
                (place.same, place.own) = (before.unwrap_or(0) as u64, before.unwrap_or(0) as u64);
                return Ok(Some(place));
            }
        }
        match lines.before(id.as_str(), user, in_line) {
            Some((same, own)) => (place.same, place.own) = (same, own),
            // His turn stands beyond what was read.
            None => {
                place.same = lines.standing();
                place.at_least = true;
            }
        }
        Ok(Some(place))
    }

    /// Its place among the paid ones.
    pub fn place_in_resume(&mut self, id: &JobId) -> Result<Option<u64>, Fault> {
        let mut cmd = redis::cmd("LRANGE");
        cmd.arg(&self.keys.ready[0]).arg(-(READ as isize)).arg(-1);
        let list: Vec<String> = self.ask(&cmd)?;
        let before = list.iter().rev().position(|one| one == id.as_str());
        Ok(before.map(|before| before as u64))
    }

    fn lines(&mut self, priority: &str) -> Result<Lines, Fault> {
        let mut cmd = redis::cmd("LRANGE");
        cmd.arg(self.keys.list(priority))
            .arg(-(READ as isize))
            .arg(-1);
        let mut list: Vec<String> = self.ask(&cmd)?;
        list.reverse();
        let mut turns: Vec<(String, String)> =
            self.ask(redis::cmd("HGETALL").arg(self.keys.turns(priority)))?;
        let whole = list.len() < READ && turns.len() <= READ;
        turns.truncate(READ);
        let mut users = HashMap::with_capacity(turns.len());
        for batch in turns.chunks(500) {
            let mut pipe = redis::pipe();
            for (user, _) in batch {
                pipe.cmd("LLEN").arg(self.keys.line(priority, user));
            }
            for ((user, turn), n) in batch.iter().zip(self.ask_all::<u64>(&pipe)?) {
                users.insert(user.clone(), (turn.clone(), n));
            }
        }
        Ok(Lines { list, users, whole })
    }

    /// Looks for an id among the entries that no worker has made a job of yet: in the inbox, then in the hands of
    /// the workers that read it, the way an entry goes. It may become a job meanwhile: where none is found, look
    /// for the record after this. The last ones to be read are not looked at where there are very many.
    pub fn in_inbox(&mut self, id: &JobId) -> Result<Option<InInbox>, Fault> {
        let inbox = self.keys.inbox.clone();
        if let Some(ahead) = self.in_list(&inbox, id)? {
            return Ok(Some(InInbox {
                ahead,
                taken_by: None,
            }));
        }
        let workers: Vec<String> =
            self.ask(redis::cmd("ZRANGE").arg(&self.keys.workers).arg(0).arg(-1))?;
        for worker in workers {
            if let Some(ahead) = self.in_list(&self.keys.taken(&worker), id)? {
                return Ok(Some(InInbox {
                    ahead,
                    taken_by: Some(worker),
                }));
            }
        }
        Ok(None)
    }

    fn in_list(&mut self, list: &str, id: &JobId) -> Result<Option<u64>, Fault> {
        let (mut ahead, mut bytes) = (0, 0);
        while ahead < ENTRIES as u64 && bytes < BYTES {
            let last = -1 - ahead as isize;
            let mut cmd = redis::cmd("LRANGE");
            cmd.arg(list).arg(last - PAGE + 1).arg(last);
            let page: Vec<Vec<u8>> = self.ask(&cmd)?;
            for entry in page.iter().rev() {
                bytes += entry.len();
                let job: Option<serde_json::Value> = serde_json::from_slice(entry).ok();
                if job.is_some_and(|job| job["id"] == id.as_str()) {
                    return Ok(Some(ahead));
                }
                ahead += 1;
            }
            if page.len() < PAGE as usize {
                break;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(list: &str, users: &[(&str, &str, u64)]) -> Lines {
        Lines {
            list: list.split_whitespace().map(str::to_owned).collect(),
            users: (users.iter())
                .map(|(user, turn, line)| ((*user).to_owned(), ((*turn).to_owned(), *line)))
                .collect(),
            whole: true,
        }
    }

    /// Serves a priority as the claim does, and counts until `id` comes.
    fn served_before(mut lines: Lines, mut of: HashMap<String, Vec<String>>, id: &str) -> u64 {
        let mut served = 0;
        while !lines.list.is_empty() {
            let first = lines.list.remove(0);
            if first == id {
                return served;
            }
            served += 1;
            let user = lines.users.iter().find(|(_, (turn, _))| *turn == first);
            if let Some(user) = user.map(|(user, _)| user.clone())
                && let Some(line) = of.get_mut(&user)
                && !line.is_empty()
            {
                let next = line.remove(0);
                lines.users.insert(user, (next.clone(), line.len() as u64));
                lines.list.push(next);
            }
        }
        panic!("{id} never came");
    }

    #[test]
    fn a_place_in_line_is_what_the_turns_make_of_it() {
        // a has 3 behind his turn, b none, c 1; x stands for itself.
        let make = || {
            lines(
                "a1 x b1 c1",
                &[("a", "a1", 3), ("b", "b1", 0), ("c", "c1", 1)],
            )
        };
        let waits: HashMap<String, Vec<String>> = [
            ("a", vec!["a2", "a3", "a4"]),
            ("b", vec![]),
            ("c", vec!["c2"]),
        ]
        .into_iter()
        .map(|(user, ids)| {
            (
                user.to_owned(),
                ids.into_iter().map(str::to_owned).collect(),
            )
        })
        .collect();
        for (id, user, line) in [
            ("a1", Some("a"), None),
            ("x", None, None),
            ("b1", Some("b"), None),
            ("c1", Some("c"), None),
            ("a2", Some("a"), Some(0)),
            ("a3", Some("a"), Some(1)),
            ("a4", Some("a"), Some(2)),
            ("c2", Some("c"), Some(0)),
        ] {
            let said = make().before(id, user, line).map(|(before, _)| before);
            assert_eq!(said, Some(served_before(make(), waits.clone(), id)), "{id}");
        }
        assert_eq!(make().before("a3", Some("a"), Some(1)), Some((6, 2)));
        assert_eq!(make().before("zz", None, None), None);
        assert_eq!(make().standing(), 8);
    }

    #[test]
    fn who_waits_for_a_slot_stands_before_nobody() {
        let lines = lines("b1", &[("a", "", 7), ("b", "b1", 1)]);
        assert_eq!(lines.standing(), 2);
        assert_eq!(lines.before("b2", Some("b"), Some(0)), Some((1, 1)));
    }
}
