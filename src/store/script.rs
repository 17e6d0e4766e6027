//! The Lua scripts, embedded, each with the shared pieces in front of it.

use std::sync::OnceLock;

/// SHA-1 as Redis names a script: the redis crate computes it.
pub(super) fn digest(code: &str) -> String {
    redis::Script::new(code).get_hash().to_owned()
}

/// One script. Its text is put together when Redis asks for it, which is once in the life of a store: shared
/// pieces lie in the program once, and of what a call needs only the name is worked out.
pub(crate) struct Script {
    name: &'static str,
    pieces: &'static [&'static str],
    sha: OnceLock<String>,
    guard: Option<String>,
}

impl Script {
    fn new(name: &'static str, pieces: &'static [&'static str], guard: Option<&str>) -> Script {
        Script {
            name,
            pieces,
            sha: OnceLock::new(),
            guard: guard.map(str::to_owned),
        }
    }

    /// A key behind the script's own ones, see [`Scripts::new`].
    pub(crate) fn guard(&self) -> Option<&str> {
        self.guard.as_deref()
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn sha(&self) -> &str {
        self.sha.get_or_init(|| digest(&self.code()))
    }

    /// What Redis gets.
    pub(crate) fn code(&self) -> String {
        self.pieces.concat()
    }
}

/// Without comments and indents, which are for people who have the source: half of the text. The lines of comments
/// stay, empty, so that the numbers in Redis's errors count lines of the pieces. `N`: how long it becomes, which
/// is the second part of what is given; of one that is longer the beginning.
const fn less_comments<const N: usize>(text: &str) -> ([u8; N], usize) {
    let text = text.as_bytes();
    let (mut code, mut length, mut at) = ([0; N], 0, 0);
    while at < text.len() {
        while at < text.len() && matches!(text[at], b' ' | b'\t') {
            at += 1;
        }
        let is_comment = at + 1 < text.len() && text[at] == b'-' && text[at + 1] == b'-';
        loop {
            let ends = at == text.len() || text[at] == b'\n';
            let byte = if ends { b'\n' } else { text[at] };
            if ends || !is_comment {
                if length < N {
                    code[length] = byte;
                }
                length += 1;
            }
            at += 1;
            if ends {
                break;
            }
        }
    }
    (code, length)
}

macro_rules! lua {
    ($($file:literal),+) => {{
        const PIECES: &[&str] = &[$({
            const TEXT: &str = include_str!(concat!("lua/", $file, ".lua"));
            const CODE: &[u8] = &less_comments::<{ less_comments::<0>(TEXT).1 }>(TEXT).0;
            match str::from_utf8(CODE) {
                Ok(code) => code,
                Err(_) => panic!("only whole lines are left out"),
            }
        }),+];
        PIECES
    }};
}

macro_rules! scripts {
    ($($name:ident: [$($file:literal),+]),+ $(,)?) => {
        /// All scripts.
        pub(crate) struct Scripts { $(pub(crate) $name: Script),+ }

        impl Scripts {
            /// `guard`: a key that never exists, named as the last one in each call on a cluster. A node
            /// whose slot is being moved refuses a call that names a missing key before it runs. Without
            /// that a script would run until it touches one that is missing, and stop half done.
            pub(crate) fn new(guard: Option<&str>) -> Scripts {
                Scripts { $($name: Script::new(stringify!($name), lua!($($file),+), guard)),+ }
            }

            /// The script of this name.
            pub(crate) fn by_name(&self, name: &str) -> Option<&Script> {
                [$(&self.$name),+].into_iter().find(|script| script.name == name)
            }
        }
    };
}

scripts! {
    take: ["unread", "take"],
    intake: ["head", "events", "bell", "pair", "turns", "intake"],
    claim: ["head", "events", "bell", "pair", "settling", "aside", "tried", "turns", "window", "models_line", "aside_end", "claim", "claim_full"],
    submitted: ["head", "pair", "submitted", "aside", "bell", "tried", "turns", "window", "models_line", "aside_end", "submitted_full"],
    save: ["head", "pair", "owned", "save", "aside", "bell", "tried", "turns", "window", "models_line", "aside_end", "save_at_fal"],
    later: ["head", "bell", "pair", "tried", "turns", "window", "owned", "later"],
    end: ["head", "pair", "owned", "end", "finish", "aside", "bell", "tried", "turns", "window", "models_line", "aside_end", "end_kept"],
    ends: ["head", "pair", "owned", "ends"],
    saves: ["head", "pair", "owned", "saves"],
    give_back: ["head", "bell", "tried", "turns", "window", "give_back"],
    crash: ["head", "events", "bell", "tried", "turns", "window", "requeue", "finish", "crash"],
    promote: ["head", "bell", "turns", "promote"],
    beat: ["head", "bell", "window", "beat"],
    bury: ["head", "unread", "bury"],
    take_back: ["head", "bell", "tried", "turns", "window", "requeue", "unread", "take_back"],
    leave: ["head", "leave"],
    reassert: ["head", "bell", "tried", "turns", "window", "reassert"],
    remind: ["head", "pair", "tried", "remind"],
    pause: ["head", "pause"],
    unpause: ["head", "unpause"],
    ask: ["head", "ask"],
    answer: ["head", "answer"],
    rate: ["head", "rate"],
    audit: ["head", "bell", "settling", "tried", "turns", "window", "models_line", "to_tell", "requeue", "audit"],
    limits: ["head", "bell", "turns", "window", "models_line", "limits"],
    configure: ["head", "configure"],
    cancel: ["head", "bell", "turns", "window", "to_tell", "cancel"],
    redeliver: ["head", "bell", "redeliver"],
    retry: ["head", "events", "bell", "tried", "turns", "retry"],
    delete: ["head", "events", "bell", "tried", "turns", "window", "delete"],
    hold: ["head", "hold"],
    resume: ["head", "bell", "resume"],
    minutes: ["head", "minutes"],
    models: ["head", "models"],
    seen: ["head", "seen"],
    resize: ["head", "bell", "window", "resize"],
    settle: ["head", "settle"],
    depths: ["head", "bell", "window", "depths"],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_indents_are_left_out_and_lines_keep_their_numbers() {
        const TEXT: &str = "-- head\nlocal a = 1 -- é\n\n\t  -- more\n  return a - -1\n -\n--";
        const LENGTH: usize = less_comments::<0>(TEXT).1;
        let (code, length) = less_comments::<LENGTH>(TEXT);
        let code = str::from_utf8(&code).unwrap();
        assert_eq!(code, "\nlocal a = 1 -- é\n\n\nreturn a - -1\n-\n\n");
        assert_eq!(length, code.len());
        assert_eq!(less_comments::<0>("").1, 0);

        let scripts = Scripts::new(None);
        let code = scripts.claim.code();
        assert!(code.lines().all(|line| !line.starts_with([' ', '-'])));
        let source = include_str!("lua/head.lua").lines();
        for (code, source) in code.lines().zip(source) {
            let source = source.trim();
            let left = if source.starts_with("--") { "" } else { source };
            assert_eq!(code.trim_end(), left);
        }
    }
}
