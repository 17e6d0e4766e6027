//! What a page shows beside the status: jobs in flight by model, dead letters and why. Reads alone, each
//! bounded, however much lies there.

use super::view::View;
use super::*;
use std::collections::BTreeMap;

/// Records looked at in one exchange.
const PAGE: usize = 500;

/// Jobs in flight: model, phase, how many.
pub type Flights = BTreeMap<String, BTreeMap<String, u64>>;

/// A job that ended dead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeadView {
    /// Its id; whatever stands in the list.
    pub id: String,
    /// What the record says; empty where it says nothing.
    pub model: String,
    /// As `model`.
    pub user: String,
    /// As `model`: the contract's word for the failure.
    pub kind: String,
    /// As `model`: in words.
    pub error: String,
    /// As `model`: `no`, `yes`, `unknown`.
    pub charged: String,
    /// When it ended.
    pub at: UnixMs,
}

impl Store {
    /// Looks at the store over a connection of the pool, which goes back when the view is dropped. Does not
    /// wait where Redis is known to be away.
    pub(crate) fn view(&self) -> Result<View, Fault> {
        if let Some((_, why)) = self.health.away() {
            return Err(Fault::Away(why));
        }
        let held = link::check_out(&self.pool, &self.health, None)?;
        Ok(View::over(link::Line::Borrowed(held), self.keys.clone()))
    }
}

impl View {
    /// Jobs in flight by model and phase, of at most so many jobs; and how many were not looked at.
    pub fn flights(
        &mut self,
        instances: &[String],
        most: usize,
    ) -> Result<(Flights, usize), Fault> {
        let (mut models, mut left) = (Flights::new(), 0);
        let mut looked = 0;
        for instance in instances {
            let key = self.keys.claims(instance);
            let mut ids: Vec<Vec<u8>> = self.ask(redis::cmd("HKEYS").arg(key))?;
            let surplus = (looked + ids.len()).saturating_sub(most);
            left += surplus.min(ids.len());
            ids.truncate(ids.len().saturating_sub(surplus));
            looked += ids.len();
            for [model, phase] in self.fields(&ids, ["model", "phase"])? {
                let phases = models.entry(named(model)).or_default();
                *phases.entry(named(phase)).or_default() += 1;
            }
        }
        Ok((models, left))
    }

    /// The dead letters that ended last, the newest first.
    pub fn newest_dead(&mut self, most: usize) -> Result<Vec<DeadView>, Fault> {
        let mut cmd = redis::cmd("ZREVRANGE");
        cmd.arg(&self.keys.dead).arg(0).arg(most as i64 - 1);
        let found: Vec<(Vec<u8>, f64)> = self.ask(cmd.arg("WITHSCORES"))?;
        let ids: Vec<Vec<u8>> = found.iter().map(|(id, _)| id.clone()).collect();
        let names = ["model", "user", "kind", "error", "charged"];
        let records = self.fields(&ids, names)?;
        let dead = found.into_iter().zip(records);
        Ok(dead
            .map(|((id, at), record)| {
                let [model, user, kind, error, charged] = record.map(text);
                DeadView {
                    id: text(id),
                    model,
                    user,
                    kind,
                    error,
                    charged,
                    at: UnixMs(at as i64),
                }
            })
            .collect())
    }

    /// Dead letters by kind, of at most so many, the newest; and how many were looked at.
    pub fn dead_kinds(&mut self, most: usize) -> Result<(BTreeMap<String, u64>, usize), Fault> {
        let (mut kinds, mut looked) = (BTreeMap::new(), 0);
        while looked < most {
            let mut cmd = redis::cmd("ZREVRANGE");
            let last = most.min(looked + PAGE);
            cmd.arg(&self.keys.dead).arg(looked).arg(last - 1);
            let ids: Vec<Vec<u8>> = self.ask(&cmd)?;
            for [kind] in self.fields(&ids, ["kind"])? {
                *kinds.entry(named(kind)).or_default() += 1;
            }
            looked += ids.len();
            if looked < last {
                break;
            }
        }
        Ok((kinds, looked))
    }

    /// Some fields of some records; empty where there is nothing.
    fn fields<const N: usize>(
        &mut self,
        ids: &[Vec<u8>],
        names: [&str; N],
    ) -> Result<Vec<[Vec<u8>; N]>, Fault> {
        let mut found = Vec::with_capacity(ids.len());
        for some in ids.chunks(PAGE) {
            let mut pipe = redis::pipe();
            for id in some {
                // An id may be any text where no worker of ours wrote it: the key is made of its bytes.
                let mut key = self.keys.job("").into_bytes();
                key.extend(id);
                pipe.cmd("HMGET").arg(key).arg(&names);
            }
            for record in self.ask_all::<Vec<Option<Vec<u8>>>>(&pipe)? {
                let mut fields = record.into_iter().map(Option::unwrap_or_default);
                found.push(std::array::from_fn(|_| fields.next().unwrap_or_default()));
            }
        }
        Ok(found)
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A key of a table.
fn named(bytes: Vec<u8>) -> String {
    if bytes.is_empty() {
        return "unknown".to_owned();
    }
    text(bytes)
}
