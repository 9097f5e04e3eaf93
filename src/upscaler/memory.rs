// SPDX-License-Identifier: MPL-2.0

//! How much memory the host could still give.

use sysinfo::{CGroupLimits, MemoryRefreshKind, RefreshKind, System};

use crate::error::{Error, Result};

/// Bytes that this process could still get, where the system tells: what the machine has left, or what is left of the limit of
/// a container, if that is less.
pub fn available_memory() -> Option<u64> {
    let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kind);
    // A total of 0 means that the system does not tell.
    (system.total_memory() > 0).then(|| least(system.available_memory(), system.cgroup_limits().as_ref()))
}

/// What is left of the machine and of a control group. Cached files count as free in both: they go when memory is needed.
fn least(machine: u64, group: Option<&CGroupLimits>) -> u64 {
    group.map_or(machine, |group| machine.min(group.total_memory.saturating_sub(group.rss)))
}

/// Refuses what the host has no memory for, before it is asked for.
///
/// # Errors
/// [`Error::NoSpace`].
pub(super) fn check_memory(needed: u64) -> Result<()> {
    match available_memory() {
        Some(available) if needed > available => Err(Error::NoSpace { needed, available }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_container_counts_if_it_is_the_smaller_one() {
        let group = |total_memory, rss| CGroupLimits { total_memory, rss, free_memory: 0, free_swap: 0 };
        assert_eq!(least(1000, None), 1000);
        assert_eq!(least(1000, Some(&group(600, 200))), 400);
        assert_eq!(least(1000, Some(&group(6000, 200))), 1000);
        assert_eq!(least(1000, Some(&group(600, 700))), 0);
    }

    #[test]
    fn this_machine_has_memory_but_not_all_there_is() {
        let available = available_memory().expect("a system that tells");
        assert!(available > 1 << 20, "{available}");
        assert!(check_memory(0).is_ok());
        let refused = check_memory(u64::MAX);
        assert!(matches!(refused, Err(Error::NoSpace { needed: u64::MAX, .. })), "{refused:?}");
    }
}
