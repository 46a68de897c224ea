//! The delivery matrix: every agent in every state gets a message of every shape. A cell holds when the
//! agent's own record, never iapeer's word alone, has the message exactly once and byte for byte, or when it
//! was held for the right reason with nothing typed, and arrived exactly once after the obstacle was cleared.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod api;
mod attached;
#[allow(dead_code)]
#[path = "../suite/harness.rs"]
mod harness;
mod page;
mod runtimes;
mod shapes;
mod stage;
mod truth;

use harness::Host;
use iapeer::core::runtime::Definition;
use iapeer::runtime::load::Runtimes;
use page::{Outcome, Report, Row};
use runtimes::{Kind, Runtime};
use shapes::Shape;
use stage::{STATES, Stage, State};
use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A held message goes within a second; a machine under load is given more.
const LATE: Duration = Duration::from_secs(15);

/// A cell that takes longer is told of.
const SLOW: Duration = Duration::from_secs(4);

const HELP: &str = "\
usage: matrix [--quick] [--only RUNTIME[,RUNTIME]] [--states STATE[,STATE]] [--shapes SHAPE[,SHAPE]] [--threads N]
              [--json FILE] [--merge FILE]... [--write PAGE]

  --quick        one shape for every second row, each time another
  --only         these runtimes; claude and codex only inside tests/runtimes/sandbox.sh
  --threads N    rows at a time (default: 4)
  --json FILE    the result as JSON
  --merge FILE   adds the rows of an earlier result
  --write PAGE   the result as a page of the docs
";

#[derive(Default)]
struct Plan {
    quick: bool,
    only: Vec<String>,
    states: Vec<String>,
    shapes: Vec<String>,
    threads: Option<usize>,
    json: Option<String>,
    merge: Vec<String>,
    write: Option<String>,
}

fn plan() -> Plan {
    let mut plan = Plan::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| usage());
        let list = |text: String| text.split(',').map(String::from).collect();
        match argument.as_str() {
            "--quick" => plan.quick = true,
            "--only" => plan.only = list(value()),
            "--states" => plan.states = list(value()),
            "--shapes" => plan.shapes = list(value()),
            "--threads" => plan.threads = value().parse().ok(),
            "--json" => plan.json = Some(value()),
            "--merge" => plan.merge.push(value()),
            "--write" => plan.write = Some(value()),
            _ => usage(),
        }
    }
    plan
}

fn usage() -> ! {
    eprint!("{HELP}");
    std::process::exit(2);
}

/// One row to be run: which runtime and state, and the shapes of it.
struct Task {
    runtime: Runtime,
    state: State,
    shapes: Vec<usize>,
}

fn tasks(plan: &Plan, shapes: &[Shape]) -> Vec<Task> {
    let wanted = |list: &[String], name: &str| list.is_empty() || list.iter().any(|n| n == name);
    let runnable = |r: &Runtime| wanted(&plan.only, r.name) && (r.kind != Kind::Real || !plan.only.is_empty());
    let mut tasks = Vec::new();
    for (n, runtime) in runtimes::all().into_iter().filter(runnable).enumerate() {
        for (m, state) in STATES.into_iter().enumerate().filter(|(_, s)| wanted(&plan.states, s.name())) {
            let mut chosen: Vec<usize> = (0..shapes.len()).filter(|i| wanted(&plan.shapes, shapes[*i].name)).collect();
            if plan.quick {
                chosen = if (n + m) % 2 == 0 { vec![chosen[(n * 3 + m) % chosen.len()]] } else { Vec::new() };
            }
            if !chosen.is_empty() {
                tasks.push(Task { runtime: runtime.clone(), state, shapes: chosen });
            }
        }
    }
    tasks
}

