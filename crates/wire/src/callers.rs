//! The callers of a frame to a node: the first operation of a caller names it, and later ones say
//! its number.
//!
//! A gateway sends the operations of many clients in one frame, and most of them have few
//! identities. So a node decodes and checks each identity once per frame.

use crate::internal::v1::{Operation, Quota};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Leaves each caller of a frame on the first of its operations, and puts its number on the others.
///
/// ```
/// use palisade_wire::{internal::v1::Operation, number_callers};
///
/// let of = |principal: &str| Operation { principal: principal.into(), ..Operation::default() };
/// let mut frame = [of("ann"), of("bob"), of("ann"), of("bob"), of("")];
/// number_callers(&mut frame);
/// assert_eq!(frame.each_ref().map(|it| &*it.principal), ["ann", "bob", "", "", ""]);
/// assert_eq!(frame.each_ref().map(|it| it.caller), [0, 0, 1, 2, 0]);
/// ```
pub fn number_callers(operations: &mut [Operation]) {
    if operations.iter().all(|operation| operation.principal.is_empty()) {
        return;
    }
    let mut named = HashMap::new();
    let numbers: Vec<u32> = operations.iter().map(|one| number(one, &mut named)).collect();
    for (operation, number) in operations.iter_mut().zip(numbers) {
        if number != 0 {
            (operation.principal, operation.quota) = (String::new(), None);
            operation.caller = number;
        }
    }
}

/// The number of an operation's caller. 0 if it has none, or if it is the first of its caller.
fn number<'a>(operation: &'a Operation, named: &mut HashMap<(&'a str, Option<Quota>), u32>) -> u32 {
    let Operation { principal, quota, .. } = operation;
    if principal.is_empty() {
        return 0;
    }
    let next = named.len() as u32 + 1;
    match named.entry((principal, *quota)) {
        Entry::Occupied(known) => *known.get(),
        Entry::Vacant(new) => {
            new.insert(next);
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_with_other_quotas_are_others_and_no_caller_has_no_number() {
        let of = |principal: &str, locks: Option<u32>| Operation {
            principal: principal.into(),
            quota: locks.map(|locks| Quota { locks, ..Quota::default() }),
            ..Operation::default()
        };
        let ann = |locks| of("ann", locks);
        let mut frame = [
            of("", None),
            ann(None),
            ann(Some(1)),
            ann(Some(2)),
            of("", None),
            ann(Some(1)),
            ann(None),
        ];
        let before = frame.clone();
        number_callers(&mut frame);
        assert_eq!(frame[..5], before[..5], "each names a caller, or has none");
        let numbered = [2, 1].map(|caller| Operation { caller, ..Operation::default() });
        assert_eq!(frame[5..], numbered);
    }
}
