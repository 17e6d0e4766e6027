//! Before and after of every script, on a real Redis, through the typed methods. `bench` starts it and
//! can lose an answer or bring a request late; `audit` plants leaks; `model` walks at random. What several of the
//! rest use stands here.

mod ask;
mod audit;
mod beat;
mod bench;
mod cancel;
mod claim;
mod cost;
mod displaced;

mod erase;
mod fair;
mod forgets;
mod fuzz;
mod intake;
mod late;
mod limits;
mod minutes;
mod model;
mod paces;
mod rate;
mod requests;
mod retry;
mod step_file;
mod take_back;
mod together;
mod window;
mod writes;

use super::*;
use crate::job::{Charged, Phase};
use bench::*;

fn written(request: &str) -> RequestId {
    RequestId(request.into())
}

/// Takes in jobs of these ids; the first letter says the priority.
fn fill(bench: &Bench, one: &Instance, ids: &[&str]) {
    for id in ids {
        let priority = match &id[..1] {
            "h" => "high",
            "l" => "low",
            _ => "default",
        };
        bench.push(&job(id, &format!(r#""priority":"{priority}""#)));
    }
    one.intake();
}

fn flight_of(mut claim: Claim) -> Flight {
    *claim.jobs.remove(0)
}

fn remembered(flight: &Flight) -> Remembered {
    let mut fields = flight.fields();
    if flight.phase == Phase::Submitting {
        fields.push(("phase", "submitting".to_owned()));
    }
    Remembered {
        id: flight.id.clone(),
        token: flight.token.clone(),
        seq: flight.seq,
        entry: flight.entry.clone(),
        gives_way: false,
        fields,
    }
}
