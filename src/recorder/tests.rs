use super::left::{Left, left_behind, store_of};
use super::{Command, Header, Recorder, SLOT, SPARE, write_header};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const HERE: &str = "redis://127.0.0.1:6379/0";

fn open(folder: &Path, instance: &str) -> Arc<Recorder> {
    let recorder = Arc::new(Recorder::open(folder, instance, HERE, 3).unwrap());
    recorder.belongs_to("store", instance);
    recorder
}

fn command(script: &str, packed: &[u8]) -> Command {
    Command {
        script: script.to_owned(),
        packed: packed.to_vec(),
    }
}

/// As if the process had been killed: what it holds open is closed, and nothing else happens.
fn killed(recorder: Arc<Recorder>) {
    drop(Arc::into_inner(recorder).expect("nobody holds a slot any more"));
}

/// A child that another test has forked has our files, and their locks, until it becomes another program.
fn the_one(folder: &Path) -> Left {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut all = left_behind(folder, "store").unwrap();
        if all.len() == 1 {
            return all.remove(0);
        }
        assert!(all.is_empty() && Instant::now() < deadline, "{all:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_held(folder: &Path, instance: &str) -> bool {
    super::is_held(folder, instance) == Some(true)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_successor_learns_what_each_thread_was_doing() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    let slots: Vec<_> = (0..3).map(|number| recorder.slot(number)).collect();
    slots[0].begin("t-1", "job-1");
    slots[0].act("t-1", "job-1");
    slots[0].brought("submitted", b"*1\r\n");
    slots[1].begin("t-2", "job-2");
    slots[1].act("t-2", "job-2");
    slots[2].begin("t-3", "job-3");
    drop(slots);
    killed(recorder);

    let left = the_one(at.path());
    assert_eq!(left.commands, [command("submitted", b"*1\r\n")]);
    let executing = [("t-2".to_owned(), true), ("t-3".to_owned(), false)];
    assert_eq!(left.executing, executing);
    assert!(!left.torn);
    assert_eq!(left.header.instances, ["a~1"]);
}

#[test]
fn the_same_note_again_after_another_or_after_nothing_is_written_again() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    let slot = recorder.slot(0);
    slot.begin("t-1", "job");
    assert!(!slot.is_acting());
    slot.act("t-1", "job");
    slot.act("t-1", "job");
    assert!(slot.is_acting());
    slot.idle();
    assert!(!slot.is_acting());
    slot.act("t-1", "job");
    drop(slot);
    killed(recorder);
    assert_eq!(the_one(at.path()).executing, [("t-1".to_owned(), true)]);
}

#[test]
fn a_write_that_waits_keeps_its_slot_while_its_thread_goes_on_in_another() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    let slot = recorder.slot(0);
    slot.act("t-1", "job-1");
    assert!(slot.hand_over().is_none(), "it holds no write yet");
    slot.brought("end", b"*1\r\n");
    let first = slot.hand_over().unwrap();
    assert!(slot.hand_over().is_none(), "nor does the fresh one");
    slot.act("t-2", "job-2");
    slot.brought("end", b"*2\r\n");
    let second = slot.hand_over().unwrap();
    slot.begin("t-3", "job-3");
    first.release();
    drop(first);
    drop(second); // as a panic would, before it is known whether Redis has it
    drop(slot);
    killed(recorder);
    let left = the_one(at.path());
    assert_eq!(left.commands, [command("end", b"*2\r\n")]);
    assert_eq!(left.executing, [("t-3".to_owned(), false)]);
    assert!(!left.torn);
}

#[test]
fn slots_that_were_let_go_of_serve_again_and_without_one_no_write_waits() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    let slot = recorder.slot(0);
    let hand_over = |number: usize| {
        slot.brought("end", format!("*{number}").as_bytes());
        slot.hand_over()
    };
    let held: Vec<_> = (0..SPARE).map_while(hand_over).collect();
    assert_eq!(held.len(), SPARE);
    assert!(hand_over(SPARE).is_none());
    held.iter().for_each(super::Held::release);
    let again: Vec<_> = (0..2 * SPARE).map_while(hand_over).collect();
    assert_eq!(again.len(), SPARE);
    let off = Arc::new(Recorder::off()).slot(0);
    off.brought("end", b"*1\r\n");
    assert!(off.hand_over().is_none());
}

#[test]
fn a_thread_with_nothing_in_hand_leaves_nothing() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    let slot = recorder.slot(1);
    slot.act("t-1", "job-1");
    slot.idle();
    drop(slot);
    killed(recorder);
    let left = the_one(at.path());
    assert!(left.executing.is_empty() && left.commands.is_empty() && !left.torn);
}

