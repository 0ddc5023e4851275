//! The plan of a batch, before it has ids: who waits for whom, by place.

/// For each task the places of those it waits for.
pub type Edges = [Vec<usize>];

/// The places along a cycle, its first one again at its end; `None` if everything could be done one after another.
///
/// Takes away what waits for nothing that is left, until nothing or only cycles and what waits for them is left; then
/// each waits for another that is left, so following them must come round.
#[must_use]
pub fn cycle(edges: &Edges) -> Option<Vec<usize>> {
    let mut left: Vec<bool> = vec![true; edges.len()];
    let is_left = |left: &[bool], at: usize| left.get(at).copied().unwrap_or(false);
    loop {
        let free: Vec<usize> = (0..edges.len())
            .filter(|at| is_left(&left, *at))
            .filter(|at| edges.get(*at).is_none_or(|on| !on.iter().any(|on| is_left(&left, *on))))
            .collect();
        if free.is_empty() {
            break;
        }
        for at in free {
            if let Some(l) = left.get_mut(at) {
                *l = false;
            }
        }
    }
    let mut path = vec![left.iter().position(|l| *l)?];
    loop {
        let last = *path.last()?;
        let next = edges.get(last)?.iter().copied().find(|on| is_left(&left, *on))?;
        let begins = path.iter().position(|at| *at == next);
        path.push(next);
        if let Some(begins) = begins {
            return Some(path.split_off(begins));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_can_be_done_has_no_cycle() {
        for edges in
            [vec![], vec![vec![]], vec![vec![], vec![0], vec![0, 1], vec![2, 0]], vec![vec![2], vec![0], vec![]]]
        {
            assert_eq!(cycle(&edges), None, "{edges:?}");
        }
    }

    #[test]
    fn a_cycle_is_told_without_what_only_waits_for_it() {
        assert_eq!(cycle(&[vec![0]]), Some(vec![0, 0]));
        assert_eq!(cycle(&[vec![1], vec![0]]), Some(vec![0, 1, 0]));
        // 0 waits for the cycle 1 → 3 → 2 → 1, and 4 for nobody.
        assert_eq!(cycle(&[vec![4, 1], vec![3], vec![1], vec![4, 2], vec![]]), Some(vec![1, 3, 2, 1]));
    }
}
