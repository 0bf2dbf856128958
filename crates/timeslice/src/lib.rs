//! How long the kernel's fair scheduler (EEVDF, Linux 6.12 and later) lets a thread
//! run at a time, which is also how soon it may run once it has something to do:
//! who asks for short slices goes before those with longer ones, for the same share
//! of the CPU. Needs no privilege. sched(7), sched_setattr(2), `sched_runtime`.
//!
//! Two system calls without a safe wrapper in the crates that we know; Miri cannot
//! run them, so the tests are what checks this crate.

use std::io;
use std::time::Duration;

/// Asks for a time slice for the calling thread; its policy and nice value stay.
/// The kernel takes what lies within 0.1 and 100 ms, and the nearest otherwise.
/// Older kernels ignore it. Threads that this one starts inherit it.
///
/// # Errors
///
/// What the kernel says, `EPERM` mostly, where a sandbox forbids the call; and
/// `Unsupported` for a thread that the fair scheduler does not run, and elsewhere
/// than on Linux.
#[cfg(target_os = "linux")]
pub fn request(slice: Duration) -> io::Result<()> {
    let mut attributes = attributes()?;
    let policy = attributes.sched_policy.cast_signed();
    if policy != libc::SCHED_OTHER && policy != libc::SCHED_BATCH {
        return Err(io::ErrorKind::Unsupported.into());
    }
    attributes.sched_runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: the kernel reads `size` bytes of a structure that is as large, and
    // keeps no pointer; 0 is the calling thread.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0_u32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// See above.
///
/// # Errors
///
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn request(_slice: Duration) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The calling thread's, without flags.
#[cfg(target_os = "linux")]
fn attributes() -> io::Result<libc::sched_attr> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).expect("some dozens of bytes");
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes at most `size` bytes into a structure that is as
    // large and consists of integers; 0 is the calling thread.
    let done =
        unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0_u32) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.size = size;
    attributes.sched_flags = 0;
    Ok(attributes)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_policy_and_nice_value() {
        std::thread::spawn(|| {
            let before = attributes().unwrap();
            request(Duration::from_micros(300)).unwrap();
            let after = attributes().unwrap();
            assert_eq!(
                (before.sched_policy, before.sched_nice),
                (after.sched_policy, after.sched_nice)
            );
            // Kernels before 6.12 do not keep it and report nothing.
            assert!([0, 300_000].contains(&after.sched_runtime), "{}", after.sched_runtime);
        })
        .join()
        .unwrap();
    }
}
