//! A small map: a vector in the order of its keys.
//!
//! A town's tables of rigs, scopes and agents have a few entries to a few hundred. For them a vector is as fast as the
//! standard library's B-tree, whose code, made anew for each pair of types, was a twelfth of the Wasm.

/// A map from `K` to `V`, in the order of `K`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sorted<K, V>(Vec<(K, V)>);

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Sorted<K, V> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }
    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }
    /// True if there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// All entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(k, v)| (k, v))
    }
    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(k, _)| k)
    }
    /// All values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, v)| v)
    }
    /// The same, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, v)| v)
    }
    /// Keeps what `keep` says.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.0.retain(|(k, v)| keep(k, v));
    }
}

impl<K: Ord, V> Sorted<K, V> {
    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(k, _)| k.cmp(key))
    }
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(self.find(key).ok()?).map(|(_, v)| v)
    }
    /// The same, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.find(key).ok()?;
        self.0.get_mut(at).map(|(_, v)| v)
    }
    /// True if there is such a key.
    #[must_use]
    pub fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }
    /// Adds an entry, or replaces the value of its key.
    pub fn insert(&mut self, key: K, value: V) {
        match self.find(&key) {
            Ok(at) => {
                if let Some((_, old)) = self.0.get_mut(at) {
                    *old = value;
                }
            }
            Err(at) => self.0.insert(at, (key, value)),
        }
    }
    /// Removes an entry.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.find(key).ok().map(|at| self.0.remove(at).1)
    }
}

impl<K: Ord> Sorted<K, ()> {
    /// Adds `key`; true if it is new. (A map to nothing is a set.)
    pub fn add(&mut self, key: K) -> bool {
        let at = self.find(&key);
        if let Err(at) = at {
            self.0.insert(at, (key, ()));
        }
        at.is_err()
    }
}

impl<K: Ord> Sorted<K, u32> {
    /// Counts one more of `key`.
    pub fn count(&mut self, key: K) {
        match self.get_mut(&key) {
            Some(n) => *n = n.saturating_add(1),
            None => self.insert(key, 1),
        }
    }
}

impl<K, V> IntoIterator for Sorted<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, K, V> IntoIterator for &'a Sorted<K, V> {
    type Item = &'a (K, V);
    type IntoIter = std::slice::Iter<'a, (K, V)>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Sorted<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_order_of_its_keys_and_the_last_value_of_each() {
        let mut map: Sorted<&str, u32> = [("b", 1), ("a", 2), ("c", 3), ("a", 4)].into_iter().collect();
        map.count("c");
        map.count("d");
        assert_eq!(map.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>(), [("a", 4), ("b", 1), ("c", 4), ("d", 1)]);
        assert_eq!((map.get(&"b"), map.get(&"x"), map.contains_key(&"c")), (Some(&1), None, true));
        assert_eq!((map.remove(&"b"), map.remove(&"b")), (Some(1), None));
        map.retain(|k, _| *k != "d");
        assert_eq!(map.keys().copied().collect::<Vec<_>>(), ["a", "c"]);
        let mut set = Sorted::new();
        assert_eq!((set.add(2), set.add(1), set.add(2), set.len(), set.is_empty()), (true, true, false, 2, false));
    }
}
