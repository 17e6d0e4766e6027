//! What the pure parts of a job cost, each beside a floor where there is one: `cargo bench --bench pure --
//! [PART]`. Criterion warms up, repeats, and says what changed since the last run on this machine. What is read
//! from outside is compared with serde_json's reading of the same bytes into a tree, which knows no rule.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use fal_worker::fal::outputs;
use fal_worker::job::answer::Item;
use fal_worker::job::pace::Pace;
use fal_worker::job::spec::{self, ChatId, Target};
use fal_worker::job::words::Words;
use fal_worker::job::{Lang, UnixMs};
use fal_worker::telegram::Sent;
use fal_worker::telegram::plan::{self, After, DeliveryMode, Op, Parcel, Progress, TransferLimits};
use serde_json::Value;
use std::hint::black_box;
use std::time::Duration;

const ENTRY: &str = r#"{"id":"order-8812","model":"fal-ai/flux/dev","input":{"prompt":"a lighthouse in a storm, oil on canvas","image_size":"square_hd","num_images":1,"seed":18446744073709551615},"user_id":"4711","telegram":{"chat_id":123456789,"reply_to_message_id":77,"caption":"Your picture"},"meta":{"order":8812}}"#;

const RESULT: &str = r#"{"images":[{"url":"https://v3.fal.media/files/rabbit/gq3mKBFZ2VZ5Xbxu8cCUB.png","width":1024,"height":1024,"content_type":"image/png","file_name":"gq3mKBFZ2VZ5Xbxu8cCUB.png","file_size":1478213}],"timings":{"inference":2.1398},"seed":18446744073709551615,"has_nsfw_concepts":[false],"prompt":"a lighthouse in a storm, oil on canvas"}"#;

fn tree(group: &mut BenchmarkGroup<WallTime>, text: &str) {
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("floor: a tree", |bencher| {
        bencher.iter(|| serde_json::from_str::<Value>(black_box(text)).expect("JSON"))
    });
}

/// An entry of the inbox becomes a checked job, or an error that names the field.
fn entry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("entry");
    tree(&mut group, ENTRY);
    let now = Some(UnixMs(1_800_000_000_000));
    spec::parse(ENTRY.as_bytes(), now).expect("a good job");
    group.bench_function("checked", |bencher| {
        bencher.iter(|| spec::parse(black_box(ENTRY.as_bytes()), now))
    });
    let bad = ENTRY.replace("\"user_id\":\"4711\"", "\"user_id\":true");
    spec::parse(bad.as_bytes(), now).expect_err("a bad job");
    group.bench_function("refused", |bencher| {
        bencher.iter(|| spec::parse(black_box(bad.as_bytes()), now))
    });
    group.finish();
}

/// What fal made is found in its result.
fn result(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("result");
    tree(&mut group, RESULT);
    assert_eq!(outputs(RESULT).items.len(), 1);
    group.bench_function("its files", |bencher| {
        bencher.iter(|| outputs(black_box(RESULT)))
    });
    group.finish();
}

/// How long a model takes is learnt from one more end, and asked.
fn pace(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pace");
    let times = (0..32).map(|number| (7000 + number * 97 % 2000).to_string());
    let text = times.collect::<Vec<_>>().join(" ");
    group.bench_function("learnt", |bencher| {
        bencher.iter(|| Pace::parse(black_box(&text)))
    });
    let pace = Pace::parse(&text).expect("times");
    let age = Duration::from_secs(8);
    group.bench_function("what is left", |bencher| {
        bencher.iter(|| pace.likely_beyond(black_box(age)))
    });
    group.finish();
}

/// From a result to the message, and from Telegram's answer to the end.
fn delivery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("delivery");
    let items: Vec<Item> = outputs(RESULT).items;
    let target = Target::to_chat(ChatId::Id(123_456_789));
    let parcel = Parcel {
        items: &items,
        target: &target,
        lang: Lang::En,
        words: Words::built_in(),
        delivery: DeliveryMode::Auto,
        limits: TransferLimits::PUBLIC,
        may_fetch: &|_| true,
        ping_due: false,
    };
    let begin = Progress::default();
    assert!(matches!(plan::next(&parcel, &begin), Op::Call(_)));
    group.bench_function("next call", |bencher| {
        bencher.iter(|| plan::next(black_box(&parcel), black_box(&begin)))
    });
    let sent = Sent {
        message_ids: vec![5],
        ..Sent::default()
    };
    let after = |sent| plan::after(&parcel, &begin, Ok(sent), 0.5);
    let After::Go(end) = after(sent.clone()) else {
        panic!("a message that was sent");
    };
    assert!(plan::is_finished(&parcel, &end));
    group.bench_function("its answer", |bencher| {
        bencher.iter(|| after(black_box(sent.clone())))
    });
    group.bench_function("kept and read again", |bencher| {
        bencher.iter(|| Progress::parse(&black_box(&end).to_text()))
    });
    group.finish();
}

criterion_group!(parts, entry, result, pace, delivery);
criterion_main!(parts);