fn main() {
    let plan = plan();
    let shapes = shapes::all();
    let tasks = tasks(&plan, &shapes);
    let mut report = Report::new(&shapes);
    if !tasks.is_empty() && plan.only.iter().all(|o| o != "none") {
        run(&plan, &shapes, &tasks, &mut report);
    }
    for file in &plan.merge {
        report.merge(&std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{file}: {e}")));
    }
    report.print();
    if let Some(file) = &plan.json {
        std::fs::write(file, report.json()).unwrap();
    }
    if let Some(file) = &plan.write {
        std::fs::write(file, report.page()).unwrap();
    }
    std::process::exit(i32::from(report.failed() > 0));
}

fn run(plan: &Plan, shapes: &[Shape], tasks: &[Task], report: &mut Report) {
    let mut host = Host::new();
    let version = host.run(&["version"]);
    assert_eq!(version.code, 0, "{version:?}");
    let root = host.root();
    for folder in [&root, &root.join("runtimes")] {
        std::fs::DirBuilder::new().mode(0o700).create(folder).unwrap();
    }
    std::fs::write(root.join("config.yaml"), stage::settings().to_string()).unwrap();
    std::fs::write(root.join("env"), stage::host_env()).unwrap();
    std::fs::set_permissions(root.join("env"), std::fs::Permissions::from_mode(0o600)).unwrap();
    tasks.iter().for_each(|t| t.runtime.define(&root));
    host.start();
    clean_up_on_signals(&host);
    let known = Runtimes::load(&root.join("runtimes"));
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<(usize, Row)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..plan.threads.unwrap_or(4) {
            scope.spawn(|| {
                let take = || Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, tasks.get(n)?)));
                while let Some((n, task)) = take() {
                    let definition = known.get(&task.runtime.name.parse().unwrap()).unwrap();
                    let row = run_row(&host, task, &definition, shapes, n);
                    eprintln!("{:>5.0} s  {row}", began.elapsed().as_secs_f64());
                    let mut rows = rows.lock().unwrap();
                    rows.push((n, row));
                    if let Some(file) = &plan.json {
                        // What a run that is broken off has got.
                        std::fs::write(file, page::json(rows.iter().map(|(_, row)| row), &BTreeMap::new())).unwrap();
                    }
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|(n, _)| *n);
    report.rows = rows.into_iter().map(|(_, row)| row).collect();
    report.note_programs(tasks.iter().map(|t| &t.runtime));
    let pwned = std::process::Command::new("find").arg(host.dir.path()).args(["-name", "pwned"]).output().unwrap();
    assert!(pwned.stdout.is_empty(), "something was executed: {}", String::from_utf8_lossy(&pwned.stdout));
    eprintln!("{:.0} s in all", began.elapsed().as_secs_f64());
}

/// A run that is broken off leaves nothing behind.
fn clean_up_on_signals(host: &Host) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).unwrap();
    let mut stop = host.command(&["daemon", "stop", "--all-peers"]);
    let dir = host.dir.path().to_path_buf();
    std::thread::spawn(move || {
        if let Some(number) = signals.forever().next() {
            let _ = stop.output();
            // Whatever the daemon could not end goes by its own socket.
            [dir.clone(), dir.join("root/run")].iter().for_each(|d| attached::end_all(d));
            let _ = std::fs::remove_dir_all(&dir);
            std::process::exit(128 + number);
        }
    });
}

