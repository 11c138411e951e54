//! What came out: a table for people, JSON for programs, and the page that keeps what each figure came to last.

use std::path::Path;

use crate::bench::Row;
use crate::child::Sample;
use crate::figures::{FIGURES, Figure, Target};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/README.md");
const BEGIN: &str = "<!-- figures -->";
const END: &str = "<!-- /figures -->";

/// Smallest, median, largest.
pub fn spread(values: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // Of an even number, what lies between the two in the middle.
    let median = (sorted.get(sorted.len().checked_sub(1)? / 2)? + sorted.get(sorted.len() / 2)?) / 2.0;
    Some([*sorted.first()?, median, *sorted.last()?])
}

fn number(value: f64) -> String {
    match value {
        value if value >= 10_000.0 => format!("{:.0} k", value / 1000.0),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// Median, least and most in a few words.
pub fn told(values: &[f64]) -> String {
    match spread(values) {
        Some([least, median, most]) if values.len() > 1 => {
            format!("{} ({} … {})", number(median), number(least), number(most))
        }
        Some([_, median, _]) => number(median),
        None => "–".into(),
    }
}

fn target(target: Option<Target>) -> String {
    match target {
        Some(Target::AtLeast(least)) => format!("≥ {least}"),
        Some(Target::AtMost(most)) => format!("≤ {most}"),
        None => "–".into(),
    }
}

fn is_met(figure: &Figure, row: &Row) -> Option<bool> {
    let median = spread(&row.value).map_or(f64::NAN, |[_, median, _]| median);
    figure.target.map(|target| match target {
        Target::AtLeast(least) => median >= least,
        Target::AtMost(most) => median <= most,
    })
}

fn verdict(figure: &Figure, row: &Row) -> &'static str {
    match is_met(figure, row) {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "–",
    }
}

/// Of the program as a process, and of the bare client.
fn each(row: &Row, of: impl Fn(&Sample) -> f64) -> [Vec<f64>; 2] {
    [row.samples.iter().map(|(ours, _)| of(ours)).collect(), row.samples.iter().map(|(_, bare)| of(bare)).collect()]
}

fn wall(sample: &Sample) -> f64 {
    sample.wall.as_secs_f64()
}

fn peak(sample: &Sample) -> f64 {
    sample.peak as f64 / f64::from(1 << 20)
}

/// What a row says beside its figures, CPU and memory where processes were measured.
fn note(row: &Row) -> String {
    let medians = |values: [Vec<f64>; 2]| values.map(|values| spread(&values).map_or(0.0, |[_, median, _]| median));
    let ([cpu, bare_cpu], [most, bare_most]) = (medians(each(row, Sample::cpu_each)), medians(each(row, peak)));
    let processes = (!row.samples.is_empty()).then(|| {
        format!("CPU an event {cpu:.1} µs, bare {bare_cpu:.1} µs; peak {most:.0} MiB, bare {bare_most:.0} MiB")
    });
    let said = (!row.note.is_empty()).then(|| row.note.clone());
    [said, processes].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// One figure in a line.
pub fn line(figure: &Figure, row: &Row) -> String {
    let (ours, bare, value, note) = (told(&row.ours), told(&row.bare), told(&row.value), note(row));
    let (unit, kind, target) = (figure.unit, figure.value, target(figure.target));
    format!("  {ours} {unit}, bare {bare}; {kind} {value}, wanted {target}: {}. {note}", verdict(figure, row))
}

pub fn table(rows: &[(&Figure, Row)]) -> String {
    rows.iter().map(|(figure, row)| line_of_table(figure, row)).fold(HEAD.to_owned(), |table, line| table + &line)
}

const HEAD: &str = "| figure | ours | bare | value | target | met | | on |\n|---|---|---|---|---|---|---|---|\n";

fn line_of_table(figure: &Figure, row: &Row) -> String {
    format!(
        "| **{}**: {} | {} {} | {} | {} {} | {} | {} | {} | {} |\n",
        figure.name,
        figure.what,
        told(&row.ours),
        figure.unit,
        told(&row.bare),
        told(&row.value),
        figure.value,
        target(figure.target),
        verdict(figure, row),
        note(row),
        jiff::Timestamp::now().strftime("%Y-%m-%d")
    )
}

pub fn json(rows: &[(&Figure, Row)]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|(figure, row)| {
            let ([wall, bare_wall], [cpu, bare_cpu], [most, bare_most]) =
                (each(row, wall), each(row, Sample::cpu_each), each(row, peak));
            serde_json::json!({
                "wall_s": wall, "bare_wall_s": bare_wall, "cpu_us_an_event": cpu, "bare_cpu_us_an_event": bare_cpu,
                "peak_mib": most, "bare_peak_mib": bare_most,
                "figure": figure.name, "what": figure.what, "unit": figure.unit, "ours": row.ours, "bare": row.bare,
                "value": row.value, "target": target(figure.target), "met": is_met(figure, row), "note": row.note,
            })
        })
        .collect();
    serde_json::to_string_pretty(&rows).unwrap_or_default()
}

/// Between the two marks of the page; a figure that was not measured keeps its line.
pub fn write_into_page(rows: &[(&Figure, Row)]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{PAGE}: {error}");
    let page = std::fs::read_to_string(Path::new(PAGE)).map_err(failed)?;
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (kept, after) = rest.split_once(END)?;
        Some((before, kept, after))
    });
    let (before, kept, after) = parts.ok_or_else(|| format!("{PAGE} has no {BEGIN} … {END}"))?;
    let lines = FIGURES.iter().filter_map(|figure| {
        let measured = rows.iter().find(|(measured, _)| measured.name == figure.name);
        let begin = format!("| **{}**:", figure.name);
        let kept = || kept.lines().find(|line| line.starts_with(&begin)).map(|line| format!("{line}\n"));
        measured.map(|(figure, row)| line_of_table(figure, row)).or_else(kept)
    });
    let table = lines.fold(HEAD.to_owned(), |table, line| table + &line);
    std::fs::write(PAGE, format!("{before}{BEGIN}\n{table}{END}{after}")).map_err(failed)
}
