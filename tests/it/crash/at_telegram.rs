//! Killed between the result and the end, while the user is shown something: the next owner goes on where the
//! record says, shows again only what may not have arrived, and asks fal for nothing.

use super::*;

#[test]
fn killed_with_the_result_recorded_the_next_owner_sends_it_without_asking_fal_again() {
    let (mut world, mut daemon) = World::running();
    // The send never reaches Telegram: nothing is visible before the kill.
    let hang = world
        .sandbox
        .faults
        .add(Rule::first(1, "tg.sendphoto", Fault::Hang(60_000)));
    world.push(job("a").chat(7).json());
    world.wait_field("a", "phase", "delivering");
    eventually(
        SOON,
        || world.sandbox.faults.fired(hang),
        |fired| *fired == 1,
    );
    daemon.kill();
    let results = world.sandbox.fal.totals().results;

    let _next = world.daemon(&[]);
    world.wait_state("a", "done");
    assert_eq!(world.sandbox.fal.totals().results, results);
    assert_eq!((submits_of(&world, "a"), files_in(&world, 7)), (1, 1));
    world.assert_clean_after_kills();
}

#[test]
fn killed_with_a_large_result_in_memory_the_next_owner_fetches_it_again() {
    let (mut world, mut daemon) = World::running();
    let output =
        serde_json::json!({"images": [{"url": "{files}/0.png"}], "log": "x".repeat(200 << 10)});
    world
        .sandbox
        .fal
        .model("case/large", Script::new(Outcome::Json(output)));
    let hang = world
        .sandbox
        .faults
        .add(Rule::first(1, "tg.sendphoto", Fault::Hang(60_000)));
    world.push(job("a").model("case/large").chat(7).json());
    eventually(
        SOON,
        || world.sandbox.faults.fired(hang),
        |fired| *fired == 1,
    );
    daemon.kill();
    let _next = world.daemon(&[]);
    let record = world.wait_state("a", "done");
    assert_eq!((submits_of(&world, "a"), files_in(&world, 7)), (1, 1));
    assert_eq!(
        (record["attempt"].as_str(), record["charged"].as_str()),
        ("1", "yes")
    );
    assert_eq!(world.redis::<u64>(&["EXISTS", "fal:result:a"]), 0);
    world.assert_clean_after_kills();
}

#[test]
fn killed_during_the_edit_of_a_status_message_the_user_sees_one_result() {
    let (mut world, mut daemon) = World::running();
    let status = world.sandbox.telegram.plant_message(7, Kind::Text, false);
    let hold = world.sandbox.telegram.hold("tg.editmessagemedia");
    world.push(
        job("a")
            .chat(7)
            .telegram("status_message_id", status)
            .json(),
    );
    assert!(hold.wait_arrived(1, SOON));
    daemon.kill();
    hold.release();

    let _next = world.daemon(&[]);
    let record = world.wait_state("a", "done");
    let messages = world.sandbox.telegram.messages(7);
    assert_eq!(messages.len(), 1, "{messages:#?}");
    assert!(messages[0].id == status && messages[0].file.is_some());
    assert_eq!(record["message_ids"], format!("[{status}]"));
    assert_eq!(world.counted("resent_after_unknown"), 0);
    assert_eq!(submits_of(&world, "a"), 1);
    world.assert_clean_after_kills();
}

#[test]
fn killed_during_a_fresh_send_it_is_sent_once_more_and_counted() {
    let (mut world, mut daemon) = World::running();
    let hold = world.sandbox.telegram.hold("tg.sendphoto");
    world.push(job("a").chat(7).json());
    assert!(hold.wait_arrived(1, SOON));
    daemon.kill();
    hold.release();

    let next = world.daemon(&[]);
    world.wait_state("a", "done");
    assert_eq!(files_in(&world, 7), 2);
    assert_eq!(world.counted("resent_after_unknown"), 1);
    assert_eq!(next.logged("sent again after unknown"), 1);
    assert_eq!(submits_of(&world, "a"), 1);
    world.assert_clean_after_kills();
}

