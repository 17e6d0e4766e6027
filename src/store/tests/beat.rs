//! Beats, connections, and the words of errors.

use super::*;

// ---- beats

#[test]
fn a_beat_registers_and_says_what_a_keeper_must_know() {
    let bench = Bench::start();
    let one = bench.instance();
    let beat = one.beat();
    assert!(!beat.fresh && !beat.paused && !beat.cancels && !beat.due && !beat.waiting);
    for queue in ["resume", "high", "default", "low"] {
        let list = format!("t:ready:{queue}");
        bench.ask::<()>(&format!("LPUSH {list} x"));
        assert!(one.beat().waiting, "{queue}");
        bench.ask::<()>(&format!("DEL {list}"));
    }
    assert_eq!(
        (beat.claims, beat.oldest.map(|(who, _)| who)),
        (0, Some(one.name()))
    );
    assert_eq!(
        one.session.process_of(&one.name()).expect("answers").name,
        "w"
    );
    one.proxy.lose_an_answer();
    one.session.beat(2, 1, 5, None).expect("answers");
    // Of this minute, or of the one that ended meanwhile.
    let now = one.store.now().0;
    let in_minutes = [now - 60_000, now].map(|at| {
        let minute = at / 60_000 % 60;
        let both = format!("HMGET t:stats done:{minute} failed:{minute}");
        bench.ask::<Vec<Option<u64>>>(&both)
    });
    let (done, failed) = (
        in_minutes[0][0].xor(in_minutes[1][0]),
        in_minutes[0][1].xor(in_minutes[1][1]),
    );
    assert_eq!((done, failed), (Some(2), Some(1)));
    let run = beat.run;
    bench.ask::<()>("FLUSHALL");
    let beat = one.beat();
    assert!(beat.fresh);
    assert_eq!(
        beat.run, run,
        "made by the instance, so it takes more than one beat to differ"
    );
    assert_eq!(bench.ttl(&format!("worker:{}", one.name())), -1);
}

#[test]
fn a_beat_costs_an_idle_redis_eight_commands_and_says_each_thing_as_soon_as_it_is_so() {
    let bench = Bench::start();
    let one = bench.instance();
    let commands = || {
        let stats: String = bench.ask("INFO stats");
        let number = stats.split("total_commands_processed:").nth(1);
        let number = number.and_then(|rest| rest.split_whitespace().next());
        number
            .and_then(|number| number.parse::<u64>().ok())
            .expect("a number")
    };
    let before = commands();
    let beat = one.beat();
    // Redis counts what a script calls, the script, and the look at the number.
    assert_eq!(commands() - before, 8 + 1);
    assert!(!beat.finds_window);

    let name = one.name();
    for (word, undo) in [
        ("HSET t:paused reason x", "DEL t:paused"),
        (
            &format!("HSET t:cancels:{name} a token"),
            &*format!("DEL t:cancels:{name}"),
        ),
        (
            &format!("HSET t:claims:{name} a token"),
            &*format!("DEL t:claims:{name}"),
        ),
        ("ZADD t:later 1 a", "DEL t:later"),
        (
            "RPUSH t:ready:model:high:a/* a",
            "DEL t:ready:model:high:a/*",
        ),
    ] {
        fair::set(&bench, "model_limits", "a/*=1");
        bench.ask::<()>(word);
        let beat = one.beat();
        let said = [
            beat.paused,
            beat.cancels,
            beat.claims == 1,
            beat.due,
            beat.waiting,
        ];
        assert_eq!(
            said.iter().filter(|said| **said).count(),
            1,
            "{word}: {said:?}"
        );
        bench.ask::<()>(undo);
    }
    fair::set(&bench, "fal_concurrency", "auto");
    assert!(one.beat().finds_window);
    // What is in flight is known although most beats do not write it.
    let in_flight = || bench.ask::<String>(&format!("HGET t:worker:{name} in_flight"));
    for number in [3, 3, 0] {
        one.session.beat(0, 0, number, None).expect("answers");
        assert_eq!(in_flight(), number.to_string());
    }
}

// ---- connections

#[test]
fn a_call_whose_connection_broke_is_not_repeated_on_one_that_lay_idle_meanwhile() {
    let bench = Bench::start();
    let one = bench.instance();
    let open = || link::check_out(&one.store.pool, &one.store.health, None).expect("connects");
    drop((open(), open())); // idle, beside the one that the session keeps
    assert!(bench.ask::<u64>("CLIENT KILL TYPE normal") >= 3);
    let answer = one.session.command(&redis::cmd("PING"));
    assert!(answer.is_ok() && !one.store.health.is_away(), "{answer:?}");
}

// ---- words of errors

#[test]
fn what_redis_6_says_inside_a_script_is_understood_too() {
    let error = |text: &str| {
        redis::parse_redis_value(format!("-{text}\r\n").as_bytes())
            .and_then(Value::extract_error)
            .expect_err("an error")
    };
    let wrapped = |inner: &str| {
        error(&format!(
            "ERR Error running script (call to f_{}): @user_script:50: @user_script: 50: {inner}",
            "0".repeat(40)
        ))
    };
    for (error, away, breaks) in [
        (
            error("OOM command not allowed when used memory > 'maxmemory'."),
            true,
            false,
        ),
        (
            wrapped("-OOM command not allowed when used memory > 'maxmemory'."),
            true,
            false,
        ),
        (
            error("READONLY You can't write against a read only replica."),
            true,
            true,
        ),
        (
            wrapped("-READONLY You can't write against a read only replica."),
            true,
            true,
        ),
        (
            wrapped("-MISCONF Redis is configured to save RDB snapshots"),
            true,
            false,
        ),
        (
            error("LOADING Redis is loading the dataset in memory"),
            true,
            false,
        ),
        (error("ERR max number of clients reached"), true, false),
        (error("MOVED 3999 127.0.0.1:6381"), true, true),
        (error("ASK 3999 127.0.0.1:6381"), true, false),
        (error("TRYAGAIN Multiple keys request"), true, false),
        (error("CLUSTERDOWN The cluster is down"), true, true),
        (error("UNBLOCKED force unblock"), true, true),
        (error("WRONGTYPE Operation against a key"), false, false),
        (
            wrapped("Script attempted to access a non local key"),
            false,
            false,
        ),
    ] {
        let fault = link::fault(&error);
        // To a person all of them are answers.
        assert!(fault.to_string().starts_with("Redis refused: "), "{fault}");
        assert_eq!(fault.passing().is_some(), away, "{fault}");
        assert_eq!(link::breaks(&error), breaks, "{fault}");
    }
}