fn run_row(host: &Host, task: &Task, definition: &Definition, shapes: &[Shape], n: usize) -> Row {
    let mut row = Row::new(task.runtime.name, task.state.name());
    if let Some(why) = task.state.absent(&task.runtime) {
        row.cells = task.shapes.iter().map(|i| (shapes[*i].name.into(), Outcome::Absent(why.into()))).collect();
        return row;
    }
    let mut stage: Option<Stage> = None;
    let mut delivered: Vec<(String, &String, usize)> = Vec::new();
    for (m, i) in task.shapes.iter().enumerate() {
        let shape = &shapes[*i];
        let began = Instant::now();
        let outcome = (|| {
            if stage.is_none() {
                stage = Some(Stage::new(host, &task.runtime, definition, task.state, &format!("m{n}-{m}"))?);
            }
            let stage = stage.as_mut().ok_or("no stage")?;
            let (ids, outcome) = cell(stage, shape)?;
            delivered.extend(ids.into_iter().zip(&shape.bodies).map(|(id, body)| (id, body, m)));
            Ok(outcome)
        })();
        let outcome = outcome.unwrap_or_else(|why: String| {
            eprintln!("--- {} · {} · {}: {why}", task.runtime.name, task.state.name(), shape.name);
            if let Some(broken) = stage.take() {
                eprintln!("{}", broken.evidence());
                // The next cell gets a peer that nothing has happened to.
                broken.end();
                delivered.clear();
            }
            Outcome::Failed(why.lines().next().unwrap_or_default().into())
        });
        if began.elapsed() > SLOW {
            eprintln!("    {} · {} · {}: {:.1} s", task.runtime.name, task.state.name(), shape.name, began.elapsed().as_secs_f64());
        }
        row.cells.push((shape.name.into(), outcome));
        if task.state.ends() && stage.is_some() {
            // A row of deaths makes each pause before the next launch longer: every cell has a peer of its own.
            finish(&mut stage, &mut delivered, definition, &mut row);
        }
    }
    finish(&mut stage, &mut delivered, definition, &mut row);
    row
}

/// The last look at what one peer got, and its end.
fn finish(stage: &mut Option<Stage>, delivered: &mut Vec<(String, &String, usize)>, definition: &Definition, row: &mut Row) {
    if let Some(mut stage) = stage.take() {
        // A copy that came later is a copy, too.
        stage.truth.refresh();
        for (id, body, m) in delivered.drain(..) {
            if let Err(why) = stage.truth.check(definition, &id, body) {
                row.cells[m].1 = Outcome::Failed(format!("in the end: {why}"));
            }
        }
        stage.end();
    }
}

fn cell(stage: &mut Stage, shape: &Shape) -> Result<(Vec<String>, Outcome), String> {
    let definition = stage.definition;
    stage.block()?;
    let ids: Vec<String> = shape.bodies.iter().map(|body| stage.send(body)).collect::<Result<_, _>>()?;
    let reasons = stage.holds();
    let mut held = String::new();
    if !reasons.is_empty() {
        stage.until(&format!("it is held for {reasons:?}"), |s| {
            held = s.api.message(&ids[0]).map_or(String::new(), |(state, reason)| if state == "held" { reason } else { state });
            reasons.contains(&held.as_str())
        })?;
        stage.untouched()?;
    }
    stage.witness(&ids[0])?;
    if stage.waits() {
        stage.truth.refresh();
        if ids.iter().any(|id| stage.truth.has(id)) {
            return Err("delivered in spite of the obstacle".into());
        }
    }
    stage.clear()?;
    let cleared = Instant::now();
    let (mut arrived, mut first, mut eaten) = (0, cleared, false);
    stage.until("the agent has it", |s| {
        s.attend(cleared);
        if s.send_eaten_again(&ids[arrived]) {
            eaten = true;
        }
        s.truth.refresh();
        let more = ids[arrived..].iter().take_while(|id| s.truth.has(id)).count();
        if arrived == 0 {
            first = Instant::now();
        }
        arrived += more;
        arrived == ids.len()
    })?;
    let done = if stage.has_evidence() { "submitted" } else { "entered" };
    for id in &ids {
        stage.until(&format!("iapeer says {done}"), |s| s.api.message(id).is_ok_and(|(state, _)| state == done || state == "answered"))?;
    }
    for (id, body) in ids.iter().zip(&shape.bodies) {
        stage.truth.check(definition, id, body)?;
    }
    if !eaten {
        stage.in_order(&ids)?;
    }
    if let Some(fault) = stage.truth.faults.first() {
        return Err(format!("the agent logged: {fault}"));
    }
    let outcome = stage.outcome(held, &ids[0])?;
    if stage.waits() && matches!(outcome, Outcome::Held(_)) && first - cleared > LATE {
        return Err(format!("held, but delivered only {:.1} s after the obstacle was gone", (first - cleared).as_secs_f64()));
    }
    Ok((ids, outcome))
}
