//! Ids and chance that repeat with their seed.

use gastown::town::id::Ids;
use std::cell::Cell;

/// Steele, Lea and Flood's `SplitMix64`: ten lines, every seed good, the same on every platform. Not for secrets.
#[derive(Debug)]
pub struct SplitMix64 {
    state: Cell<u64>,
}

impl SplitMix64 {
    /// A generator whose whole future is `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: Cell::new(seed) }
    }
    /// The next 64 bits.
    pub fn next_u64(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `n`; the bias is below n / 2^64.
    ///
    /// # Panics
    /// If `n` is 0: there is no such number.
    pub fn below(&self, n: u64) -> u64 {
        assert!(n > 0, "a number below 0 does not exist");
        u64::try_from((u128::from(self.next_u64()) * u128::from(n)) >> 64).expect("a product of 64 bits, shifted by 64")
    }
    /// True `n` times in a thousand.
    pub fn per_mille(&self, n: u64) -> bool {
        self.below(1_000) < n
    }
    /// One of `items`.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&self, items: &'a [T]) -> &'a T {
        &items[usize::try_from(self.below(items.len() as u64)).expect("an index fits")]
    }
}

/// UUIDs v4 drawn from a seed.
#[derive(Debug)]
pub struct SeededIds {
    bits: SplitMix64,
}

impl SeededIds {
    /// Ids whose whole sequence is `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { bits: SplitMix64::new(seed) }
    }
}

impl Ids for SeededIds {
    fn uuid(&self) -> String {
        let (a, b) = (self.bits.next_u64(), self.bits.next_u64());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xfff,
            0x8000 | (b >> 48) & 0x3fff,
            b & 0xffff_ffff_ffff
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gastown::town::id::is_uuid_v4;
    use std::collections::HashSet;

    #[test]
    fn a_seed_gives_the_same_valid_distinct_ids_every_time() {
        let (one, two) = (SeededIds::new(7), SeededIds::new(7));
        let ids: Vec<String> = (0..10_000).map(|_| one.uuid()).collect();
        assert!(ids.iter().all(|id| is_uuid_v4(id)), "{}", ids[0]);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        assert!(ids.iter().all(|id| *id == two.uuid()));
        assert_ne!(SeededIds::new(8).uuid(), ids[0]);
    }

    #[test]
    fn chance_stays_below_its_bound_and_reaches_all_of_it() {
        let chance = SplitMix64::new(1);
        let drawn: HashSet<u64> = (0..1_000).map(|_| chance.below(10)).collect();
        assert_eq!(drawn, (0..10).collect());
    }
}