#[test]
fn while_its_process_lives_nobody_else_reads_a_file() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    assert!(left_behind(at.path(), "store").unwrap().is_empty());
    assert!(is_held(at.path(), "a~1"));
    killed(recorder);
    let left = the_one(at.path());
    // And of two successors only one.
    assert!(left_behind(at.path(), "store").unwrap().is_empty());
    left.remove().unwrap();
    assert!(files(at.path()).is_empty());
}

#[test]
fn files_of_another_store_or_format_are_left_alone() {
    let at = tempfile::tempdir().unwrap();
    killed(open(at.path(), "a~1"));
    let path = at.path().join("a~1.steps");
    assert!(left_behind(at.path(), "another").unwrap().is_empty());
    assert!(path.exists());

    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let newer = Header {
        format: 2,
        store: "store".to_owned(),
        ..Header::default()
    };
    super::write_header(&file, &newer).unwrap();
    drop(file);
    assert!(left_behind(at.path(), "store").unwrap().is_empty());
    assert!(path.exists());
}

#[test]
fn the_file_of_a_process_that_never_reached_redis_goes() {
    let at = tempfile::tempdir().unwrap();
    killed(Arc::new(Recorder::open(at.path(), "a~1", HERE, 3).unwrap()));
    assert!(left_behind(at.path(), "store").unwrap().is_empty());
    assert!(files(at.path()).is_empty());
}

#[test]
fn a_process_that_took_a_new_name_is_known_by_all_of_them() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~0");
    for number in 1..100 {
        recorder.belongs_to("store", &format!("a~{number}"));
    }
    killed(recorder);
    let names = the_one(at.path()).header.instances;
    assert!(names.len() <= 32);
    assert_eq!(
        (names[0].as_str(), names[names.len() - 1].as_str()),
        ("a~0", "a~99")
    );
}

#[test]
fn a_file_that_is_being_read_is_held_under_each_name_of_its_process() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    recorder.belongs_to("store", "a~2");
    killed(recorder);
    assert!(!is_held(at.path(), "a~2"));
    let reading = the_one(at.path());
    assert!(is_held(at.path(), "a~1") && is_held(at.path(), "a~2"));
    assert!(!is_held(at.path(), "a~3"));
    drop(reading);
    assert!(!is_held(at.path(), "a~2"));
}

#[test]
fn what_a_payment_or_a_message_brought_is_kept_in_a_journal_that_is_full() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    recorder.keep("t-1", 1, &command("save", b"first"), false);
    recorder.0.as_ref().unwrap().journal().len += super::JOURNAL;
    recorder.keep("t-1", 2, &command("save", b"poll"), false);
    let len = |recorder: &Recorder| recorder.0.as_ref().unwrap().journal().len;
    let full = len(&recorder);
    recorder.keep("t-2", 1, &command("end", b"sent"), true);
    assert!(len(&recorder) > full);
    let open = recorder.0.as_ref().unwrap();
    assert_eq!(open.journal().waiting.len(), 2);
}

#[test]
fn a_store_that_forgot_its_id_is_known_by_its_address() {
    let at = tempfile::tempdir().unwrap();
    assert_eq!(store_of(at.path(), HERE), None);
    let _living = open(at.path(), "a~1");
    assert_eq!(store_of(at.path(), HERE).as_deref(), Some("store"));
    assert_eq!(store_of(at.path(), "redis://elsewhere:6379/0"), None);
}

#[test]
fn what_redis_did_not_take_is_kept_until_it_does() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    let (one, two) = (command("submitted", b"one\n\0"), command("end", b"two"));
    recorder.keep("t-1", 1, &one, true);
    recorder.keep("t-1", 2, &two, false);
    recorder.keep("t-2", 1, &two, false);
    recorder.settled("t-2", Some(1));
    killed(recorder);
    // All of them: one that Redis has by now may be made again.
    assert_eq!(the_one(at.path()).commands, [one, two.clone(), two]);
}

#[test]
fn when_redis_has_taken_all_the_journal_is_empty_again() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    let one = command("submitted", b"one");
    recorder.keep("t-1", 1, &one, true);
    recorder.keep("t-2", 7, &one, true);
    recorder.keep("t-2", 8, &one, true);
    recorder.settled("t-1", Some(1));
    recorder.settled("t-2", None);
    let journal = at.path().join("a~1.writes");
    assert_eq!(fs::metadata(&journal).unwrap().len(), 0);
    recorder.keep("t-3", 1, &command("end", b"three"), false);
    killed(recorder);
    assert_eq!(the_one(at.path()).commands, [command("end", b"three")]);
}

