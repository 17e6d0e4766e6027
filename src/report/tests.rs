use super::flood::{Flood, OTHERS, SPAN, Sort, WARNINGS};
use super::line::{escaped, json_members, logfmt};
use super::logger::body;
use super::*;

fn plain(sentence: &str, fields: &Fields<'_>) -> String {
    logfmt(sentence, fields, |text| text)
}

#[test]
fn a_line_is_a_sentence_and_its_fields_in_the_order_given() {
    let line = plain(
        "job done",
        &[
            ("job", &"order-8812"),
            ("user", &Some("42")),
            ("model", &"fal-ai/flux/dev"),
            ("request", &None::<&str>),
            ("queue_ms", &12u64),
            ("after_s", &Duration::from_millis(1500)),
        ],
    );
    assert_eq!(
        line,
        "job done job=order-8812 user=42 model=fal-ai/flux/dev queue_ms=12 after_s=1.500"
    );
}

#[test]
fn values_are_quoted_where_they_need_it() {
    for (value, shown) in [
        ("plain-1.5:/@", "plain-1.5:/@"),
        ("привет", "привет"),
        ("", r#""""#),
        ("a b", r#""a b""#),
        ("a=b", r#""a=b""#),
        (r#"say "x""#, r#""say \"x\"""#),
        (r"a\nb", r#""a\\nb""#),
        ("a\u{a0}b", "\"a\u{a0}b\""),
    ] {
        assert_eq!(
            plain("x", &[("v", &value)]),
            format!("x v={shown}"),
            "{value:?}"
        );
    }
}

#[test]
fn no_job_can_forge_a_line() {
    for (value, shown) in [
        ("x\n<6>job done job=1", r#""x\n<6>job done job=1""#),
        ("x\r\ny", r#""x\r\ny""#),
        ("a\tb", r#""a\tb""#),
        ("\u{1b}[2J", r#""\u{1b}[2J""#),
        ("a\0b", r#""a\u{0}b""#),
        ("\u{7f}\u{85}\u{9b}", r#""\u{7f}\u{85}\u{9b}""#),
        ("a\u{2028}b\u{2029}", r#""a\u{2028}b\u{2029}""#),
        (
            "\u{202e}evil\u{2066}\u{200f}",
            r#""\u{202e}evil\u{2066}\u{200f}""#,
        ),
        ("\u{e0041}\u{feff}", r#""\u{e0041}\u{feff}""#),
        (r#"" job=other x=""#, r#""\" job=other x=\"""#),
    ] {
        assert_eq!(
            plain("x", &[("v", &value)]),
            format!("x v={shown}"),
            "{value:?}"
        );
        let json = format!("{{{}}}", json_members("x", &[("v", &value)], |text| text));
        let read: serde_json::Value = serde_json::from_str(&json).expect(&json);
        assert_eq!(read["v"], value);
        assert_eq!(escaped(&json), json, "nothing is left that misleads");
    }
    let foreign = body(Style::Journal, "other", "a\n<3>forged".into(), false);
    assert_eq!(foreign, r"a\n<3>forged");
}

#[test]
fn a_very_long_value_is_cut() {
    let line = plain("x", &[("v", &"é".repeat(5000))]);
    assert!(line.ends_with('…'));
    assert_eq!(line.chars().count(), "x v=".len() + 1001);
}

#[test]
fn json_has_the_same_fields_and_numbers_stay_numbers() {
    let fields: &Fields<'_> = &[
        ("job", &"1"),
        ("request", &None::<&str>),
        ("ms", &7u64),
        ("after_s", &Duration::from_millis(20)),
        ("message", &"a \"b\"\n"),
    ];
    let members = json_members("panic in", fields, |text| text);
    assert_eq!(
        members,
        r#""message":"panic in","job":"1","ms":7,"after_s":0.020,"field_message":"a \"b\"\n""#
    );
    let foreign = body(Style::Json, "other::x", "it \"broke\"".into(), false);
    assert_eq!(foreign, r#""message":"it \"broke\"","target":"other::x""#);
}

#[test]
fn a_registered_secret_is_in_no_line_of_anybody() {
    hide("Zq9\"tok%en");
    hide("Zq9\"tok%en-and-more");
    hide("ab"); // too short to be one
    for style in [Style::Plain, Style::Json] {
        let foreign = body(style, "other", "GET /botZq9\"tok%en/send".into(), false);
        assert!(foreign.contains("/bot***/send"), "{foreign}");
        // A line of ours that was built with it all the same.
        let own = body(style, "", "x v=Zq9\"tok%en-and-more".into(), true);
        assert_eq!(own, "x v=***");
    }
    let hiding = |text: String| body(Style::Plain, "", text, true);
    // Quoting would have disguised it from a search afterwards.
    assert_eq!(
        logfmt("x", &[("v", &"a Zq9\"tok%en ab")], hiding),
        r#"x v="a *** ab""#
    );
    assert_eq!(
        json_members("x", &[("v", &"Zq9\"tok%en")], hiding),
        r#""message":"x","v":"***""#
    );
}

#[test]
fn an_outage_is_told_once_when_it_begins_and_once_when_it_ends() {
    let outage = Outage::new("redis");
    let start = Instant::now();
    let at = |s| start + Duration::from_secs(s);
    assert_eq!(
        outage.succeeded_at(at(0)),
        None,
        "nothing to tell while all is well"
    );
    assert!(outage.failed_at(at(1)));
    assert!(!outage.failed_at(at(2)));
    assert!(!outage.failed_at(at(3)));
    assert_eq!(outage.since(), Some(at(1)));
    assert_eq!(outage.succeeded_at(at(5)), Some(Duration::from_secs(4)));
    assert_eq!(outage.succeeded_at(at(6)), None);
    assert!(outage.failed_at(at(7)), "the next one is a new one");
}

#[test]
fn many_threads_notice_one_outage() {
    let outage = Outage::new("test-service");
    let told = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| outage.failed("refused")))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .filter(|told| *told)
            .count()
    });
    assert_eq!(told, 1);
}

#[test]
fn a_refusal_is_told_once_a_reason_and_once_when_it_is_over() {
    let refusals = Refusals::new("redis refused a test", "redis takes tests again");
    let start = Instant::now();
    let at = |s| start + Duration::from_secs(s);
    let news = |why, second| refusals.is_news(why, At::Asking, at(second));
    assert_eq!(refusals.ends(At::Asking, at(0)), None);
    assert!(news("WRONGTYPE", 1));
    assert!(!news("WRONGTYPE", 2));
    assert!(news("NOPERM", 3), "another reason");
    // Two that take turns are no news.
    assert!(!news("WRONGTYPE", 4) && !news("NOPERM", 5));
    assert_eq!(
        refusals.ends(At::Asking, at(6)),
        Some(Duration::from_secs(5))
    );
    assert_eq!(refusals.ends(At::Waiting, at(7)), None);
    assert!(news("WRONGTYPE", 8), "the next one is a new one");
}

#[test]
fn who_may_not_wait_is_still_refused_while_asking_goes_well() {
    let refusals = Refusals::new("redis refused a test", "redis takes tests again");
    let now = Instant::now();
    assert!(refusals.is_news("NOPERM", At::Waiting, now));
    assert_eq!(refusals.ends(At::Asking, now), None);
    assert!(!refusals.is_news("NOPERM", At::Waiting, now));
    assert!(refusals.ends(At::Waiting, now).is_some());
}

#[test]
fn reasons_that_never_repeat_are_no_flood() {
    let refusals = Refusals::new("redis refused a test", "redis takes tests again");
    let told = (0..1000).filter(|n| refusals.is_news(&n.to_string(), At::Asking, Instant::now()));
    assert!(told.count() < 10);
}

#[test]
fn retries_are_counted_by_kind() {
    let count = || counters().retries_of(Kind::NoBalance).load(Relaxed);
    let before = count();
    let job = Job {
        job: "1",
        user: None,
        model: None,
        attempt: 1,
        request: None,
    };
    job_retrying(&job, Kind::NoBalance, Duration::from_secs(1), "locked");
    assert_eq!(count(), before + 1);
}

#[test]
fn libraries_speak_only_of_trouble() {
    use log::Metadata;
    for (target, level, passes) in [
        ("ureq::run", Level::Trace, false),
        ("ureq::run", Level::Debug, false),
        ("ureq_proto::client", Level::Info, false),
        ("rustls::client", Level::Debug, false),
        ("redis::connection", Level::Info, false),
        ("r2d2", Level::Error, true),
        ("ureq::pool", Level::Warn, true),
        ("fal_worker::steps", Level::Trace, true),
    ] {
        let metadata = Metadata::builder().target(target).level(level).build();
        assert_eq!(super::logger::passes(&metadata), passes, "{target} {level}");
    }
}

fn sort(level: Level, sentence: &str, kind: &str) -> Sort {
    Sort {
        level,
        sentence: sentence.to_owned(),
        kind: Some(kind.to_owned()),
        charged: None,
    }
}

#[test]
fn a_flood_passes_whole_at_first_and_is_then_told_together() {
    let flood = Flood::new();
    let start = Instant::now();
    let retrying = sort(Level::Warn, "job retrying", "unavailable");
    let (mut whole, mut named) = (0, Vec::new());
    let mut lines = 0;
    let mut tell = |held: Vec<super::flood::Held>, lines: &mut usize| {
        for held in held {
            *lines += 1;
            assert!(held.jobs.len() < 1000, "a value is cut at 1000 characters");
            let jobs: Vec<String> = held.jobs.split(' ').map(str::to_owned).collect();
            assert_eq!(jobs.len() as u64, held.count);
            assert!(held.within <= SPAN + Duration::from_millis(10));
            named.extend(jobs);
        }
    };
    // A thousand in a second, then one every ten milliseconds for nine.
    let times = (0..1000).chain((1..900).map(|n| 1000 + n * 10));
    for (number, at_ms) in times.enumerate() {
        let now = start + Duration::from_millis(at_ms);
        let (passes, held) = flood.passes(&retrying, Some(&format!("job-{number}")), now);
        tell(held.into_iter().collect(), &mut lines);
        whole += usize::from(passes);
        // Another sort is not held back for it.
        if number % 300 == 0 {
            let other = sort(Level::Warn, "job retrying", "rate_limited");
            assert!(flood.passes(&other, Some("x"), now).0);
        }
    }
    let over = start + Duration::from_millis(9_995);
    assert_eq!(flood.over(over), [], "the span is not over");
    tell(flood.over(start + Duration::from_secs(10)), &mut lines);
    assert_eq!(whole, WARNINGS as usize + 1, "one alone in the second span");
    named.sort();
    named.dedup();
    assert_eq!(named.len(), 1899 - whole, "each is named once");
    assert!(lines <= 20, "{lines} lines instead of 1899");
    // When it is over lines pass whole again.
    let later = start + Duration::from_secs(30);
    for _ in 0..WARNINGS {
        assert!(flood.passes(&retrying, None, later).0);
    }
    assert!(!flood.passes(&retrying, None, later).0);
    let rest = flood.rest(later);
    assert_eq!(
        (rest.len(), rest[0].count, rest[0].jobs.as_str()),
        (1, 1, "")
    );
    assert_eq!(flood.rest(later), []);
}

#[test]
fn what_may_be_paid_twice_is_told_before_a_kill_could_take_it() {
    let flood = Flood::new();
    let start = Instant::now();
    let mut doubt = sort(Level::Warn, "submitted again after unknown", "");
    for sentence in ["submitted again after unknown", "sent again after unknown"] {
        doubt.sentence = sentence.to_owned();
        for _ in 0..OTHERS {
            assert!(flood.passes(&doubt, Some("a"), start).0);
        }
        assert!(!flood.passes(&doubt, Some("late"), start).0);
        // The next look is a second later or so, and the span not over.
        let held = flood.over(start + Duration::from_millis(10));
        let names: Vec<&str> = held.iter().map(|held| held.jobs.as_str()).collect();
        assert_eq!(names, ["late"], "{sentence}");
    }
    // Nor is there less room after a flood.
    let next = start + SPAN;
    assert!((0..OTHERS).all(|_| flood.passes(&doubt, Some("b"), next).0));
}

#[test]
fn a_job_has_its_lines_while_jobs_come_at_a_hundred_a_second() {
    let flood = Flood::new();
    let start = Instant::now();
    let done = sort(Level::Info, "job done", "");
    let at = |n: u64, every_ms: u64| start + Duration::from_millis(n * every_ms);
    assert!((0..3000).all(|n| flood.passes(&done, Some("a"), at(n, 10)).0));
    let fast = Flood::new();
    let passed = (0..5000).filter(|n| fast.passes(&done, Some("a"), at(*n, 1)).0);
    assert_eq!(passed.count(), OTHERS as usize);
}
