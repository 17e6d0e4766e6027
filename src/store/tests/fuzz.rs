//! Any reply of Redis and any record: no panic, and no request id, result or token of it is lost, for
//! what is lost is paid for again.

use super::*;
use crate::fuzz::{Outcome, Target as Fuzz, hold};
use crate::job::Phase;
use crate::job::answer::{Accepted, Cancelled, Collected, Output, Polled, Submitted};
use crate::job::failure::{Failure, Kind, Remedy};
use crate::job::flight::LARGE;
use crate::job::schedule::PollBounds;
use crate::job::state::{self, FoundSummary, Moment, Policy};
use std::collections::HashMap;

/// A reply written as JSON: lists, numbers and nulls are themselves, a text is its bytes (each character
/// below 256 is a byte, so every byte can be said), `{"status": …}` and the like are the other types.
fn reply(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::Nil,
        Json::Bool(yes) => Value::Boolean(*yes),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::Int(whole),
            (None, part) => Value::Double(part.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::BulkString(bytes(text)),
        Json::Array(list) => Value::Array(list.iter().map(reply).collect()),
        Json::Object(members) => match members.iter().next() {
            None => Value::Okay,
            Some((name, Json::String(text))) if name == "status" => {
                Value::SimpleString(text.clone())
            }
            Some(_) => {
                let pairs = members
                    .iter()
                    .map(|(name, value)| (reply(&Json::String(name.clone())), reply(value)));
                Value::Map(pairs.collect())
            }
        },
    }
}

fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for c in text.chars() {
        match u8::try_from(c) {
            Ok(byte) => bytes.push(byte),
            Err(_) => bytes.extend(c.to_string().bytes()),
        }
    }
    bytes
}

/// The fields of a job in a claim's answer, read by hand: the last value of a name counts.
fn recorded(job: &serde_json::Value) -> Option<HashMap<String, String>> {
    let texts: Vec<String> = job
        .as_array()?
        .iter()
        .map(|text| Some(String::from_utf8_lossy(&bytes(text.as_str()?)).into_owned()))
        .collect::<Option<_>>()?;
    let fields = texts.get(3..)?.chunks_exact(2);
    Some(
        fields
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect(),
    )
}

fn any_reply(store: &Store, input: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(input);
    let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) else {
        return Ok("no reply".to_owned());
    };
    let value = reply(&json);
    let mut words = vec![match record::beat(value.clone()) {
        Ok((beat, _)) => format!("beat {}", beat.is_some()),
        Err(_) => "no beat".to_owned(),
    }];
    let written: Result<(String, String, i64), Fault> = read(value.clone());
    words.push(written.is_ok().to_string());
    let tokens = ["t-0", "t-1"].map(|token| Token(token.into()));
    let claimed = match record::claim(value, &tokens, 7, store) {
        Ok(claimed) => claimed,
        Err(Denied::Fault(_)) => return Ok(words.join(" ")),
        Err(denied) => return Ok(format!("{denied:?}")),
    };
    let jobs: Vec<&serde_json::Value> = json.as_array().into_iter().flatten().skip(3).collect();
    hold!(
        claimed.jobs.len() <= jobs.len(),
        "more jobs than were given"
    );
    for flight in claimed.jobs {
        let (id, token) = (flight.id.clone(), flight.token.clone());
        // Two rows of one id may differ: either will do.
        let rows = jobs.iter().filter(|row| {
            row[0].as_str() == Some(id.as_str()) && row[1].as_str() == Some(&token.0)
        });
        let rows: Vec<_> = rows.collect();
        if let [row] = &rows[..]
            && let Some(fields) = recorded(row)
        {
            nothing_lost(&flight, &fields)?;
        }
        words.push(format!(
            "{:?} {} {:?}",
            flight.phase,
            flight.is_unpaid(),
            flight.doubt
        ));
        words.push(stepped(*flight));
    }
    words.truncate(8);
    Ok(words.join(" "))
}

fn nothing_lost(flight: &Flight, fields: &HashMap<String, String>) -> Result<(), String> {
    let field = |name: &str| fields.get(name).map(String::as_str);
    let request = flight.request.as_ref().map(|request| &*request.0);
    hold!(
        request == field("request_id").filter(|id| !id.is_empty()),
        "the request became {request:?}"
    );
    hold!(
        flight.phase != Phase::Submitting || (request.is_none() && flight.result.is_none()),
        "paid, and to be submitted again"
    );
    hold!(
        flight.tried == field("tried").unwrap_or(""),
        "tried became {:?}",
        flight.tried
    );
    hold!(
        flight.result.as_deref() == field("result"),
        "the result became {:?}",
        flight.result
    );
    hold!(
        flight.path.as_deref() == field("path"),
        "the path became {:?}",
        flight.path
    );
    hold!(
        flight.meta.as_deref() == field("meta"),
        "meta became {:?}",
        flight.meta
    );
    hold!(
        flight.rung == field("rung").unwrap_or(""),
        "the rung became {:?}",
        flight.rung
    );
    // And what a give-back writes still has it.
    let written: HashMap<&str, String> = flight.fields().into_iter().collect();
    let again = |name: &str| written.get(name).map(String::as_str);
    hold!(
        again("request_id") == request,
        "given back without its request"
    );
    let large = flight
        .result
        .as_ref()
        .is_some_and(|json| json.len() > LARGE);
    hold!(
        large || again("result") == field("result"),
        "given back without its result"
    );
    Ok(())
}

