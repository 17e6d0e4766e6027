//! Every key name of contract section 4, made from the namespace in one place.

/// Names of the keys that all instances share.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    pub(crate) namespace: String,
    pub(crate) inbox: String,
    pub(crate) ready: [String; 4],
    pub(crate) bell: String,
    pub(crate) later: String,
    pub(crate) events: String,
    pub(crate) dead: String,
    pub(crate) workers: String,
    pub(crate) gone: String,
    pub(crate) paused: String,
    pub(crate) stats: String,
    pub(crate) run: String,
    pub(crate) store: String,
    pub(crate) settling: String,
    pub(crate) audit: String,
    pub(crate) suspects: String,
    pub(crate) models: String,
    pub(crate) config: String,
    pub(crate) waiters: String,
    pub(crate) held: String,
    pub(crate) window: String,
    pub(crate) newer: String,
}

impl Keys {
    /// Names below `namespace`; the inbox may have a name of its own (`--inbox`).
    pub(crate) fn new(namespace: &str, inbox: &str) -> Keys {
        let key = |tail: &str| format!("{namespace}:{tail}");
        Keys {
            inbox: inbox.to_owned(),
            ready: ["resume", "high", "default", "low"].map(|queue| key(&format!("ready:{queue}"))),
            bell: key("bell"),
            later: key("later"),
            events: key("events"),
            dead: key("dead"),
            workers: key("workers"),
            gone: key("gone"),
            paused: key("paused"),
            stats: key("stats"),
            run: key("run"),
            store: key("store"),
            settling: key("settling"),
            audit: key("audit"),
            suspects: key("suspects"),
            models: key("models"),
            config: key("config"),
            waiters: key("waiters"),
            held: key("rate:held"),
            window: key("window"),
            newer: key("newer"),
            namespace: namespace.to_owned(),
        }
    }

    /// A key that never exists: see [`Scripts::new`](super::script::Scripts::new).
    pub(crate) fn never(&self) -> String {
        format!("{}:never", self.namespace)
    }

    /// By hand: each write names four keys, and `format!` grows each text as it goes.
    fn named(&self, kind: &str, id: &str) -> String {
        [&self.namespace, kind, id].concat()
    }

    /// The hash of one job.
    pub(crate) fn job(&self, id: &str) -> String {
        self.named(":job:", id)
    }

    /// The entry of one job, byte for byte.
    pub(crate) fn spec(&self, id: &str) -> String {
        self.named(":spec:", id)
    }

    /// A result too large for the record.
    pub(crate) fn result(&self, id: &str) -> String {
        self.named(":result:", id)
    }

    /// Where in fal's storage a file lies that users sent to this bot.
    pub(crate) fn upload(&self, bot: &str, file_id: &str) -> String {
        format!("{}:upload:{bot}:{file_id}", self.namespace)
    }

    /// Users whose turn of this priority stands in its ready list, or who wait for a slot.
    pub(crate) fn turns(&self, priority: &str) -> String {
        self.named(":turns:", priority)
    }

    /// What ended in one minute since the Unix epoch.
    pub(crate) fn minute(&self, minute: i64) -> String {
        format!("{}:minute:{minute}", self.namespace)
    }

    /// Jobs of one user and priority that wait behind his turn.
    pub(crate) fn line(&self, priority: &str, user: &str) -> String {
        format!("{}:waiting:{priority}:{user}", self.namespace)
    }

    /// Jobs at fal; of a pattern of models those that its limit counts.
    pub(crate) fn at_fal(&self, pattern: &str) -> String {
        let tail = if pattern.is_empty() { "" } else { ":" };
        format!("{}:at_fal{tail}{pattern}", self.namespace)
    }

    /// The ready list of a priority.
    pub(crate) fn list(&self, priority: &str) -> String {
        self.named(":ready:", priority)
    }

    /// Hash of one instance.
    pub(crate) fn worker(&self, instance: &str) -> String {
        self.named(":worker:", instance)
    }

    /// Jobs one instance holds: id to token.
    pub(crate) fn claims(&self, instance: &str) -> String {
        self.named(":claims:", instance)
    }

    /// Inbox entries one instance is reading.
    pub(crate) fn taken(&self, instance: &str) -> String {
        self.named(":taken:", instance)
    }

    /// That the operator was told of this trouble.
    pub(crate) fn told(&self, what: &str) -> String {
        self.named(":told:", what)
    }

    /// Cancels asked of one instance.
    pub(crate) fn cancels(&self, instance: &str) -> String {
        self.named(":cancels:", instance)
    }
}

/// A name as a pattern that nothing but this name matches.
pub(super) fn glob(name: &str) -> String {
    let mut pattern = String::new();
    for c in name.chars() {
        if "*?[]^\\".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::Keys;
    use crate::config::OWN_KEYS;

    #[test]
    fn no_key_of_ours_may_be_the_inbox() {
        let keys = Keys::new("ns", "an-inbox");
        let named = [
            keys.never(),
            keys.job("j"),
            keys.spec("j"),
            keys.result("j"),
            keys.upload("7", "file"),
            keys.turns("low"),
            keys.minute(1),
            keys.line("low", "u"),
            keys.at_fal("fal-ai/*"),
            keys.list("low"),
            keys.worker("w"),
            keys.claims("w"),
            keys.taken("w"),
            keys.told("t"),
            keys.cancels("w"),
        ];
        let all = format!("{keys:?} {named:?}");
        let words: Vec<&str> = all
            .split("\"ns:")
            .skip(1)
            .map(|rest| rest.split([':', '"']).next().unwrap_or(rest))
            .collect();
        assert!(words.len() > 35, "{words:?}");
        for word in words {
            assert!(OWN_KEYS.contains(&word), "{word} is missing in OWN_KEYS");
        }
    }

    #[test]
    fn no_key_that_a_script_makes_may_be_the_inbox() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/lua");
        let mut seen = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            for rest in text.split("ns .. ':").skip(1) {
                let word = rest.split([':', '\'']).next().unwrap_or(rest);
                if word.is_empty() {
                    continue; // `ns .. ':' .. word`: whose word comes from a name that another script made
                }
                seen += 1;
                let path = path.display();
                assert!(OWN_KEYS.contains(&word), "{path}: {word} is missing");
            }
        }
        assert!(seen > 100, "{seen}");
    }
}
