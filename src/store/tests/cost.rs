//! What a job costs Redis: commands inside of scripts, each some 2 us besides its own work, and what they take.

use super::*;

/// Events and fields of a job that goes straight through, as its steps write them.
fn completed(flight: &mut Flight) -> Write {
    flight.phase = Phase::Delivering;
    flight.charged = Charged::Yes;
    let files =
        r#"["https://v3.fal.media/files/panda/3e71cccc-ec7e-4f7b-bb67-dcda4389a397/0.png"]"#;
    let mut event = flight.event("completed");
    event.since = flight.started_at;
    for (name, value) in [("units", "1"), ("files", files)] {
        event.fields.push((name, value.to_owned()));
    }
    let result = format!(
        r#"{{"has_nsfw_concepts":[false],"images":[{{"content_type":"image/png","height":64,"url":{},"width":64}}],"prompt":"a prompt","seed":9597709303332931394,"timings":{{"inference":0.0}}}}"#,
        &files[1..files.len() - 1]
    );
    Write::Save {
        patch: Patch::default()
            .set("charged", "yes")
            .set("units", "1")
            .set("result", result)
            .set("phase", "delivering")
            .stamp("completed_at")
            .del(&["error", "kind", "crashes", "cancelling"])
            .event(event),
        count: None,
        large: None,
    }
}

