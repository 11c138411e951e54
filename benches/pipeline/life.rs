//! A process's life without much to do: its start, an outage, and nothing at all.

use std::time::Duration;

use rdkafka::producer::{BaseRecord, Producer};

use crate::bench::{Bench, QUEUED, Row, SETTLED, prepared};
use crate::child::{cpu, memory};
use crate::load;
use crate::program::Program;

pub fn outage_memory(bench: &Bench) -> Result<Row, String> {
    let waiting = |events: u64| {
        let prefix = bench.prefix();
        let source = format!("{prefix}-source");
        load::fill(bench.brokers(), &source, events, &[], |number| {
            (None, load::identify(number, &format!("m{number}"), 700))
        })?;
        // Nobody listens there.
        let mut program = Program::start(&bench.settings(&prefix, &source, "http://127.0.0.1:9/"))?;
        program.wait_for(QUEUED, events as f64)?;
        // An outage lasts: what the catch-up needed is given back meanwhile.
        std::thread::sleep(Duration::from_secs(if bench.tiny { 1 } else { 20 }));
        Ok::<_, String>(["VmRSS", "VmHWM"].map(|field| memory(program.pid(), field) as f64 / f64::from(1 << 20)))
    };
    bench.rounds(|row| {
        let all = bench.events(1_000_000);
        let ([few, _], [tenth, _], [many, peak]) = (waiting(all / 100)?, waiting(all / 10)?, waiting(all)?);
        row.ours.push(many);
        row.bare.push(few);
        row.value.push(many / few);
        row.note = format!("with 100 k waiting {tenth:.0} MiB; at most {peak:.0} MiB, while the events came");
        Ok(())
    })
}

pub fn start(bench: &Bench) -> Result<Row, String> {
    bench.rounds(|row| {
        let (prefix, url, _door) = prepared(bench)?;
        let source = format!("{prefix}-source");
        // Topics and groups are there, as at every start but the first.
        let settings = bench.settings(&prefix, &source, &url);
        let mut program = Program::start(&settings)?;
        program.wait_for(&[("nat_destination_assigned_partitions", "")], 12.0)?;
        program.stop()?;
        let producer = load::producer(bench.brokers(), "0")?;
        let event = load::stamped(1, 700);
        load::send(&producer, BaseRecord::to(&source).payload(&event))?;
        producer.flush(Duration::from_secs(30)).map_err(|error| error.to_string())?;
        let mut program = Program::start(&settings)?;
        program.wait_for(&[("nat_destination_assigned_partitions", "")], 12.0)?;
        let joined = program.started().elapsed().as_secs_f64();
        program.wait_for(SETTLED, 1.0)?;
        let first = program.started().elapsed().as_secs_f64();
        row.ours.push(first);
        row.value.push(first - joined);
        row.note = format!("joined after {joined:.2} s");
        Ok(())
    })
}

pub fn idle(bench: &Bench) -> Result<Row, String> {
    let (prefix, url, _door) = prepared(bench)?;
    let mut program = Program::start(&bench.settings(&prefix, &format!("{prefix}-source"), &url))?;
    program.wait_for(&[("nat_destination_assigned_partitions", "")], 12.0)?;
    std::thread::sleep(Duration::from_secs(2));
    let length = Duration::from_secs(if bench.tiny { 2 } else { 20 });
    bench.rounds(|row| {
        let before = cpu(program.pid());
        std::thread::sleep(length);
        let share = (cpu(program.pid()) - before).as_secs_f64() / length.as_secs_f64() * 100.0;
        row.ours.push(share);
        row.value.push(share);
        row.note = format!("{} MiB resident", memory(program.pid(), "VmRSS") >> 20);
        Ok(())
    })
}
