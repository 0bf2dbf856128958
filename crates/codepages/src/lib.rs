//! A program's code is mapped from its file, 64 KiB around each place that runs for
//! the first time. What only the start needed stays mapped, and is resident memory of
//! the process, for as long as it lives. This lets go of all of it once: what is still
//! in use is mapped again, from the system's cache of the file, when it runs next.
//! madvise(2), `MADV_DONTNEED`.

use std::io;

/// Unmaps the pages of the program's code; returns the size of its mappings in bytes,
/// 0 elsewhere than on Linux. Costs a page fault of about a microsecond for each
/// 64 KiB that run again.
///
/// # Errors
///
/// The system's: `/proc` cannot be read, or the call is forbidden.
pub fn release() -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    return linux::release();
    #[cfg(not(target_os = "linux"))]
    Ok(0)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::io;

    pub(super) fn release() -> io::Result<usize> {
        let program = fs::read_link("/proc/self/exe")?;
        let maps = fs::read_to_string("/proc/self/maps")?;
        let program = program.to_string_lossy();
        let mut released = 0;
        for (start, end) in maps.lines().filter_map(|line| code_of(line, &program)) {
            // SAFETY: a private mapping of a file that was never writable holds what is
            // in the file, and reading it anew changes nothing that a program can see.
            // The mapping is that of this program's code, which nobody unmaps.
            let done = unsafe {
                libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED)
            };
            if done != 0 {
                return Err(io::Error::last_os_error());
            }
            released += end - start;
        }
        Ok(released)
    }

    /// Where a line of `/proc/self/maps` says that code of `program` is: readable,
    /// executable, private, and not writable.
    fn code_of(line: &str, program: &str) -> Option<(usize, usize)> {
        // Address range, permissions, offset, device, inode, path.
        let mut fields = line.splitn(6, ' ');
        let (range, permissions) = (fields.next()?, fields.next()?);
        let path = fields.nth(3)?.trim_start();
        if permissions != "r-xp" || path != program {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        number(start).zip(number(end))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_the_programs_code_is_meant() {
            let line =
                |permissions, path| format!("5590-55a0 {permissions} 00001000 fe:00 42   {path}");
            assert_eq!(code_of(&line("r-xp", "/bin/a b"), "/bin/a b"), Some((0x5590, 0x55a0)));
            assert_eq!(code_of(&line("rwxp", "/bin/a b"), "/bin/a b"), None);
            assert_eq!(code_of(&line("r--p", "/bin/a b"), "/bin/a b"), None);
            assert_eq!(code_of(&line("r-xp", "/bin/c"), "/bin/a b"), None);
            assert_eq!(code_of("7ffd-7ffe r-xp 00000000 00:00 0", "/bin/a b"), None);
        }

        #[test]
        fn the_program_runs_on() {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    std::thread::spawn(|| (0..100).map(|n| n.to_string().len()).sum::<usize>())
                })
                .collect();
            assert!(release().unwrap() > 0);
            assert!(threads.into_iter().all(|thread| thread.join().unwrap() == 190));
        }
    }
}
