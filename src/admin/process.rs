//! What the kernel says about this process.

/// Memory in bytes; zeros where `/proc` is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Anonymous resident memory: heap and stacks.
    pub(super) heap: u64,
    /// All resident memory.
    pub(super) resident: u64,
}

/// Memory of this process now.
pub(super) fn memory() -> Memory {
    std::fs::read_to_string("/proc/self/status").map(|s| parse_status(&s)).unwrap_or_default()
}

fn parse_status(status: &str) -> Memory {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
    };
    let resident = field("VmRSS:").unwrap_or(0);
    Memory { heap: field("RssAnon:").unwrap_or(resident), resident }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_file_is_read() {
        let status = "Name:\tradiant\nVmRSS:\t    2048 kB\nRssAnon:\t    1024 kB\n";
        assert_eq!(parse_status(status), Memory { heap: 1 << 20, resident: 2 << 20 });
        assert_eq!(parse_status("VmRSS:\tx"), Memory::default());
    }
}
