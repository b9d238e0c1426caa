//! The benches of one subject: timed by criterion, remembered for the ratios between them.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::Criterion;
use rustix::time::{ClockId, clock_gettime};

/// Samples of a bench; criterion's own 100 take too long for what needs the disk.
const SAMPLES: usize = 20;
/// How long a bench warms up and is measured.
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURE: Duration = Duration::from_secs(2);

/// Inputs made beforehand, so that reading the clocks does not count: it takes a microsecond.
const INPUTS_MAX: u64 = 16;

/// The benches of one subject, for example of the engine. Made first, [finished](Self::finish) last.
pub struct Subject {
    criterion: Criterion,
    name: &'static str,
    /// In the order of measuring, which is the order of the table.
    results: Vec<(String, Measured)>,
    ratios: Vec<Ratio>,
    /// Nothing is measured, each bench runs once.
    is_test: bool,
}

/// What a bench took, batch by batch.
#[derive(Default)]
struct Measured {
    batches: Vec<Batch>,
}

struct Batch {
    operations: u64,
    taken: Taken,
}

/// Time that something took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// By the clock on the wall.
    pub wall: Duration,
    /// Of all threads of the process together.
    pub cpu: Duration,
}

struct Ratio {
    text: String,
    of: String,
    to: String,
}

impl Subject {
    /// The subject, set up by the command line.
    pub fn new(name: &'static str) -> Self {
        let criterion = Criterion::default().sample_size(SAMPLES).warm_up_time(WARM_UP).measurement_time(MEASURE);
        let is_test =
            std::env::args().any(|argument| argument == "--test") || !std::env::args().any(|a| a == "--bench");
        Self { criterion: criterion.configure_from_args(), name, results: Vec::new(), ratios: Vec::new(), is_test }
    }

    /// Whether nothing is measured: each bench runs once, and what it needs may be small.
    pub const fn is_test(&self) -> bool {
        self.is_test
    }

    /// Times one call.
    pub fn time<T>(&mut self, what: &str, mut routine: impl FnMut() -> T) {
        self.time_batches(what, 1, |times| {
            Taken::by(|| {
                for _ in 0..times {
                    black_box(routine());
                }
            })
        });
    }

    /// Times one call that uses up what `setup` makes. What happens in `setup` does not count.
    pub fn time_with<S, T>(&mut self, what: &str, mut setup: impl FnMut() -> S, mut routine: impl FnMut(S) -> T) {
        self.time_batches(what, 1, |times| {
            let mut taken = Taken::default();
            let mut left = times;
            while left > 0 {
                let inputs: Vec<S> = (0..left.min(INPUTS_MAX)).map(|_| setup()).collect();
                left -= inputs.len() as u64;
                let mut outputs = Vec::with_capacity(inputs.len());
                taken += Taken::by(|| outputs.extend(inputs.into_iter().map(|input| black_box(routine(input)))));
            }
            taken
        });
    }

    /// Times a batch of as many rounds as it is told, each of which is `operations` of what the table counts by.
    pub fn time_batches(&mut self, what: &str, operations: u64, mut batch: impl FnMut(u64) -> Taken) {
        let mut result = Measured::default();
        let mut group = self.criterion.benchmark_group(self.name);
        group.throughput(criterion::Throughput::Elements(operations));
        group.bench_function(what, |bencher| {
            bencher.iter_custom(|rounds| {
                let taken = batch(rounds);
                result.batches.push(Batch { operations: rounds * operations, taken });
                taken.wall
            });
        });
        group.finish();
        if !result.batches.is_empty() {
            self.results.push((what.to_owned(), result));
        }
    }

    /// Adds a line of the table for a part of what was timed.
    pub fn note(&mut self, what: &str, operations: u64, taken: Taken) {
        let batch = Batch { operations, taken };
        match self.results.iter_mut().find(|(name, _)| name == what) {
            Some((_, result)) => result.batches.push(batch),
            None => self.results.push((what.to_owned(), Measured { batches: vec![batch] })),
        }
    }

    /// The table will tell how many times longer `of` takes than `to`.
    pub fn ratio(&mut self, text: &str, of: &str, to: &str) {
        self.ratios.push(Ratio { text: text.to_owned(), of: of.to_owned(), to: to.to_owned() });
    }

    /// Prints the table.
    pub fn finish(self) {
        self.criterion.final_summary();
        if self.is_test || self.results.is_empty() {
            return;
        }
        println!("\n{:<48} {:>12} {:>12}", self.name, "wall", "CPU");
        for (name, result) in &self.results {
            let (wall, cpu) = (show(result.typical(|taken| taken.wall)), show(result.typical(|taken| taken.cpu)));
            println!("  {name:<46} {wall:>12} {cpu:>12}");
        }
        let result = |name: &str| Some(&self.results.iter().find(|(known, _)| known == name)?.1);
        for Ratio { text, of, to } in &self.ratios {
            // Absent where the command line asked for other benches only.
            let (Some(of), Some(to)) = (result(of), result(to)) else { continue };
            let ratio = |time: fn(&Taken) -> Duration| format!("× {:.2}", of.typical(time) / to.typical(time));
            println!("  {text:<46} {:>12} {:>12}", ratio(|taken| taken.wall), ratio(|taken| taken.cpu));
        }
    }
}

impl Measured {
    /// Nanoseconds an operation, in the middle of all operations: neither the first, cold ones count much, nor those
    /// during which somebody else had the machine.
    fn typical(&self, time: fn(&Taken) -> Duration) -> f64 {
        let each = |batch: &Batch| (time(&batch.taken).as_nanos() as f64 / batch.operations as f64, batch.operations);
        let mut batches: Vec<(f64, u64)> = self.batches.iter().map(each).collect();
        batches.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let half = batches.iter().map(|(_, operations)| operations).sum::<u64>() / 2;
        let mut seen = 0;
        let middle = batches.iter().find(|(_, operations)| {
            seen += operations;
            seen > half
        });
        middle.map_or(f64::NAN, |(nanoseconds, _)| *nanoseconds)
    }
}

impl Taken {
    /// The time that this takes.
    pub fn by(work: impl FnOnce()) -> Self {
        let (cpu, wall) = (cpu_now(), Instant::now());
        work();
        let wall = wall.elapsed();
        Self { wall, cpu: cpu_now().saturating_sub(cpu) }
    }
}

impl std::ops::AddAssign for Taken {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

/// CPU time of the process so far.
fn cpu_now() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("CPU time never runs backwards below zero")
}

fn show(nanoseconds: f64) -> String {
    match nanoseconds {
        ..1_000.0 => format!("{nanoseconds:.0} ns"),
        ..1_000_000.0 => format!("{:.2} µs", nanoseconds / 1e3),
        _ => format!("{:.2} ms", nanoseconds / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typical_is_the_middle_operation() {
        let batch = |operations, milliseconds| {
            let wall = Duration::from_millis(milliseconds);
            Batch { operations, taken: Taken { wall, cpu: Duration::ZERO } }
        };
        // One cold operation of 50 ms, a hundred of 1 ms, ten of 9 ms.
        let result = Measured { batches: vec![batch(1, 50), batch(100, 100), batch(10, 90)] };
        assert_eq!(result.typical(|taken| taken.wall), 1e6);
    }
}
