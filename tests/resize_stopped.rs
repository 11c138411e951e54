//! A resize that is stopped anywhere goes on when it is run again, and nothing is lost or sent twice.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nat_destination::kafka::partition_of;
use nat_destination::sandbox::stand_in::Behaviour;

use super::faults::set_offset;
use super::resize::{SIX, add_by_hand, engage, layout, left_waiting, refused, resize, resized, text};
use super::support::World;
use super::support::world::{identify, interrupt};

#[test]
fn a_resize_that_was_killed_goes_on() {
    let world = World::new();
    world.visits(0..200);
    world.run_until_caught_up(&[SIX]);
    world.behave(Behaviour { status: Some(503), ..Behaviour::default() });
    world.visits(100..300);
    engage(&world, 0..50, true);
    let instance = world.start(&[SIX]);
    world.wait("all is queued", || instance.metric("nat_destination_events_queued_total", &[]) == 250.0);
    assert!(instance.stop().0.success());
    world.behave(Behaviour::default());
    // Each waits for the one before it, and is killed a little later than that.
    let mut lives = 0;
    loop {
        let mut command = world.command(&["topics", "resize", "--partitions", "9"], &[]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
        let mut told = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        told.any(|line| line.starts_with("growing"));
        let deadline = Instant::now() + Duration::from_millis(50 + 250 * lives);
        while Instant::now() < deadline && child.try_wait().expect("its state").is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        lives += 1;
        if let Some(status) = child.try_wait().expect("its state") {
            // Once it is done, there is nothing to do.
            assert!(status.success() || !layout(&world).contains("resizing"), "{status}");
            break;
        }
        child.kill().expect("killed");
        child.wait().expect("gone");
        assert!(lives < 100, "it never comes to an end");
    }
    assert!(lives > 2, "it was killed");
    assert_eq!(layout(&world), r#"{"version":1,"partitions":9}"#);
    world.visits(0..350);
    engage(&world, 0..50, true);
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted().len(), 350 + 50);
    let days = world.accepted_days();
    assert_eq!(days.iter().filter(|(email, _)| email.starts_with('p')).count(), 350);
    assert_eq!(days.iter().filter(|(email, _)| email.starts_with('e')).count(), 50);
}

/// What a resize from 3 to 6 partitions has done when it is stopped: each step, and all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stopped {
    Begun,
    Grown,
    SomeCarried,
    EndsFixed,
    SomeMoved,
    OffsetsSaved,
}

