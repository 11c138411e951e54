//! What came out: a table for people, JSON for programs, and the page that keeps the last full run.

use std::path::Path;

use crate::bench::Row;
use crate::child::Sample;
use crate::figures::{Figure, Target};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/README.md");
const BEGIN: &str = "<!-- figures -->";
const END: &str = "<!-- /figures -->";

/// Smallest, median, largest.
fn spread(values: &[f64]) -> Option<[f64; 3]> {
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

fn told(values: &[f64]) -> String {
    match spread(values) {
        Some([least, median, most]) if values.len() > 1 => {
            format!("{} ({} … {})", number(median), number(least), number(most))
        }
        Some([_, median, _]) => number(median),
        None => "–".into(),
    }
}

fn target(target: Target) -> String {
    match target {
        Target::AtLeast(least) => format!("≥ {least}"),
        Target::AtMost(most) => format!("≤ {most}"),
    }
}

fn is_met(figure: &Figure, row: &Row) -> bool {
    let median = spread(&row.value).map_or(f64::NAN, |[_, median, _]| median);
    match figure.target {
        Target::AtLeast(least) => median >= least,
        Target::AtMost(most) => median <= most,
    }
}

fn verdict(figure: &Figure, row: &Row) -> &'static str {
    if is_met(figure, row) { "yes" } else { "**no**" }
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
    let mut text = "| figure | ours | bare | value | target | met | |\n|---|---|---|---|---|---|---|\n".to_owned();
    for (figure, row) in rows {
        text.push_str(&format!(
            "| **{}**: {} | {} {} | {} | {} {} | {} | {} | {} |\n",
            figure.name,
            figure.what,
            told(&row.ours),
            figure.unit,
            told(&row.bare),
            told(&row.value),
            figure.value,
            target(figure.target),
            verdict(figure, row),
            note(row)
        ));
    }
    text
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

/// Between the two marks of the page.
pub fn write_into_page(rows: &[(&Figure, Row)]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{PAGE}: {error}");
    let page = std::fs::read_to_string(Path::new(PAGE)).map_err(failed)?;
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| format!("{PAGE} has no {BEGIN} … {END}"))?;
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
    let text = format!("{before}{BEGIN}\nMeasured on {date}.\n\n{}{END}{after}", table(rows));
    std::fs::write(PAGE, text).map_err(failed)
}
