//! What a keeper does: beats, takeovers of the dead, pauses, trimming.

use super::*;

/// What a step file says of the claims of a dead instance, as scripts read it: the tokens whose step was
/// executing, each with `a` (it was paying or sending) or `b` (it had only begun).
pub(crate) fn steps_text(executing: &[(String, bool)]) -> String {
    let mut text = String::from(" ");
    for (token, acting) in executing {
        text.push_str(token);
        text.push_str(if *acting { ":a " } else { ":b " });
    }
    text
}
/// Pieces of the stream of events that one trim takes off at most.
const TRIMS: usize = 200;

impl Session {
    /// Says that we live. `store`: the id that a Redis without one gets. `None`: we are marked dead.
    pub(crate) fn beat(
        &self,
        done: u64,
        failed: u64,
        in_flight: usize,
        store: Option<&str>,
    ) -> Result<Option<Beat>, Fault> {
        let (keys, me) = (&self.store.keys, self.store.identity());
        let (worker, claims, cancels) = (
            keys.worker(&me.instance),
            keys.claims(&me.instance),
            keys.cancels(&me.instance),
        );
        let [resume, high, default, low] = &keys.ready;
        let unreachable = self.store.unreachable();
        let names = [
            keys.workers.as_str(),
            &worker,
            &keys.paused,
            &claims,
            &cancels,
            &keys.run,
            &keys.later,
            &keys.stats,
            resume,
            high,
            default,
            low,
            &keys.bell,
            &keys.store,
            &keys.settling,
            &keys.config,
            &unreachable,
        ];
        let process = &self.store.process;
        let torn = self.store.torn.load(Ordering::Acquire);
        let call = Call::new(&self.store.scripts.beat, jobs::with_bot(&names))
            .arg(&me.instance)
            .arg(&me.prefix)
            .arg(done)
            .arg(failed)
            .arg(in_flight)
            .arg(me.beats.fetch_add(1, Ordering::Relaxed))
            .arg(store.unwrap_or(&me.prefix))
            .arg(&[
                "name",
                process.name.as_str(),
                "version",
                env!("CARGO_PKG_VERSION"),
            ])
            .arg(&[
                "boot",
                process.boot.as_str(),
                "pidns",
                process.pid_namespace.as_str(),
            ])
            .arg(&[
                "pid",
                process.pid.to_string().as_str(),
                "started",
                process.started.to_string().as_str(),
            ])
            .arg(&["threads", process.threads.to_string().as_str()])
            .arg(&["lease", process.lease.as_millis().to_string().as_str()])
            .arg(torn.then_some(&["torn", "1"]));
        let (beat, now) = record::beat(self.script(&call)?)?;
        self.store.learn_time(now);
        if let Some(beat) = &beat {
            self.store.heard_of_marks(beat.marked);
        }
        self.store.forget_old_ends();
        Ok(beat)
    }

