//! A job's way through the store: from the inbox into a record, into a claim, through its owner's writes,
//! and back or to its end. One method a script.

use super::*;
use crate::job::flight::LARGE_RESULT;
use crate::job::spec;
use crate::report;

/// Fields that say how a life goes, and nothing once it is over: beside those that every end deletes.
const OF_A_LIFE: [&str; 5] = ["due_at", "doubt", "tries", "inputs", "waits"];

/// Names of keys, the last one only if there is a bot that it belongs to.
pub(super) fn with_bot<'a>(names: &'a [&'a str]) -> &'a [&'a str] {
    match names.split_last() {
        Some((&"", others)) => others,
        Some(_) | None => names,
    }
}

/// The request id that an owner knows, as scripts take it.
fn known(request: Option<&RequestId>) -> &str {
    request.map_or("", |request| &request.0)
}

impl Session {
    /// Takes up to `n` jobs; `paid_only` looks at `resume` alone.
    pub(crate) fn claim(&self, n: usize, paid_only: bool) -> Result<Claim, Denied> {
        let (keys, me) = (&self.store.keys, self.store.identity());
        let tokens: Vec<Token> = (0..n).map(|_| me.token()).collect();
        let number = me.claim();
        let claims = keys.claims(&me.instance);
        let worker = keys.worker(&me.instance);
        let [resume, high, default, low] = &keys.ready;
        let unreachable = self.store.unreachable();
        let names = [
            resume.as_str(),
            high,
            default,
            low,
            &keys.bell,
            &claims,
            &keys.later,
            &keys.events,
            &worker,
            &keys.paused,
            &keys.settling,
            &unreachable,
        ];
        let names = with_bot(&names);
        let script = &self.store.scripts.claim;
        let build = |repeat: bool| {
            let mut call = Call::new(script, names)
                .arg(&keys.namespace)
                .arg(&me.instance)
                .arg(n)
                .arg(u8::from(paid_only))
                .arg(FORMAT)
                .arg(u8::from(repeat))
                .arg(number);
            for token in &tokens {
                call = call.arg(&*token.0);
            }
            call
        };
        let value = self.repeated(|repeat| {
            // The connection just opened may be the one that shows it: what this Redis calls ready may
            // be in the hands of somebody who has not re-asserted yet.
            if self.store.health.forgot() {
                return Ok(Value::Nil);
            }
            self.eval(script, build(repeat).packed())
        })?;
        if value == Value::Nil {
            return Err(Denied::Settling);
        }
        self.store.health.has_memory();
        record::claim(value, &tokens, me.epoch, &self.store)
    }

    /// Moves entries of the inbox to `taken` and gives all that lies there, oldest first.
    pub(crate) fn take(&self, most: usize, bytes: usize) -> Result<Vec<Taken>, Denied> {
        let (keys, me) = (&self.store.keys, self.store.identity());
        let (taken, worker) = (keys.taken(&me.instance), keys.worker(&me.instance));
        let call = Call::new(&self.store.scripts.take, &[&keys.inbox, &taken, &worker])
            .arg(most)
            .arg(bytes)
            .arg(spec::EXCERPT_OF);
        let mut answer = read::<Vec<Value>>(self.script(&call)?)?.into_iter();
        let word: String = read(answer.next().unwrap_or(Value::Nil))?;
        match word.as_str() {
            "ok" => Ok(answer.map(record::taken).collect::<Result<_, _>>()?),
            "buried" => Err(Denied::Buried),
            _ => Err(Denied::Unregistered),
        }
    }

    /// Makes records of a batch that lies at the right end of `taken`.
    pub(crate) fn intake(&self, entries: &[Entry], defaults: &Defaults) -> Result<Intake, Denied> {
        let (keys, me) = (&self.store.keys, self.store.identity());
        let (taken, worker) = (keys.taken(&me.instance), keys.worker(&me.instance));
        let [resume, high, default, low] = &keys.ready;
        let names = [
            taken.as_str(),
            &worker,
            &keys.events,
            &keys.bell,
            resume,
            high,
            default,
            low,
            &keys.later,
            &keys.dead,
            &keys.inbox,
        ];
        let mut call = Call::new(&self.store.scripts.intake, &names)
            .arg(&keys.namespace)
            .arg(me.batch())
            .arg(entries.len())
            .arg(FORMAT)
            .arg(self.store.keep.dead.as_secs())
            .arg(defaults.max_wait.map_or(0, |wait| wait.as_millis() as u64));
        for entry in entries {
            record::entry_args(&mut call.cmd, entry, defaults);
        }
        let (word, left, marks): (String, u64, String) = read(self.script(&call)?)?;
        match word.as_str() {
            "ok" | "known" => Ok(Intake {
                left,
                marks,
                displaced: Vec::new(),
            }),
            "displaced" => Ok(Intake {
                left: 1,
                displaced: marks.match_indices('x').map(|(at, _)| at).collect(),
                ..Intake::default()
            }),
            "buried" => Err(Denied::Buried),
            "unregistered" => Err(Denied::Unregistered),
            // Somebody else's batch lies there now: the next `take` sees what is really left.
            _ => Ok(Intake {
                left: 1,
                ..Intake::default()
            }),
        }
    }

    /// The command of one write of a flight's owner.
    pub(crate) fn prepare<'a>(&'a self, flight: &Flight, number: u32, write: &Write) -> Call<'a> {
        let keys = &self.store.keys;
        let mut digits = itoa::Buffer::new();
        let seq = digits.format(number);
        // What a Redis that forgot had before may be in its records again.
        let forgot = self.store.health.written_again() > 0;
        let may_have = |name: &str| forgot || flight.passing.may_have(name);
        let id = flight.id.as_str();
        let job = keys.job(id);
        let scripts = &self.store.scripts;
        match write {
            Write::Submitted {
                request,
                path,
                attempt,
                event,
            } => {
                let names = [job.as_str(), &keys.events, &keys.later, &keys.ready[0]];
                let tried = ["tried", "doubt", "tries", "crashes"];
                let names = if tried.into_iter().any(may_have) {
                    &names[..]
                } else {
                    &names[..2]
                };
                let mut call = Call::new(&scripts.submitted, names)
                    .arg(id)
                    .arg(&*flight.token.0)
                    .arg(seq)
                    .arg(&*request.0)
                    .arg(path.as_deref().unwrap_or(""))
                    .arg(*attempt);
                for (name, value) in event.fields.iter().filter(|(name, _)| *name != "attempt") {
                    call = call.arg(*name).arg(value);
                }
                call
            }
            Write::Save {
                patch,
                count,
                large,
            } => {
                let mut attempt = itoa::Buffer::new();
                let counted = count.map_or("", |_| &*keys.stats);
                let result = large.as_ref().map(|_| keys.result(id));
                Call::new(&scripts.save, &[&job])
                    .pack(&[
                        &flight.token.0,
                        seq,
                        known(flight.request.as_ref()),
                        attempt.format(flight.attempt),
                        &keys.events,
                        &self.store.silence(),
                        count.unwrap_or(""),
                        counted,
                        large.as_deref().unwrap_or(""),
                        result.as_deref().unwrap_or(""),
                    ])
                    .patch(patch, &[], may_have)
            }
            Write::Later {
                wait,
                known: request,
                patch,
            } => {
                let claims = keys.claims(&self.store.identity().instance);
                Call::new(&scripts.later, &[&job])
                    .pack(&[
                        &flight.token.0,
                        seq,
                        known(request.as_ref()),
                        &keys.events,
                        id,
                        &wait.as_millis().to_string(),
                        &claims,
                        &keys.later,
                    ])
                    .patch(patch, &[], may_have)
            }
            Write::End { state, patch } => {
                let request = flight.request.as_ref();
                // One that ends well and says a kind is a redelivery that failed.
                let arrived = patch.set.iter().all(|(name, _)| *name != "kind");
                let large = may_have(LARGE_RESULT);
                self.prepare_end(id, &flight.token, number, request, (*state, arrived, large))
                    .patch(patch, &OF_A_LIFE, may_have)
            }
        }
    }

    /// The command of the last write of a life, less its patch. `end`: how it ends; whether what ended well arrived
    /// in its chat; whether there may be a large result.
    pub(super) fn prepare_end<'a>(
        &'a self,
        id: &str,
        token: &Token,
        seq: u32,
        request: Option<&RequestId>,
        (state, arrived, large): (EndState, bool, bool),
    ) -> Call<'a> {
        let marks = match (state, arrived) {
            (EndState::Done, false) => String::new(),
            (EndState::Done | EndState::Dead | EndState::Cancelled, _) => self.store.marks(),
        };
        let keys = &self.store.keys;
        let result = match large {
            true => keys.result(id),
            false => String::new(),
        };
        let keep = match state {
            EndState::Done | EndState::Cancelled => self.store.keep.done,
            EndState::Dead => self.store.keep.dead,
        };
        let (mut number, mut seconds) = (itoa::Buffer::new(), itoa::Buffer::new());
        Call::new(&self.store.scripts.end, &[&keys.job(id)]).pack(&[
            &token.0,
            number.format(seq),
            known(request),
            &keys.events,
            id,
            state.as_str(),
            seconds.format(keep.as_secs()),
            &keys.claims(&self.store.identity().instance),
            &keys.dead,
            &keys.spec(id),
            &result,
            &marks,
        ])
    }

    /// One write of a flight's owner.
    pub(crate) fn write(&self, flight: &Flight, seq: u32, write: &Write) -> Result<Written, Fault> {
        self.carry_out(flight, seq, write, &self.prepare(flight, seq, write))
    }

    /// The same, with its command as [`Session::prepare`] made it.
    pub(crate) fn carry_out(
        &self,
        flight: &Flight,
        seq: u32,
        write: &Write,
        call: &Call<'_>,
    ) -> Result<Written, Fault> {
        let word = self.word(call)?;
        if word == "ok" {
            (self.store).remember_closed(flight, seq, write, call.patch_args());
        }
        Ok(match word.as_str() {
            "ok" => Written::Ok,
            "other" => Written::Other,
            "adopted" if !matches!(write, Write::Submitted { .. }) => Written::Adopted,
            "cancel" => Written::Cancel,
            "gone" => {
                // The record of a job in our hands does not vanish: Redis was emptied, and the keeper may
                // not have noticed yet.
                if flight.epoch == self.store.identity().epoch {
                    self.store.health.set_forgot(true);
                }
                Written::Gone
            }
            // `adopted` of a submit: somebody else owns the job and goes on with our request id.
            _ => Written::Stale,
        })
    }

    /// Writes of several flights, all of them last ones or all of them saves, with their numbers and commands, in one
    /// exchange; gives which of them stand. What came of the others is not known: each is to be written once more, by
    /// itself.
    pub(crate) fn write_together(&self, rows: &[(&Flight, u32, &Write, &Part)]) -> Vec<bool> {
        let Some((_, _, first, _)) = rows.first() else {
            return Vec::new();
        };
        let scripts = &self.store.scripts;
        let script = match first {
            Write::End { .. } => &scripts.ends,
            _ => &scripts.saves,
        };
        let names = rows.iter().map(|(flight, ..)| flight.id.as_str());
        let names: Vec<String> = names.map(|id| self.store.keys.job(id)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut call = Call::new(script, &names).arg(rows.len());
        for (.., part) in rows {
            call = call.part(part);
        }
        let answer = self.script(&call).and_then(read);
        let (said, now, silence): (String, i64, i64) = answer.unwrap_or_default();
        self.store.learn_time(now);
        if silence > 0 {
            self.store.heard_of_silence(silence);
        }
        let mut said = said.bytes();
        rows.iter()
            .map(|(flight, seq, write, part)| {
                let stands = said.next() == Some(b'1');
                if stands {
                    (self.store).remember_closed(flight, *seq, write, part.patch_args());
                }
                stands
            })
            .collect()
    }

    /// Returns jobs that are not over, with all that is known; gives how many were still ours.
    pub(crate) fn give_back(&self, flights: &[&Flight]) -> Result<usize, Fault> {
        let keys = &self.store.keys;
        let claims = keys.claims(&self.store.identity().instance);
        let [resume, high, default, low] = &keys.ready;
        let names = [claims.as_str(), &keys.bell, resume, high, default, low];
        // What is given back last is served first: so the oldest come last.
        let mut flights: Vec<&Flight> = flights.iter().rev().copied().collect();
        flights.sort_by_key(|flight| std::cmp::Reverse(flight.queued_at));
        let mut given = 0;
        for batch in flights.chunks(BATCH) {
            let mut call = Call::new(&self.store.scripts.give_back, &names)
                .arg(&keys.namespace)
                .arg(batch.len());
            for flight in batch {
                let mut fields = flight.fields();
                let doubt = flight.doubt.word();
                fields.extend(doubt.map(|word| ("doubt", word.to_owned())));
                call = call
                    .arg(flight.id.as_str())
                    .arg(&*flight.token.0)
                    .fields(&fields);
            }
            given += read::<usize>(self.script(&call)?)?;
        }
        Ok(given)
    }

    /// A step of this job panicked.
    pub(crate) fn crash(&self, id: &JobId, token: &Token) -> Result<u32, Fault> {
        let (_, crashes) = self.broke_off(id.as_str(), &token.0, PANIC_LIMIT)?;
        Ok(crashes)
    }

    /// A claim that memory does not know, of a Redis that forgot: the job may have been submitted, sent or given
    /// up since. It goes on in doubt, as after a takeover. False: it is somebody else's by now.
    pub(crate) fn lost_sight_of(&self, id: &str, token: &str) -> Result<bool, Fault> {
        let (word, _) = self.broke_off(id, token, 0)?;
        Ok(word == "ok")
    }

    fn broke_off(&self, id: &str, token: &str, limit: u32) -> Result<(String, u32), Fault> {
        let keys = &self.store.keys;
        let job = keys.job(id);
        let claims = keys.claims(&self.store.identity().instance);
        let (spec, result) = (keys.spec(id), keys.result(id));
        let names = [
            job.as_str(),
            &claims,
            &keys.later,
            &keys.bell,
            &keys.ready[0],
            &keys.events,
            &keys.dead,
            &spec,
            &result,
        ];
        let call = Call::new(&self.store.scripts.crash, &names)
            .arg(id)
            .arg(token)
            .arg(WAIT_DEAD.as_millis() as u64)
            .arg(limit)
            .arg(self.store.keep.dead.as_secs());
        read(self.script(&call)?)
    }

    /// Moves what is due to the ready lists; gives how many.
    pub(crate) fn promote(&self, most: usize) -> Result<usize, Fault> {
        let keys = &self.store.keys;
        let [resume, high, default, low] = &keys.ready;
        let names = [
            keys.later.as_str(),
            &keys.bell,
            resume,
            high,
            default,
            low,
            &keys.stats,
        ];
        let call = Call::new(&self.store.scripts.promote, &names)
            .arg(&keys.namespace)
            .arg(most);
        let mut answer = read::<Vec<Value>>(self.script(&call)?)?.into_iter();
        let moved = read(answer.next().unwrap_or(Value::Nil))?;
        let displaced = answer.map(read).collect::<Result<Vec<String>, _>>()?;
        for id in &displaced {
            report::displaced(id, &keys.job(id));
        }
        if !displaced.is_empty() {
            report::repaired("displaced", displaced.len() as u64);
        }
        Ok(moved)
    }

    /// Ids and tokens that Redis says we hold.
    pub(crate) fn claims(&self) -> Result<Vec<(String, String)>, Fault> {
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(self.store.keys.claims(&self.store.identity().instance));
        read(self.command(&cmd)?)
    }

    /// A claim that memory does not know: its answer was lost. Its record goes back as it stands.
    pub(crate) fn disown(&self, id: &str, token: &str) -> Result<bool, Fault> {
        let keys = &self.store.keys;
        let claims = keys.claims(&self.store.identity().instance);
        let [resume, high, default, low] = &keys.ready;
        let names = [claims.as_str(), &keys.bell, resume, high, default, low];
        let call = Call::new(&self.store.scripts.give_back, &names)
            .arg(&keys.namespace)
            .arg(1)
            .arg(id)
            .arg(token)
            .arg(0);
        Ok(read::<usize>(self.script(&call)?)? == 1)
    }

    /// The entry of a job, while it is kept.
    pub(crate) fn entry(&self, id: &JobId) -> Result<Option<Vec<u8>>, Fault> {
        read(self.command(redis::cmd("GET").arg(self.store.keys.spec(id.as_str())))?)
    }

    /// What its record says of the files of its input.
    pub(crate) fn inputs(&self, id: &JobId) -> Result<Option<String>, Fault> {
        let mut cmd = redis::cmd("HGET");
        cmd.arg(self.store.keys.job(id.as_str())).arg("inputs");
        read(self.command(&cmd)?)
    }

    /// A result that was too large for its record.
    pub(crate) fn large_result(&self, id: &JobId) -> Result<Option<String>, Fault> {
        read(self.command(redis::cmd("GET").arg(self.store.keys.result(id.as_str())))?)
    }
}