/// One decision of each kind for what came out of the record, whatever times and counts it holds.
fn stepped(mut flight: Flight) -> String {
    let policy = Policy {
        poll: PollBounds {
            min: Duration::from_millis(250),
            max: Duration::from_secs(5),
        },
        job_timeout: Duration::from_secs(600),
        queue_timeout: Duration::from_secs(3600),
    };
    let moment = Moment {
        now: UnixMs(1_790_812_800_000),
        random: 0.5,
    };
    let failed = || Failure {
        kind: Kind::Unavailable,
        remedy: Remedy::TryAnew,
        text: "text".to_owned(),
        charged: Charged::Unknown,
        units: Some("1.5".to_owned()),
        retry_after: None,
        spoke: false,
        unfetched: false,
    };
    let output = Output {
        json: r#"{"images":[]}"#.to_owned(),
        units: Some("2".to_owned()),
    };
    let found = FoundSummary::default();
    let before = state::before_submit(&mut flight, moment);
    let accepted = Accepted {
        request: RequestId("r".into()),
        path: None,
        position: Some(3),
    };
    for answer in [
        Submitted::Refused(failed()),
        Submitted::Unknown(failed()),
        Submitted::Accepted(accepted),
    ] {
        state::after_submit(&mut flight, answer, &policy, moment);
    }
    for answer in [
        Polled::InQueue {
            position: Some(u64::MAX),
        },
        Polled::InProgress,
        Polled::Missing,
        Polled::Failed(failed()),
        Polled::Completed,
        Polled::Broke {
            kind: Kind::Unavailable,
            remedy: Remedy::TryAnew,
        },
    ] {
        state::after_poll(&mut flight, answer, 5000, &policy, moment);
    }
    state::begin_cancel(&mut flight, Kind::Timeout, "text", moment);
    state::after_cancel(&mut flight, Cancelled::Requested, moment);
    state::after_poll(&mut flight, Polled::InProgress, 1, &policy, moment);
    for answer in [
        Collected::NotYet,
        Collected::Missing,
        Collected::Failed(failed()),
        Collected::Output(output),
    ] {
        state::after_collect(&mut flight, answer, &found, &policy, moment);
    }
    let spent = flight.queued_at.until(moment.now);
    format!("{} {}", before.is_some(), spent.is_zero())
}

/// One that reaches nothing.
fn store() -> Arc<Store> {
    let access = Access {
        redis: redis::IntoConnectionInfo::into_connection_info("redis://127.0.0.1:1")
            .unwrap()
            .into(),
        namespace: NS.to_owned(),
        inbox: format!("{NS}:inbox"),
        connections: 1,
    };
    Store::new(&access, KEEP, Process::default()).unwrap()
}

#[test]
fn a_time_that_no_clock_says_is_not_believed() {
    let store = store();
    for time in [
        1,
        i64::MAX,
        i64::MIN,
        1 << 60,
        -1,
        0,
        1_790_812_800_000,
        i64::MAX,
    ] {
        store.learn_time(time);
    }
    let now = store.now().0;
    assert!(
        (1_790_812_800_000..1_790_812_900_000).contains(&now),
        "{now}"
    );
}

#[test]
fn any_reply_of_redis_loses_no_request_and_stops_no_worker() {
    let store = store();
    let spec = r#"{\"id\":\"a\",\"model\":\"fal-ai/flux/dev\",\"input\":{\"prompt\":\"x\"},\"timeout_s\":60,\"telegram\":{\"chat_id\":42}}"#;
    let record = |phase: &str, more: &str| {
        format!(
            r#"["ok",1,1790812800000,["a","0123-1","{spec}","v","1","state","running","model","fal-ai/flux/dev","priority","high","attempt","1","max_attempts","3","queued_at","1790812700000","expires_at","1790899200000","user","42","meta","{{}}","phase","{phase}","seq","0"{more}]]"#
        )
    };
    let paid = r#","request_id","019a-b","path","/fal-ai/flux/requests/019a-b","tried","r1 r2","submitted_at","1790812701000","charged","unknown","units","1.5""#;
    let result = format!(
        r#"{paid},"result","{{\"images\":[]}}","rung","{{\"i\":1}}","completed_at","1790812702000""#
    );
    let failed = r#","kind","expired","error","too old","tell","{\"chat_id\":42,\"lang\":\"ru\"}","telling_at","1""#;
    Fuzz::new("redis-reply")
        .seed(record("submitting", r#","doubt","submit","crashes","2""#))
        .seed(record("polling", paid))
        .seed(record("collecting", paid))
        .seed(record("delivering", &result))
        .seed(record("telling", failed))
        .seed(record("something newer", paid))
        .seed(record("submitting", paid))
        .seed(r#"["ok",0,1790812800000]"#)
        .seed(r#"["buried",0,0]"#)
        .seed(r#"["settling",0,0]"#)
        .seed(r#"["ok",1790812800000,"run-1",1,0,17,0,1,"w~00000000","1790812790000"]"#)
        .seed(r#"["adopted","019a-b",1790812800000]"#)
        .words([
            "state",
            "phase",
            "request_id",
            "tried",
            "result",
            "path",
            "token",
            "rung",
            "doubt",
            "via",
            "direct",
        ])
        .words([
            "queued_at",
            "expires_at",
            "submitted_at",
            "running_at",
            "started_at",
            "completed_at",
            "units",
        ])
        .words([
            "attempt",
            "max_attempts",
            "tries",
            "seq",
            "kind",
            "error",
            "tell",
            "charged",
            "priority",
            "model",
        ])
        .words([
            "polling",
            "collecting",
            "delivering",
            "telling",
            "submitting",
            "4294967295",
            "-9223372036854775808",
        ])
        .words([
            "9223372036854775807",
            "18446744073709551615",
            "\u{ff}",
            "ok",
            "status",
        ])
        .run(|input| any_reply(&store, input));
}
