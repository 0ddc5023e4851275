//! How long to wait: pure functions of the settings, of who waits, and of how often.
//!
//! Guarantees: a wait is never shorter than its entry of the list; jitter is a hash, so a replay computes the same times
//! while beads and towns do not march in step.

use crate::town::config::{BreakerPolicy, DispatchPolicy};
use crate::town::policy::{BACKOFF_MS, PROBE_MS, RETRY_AFTER_MAX, RETRY_AFTER_MIN};
use crate::town::time::Millis;
use sha2::{Digest, Sha256};

/// `base` plus a hashed part of up to `fraction` of it; uniform, never less than `base`.
///
/// `seed` says who waits and what for, `n` for the how-manieth time.
#[must_use]
pub fn jittered(base: Millis, fraction: f64, seed: &[&str], n: u64) -> Millis {
    let mut hash = Sha256::new();
    for part in seed {
        // With its length, or ("a", "bc") would be ("ab", "c").
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(n.to_le_bytes());
    let bits = hash.finalize().iter().take(4).fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
    let share = f64::from(bits) / 4_294_967_296.0; // of 2^32: at least 0, less than 1
    let base = base.max(0);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "milliseconds of at most days")]
    let extra = (base as f64 * fraction.clamp(0.0, 1.0) * share) as Millis;
    base.saturating_add(extra)
}

/// Entry `i` of a list of waits, its last one for all further ones. Settings are never empty; `default` is for the types.
fn entry(list: &[Millis], i: u32, default: &[Millis]) -> Millis {
    let list = if list.is_empty() { default } else { list };
    let i = usize::try_from(i).unwrap_or(usize::MAX);
    list.get(i).or(list.last()).copied().unwrap_or_default()
}

/// The wait after the `streak`-th failure in a row (≥ 1) of a bead or, for a mayor, of the agent: `key`.
#[must_use]
pub fn bead_backoff(policy: &DispatchPolicy, town_id: &str, key: &str, streak: u32) -> Millis {
    let base = entry(&policy.backoff_ms, streak.saturating_sub(1), &BACKOFF_MS);
    jittered(base, policy.jitter, &["bead", town_id, key], u64::from(streak))
}

/// The wait after the `rounds`-th review (≥ 1) of a bead that did not merge.
#[must_use]
pub fn review_backoff(policy: &DispatchPolicy, town_id: &str, bead_id: &str, rounds: u32) -> Millis {
    let base = entry(&policy.backoff_ms, rounds.saturating_sub(1), &BACKOFF_MS);
    jittered(base, policy.jitter, &["review", town_id, bead_id], u64::from(rounds))
}

/// How long the whole town holds after the `streak`-th throttle in a row (≥ 1): as long as it was asked to, within
/// bounds; unasked, by the same list as beads, without jitter, since one town is nobody's crowd.
#[must_use]
pub fn throttle_hold(policy: &DispatchPolicy, streak: u32, retry_after: Option<Millis>) -> Millis {
    match retry_after {
        Some(asked) => asked.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX),
        None => entry(&policy.backoff_ms, streak.saturating_sub(1), &BACKOFF_MS),
    }
}

