//! What processes and the disk were used for, as the kernel counts it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

/// Of one process, since its start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub cpu: Duration,
    pub resident_bytes: u64,
    /// The most that was resident at any time.
    pub peak_bytes: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = |field| {
            let kilobytes = status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"));
            let kilobytes: Option<u64> = kilobytes.and_then(|number| number.trim().parse().ok());
            Ok::<_, anyhow::Error>(kilobytes.context("its resident memory")? * 1024)
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let times = fields.get(11..13).context("its CPU times")?;
        let ticks: u64 = times.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
        let cpu = Duration::from_millis(ticks * 10);
        Ok(Self { cpu, resident_bytes: resident("VmRSS:")?, peak_bytes: resident("VmHWM:")? })
    }
}

/// How often the disk below a folder was told to make all durable; `None` where that is not a disk of its own.
pub(crate) fn flushes(dir: &Path) -> Option<u64> {
    let device = std::fs::metadata(dir).ok()?.dev();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    let disks = std::fs::read_to_string("/proc/diskstats").ok()?;
    disks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.first()?.parse() == Ok(major) && fields.get(1)?.parse() == Ok(minor);
        is_it.then(|| fields.get(18)?.parse().ok()).flatten()
    })
}
