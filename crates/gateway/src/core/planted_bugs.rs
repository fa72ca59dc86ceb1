//! The site of the bug that is planted in the core. A build without planted bugs has nothing here.

use planted::Bug;
use wire::internal::v1::operation::Op;

/// Called with each operation that is sent again. With [`Bug::RetriedUnderNewId`] an acquire gets
/// another request id, so that its former try and this one can both be granted.
pub(super) fn sent_again(op: &mut Option<Op>) {
    if planted::is(Bug::RetriedUnderNewId)
        && let Some(Op::Acquire(acquire)) = op
        && let Some(last) = acquire.request_id.last_mut()
    {
        *last = last.wrapping_add(1);
    }
}