#[test]
fn a_journal_cut_off_in_the_middle_of_an_entry_gives_those_before() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    let one = command("submitted", &[b'x'; 100]);
    recorder.keep("t-1", 1, &one, true);
    recorder.keep("t-1", 2, &one, true);
    killed(recorder);
    let journal = at.path().join("a~1.writes");
    let len = fs::metadata(&journal).unwrap().len();
    for cut in 0..len {
        let file = fs::OpenOptions::new().write(true).open(&journal).unwrap();
        file.set_len(len - cut).unwrap();
        let left = the_one(at.path());
        let whole = if cut == 0 {
            2
        } else {
            usize::from(len - cut >= len / 2)
        };
        assert_eq!(left.commands.len(), whole, "{cut} bytes are missing");
    }
}

#[test]
fn a_file_of_yesterday_is_stale_and_one_of_last_month_goes_where_it_is_nobodys() {
    let at = tempfile::tempdir().unwrap();
    killed(open(at.path(), "a~1"));
    let path = at.path().join("a~1.steps");
    let back_by = |hours: u64| {
        let file = fs::File::open(&path).unwrap();
        let then = SystemTime::now() - Duration::from_secs(hours * 3600);
        file.set_modified(then).unwrap();
    };
    assert!(!the_one(at.path()).stale);
    back_by(21);
    assert!(the_one(at.path()).stale);
    left_behind(at.path(), "another").unwrap();
    assert!(path.exists());
    back_by(31 * 24);
    left_behind(at.path(), "another").unwrap();
    assert!(!path.exists());
}

#[test]
fn a_file_says_whether_it_is_of_this_boot() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    let slot = recorder.slot(0);
    slot.act("t-1", "job-1");
    drop(slot);
    killed(recorder);
    let left = the_one(at.path());
    assert_eq!(left.of_this_boot, Some(true));
    let header = left.header.clone();
    drop(left);
    // An older program did not.
    for (boot, said) in [("another", Some(false)), ("", None)] {
        let path = at.path().join("a~1.steps");
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        let boot = boot.to_owned();
        write_header(
            &file,
            &Header {
                boot,
                ..header.clone()
            },
        )
        .unwrap();
        drop(file);
        let left = the_one(at.path());
        assert_eq!(left.of_this_boot, said);
        assert_eq!(left.executing, [("t-1".to_owned(), true)]);
    }
}

#[test]
fn a_slot_that_cannot_be_read_forbids_conclusions() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    let slot = recorder.slot(2);
    slot.begin("token", "job");
    drop(slot);
    killed(recorder);
    let path = at.path().join("a~1.steps");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let left = the_one(at.path());
    assert!(left.torn && left.executing.is_empty());
}

#[test]
fn a_journal_that_is_gone_forbids_conclusions() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    recorder.keep("t-1", 1, &command("submitted", b"one"), true);
    killed(recorder);
    fs::remove_file(at.path().join("a~1.writes")).unwrap();
    let left = the_one(at.path());
    assert!(left.torn && left.commands.is_empty() && left.unread.is_none());
}

#[test]
fn a_file_that_was_removed_while_its_process_lives_is_missed() {
    for gone in ["a~1.steps", "a~1.writes"] {
        let at = tempfile::tempdir().unwrap();
        let recorder = open(at.path(), "a~1");
        recorder.touch();
        assert!(recorder.is_whole(), "{gone} is still there");
        fs::remove_file(at.path().join(gone)).unwrap();
        recorder.touch();
        assert!(!recorder.is_whole(), "{gone}");
        // What stands there says so, whether or not somebody puts another file in the place of the one that is gone.
        fs::write(at.path().join("a~1.writes"), "").unwrap();
        killed(recorder);
        let left = left_behind(at.path(), "store").unwrap();
        assert!(left.iter().all(|left| left.torn), "{left:?}");
        assert_eq!(left.len(), usize::from(gone == "a~1.writes"));
    }
    // After a stop that removed them itself nothing is missing.
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    recorder.close();
    recorder.touch();
    assert!(recorder.is_whole());
}

#[test]
fn files_of_a_living_process_do_not_grow_old() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    let month = Duration::from_secs(30 * 86_400);
    let then = SystemTime::now() - month;
    let path = |end: &str| at.path().join(format!("a~1.{end}"));
    for end in ["steps", "writes"] {
        let times = fs::FileTimes::new().set_accessed(then).set_modified(then);
        fs::File::open(path(end)).unwrap().set_times(times).unwrap();
    }
    recorder.touch();
    let about = |end: &str| fs::metadata(path(end)).unwrap();
    let is_old = |time: SystemTime| time.elapsed().unwrap() > month / 2;
    assert!(!is_old(about("writes").modified().unwrap()));
    assert!(!is_old(about("writes").accessed().unwrap()));
    assert!(!is_old(about("steps").accessed().unwrap()));
    // Of this one it tells how old the notes are.
    assert!(is_old(about("steps").modified().unwrap()));
}

