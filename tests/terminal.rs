//! What a person sees on a terminal: the real binary on a pseudo-terminal of 80 columns and 24 rows (`script` of util-linux),
//! and the very bytes that it writes there.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use nat_destination::sandbox::stand_in::Behaviour;

use super::support::World;
use super::support::world::{identify, wait};

const CTRL_C: &[u8] = b"\x03";

struct Terminal {
    script: Child,
    keyboard: ChildStdin,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn run(command: &Command) -> Terminal {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let quoted: Vec<String> = words.map(|word| format!("'{}'", word.to_str().expect("text"))).collect();
        let mut script = Command::new("script");
        script.args(["-qec", &format!("stty cols 80 rows 24; exec {}", quoted.join(" ")), "/dev/null"]);
        for (name, _) in command.get_envs().filter(|(_, value)| value.is_none()) {
            script.env_remove(name);
        }
        let script = script.env("SHELL", "/bin/sh").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut script = script.expect("script is there: apt-get install -y bsdutils");
        let (keyboard, mut screen) = (script.stdin.take().expect("piped"), script.stdout.take().expect("piped"));
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&bytes);
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut chunk) {
                to.lock().expect("unpoisoned").extend_from_slice(&chunk[..length]);
            }
        });
        Terminal { script, keyboard, bytes }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("unpoisoned")).into_owned()
    }

    fn wait_for(&self, what: &str, times: usize) {
        wait(&format!("{what:?} is on the screen"), || self.text().matches(what).count() >= times);
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).and_then(|()| self.keyboard.flush()).expect("pressed");
    }

    /// Exit code, and all that was written.
    fn end(mut self) -> (Option<i32>, String) {
        let mut ended = None;
        wait("it ends", || {
            ended = self.script.try_wait().expect("its state");
            ended.is_some()
        });
        // All of it is there once the thread that reads has let go.
        wait("its last bytes are read", || Arc::strong_count(&self.bytes) == 1);
        (ended.expect("ended").code(), self.text())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn watch_draws_in_place_what_the_window_holds_and_ends_at_one_ctrl_c() {
    let world = World::with(40, Behaviour::default());
    let instance = world.start(&["topics.partitions=40"]);
    instance.wait_until_ready();
    let mut terminal = Terminal::run(&world.command(&["status", "--watch", "--instance", &instance.admin()], &[]));
    terminal.wait_for("\x1b[J", 3); // The end of a frame: the terminal's ^C would come in the middle of one.
    terminal.press(CTRL_C);
    let (code, text) = terminal.end();
    assert_eq!(code, Some(130), "{text}");
    assert!(text.ends_with("\x1b[J^C\r\n"), "the prompt has a row of its own: {text:?}");
    for (part, what) in [("\x1b[2J", "it flickers"), ("\x1b[?", "it would have to be put back")] {
        assert!(!text.contains(part), "{what}: {text:?}");
    }
    for frame in text.split("\x1b[H").skip(1) {
        let rows: Vec<&str> = frame.split("\x1b[K\r\n").collect();
        assert!(rows.len() <= 23 && rows[0].starts_with(['h', 'U']), "{frame}");
        assert!(rows.iter().all(|row| row.chars().count() < 80), "{frame}");
        assert!(frame.contains("that are no further behind") && frame.contains("= delivered 0"), "{frame}");
    }
}

#[test]
fn a_bar_keeps_to_its_row_and_what_is_told_after_ctrl_c_begins_a_line() {
    let world = World::new();
    assert!(world.command(&["topics", "create"], &[]).output().expect("it runs").status.success());
    let line = |number: usize| identify(&format!("p{number}@example.com"), "2026-11-20T08:00:00Z", "m") + "\n";
    let file = world.path("events.jsonl");
    std::fs::write(&file, (0..5000).map(line).collect::<String>()).expect("written");
    let path = file.to_str().expect("text");
    for (arguments, bar) in [(["--rate", "50", path], " left"), (["--rate", "50", "-"], " 0 bytes")] {
        let mut terminal = Terminal::run(&world.command(&[&["backfill"], &arguments[..]].concat(), &[]));
        terminal.wait_for(bar, 1);
        terminal.press(CTRL_C);
        let (code, text) = terminal.end();
        assert_eq!(code, Some(130), "{text}");
        let (bars, told) =
            text.split_once("\x1b[2Kstopped before it was done. ").expect("how to go on, on a line of its own");
        assert!(told.contains("\r\nbackfill            events\r\n") && !told.contains('\x1b'), "{told:?}");
        for bar in bars.split("\r\x1b[2K") {
            assert!(bar.replace("^C", "").trim_end_matches('\r').chars().count() <= 80, "{bar:?}");
        }
    }
}

/// What stands on the terminal once it has ended: the rows, each as it was last drawn.
fn rows(text: &str) -> Vec<&str> {
    text.lines().map(|row| row.rsplit("\x1b[2K").next().unwrap_or(row)).collect()
}

#[test]
fn on_a_terminal_list_is_a_table_of_the_newest_50_that_says_how_many_there_are() {
    let world = World::new();
    assert!(world.command(&["topics", "create"], &[]).output().expect("it runs").status.success());
    for number in 0..60 {
        world.send(&world.topic("dead-letter"), Some(number % 3), None, Some(b"theirs"), &[]);
        world.flush();
    }
    let list = |more: &[&str]| {
        let terminal = Terminal::run(&world.command(&[&["dead-letters", "list"], more].concat(), &[]));
        let (code, text) = terminal.end();
        assert_eq!(code, Some(0), "{text}");
        text
    };
    let output = world.command(&["dead-letters", "list"], &[]).output().expect("it runs");
    let all: Vec<String> = String::from_utf8(output.stdout)
        .expect("text")
        .lines()
        .map(|line| {
            let letter: serde_json::Value = serde_json::from_str(line).expect("JSON lines in a pipe");
            letter["place"].as_str().expect("a place").to_owned()
        })
        .collect();
    assert_eq!((all.len(), output.stderr), (60, Vec::new()), "all of them in a pipe");
    for (more, count) in [(&[][..], 50), (&["--limit", "7"], 7), (&["--limit", "100"], 60)] {
        let text = list(more);
        let rows = rows(&text);
        let head = rows.iter().position(|row| row.starts_with("place ")).expect("a head");
        let places = rows[head + 1..][..count].iter().map(|row| row.split(' ').next().expect("a place"));
        assert!(places.eq(&all[..count]), "the newest first: {text}");
        assert!(rows[head + 1..][..count].iter().all(|row| row.contains("  foreign  ")), "{text}");
        let more: Vec<&str> = rows[head + 1 + count..].to_vec();
        match count {
            60 => assert!(more.is_empty(), "{more:?}"),
            _ => assert_eq!(more, [format!("{count} of 60; --limit shows more")]),
        }
    }
    let text = list(&["--json", "--limit", "3"]);
    assert_eq!(rows(&text).iter().filter(|row| row.starts_with('{') && row.ends_with('}')).count(), 3, "{text}");
}