fn delivered(flight: &Flight) -> Write {
    let files =
        r#"["https://v3.fal.media/files/panda/3e71cccc-ec7e-4f7b-bb67-dcda4389a397/0.png"]"#;
    let sent = [
        ("message_ids", "[1]"),
        ("file_ids", r#"["AgACAgIAAxkDAAI0007e83d5c69b8b0f111cc5"]"#),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let mut delivered = flight.event("delivered");
    delivered.since = flight.started_at;
    delivered
        .fields
        .retain(|(name, _)| !matches!(*name, "charged" | "request_id"));
    delivered.fields.extend(sent.clone());
    let mut done = flight.event("done");
    done.since = Some(flight.queued_at);
    done.fields.push(("units", "1".to_owned()));
    done.fields.extend(sent.clone());
    done.fields.push(("files", files.to_owned()));
    let mut patch = Patch::default();
    for (name, value) in sent {
        patch = patch.set(name, value);
    }
    Write::End {
        state: EndState::Done,
        patch: patch
            .set("file_kinds", r#"["0:photo"]"#)
            .set("sent_to", r#"{"chat_id":3000}"#)
            .del(&["rung", "error", "kind"])
            .event(delivered)
            .event(done),
    }
}

/// Calls and microseconds of a command, and of all those inside of scripts.
fn spent(bench: &Bench) -> (f64, (f64, f64)) {
    let stats: String = bench.ask("INFO commandstats");
    let (mut scripts, mut inside) = (0.0, (0.0, 0.0));
    for line in stats
        .lines()
        .filter_map(|line| line.strip_prefix("cmdstat_"))
    {
        let (name, rest) = line.split_once(':').expect("a name");
        let number = |name: &str| -> f64 {
            let rest = rest.split(name).nth(1).expect("named");
            rest.split(',')
                .next()
                .expect("a number")
                .parse()
                .expect("a number")
        };
        match name {
            "evalsha" => scripts = number("usec="),
            "lpush" | "info" | "config" | "config|resetstat" | "ping" => {}
            _ => {
                inside.0 += number("calls=");
                inside.1 += number("usec=");
            }
        }
    }
    (scripts, inside)
}

/// A loop over jobs that go straight through, in claims of four.
#[test]
fn a_job_costs_redis_at_most_so_many_commands_inside_of_scripts() {
    // So many jobs, and an end that lets a profiler write what it saw of the server.
    let counted = std::env::var("FAL_WORKER_TEST_COUNTED").ok();
    let jobs = (counted.as_deref()).map_or(400, |jobs| jobs.parse().expect("a number"));
    let bench = Bench::start_with(crate::sandbox::redis::RedisOptions::default());
    // As long as by default.
    let done = Duration::from_secs(86400);
    let one = bench.instance_keeping(Keep { done, ..KEEP });
    one.store.set_bot("1:secret");
    for n in 0..jobs {
        let text = format!(
            r#"{{"id":"job-{n}","model":"fal-ai/flux/dev","input":{{"prompt":"prompt {n}.","image_size":"square_hd"}},"telegram":{{"chat_id":{}}}}}"#,
            1000 + n
        );
        bench.push(&text);
    }
    bench.ask::<String>("CONFIG RESETSTAT");
    while one.intake().left > 0 {}
    let mut done = 0;
    while done < jobs {
        one.store.heard_of_marks(false); // as a beat says each second
        let mut flights = one.claim(4);
        assert!(!flights.is_empty());
        for flight in &mut flights {
            let request = format!("3e71cccc-ec7e-4f7b-bb67-{:012x}", done);
            assert_eq!(one.submitted(flight, &request), Written::Ok);
            let write = completed(flight);
            assert_eq!(one.write(flight, &write), Written::Ok);
            let write = delivered(flight);
            assert_eq!(one.write(flight, &write), Written::Ok);
            done += 1;
        }
    }
    let (scripts, (calls, inside)) = spent(&bench);
    let each = |all: f64| all / jobs as f64;
    println!(
        "a job: {:.1} us in scripts, {:.2} commands inside, {:.1} us of it",
        each(scripts),
        each(calls),
        each(inside)
    );
    if counted.is_some() {
        let _: Result<String, _> = redis::cmd("SHUTDOWN").arg("NOSAVE").query(
            &mut redis::Client::open(bench.redis.url())
                .unwrap()
                .get_connection()
                .unwrap(),
        );
    }
    assert!(each(calls) <= 30.0, "{}", each(calls));
}

#[test]
fn a_record_that_says_more_than_an_entry_is_claimed_with_all_it_says() {
    let bench = Bench::start();
    let one = bench.instance();
    for id in ["a", "b", "c", "d"] {
        bench.push(&job(id, r#""meta":{"order":1},"telegram":{"chat_id":5}"#));
        one.intake();
    }
    bench.ask::<u64>("HSET t:job:c free 1");
    let mut flights = one.claim(3);
    flights.extend(one.claim(3));
    let seen = flights
        .iter()
        .map(|flight| (flight.id.as_str(), flight.free));
    let seen: Vec<_> = seen.collect();
    assert_eq!(
        seen,
        [("a", false), ("b", false), ("c", true), ("d", false)]
    );
    for flight in &flights {
        assert_eq!(flight.meta.as_deref(), Some(r#"{"order":1}"#));
        assert_eq!(
            (flight.max_attempts, flight.user.as_deref()),
            (3, Some("5"))
        );
        assert!(flight.started_at.is_some() && flight.target.is_some() && flight.order.is_some());
        assert_eq!(bench.state(flight.id.as_str()), "running");
    }
    assert_eq!(bench.ask::<u64>("HLEN t:turns:default"), 0);
}

#[test]
fn a_large_result_goes_with_the_job_whoever_ends_it() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    let cases = [EndState::Done, EndState::Dead].map(|state| [(state, false), (state, true)]);
    for (n, (state, by_another)) in cases.into_iter().flatten().enumerate() {
        let id = format!("job-{n}");
        let there = || bench.ask::<u64>(&format!("EXISTS t:result:{id}"));
        bench.push(&job(&id, ""));
        one.intake();
        let mut flight = one.claim_one();
        one.submitted(&mut flight, "r");
        let write = Write::Save {
            patch: Patch::default(),
            count: None,
            large: Some("large".into()),
        };
        assert_eq!(one.write(&mut flight, &write), Written::Ok);
        assert_eq!(there(), 1);
        if by_another {
            assert_eq!(one.session.give_back(&[&flight]), Ok(1));
            flight = two.claim_one();
        }
        let last = if by_another { &two } else { &one };
        assert_eq!(last.end(&mut flight, state), Written::Ok);
        assert_eq!(there(), 0, "{state:?} {by_another}");
    }
}

#[test]
fn a_submit_that_redis_forgot_is_written_down_with_the_result() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(&job("a", ""));
    one.intake();
    let mut flight = one.claim_one();
    one.submitted(&mut flight, "r");
    bench.ask::<u64>("HDEL t:job:a request_id attempt");
    let write = completed(&mut flight);
    assert_eq!(one.write(&mut flight, &write), Written::Ok);
    assert_eq!(bench.field("a", "request_id").as_deref(), Some("r"));
    assert_eq!(bench.field("a", "attempt").as_deref(), Some("1"));
}