/// The wait before probe `step` (0 = the first) of an episode of a scope's breaker.
#[must_use]
pub fn probe_delay(policy: &BreakerPolicy, town_id: &str, scope: &str, generation: u32, step: u32) -> Millis {
    let base = entry(&policy.probe_ms, step, &PROBE_MS);
    let n = u64::from(generation) << 32 | u64::from(step);
    jittered(base, policy.probe_jitter, &["probe", town_id, scope], n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::town::time::MINUTE;
    use proptest::prelude::*;

    #[test]
    fn a_bead_waits_2_5_10_30_30_minutes_plus_at_most_a_tenth() {
        let policy = DispatchPolicy::default();
        for (streak, minutes) in [(0, 2), (1, 2), (2, 5), (3, 10), (4, 30), (5, 30), (u32::MAX, 30)] {
            let wait = bead_backoff(&policy, "t", "b", streak);
            let base = minutes * MINUTE;
            assert!((base..=base + base / 10).contains(&wait), "{streak}: {wait}");
        }
    }

    #[test]
    fn replays_are_exact_and_others_wait_otherwise() {
        let policy = DispatchPolicy::default();
        let wait = bead_backoff(&policy, "t", "b", 1);
        assert_eq!(wait, bead_backoff(&policy, "t", "b", 1));
        assert_ne!(wait, bead_backoff(&policy, "t2", "b", 1));
        assert_ne!(wait, bead_backoff(&policy, "t", "b2", 1));
        assert_ne!(wait, review_backoff(&policy, "t", "b", 1));
        assert_ne!(bead_backoff(&policy, "t", "b", 4), bead_backoff(&policy, "t", "b", 5));
        assert_ne!(jittered(HOUR_ISH, 1.0, &["a", "bc"], 0), jittered(HOUR_ISH, 1.0, &["ab", "c"], 0));
    }
    const HOUR_ISH: Millis = 3_599_999;

    #[test]
    fn jitter_is_spread_evenly() {
        let mut buckets = [0u32; 10];
        for n in 0..10_000 {
            let extra = jittered(1_000_000, 0.1, &["town", "bead"], n) - 1_000_000;
            buckets[usize::try_from(extra / 10_000).unwrap()] += 1;
        }
        assert!(buckets.iter().all(|n| (850..1_150).contains(n)), "{buckets:?}");
    }

    #[test]
    fn a_town_of_beads_does_not_return_in_one_burst() {
        let policy = DispatchPolicy::default();
        let waits: std::collections::BTreeSet<Millis> =
            (0..100).map(|n| bead_backoff(&policy, "t", &format!("bead-{n}"), 1) / 1_000).collect();
        assert!(waits.len() >= 10, "{} different seconds", waits.len());
    }

    #[test]
    fn the_first_review_that_fails_costs_two_minutes() {
        let wait = review_backoff(&DispatchPolicy::default(), "t", "b", 1);
        assert!((2 * MINUTE..=132_000).contains(&wait));
    }

    #[test]
    fn a_town_holds_as_long_as_it_was_asked_to_within_bounds() {
        let policy = DispatchPolicy::default();
        for (asked, hold) in [(i64::MIN, 5_000), (0, 5_000), (60_000, 60_000), (86_400_000, 1_800_000)] {
            assert_eq!(throttle_hold(&policy, 3, Some(asked)), hold);
        }
        let unasked: Vec<Millis> = (1..=6).map(|n| throttle_hold(&policy, n, None) / MINUTE).collect();
        assert_eq!(unasked, [2, 5, 10, 30, 30, 30]);
    }

    #[test]
    fn probes_come_after_2_5_10_20_30_30_minutes_and_never_later_than_36() {
        let policy = BreakerPolicy::default();
        for (step, minutes) in [(0, 2), (1, 5), (2, 10), (3, 20), (4, 30), (5, 30), (1_000, 30)] {
            let base = minutes * MINUTE;
            let wait = probe_delay(&policy, "t", "town", 1, step);
            assert!((base..=base + base / 5).contains(&wait), "{step}: {wait}");
            assert_ne!(wait, probe_delay(&policy, "t", "town", 2, step));
        }
    }

    proptest! {
        #[test]
        fn a_wait_is_never_shorter_than_its_base_nor_longer_than_the_fraction_allows(
            base in 0i64..=86_400_000,
            fraction in 0.0f64..=1.0,
            town in ".*",
            n in any::<u64>(),
        ) {
            let wait = jittered(base, fraction, &[&town], n);
            prop_assert!(wait >= base);
            #[allow(clippy::cast_precision_loss)]
            let most = base as f64 * (1.0 + fraction) + 1.0;
            #[allow(clippy::cast_precision_loss)]
            let wait = wait as f64;
            prop_assert!(wait <= most);
        }

        #[test]
        fn odd_input_is_survived(base in any::<i64>(), fraction in any::<f64>(), streak in any::<u32>()) {
            prop_assert!(jittered(base, fraction, &[], 0) >= base.max(0));
            let policy = DispatchPolicy { backoff_ms: Vec::new(), ..DispatchPolicy::default() };
            prop_assert!(bead_backoff(&policy, "", "", streak) > 0);
        }
    }
}