#[test]
fn a_step_of_which_nothing_will_tell_forbids_conclusions() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    let slot = recorder.slot(0);
    slot.act("t-1", "job-1");
    assert!(recorder.is_whole() && !Recorder::off().is_whole());
    recorder.lost_a_step();
    assert!(!recorder.is_whole());
    slot.idle();
    drop(slot);
    recorder.belongs_to("store", "a~2");
    killed(recorder);
    let left = the_one(at.path());
    assert!(left.torn && left.executing.is_empty());
    assert_eq!(left.header.instances, ["a~1", "a~2"]);
}

#[test]
fn a_file_that_cannot_be_read_is_no_trouble_of_the_others() {
    let at = tempfile::tempdir().unwrap();
    let one = command("submitted", b"one");
    for instance in ["b~1", "d~1"] {
        let recorder = open(at.path(), instance);
        recorder.keep("t", 1, &one, true);
        killed(recorder);
    }
    // Links that end nowhere: one in the place of a whole file, one in that of a journal.
    symlink("a~1.steps", at.path().join("a~1.steps")).unwrap();
    let journal = at.path().join("b~1.writes");
    fs::remove_file(&journal).unwrap();
    symlink("b~1.writes", &journal).unwrap();

    let all = left_behind(at.path(), "store").unwrap();
    let said: Vec<_> = all
        .iter()
        .map(|left| (left.header.instances[0].as_str(), left.commands.len()))
        .collect();
    assert_eq!(said, [("a~1", 0), ("b~1", 0), ("d~1", 1)]);
    drop(all);
    // Nothing of it is lost: it may be read another time.
    assert!(journal.is_symlink() && at.path().join("b~1.steps").exists());
}

#[test]
fn a_write_is_kept_though_no_file_can_be_opened_any_more() {
    let at = tempfile::tempdir().unwrap();
    let (folder, moved) = (at.path().join("a"), at.path().join("b"));
    fs::create_dir(&folder).unwrap();
    let recorder = open(&folder, "a~1");
    fs::rename(&folder, &moved).unwrap();
    let one = command("submitted", b"one");
    recorder.keep("t-1", 1, &one, true);
    killed(recorder);
    let left = the_one(&moved);
    assert_eq!(left.commands, [one]);
    assert!(!left.torn);
}

#[test]
fn a_write_too_long_for_its_slot_leaves_the_step_cut_off() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    let slot = recorder.slot(0);
    slot.act("t-1", "job");
    slot.brought("save", &vec![b'x'; SLOT]);
    let other = recorder.slot(1);
    other.brought("save", &vec![b'x'; SLOT - 8 - 6]);
    drop((slot, other));
    killed(recorder);
    let left = the_one(at.path());
    assert_eq!(left.executing, [("t-1".to_owned(), true)]);
    assert_eq!(left.commands.len(), 1);
}

#[test]
fn after_a_stop_that_left_nothing_open_the_files_are_gone() {
    let at = tempfile::tempdir().unwrap();
    let recorder = open(at.path(), "a~1");
    recorder.keep("t-1", 1, &command("end", b"x"), false);
    recorder.close();
    assert_eq!(files(at.path()).len(), 2, "Redis has not taken a write");
    recorder.settled("t-1", None);
    recorder.close();
    assert!(files(at.path()).is_empty());
    recorder.keep("t-1", 1, &command("end", b"x"), false);
    assert!(files(at.path()).is_empty());
}

#[test]
fn only_its_user_may_read_it_and_holes_take_no_room() {
    let at = tempfile::tempdir().unwrap();
    let recorder = Arc::new(Recorder::open(at.path(), "a~1", HERE, 512).unwrap());
    recorder.slot(511).begin("t", "j");
    let about = fs::metadata(at.path().join("a~1.steps")).unwrap();
    assert_eq!(about.mode() & 0o777, 0o600);
    assert!(about.blocks() * 512 < 64 << 10, "{} blocks", about.blocks());
}

#[test]
fn switched_off_it_keeps_nothing_and_minds_nothing() {
    let recorder = Arc::new(Recorder::off());
    let slot = recorder.slot(0);
    assert!(!recorder.is_on() && !slot.is_acting());
    slot.begin("t", "j");
    slot.act("t", "j");
    slot.brought("end", b"x");
    slot.idle();
    recorder.keep("t", 1, &command("end", b"x"), true);
    recorder.settled("t", None);
    recorder.belongs_to("store", "a~1");
    recorder.lost_a_step();
    recorder.touch();
    recorder.close();
}
