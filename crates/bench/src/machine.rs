//! The description of the machine, and the CPU time and memory of processes. Reports and measurements read them.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Figures can only be compared together with these facts.
pub fn describe() -> Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal").and_then(|kb| kb.parse::<u64>().ok());
    json!({
        "oddsd": env!("CARGO_PKG_VERSION"),
        "optimised": !cfg!(debug_assertions),
        "cpu": field("/proc/cpuinfo", "model name"),
        "cores": cores,
        "memory_mb": memory.map(|kb| kb / 1000),
        "kernel": read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
        // Other load on the same cores changes times more than ratios.
        "load_before": read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse::<f64>().ok()),
    })
}

/// CPU time of this thread so far; `None` if the system does not report it.
pub fn thread_cpu() -> Option<Duration> {
    on_cpu("/proc/thread-self/schedstat".as_ref())
}

/// CPU time so far of the threads that this process has now. It lacks the current slice of running threads (sleep a
/// moment before the call) and the time of ended threads, so that a later sum may be smaller.
pub fn process_cpu() -> Option<Duration> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let times = tasks.filter_map(|task| on_cpu(&task.ok()?.path().join("schedstat")));
    times.reduce(|sum, time| sum + time)
}

/// The largest resident memory of this process so far, in bytes.
pub fn peak_memory() -> Option<u64> {
    let kilobytes: u64 = field("/proc/self/status", "VmHWM")?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Resident memory of a process now, and the largest it ever was, in bytes.
pub fn memory_of(process: u32) -> Option<(u64, u64)> {
    let status = format!("/proc/{process}/status");
    let bytes = |name| Some(field(&status, name)?.parse::<u64>().ok()? * 1024);
    Some((bytes("VmRSS")?, bytes("VmHWM")?))
}

/// Nanoseconds on a CPU are the first number of `schedstat`.
fn on_cpu(path: &Path) -> Option<Duration> {
    let text = std::fs::read_to_string(path).ok()?;
    let nanos = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// The value of `name: value unit`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = read(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let value = line.split_once(':')?.1.trim();
    Some(value.trim_end_matches(" kB").to_owned())
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_reports_cores_memory_and_cpu_time() {
        let machine = describe();
        assert!(machine["cores"].as_u64().is_some_and(|cores| cores > 0));
        assert!(peak_memory().is_none_or(|bytes| bytes > 1_000_000));
        let (before, mut sum) = (thread_cpu(), 0u64);
        for n in 0..20_000_000u64 {
            sum = std::hint::black_box(sum ^ n);
        }
        std::thread::yield_now();
        assert!(thread_cpu() >= before, "{sum}");
        assert_eq!(process_cpu().is_some(), before.is_some());
    }
}
