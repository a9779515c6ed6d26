//! CPU time and resident memory of a process, from proc(5).

use std::{fs, time::Duration};
use testkit::process::children;

/// Unit of CPU time: the kernel counts hundredths of a second (USER_HZ of time(7)).
const TICK: Duration = Duration::from_millis(10);

/// Returns the user and system time of a process, with all threads.
pub fn cpu(pid: u32) -> Option<Duration> {
    ticks(pid, 2)
}

/// Returns the user and system time of a process and its children, including those that have ended.
pub fn cpu_of_family(pid: u32) -> Option<Duration> {
    // A child that ends between the two readings would count twice; the measured ones do not end.
    let of_children = children(pid).into_iter().filter_map(cpu).sum::<Duration>();
    Some(ticks(pid, 4)? + of_children)
}

/// Returns the sum of the first `fields` times: user, system, and the same of children that were waited for.
fn ticks(pid: u32, fields: usize) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(") ")?.1;
    let counts = after_name.split(' ').skip(11).take(fields);
    Some(TICK * counts.map(|field| field.parse::<u32>().unwrap_or(0)).sum())
}

/// Returns the resident memory, in MB.
pub fn resident_mb(pid: u32) -> Option<f64> {
    status_mb(pid, "VmRSS:")
}

/// Returns the peak of resident memory, in MB.
pub fn peak_mb(pid: u32) -> Option<f64> {
    status_mb(pid, "VmHWM:")
}

fn status_mb(pid: u32, field: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"))?;
    kib.trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
}