    /// Values of `config` that hold for all workers of the store: written where they differ or, with
    /// `missing_only`, where there is none. Gives what was changed that somebody had set.
    pub(crate) fn configure(
        &self,
        values: &[(&'static str, String)],
        missing_only: bool,
    ) -> Result<Vec<Overruled>, Fault> {
        let mut call = Call::new(&self.store.scripts.configure, &[&self.store.keys.config])
            .arg(&self.store.identity().instance)
            .arg(u8::from(missing_only));
        for (name, value) in values {
            call = call.arg(*name).arg(value);
        }
        let words: Vec<String> = read(self.script(&call)?)?;
        let overruled = words.chunks_exact(3).map(|three| Overruled {
            name: three[0].clone(),
            before: three[1].clone(),
            by: three[2].clone(),
        });
        Ok(overruled.collect())
    }

    /// Applies limits that have changed to those who wait under the old ones, a page; true: to all.
    pub(crate) fn apply_limits(&self, most: usize) -> Result<bool, Fault> {
        let keys = &self.store.keys;
        let names = [
            keys.config.as_str(),
            &keys.waiters,
            &keys.held,
            &keys.later,
            &keys.bell,
        ];
        let call = Call::new(&self.store.scripts.limits, &names)
            .arg(&keys.namespace)
            .arg(most);
        Ok(read::<u8>(self.script(&call)?)? == 1)
    }

    /// Which process stands behind an instance, as it said itself.
    pub(crate) fn process_of(&self, instance: &str) -> Result<Process, Fault> {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(self.store.keys.worker(instance))
            .arg(&["name", "boot", "pidns", "pid", "started"]);
        type Row = (
            Option<String>,
            Option<String>,
            Option<String>,
            Option<u32>,
            Option<u64>,
        );
        let (name, boot, pid_namespace, pid, started): Row = read(self.command(&cmd)?)?;
        Ok(Process {
            name: name.unwrap_or_default(),
            boot: boot.unwrap_or_default(),
            pid_namespace: pid_namespace.unwrap_or_default(),
            pid: pid.unwrap_or_default(),
            started: started.unwrap_or_default(),
            threads: 0,
            lease: Duration::ZERO,
        })
    }

    /// Living instances with the time of their last beat, the most silent first.
    pub(crate) fn instances(&self) -> Result<Vec<(String, i64)>, Fault> {
        let mut cmd = redis::cmd("ZRANGE");
        cmd.arg(&self.store.keys.workers)
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES");
        read(self.command(&cmd)?)
    }

    /// Marks an instance dead; says whether it is: not when it lives, which is when it has beaten since, or has been silent for less than this lease, or than its own if that is longer.
    /// `steps`: what its step file says, in the form of [`steps_text`]; whoever takes its claims back
    /// finds it beside the mark.
    pub(crate) fn bury(
        &self,
        instance: &str,
        beat: i64,
        lease: Duration,
        process_gone: bool,
        steps: Option<&str>,
    ) -> Result<bool, Fault> {
        let keys = &self.store.keys;
        let (worker, taken, claims) = (
            keys.worker(instance),
            keys.taken(instance),
            keys.claims(instance),
        );
        let mine = keys.taken(&self.store.identity().instance);
        let names = [
            keys.workers.as_str(),
            &worker,
            &taken,
            &keys.inbox,
            &keys.events,
            &claims,
            &keys.gone,
            &keys.stats,
            &mine,
        ];
        let call = Call::new(&self.store.scripts.bury, &names)
            .arg(instance)
            .arg(beat)
            .arg(lease.as_millis() as u64)
            .arg(if process_gone {
                "process_gone"
            } else {
                "lapsed"
            })
            .arg(&self.store.identity().instance)
            .arg(steps);
        let word: String = read(self.script(&call)?)?;
        Ok(word == "ok")
    }

    /// Makes the jobs of a dead instance ready again; gives how many.
    pub(crate) fn take_back(&self, instance: &str) -> Result<usize, Fault> {
        let keys = &self.store.keys;
        let (worker, taken, claims) = (
            keys.worker(instance),
            keys.taken(instance),
            keys.claims(instance),
        );
        let mine = keys.taken(&self.store.identity().instance);
        let [resume, high, default, low] = &keys.ready;
        let names = [
            claims.as_str(),
            &keys.later,
            &keys.bell,
            resume,
            &worker,
            &keys.gone,
            &taken,
            &keys.inbox,
            high,
            default,
            low,
            &mine,
        ];
        let mut moved = 0;
        loop {
            let call = Call::new(&self.store.scripts.take_back, &names)
                .arg(&keys.namespace)
                .arg(instance)
                .arg(BATCH)
                .arg(WAIT_MAYBE_ALIVE.as_millis() as u64)
                .arg(CRASH_LIMIT)
                .arg(WAIT_DEAD.as_millis() as u64)
                .arg(KNOWN_CRASH_LIMIT);
            let (word, some, left): (String, usize, usize) = read(self.script(&call)?)?;
            moved += some;
            if word != "ok" || left == 0 || some == 0 {
                return Ok(moved);
            }
        }
    }

    /// Instances marked dead within this time (a day is remembered).
    pub(crate) fn gone(&self, within: Duration) -> Result<Vec<String>, Fault> {
        let since = self.store.now().0 - within.as_millis() as i64;
        let mut cmd = redis::cmd("ZRANGEBYSCORE");
        cmd.arg(&self.store.keys.gone).arg(since).arg("+inf");
        read(self.command(&cmd)?)
    }

    /// Cancels asked of us: job and token of the claim.
    pub(crate) fn cancels(&self) -> Result<Vec<(String, String)>, Fault> {
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(self.store.keys.cancels(&self.store.identity().instance));
        read(self.command(&cmd)?)
    }

    /// These are known here: Redis need not tell us again. What is asked meanwhile is asked of the same
    /// claim, or stands in the record before the next one.
    pub(crate) fn cancels_heeded(&self, asked: &[(String, String)]) -> Result<(), Fault> {
        let mut cmd = redis::cmd("HDEL");
        cmd.arg(self.store.keys.cancels(&self.store.identity().instance));
        for (job, _) in asked {
            cmd.arg(job);
        }
        if asked.is_empty() {
            return Ok(());
        }
        self.command(&cmd).map(|_| ())
    }

    /// Takes our name off the list when nothing is held any more; gives what is.
    pub(crate) fn leave(&self) -> Result<usize, Fault> {
        let (keys, me) = (&self.store.keys, self.store.identity());
        let (worker, claims) = (keys.worker(&me.instance), keys.claims(&me.instance));
        let (taken, cancels) = (keys.taken(&me.instance), keys.cancels(&me.instance));
        let names = [
            keys.workers.as_str(),
            &worker,
            &claims,
            &taken,
            &keys.inbox,
            &cancels,
            &keys.gone,
        ];
        let call = Call::new(&self.store.scripts.leave, &names)
            .arg(&me.instance)
            .arg(LEFT.as_secs());
        read(self.script(&call)?)
    }

    /// Looks for what no script of ours leaves behind, and mends it: a page of the store a call.
    pub(crate) fn audit(&self, lease: Duration) -> Result<Audit, Fault> {
        self.audit_pages(lease, AUDIT_PAGE)
    }

    pub(super) fn audit_pages(&self, lease: Duration, page: usize) -> Result<Audit, Fault> {
        let (keys, keep) = (&self.store.keys, self.store.keep);
        let [resume, high, default, low] = &keys.ready;
        let names = [
            keys.audit.as_str(),
            &keys.suspects,
            &keys.workers,
            &keys.gone,
            &keys.settling,
            &keys.stats,
            &keys.bell,
            resume,
            high,
            default,
            low,
            &keys.later,
            &keys.dead,
            &keys.inbox,
            &keys.paused,
        ];
        let call = Call::new(&self.store.scripts.audit, &names)
            .arg(&keys.namespace)
            .arg(FORMAT)
            .arg(AUDIT_TICK.as_millis() as u64)
            .arg(AUDIT_GAP.as_millis() as u64)
            .arg(AUDIT_PATIENCE.as_millis() as u64)
            .arg(page)
            .arg(WAIT_MAYBE_ALIVE.as_millis() as u64)
            .arg(lease.as_millis() as u64)
            .arg(CRASH_LIMIT)
            .arg(keep.done.as_secs())
            .arg(keep.dead.as_secs());
        record::audit(self.script(&call)?)
    }

    /// Nobody pulls for at most this long, while all instances re-assert.
    pub(crate) fn settle(&self, at_most: Duration) -> Result<(), Fault> {
        let call = Call::new(&self.store.scripts.settle, &[&self.store.keys.settling])
            .arg(at_most.as_millis() as u64);
        self.script(&call).map(|_| ())
    }

    /// All have re-asserted: pulling may begin before that time is over.
    pub(crate) fn settled(&self) -> Result<(), Fault> {
        self.command(redis::cmd("DEL").arg(&self.store.keys.settling))
            .map(|_| ())
    }

    /// Stops pulling new jobs on all workers for a while.
    pub(crate) fn pause(&self, reason: &str, by: &str, for_: Duration) -> Result<(), Fault> {
        let keys = &self.store.keys;
        let call = Call::new(&self.store.scripts.pause, &[&keys.paused, &keys.stats])
            .arg(reason)
            .arg(by)
            .arg(for_.as_millis() as u64);
        self.script(&call).map(|_| ())
    }

    /// Ends a pause that a worker began, if its reason begins so. A person's pause stays. True: it did.
    pub(crate) fn unpause(&self, reason: &str) -> Result<bool, Fault> {
        let call = Call::new(&self.store.scripts.unpause, &[&self.store.keys.paused]).arg(reason);
        Ok(read::<i64>(self.script(&call)?)? == 1)
    }

    /// Whose pause there is; `None`: none any more.
    pub(crate) fn whose_pause(&self) -> Result<Option<Pause>, Fault> {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(&self.store.keys.paused)
            .arg(&["since", "by", "reason", "person"]);
        let said: Vec<Option<String>> = read(self.command(&cmd)?)?;
        let mut said = said.into_iter().map(Option::unwrap_or_default);
        let mut next = || said.next().unwrap_or_default();
        let pause = Pause {
            since: next(),
            by: next(),
            reason: next(),
            person: !next().is_empty(),
        };
        Ok(Some(pause).filter(|pause| !pause.since.is_empty()))
    }

    /// Says what this instance cannot reach, and since when.
    pub(crate) fn tell_away(&self, away: &[(&str, i64)]) -> Result<(), Fault> {
        let text: Vec<String> = away
            .iter()
            .map(|(what, at)| format!("{what} {at}"))
            .collect();
        let me = self.store.keys.worker(&self.store.identity().instance);
        let mut cmd = redis::cmd("HSET");
        cmd.arg(me).arg("away").arg(text.join(","));
        self.command(&cmd).map(|_| ())
    }

    /// Says that nothing may be concluded from the step file of this process, and so do the beats under its later
    /// names.
    pub(crate) fn tell_torn(&self) -> Result<(), Fault> {
        self.store.torn.store(true, Ordering::Release);
        let me = self.store.keys.worker(&self.store.identity().instance);
        let mut cmd = redis::cmd("HSET");
        cmd.arg(me).arg("torn").arg(1);
        self.command(&cmd).map(|_| ())
    }

    /// Says what people asked of this instance, as JSON.
    pub(crate) fn answer(&self, asked: &[String], answer: &str) -> Result<(), Fault> {
        let me = self.store.keys.worker(&self.store.identity().instance);
        let call = Call::new(&self.store.scripts.answer, &[&me])
            .arg(asked.join(" "))
            .arg(answer);
        self.script(&call).map(|_| ())
    }

    /// The random id of this store.
    pub(crate) fn store_id(&self) -> Result<Option<String>, Fault> {
        read(self.command(redis::cmd("GET").arg(&self.store.keys.store))?)
    }

    /// Whether nobody has said this within the last hour; from now on somebody has.
    pub(crate) fn first_in_an_hour(&self, what: &str) -> Result<bool, Fault> {
        let mut cmd = redis::cmd("SET");
        cmd.arg(self.store.keys.told(what))
            .arg(1)
            .arg("EX")
            .arg(3600)
            .arg("NX");
        Ok(self.command(&cmd)? != Value::Nil)
    }

    /// It was not said after all: whoever meets it in a minute may try. Not at once, as each job may meet it.
    pub(crate) fn not_said(&self, what: &str) -> Result<(), Fault> {
        let mut cmd = redis::cmd("EXPIRE");
        cmd.arg(self.store.keys.told(what)).arg(60);
        self.command(&cmd).map(|_| ())
    }

    /// Wakes a connection blocked in a list command; true when it was blocked.
    pub(crate) fn unblock(&self, client: u64) -> Result<bool, Fault> {
        let value = self.command(redis::cmd("CLIENT").arg("UNBLOCK").arg(client))?;
        Ok(read::<i64>(value)? == 1)
    }

    /// Keeps the stream and the lists of the ended near their bounds.
    pub(crate) fn trim(&self) -> Result<(), Fault> {
        let (keys, keep) = (&self.store.keys, self.store.keep);
        // Redis takes some ten thousand entries off at a time, and under load more than that come in
        // between two trims.
        let mut xtrim = redis::cmd("XTRIM");
        xtrim
            .arg(&keys.events)
            .arg("MAXLEN")
            .arg("~")
            .arg(keep.events_max);
        for _ in 0..TRIMS {
            if read::<u64>(self.command(&xtrim)?)? == 0 {
                break;
            }
        }
        let oldest = self.store.now().0 - keep.dead.as_millis() as i64;
        self.command(
            redis::cmd("ZREMRANGEBYSCORE")
                .arg(&keys.dead)
                .arg("-inf")
                .arg(oldest),
        )?;
        let day_ago = self.store.now().0 - REMEMBER_DEAD.as_millis() as i64;
        self.command(
            redis::cmd("ZREMRANGEBYSCORE")
                .arg(&keys.gone)
                .arg("-inf")
                .arg(day_ago),
        )
        .map(|_| ())
    }
}
