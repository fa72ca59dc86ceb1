//! A counting allocator on top of the system's: it measures the peak of bytes that a thread has
//! allocated during its work.
//!
//! Each thread has its own counts, so other threads do not disturb them. The counts are right for
//! work that allocates and frees on one thread, as the targets do.

#![allow(unsafe_code)] // An allocator cannot be written without. It only counts and passes on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    // The initialisers do not allocate and there are no destructors, because the allocator itself
    // uses these values.
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let live_bytes = LIVE_BYTES.get() + bytes;
    LIVE_BYTES.set(live_bytes);
    PEAK_BYTES.set(PEAK_BYTES.get().max(live_bytes));
}

// SAFETY: every call is passed on to the system's allocator unchanged, and counting touches no
// memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size as isize - layout.size() as isize);
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// Runs `work`. Returns its result and the peak of additionally allocated bytes.
pub(crate) fn peak_bytes_during<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before_bytes = LIVE_BYTES.get();
    PEAK_BYTES.set(before_bytes);
    let result = work();
    (result, (PEAK_BYTES.get() - before_bytes).max(0) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_seen_though_it_is_over() {
        let (length, peak_bytes) = peak_bytes_during(|| {
            let first = vec![1u8; 50_000];
            let length = first.len();
            drop(first);
            vec![2u8; 20_000].len() + length
        });
        assert_eq!(length, 70_000);
        assert!((50_000..60_000).contains(&peak_bytes), "{peak_bytes}");
    }
}