#[test]
fn killed_between_the_sends_of_several_outputs_only_the_missing_ones_are_sent() {
    let (mut world, mut daemon) = World::running();
    // Two albums of six; the second is cut off before Telegram acts on it.
    let twelve = Script::new(Outcome::Images(12));
    world.sandbox.fal.model("fal-ai/twelve", twelve);
    let hang = Rule::first(1, "tg.sendmediagroup", Fault::Hang(60_000));
    let hang = hang.for_requests_with("/11.png");
    let hang = world.sandbox.faults.add(hang);
    world.push(job("a").model("fal-ai/twelve").chat(7).json());
    eventually(
        SOON,
        || world.sandbox.faults.fired(hang),
        |fired| *fired == 1,
    );
    assert_eq!(files_in(&world, 7), 6);
    daemon.kill();

    let _next = world.daemon(&[]);
    let record = world.wait_state("a", "done");
    assert_eq!(files_in(&world, 7), 12);
    assert!(world.sandbox.telegram.duplicates().is_empty());
    assert_eq!(record["message_ids"], "[1,2,3,4,5,6,7,8,9,10,11,12]");
    world.assert_clean_after_kills();
}

#[test]
fn killed_after_the_album_the_status_message_is_deleted_by_the_next_owner() {
    let (mut world, mut daemon) = World::running();
    let status = world.sandbox.telegram.plant_message(7, Kind::Text, false);
    let hold = world.sandbox.telegram.hold("tg.deletemessage");
    let entry = job("a").model("fal-ai/flux/schnell").chat(7);
    world.push(entry.telegram("status_message_id", status).json());
    assert!(hold.wait_arrived(1, SOON));
    daemon.kill();
    hold.release();

    let _next = world.daemon(&[]);
    world.wait_state("a", "done");
    let messages = world.sandbox.telegram.messages(7);
    assert_eq!(messages.len(), 4, "{messages:#?}");
    assert!(world.sandbox.telegram.duplicates().is_empty());
    world.assert_clean_after_kills();
}

#[test]
fn killed_after_the_delivery_and_before_its_record_a_successor_sends_again_only_without_a_step_file()
 {
    for (flags, sends) in [(&[][..], 1), (&["--state-dir", "off"][..], 2)] {
        let (mut world, tap, mut daemon) = tapped(flags);
        let status = world.sandbox.telegram.plant_message(7, Kind::Text, false);
        let edit = job("edit")
            .chat(7)
            .telegram("status_message_id", status)
            .json();
        tap.stop_at(At::Label("end"), Side::Before);
        world.push(edit);
        kill_at(&tap, &mut daemon);
        assert_eq!(files_in(&world, 7), 1);

        tap.insert(&mut world, true);
        let mut daemon = world.daemon(&[&["--threads", "4"], flags].concat());
        tap.insert(&mut world, false);
        world.wait_state("edit", "done");
        assert_eq!(world.sandbox.telegram.messages(7).len(), 1);
        assert_eq!(world.counted("resent_after_unknown"), 0);

        world.wait_idle();
        tap.count();
        tap.stop_at(At::Label("end"), Side::Before);
        world.push(job("send").chat(8).json());
        kill_at(&tap, &mut daemon);
        assert_eq!(files_in(&world, 8), 1);
        let _next = world.daemon(flags);
        world.wait_state("send", "done");
        assert_eq!(files_in(&world, 8), sends, "{flags:?}");
        assert_eq!(world.counted("resent_after_unknown") as usize, sends - 1);
        assert_eq!(world.sandbox.fal.totals().submits, 2);
        world.assert_clean_after_kills();
    }
}

#[test]
fn killed_while_telling_a_failure_it_is_told_again_and_ends_once() {
    let (mut world, mut daemon) = World::running();
    let hold = world.sandbox.telegram.hold("tg.sendmessage");
    world.push(job("a").model("fal-ai/refuses").chat(7).json());
    assert!(hold.wait_arrived(1, SOON));
    world.wait_field("a", "phase", "telling");
    daemon.kill();
    hold.release();

    let _next = world.daemon(&[]);
    let record = world.wait_state("a", "dead");
    assert_eq!(
        (record["kind"].as_str(), record["told"].as_str()),
        ("content_policy", "yes")
    );
    assert_eq!(submits_of(&world, "a"), 1);
    assert_eq!(world.sandbox.telegram.messages(7).len(), 2);
    assert_eq!(world.counted("resent_after_unknown"), 1);
    world.assert_clean_after_kills();
}
