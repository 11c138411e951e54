//! What a run came to, for a sceptic: faults by kind, what became of the events, each second acceptance with its reason,
//! and each violation with where to look.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::instance::Ended;
use crate::oracle::{Evidence, Judgement};
use crate::run::Settings;

/// Of each statement, so many violations are told whole.
const EXAMPLES: usize = 8;

pub struct Report {
    command: String,
    mutant: Option<String>,
    protocol: &'static str,
    seed: u64,
    faults: BTreeMap<&'static str, usize>,
    lives: BTreeMap<String, usize>,
    last_words: Vec<String>,
    answers: BTreeMap<String, usize>,
    judgement: Judgement,
    healed: Duration,
    directory: PathBuf,
}

impl Report {
    pub fn new(
        settings: &Settings,
        evidence: &Evidence,
        judgement: Judgement,
        healed: Duration,
        directory: &Path,
    ) -> Report {
        let mut faults = BTreeMap::new();
        for happened in &evidence.happened {
            *faults.entry(happened.fault.kind.name()).or_default() += 1;
        }
        let (mut lives, mut last_words) = (BTreeMap::<String, usize>::new(), Vec::new());
        for life in &evidence.lives {
            let how = match life.ended {
                Some((_, Ended::Killed)) => "kill -9".to_owned(),
                Some((_, Ended::Told(Some(0)))) => "SIGTERM, exit code 0".to_owned(),
                Some((_, Ended::Told(code))) => format!("SIGTERM, {code:?}"),
                Some((_, Ended::ByItself(code))) => format!("by itself, {code:?}"),
                None => "not ended".to_owned(),
            };
            if matches!(life.ended, Some((_, Ended::ByItself(_) | Ended::Told(None | Some(1..))))) {
                let log = life.log_text();
                let said = log.lines().last().unwrap_or_default();
                last_words.push(format!("life {} ({how}): {said}", life.number));
            }
            *lives.entry(how).or_default() += 1;
        }
        let mut answers = BTreeMap::new();
        for request in &evidence.requests {
            *answers.entry(format!("{} {}", request.status, request.end.name())).or_default() += 1;
        }
        Report {
            command: settings.command.clone(),
            mutant: settings.mutant.clone(),
            protocol: settings.protocol.name(),
            seed: settings.seed,
            faults,
            lives,
            last_words,
            answers,
            judgement,
            healed,
            directory: directory.to_owned(),
        }
    }

    pub fn is_right(&self) -> bool {
        self.judgement.violations.is_empty()
    }

    /// Its evidence is not needed: it was wrong on purpose.
    pub fn forget(&self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }

    pub fn text(&self) -> String {
        let mut text = String::from("\n");
        let judgement = &self.judgement;
        let total: usize = self.faults.values().sum();
        let _ =
            writeln!(text, "{total} faults, {} protocol; healed in {:.1} s", self.protocol, self.healed.as_secs_f64());
        table(&mut text, "faults", self.faults.iter());
        table(&mut text, "ends of lives", self.lives.iter());
        lines(&mut text, self.last_words.iter().take(EXAMPLES).map(|words| format!("    {words}")));
        table(&mut text, "requests by decision and end of the answer", self.answers.iter());
        table(&mut text, "events", judgement.figures.iter());
        table(&mut text, "dead letters", judgement.letters.iter());
        let doubled: usize = judgement.doubled.values().sum();
        let _ = writeln!(text, "accepted again: {doubled}");
        lines(&mut text, judgement.doubled.iter().map(|(reason, count)| format!("{count:>9}  {reason}")));
        lines(&mut text, judgement.notes.iter().map(|note| format!("note: {note}")));
        let _ = writeln!(text, "lost: {}", judgement.lost);
        self.verdict(&mut text);
        text
    }

    fn verdict(&self, text: &mut String) {
        let violations = &self.judgement.violations;
        if violations.is_empty() {
            let _ = writeln!(text, "RIGHT: no violation. Seed {}: {}", self.seed, self.command);
            return;
        }
        for statement in 0..=6 {
            let of_it: Vec<_> = violations.iter().filter(|violation| violation.statement == statement).collect();
            if !of_it.is_empty() {
                let _ = writeln!(text, "statement {statement}: {} violations", of_it.len());
            }
            lines(text, of_it.iter().take(EXAMPLES).map(|violation| format!("  - {}", violation.what)));
        }
        let mutant = self.mutant.as_deref().map(|name| format!(" (mutant {name})")).unwrap_or_default();
        let _ = writeln!(text, "WRONG{mutant}: {} violations. Seed {}: {}", violations.len(), self.seed, self.command);
        let _ = writeln!(
            text,
            "logs, faults.txt, requests.jsonl, changelog.txt and violations.txt: {}",
            self.directory.display()
        );
        let all: String = violations.iter().map(|v| format!("{}: {}\n", v.statement, v.what)).collect();
        let _ = std::fs::write(self.directory.join("violations.txt"), all);
    }

    pub fn json(&self) -> String {
        let judgement = &self.judgement;
        let violations: Vec<Value> = judgement
            .violations
            .iter()
            .map(|violation| json!({"statement": violation.statement, "what": violation.what}))
            .collect();
        let figures = json!({
            "seed": self.seed,
            "command": self.command,
            "protocol": self.protocol,
            "faults": self.faults,
            "faults_in_all": self.faults.values().sum::<usize>(),
            "lives": self.lives,
            "answers": self.answers,
            "figures": judgement.figures,
            "letters": judgement.letters,
            "doubled": judgement.doubled,
            "lost": judgement.lost,
            "notes": judgement.notes,
            "healed_seconds": self.healed.as_secs_f64(),
            "right": self.is_right(),
            "violations": violations,
        });
        format!("{figures:#}\n")
    }
}

fn table<K: std::fmt::Display, V: std::fmt::Display>(
    text: &mut String,
    title: &str,
    rows: impl Iterator<Item = (K, V)>,
) {
    let _ = writeln!(text, "{title}:");
    lines(text, rows.map(|(name, count)| format!("{count:>9}  {name}")));
}

fn lines(text: &mut String, lines: impl Iterator<Item = String>) {
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
}
