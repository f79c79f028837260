//! Sorting, once for all: every sort of another type is 4 kB of a component.

use std::cmp::Ordering;

/// The indices `0..len` in the order that `compare` gives them, equal ones as
/// they are.
pub fn sorted_indices(len: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let comes_first = |a: usize, b: usize| compare(a, b).then(a.cmp(&b)) == Ordering::Less;
    // Heapsort: the last index of those not yet in place is the heap's root.
    let mut heap: Vec<usize> = (0..len).collect();
    let sift = |heap: &mut [usize], mut root: usize| {
        while let Some(&left) = heap.get(2 * root + 1) {
            let mut child = 2 * root + 1;
            if heap.get(child + 1).is_some_and(|&right| comes_first(left, right)) {
                child += 1;
            }
            if !comes_first(heap[root], heap[child]) {
                break;
            }
            heap.swap(root, child);
            root = child;
        }
    };
    for root in (0..len / 2).rev() {
        sift(&mut heap, root);
    }
    for end in (1..len).rev() {
        heap.swap(0, end);
        sift(&mut heap[..end], 0);
    }
    heap
}

/// A name that is there twice.
pub(crate) fn repeated<'a>(names: &[&'a str]) -> Option<&'a str> {
    let order = sorted_indices(names.len(), &|a, b| names[a].cmp(names[b]));
    let pair = order.windows(2).find(|pair| names[pair[0]] == names[pair[1]]);
    pair.map(|pair| names[pair[0]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_come_in_order_and_equal_ones_as_they_are() {
        for len in 0..200 {
            let keys: Vec<usize> = (0..len).map(|i| i * 7919 % 31).collect();
            let mut expected: Vec<usize> = (0..len).collect();
            expected.sort_by_key(|&i| keys[i]);
            assert_eq!(sorted_indices(len, &|a, b| keys[a].cmp(&keys[b])), expected);
        }
    }

    #[test]
    fn repeated_name_is_found() {
        assert_eq!(repeated(&["b", "a", "c", "a"]), Some("a"));
        assert_eq!(repeated(&["b", "a", "aa"]), None);
        assert_eq!(repeated(&[]), None);
    }
}