/// Leaves the topics as such a resize does.
fn leave_resize(world: &World, stopped: Stopped) {
    let (queue, delivered) = (world.topic("queue"), world.topic("delivered"));
    let layout = |ends: &str| {
        let record = format!(r#"{{"version":1,"partitions":3,"resizing":{{"found":3,"to":6{ends}}}}}"#);
        world.send(&world.topic("layout"), Some(0), Some(b"layout"), Some(record.as_bytes()), &[]);
        world.flush();
    };
    layout("");
    if stopped >= Stopped::Grown {
        add_by_hand(world, &delivered, 6);
        add_by_hand(world, &queue, 6);
    }
    if stopped >= Stopped::SomeCarried {
        let records = world.read(&delivered);
        let count = if stopped == Stopped::SomeCarried { records.len() / 2 } else { records.len() };
        for record in &records[..count] {
            world.send(&delivered, Some(record.partition + 3), record.key.as_deref(), record.value.as_deref(), &[]);
        }
        world.flush();
    }
    let waiting = world.read(&queue);
    let end = |partition| waiting.iter().filter(|record| record.partition == partition).map(|r| r.offset + 1).max();
    let ends = [0, 1, 2, 3, 4, 5].map(|partition| end(partition).unwrap_or(0));
    if stopped >= Stopped::EndsFixed {
        layout(&format!(r#","ends":{ends:?}"#));
    }
    if stopped >= Stopped::SomeMoved {
        let count = if stopped == Stopped::SomeMoved { waiting.len() / 2 } else { waiting.len() };
        for record in &waiting[..count] {
            let key = record.key.as_deref().expect("a contact");
            world.send(&queue, Some(partition_of(key, 6)), Some(key), record.value.as_deref(), &[]);
        }
        world.flush();
    }
    if stopped == Stopped::OffsetsSaved {
        for (partition, end) in (0..).zip(ends) {
            set_offset(world, &world.topic("deliver"), &queue, partition, end);
        }
    }
}

#[test]
fn a_resize_goes_on_from_each_of_its_steps() {
    for stopped in [
        Stopped::Begun,
        Stopped::Grown,
        Stopped::SomeCarried,
        Stopped::EndsFixed,
        Stopped::SomeMoved,
        Stopped::OffsetsSaved,
    ] {
        let world = World::new();
        left_waiting(&world, 0..60, 30..90);
        leave_resize(&world, stopped);
        assert!(resized(&world, "6").contains("going on with the resize"), "{stopped:?}");
        assert_eq!(layout(&world), r#"{"version":1,"partitions":6}"#, "{stopped:?}");
        world.visits(0..100);
        world.run_until_caught_up(&[]);
        let mut days = world.accepted_days();
        assert_eq!(days.len(), 100, "{stopped:?}: each once");
        days.dedup();
        assert_eq!(days.len(), 100, "{stopped:?}: and nobody is left out");
    }
}

#[test]
fn a_resize_that_is_interrupted_when_it_has_begun_says_that_no_instance_starts() {
    let world = World::new();
    world.visits(0..10);
    world.run_until_caught_up(&[]);
    leave_resize(&world, Stopped::Grown);
    let mut command = world.command(&["topics", "resize", "--partitions", "6"], &[]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let mut told = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    // Before the topics grow, after which it looks whether it is to stop.
    assert!(told.any(|line| line.contains("going on with the resize")));
    interrupt(&child);
    assert!(told.any(|line| line.contains("Until it is done no instance starts")));
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    refused(
        &world.command(&["run"], &[]).output().expect("it runs"),
        &["a resize from 3 to 6 partitions is under way"],
    );
    resized(&world, "6");
    world.visits(0..20);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 20);
}

#[test]
fn a_resize_that_was_stopped_while_it_looked_looks_again() {
    for stopped in [Stopped::Begun, Stopped::Grown] {
        let world = World::new();
        world.visits(0..30);
        world.run_until_caught_up(&[]);
        leave_resize(&world, stopped);
        // A backfill that began before the first of them.
        let done = std::sync::atomic::AtomicBool::new(false);
        let output = std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0.. {
                    if done.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    let (contact, day) = (format!("b{number}@example.com"), "2026-11-20T08:00:00Z");
                    let event = identify(&contact, day, "m");
                    let place = Some(partition_of(contact.as_bytes(), 3));
                    world.send(&world.topic("queue"), place, Some(contact.as_bytes()), Some(event.as_bytes()), &[]);
                    world.flush();
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            let output = resize(&world, "6", &[]);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            output
        });
        refused(&output, &["something writes into the topic"]);
        let is_under_way = layout(&world).contains(r#""resizing":{"found":3,"to":6,"#);
        assert_eq!(is_under_way, stopped == Stopped::Grown, "{}", layout(&world));
        resized(&world, "6");
        let waiting = world
            .read(&world.topic("queue"))
            .iter()
            .map(|record| record.key.clone())
            .collect::<std::collections::BTreeSet<_>>();
        world.run_until_caught_up(&[]);
        assert_eq!(world.stand_in.requests() as usize, waiting.len(), "{stopped:?}: each once");
    }
}

#[test]
fn of_two_resizes_that_begin_at_the_same_moment_one_goes_on_and_the_other_says_so() {
    let world = World::new();
    world.visits(0..10);
    world.run_until_caught_up(&[]);
    // What the other one writes after this one's record: that it has begun, or that it takes it back.
    let under_way = r#"{"version":1,"partitions":3,"resizing":{"found":3,"to":12,"by":7}}"#;
    let taken_back = r#"{"version":1,"partitions":3}"#;
    for (other, says) in [(taken_back, "another one has ended"), (under_way, "a resize to 12 is under way")] {
        let mut command = world.command(&["topics", "resize", "--partitions", "6"], &[]);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
        let mut told = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        assert!(told.any(|line| line.contains("waiting 5 s")));
        world.send(&world.topic("layout"), Some(0), Some(b"layout"), Some(other.as_bytes()), &[]);
        world.flush();
        let rest: Vec<String> = told.collect();
        assert!(rest.iter().any(|line| line.contains(says)), "{rest:?}");
        assert_eq!(child.wait().expect("ended").code(), Some(1));
        assert_eq!(layout(&world), other, "the other one's stays");
    }
    resized(&world, "12");
    world.visits(0..20);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 20);
}

#[test]
fn of_two_runs_of_a_resize_the_later_one_goes_on_and_the_queue_holds_nothing_twice() {
    let world = World::new();
    left_waiting(&world, 0..10, 10..2010);
    let start = || {
        let mut command = world.command(&["topics", "resize", "--partitions", "6"], &[]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
    };
    let first = start();
    world.wait("it has begun", || layout(&world).contains("resizing"));
    let second = start();
    let (first, second) = (first.wait_with_output().expect("ended"), second.wait_with_output().expect("ended"));
    refused(&first, &["--partitions 6: this was begun once more, and is done there"]);
    assert_eq!(second.status.code(), Some(0), "{}", text(&second));
    assert!(text(&second).contains("moved    2,000 events"), "{}", text(&second));
    assert_eq!(layout(&world), r#"{"version":1,"partitions":6}"#);
    world.run_until_caught_up(&[]);
    assert_eq!((world.accepted().len(), world.read(&world.topic("queue")).len()), (2010, 10 + 2 * 2000));
}

#[test]
fn a_resize_that_has_moved_all_and_finds_another_one_at_it_does_not_say_done() {
    let world = World::new();
    world.visits(0..10);
    world.run_until_caught_up(&[]);
    leave_resize(&world, Stopped::OffsetsSaved);
    let mut command = world.command(&["topics", "resize", "--partitions", "6"], &[]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let mut told = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(told.any(|line| line.contains("waiting 3 s for an earlier run")));
    let ours = layout(&world);
    let other = format!(r#"{},"by":7}}}}"#, ours.split(r#","by""#).next().unwrap_or_default());
    world.send(&world.topic("layout"), Some(0), Some(b"layout"), Some(other.as_bytes()), &[]);
    world.flush();
    let rest: Vec<String> = told.collect();
    assert!(rest.iter().any(|line| line.contains("this was begun once more")), "{rest:?}");
    assert_eq!(child.wait().expect("ended").code(), Some(1));
    assert_eq!(layout(&world), other, "the other one's stays");
}

#[test]
fn a_resize_sets_no_offset_back() {
    let world = World::new();
    left_waiting(&world, 0..10, 10..70);
    leave_resize(&world, Stopped::OffsetsSaved);
    // All was settled since, by somebody who started all the same.
    let queue = world.read(&world.topic("queue"));
    for partition in 0..6 {
        let end = queue.iter().filter(|record| record.partition == partition).map(|record| record.offset + 1).max();
        set_offset(&world, &world.topic("deliver"), &world.topic("queue"), partition, end.unwrap_or(0));
    }
    assert!(resized(&world, "6").contains("moved    0 events"));
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted().len(), 10);
}

#[test]
fn a_resize_that_is_interrupted_says_how_to_go_on() {
    let world = World::new();
    world.visits(0..10);
    world.run_until_caught_up(&[]);
    let mut command = world.command(&["topics", "resize", "--partitions", "6"], &[]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let mut told = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(told.any(|line| line.contains("waiting 5 s")));
    interrupt(&child);
    assert!(told.any(|line| line.contains("run the same command again")));
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    // Nothing had been changed.
    world.visits(0..20);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 20);
}
