//! The two heaps of a server: jemalloc for Rust's memory, the C library's malloc for RocksDB's.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// From this size on, in bytes, the C library takes memory from the kernel and gives it back when it is freed. RocksDB's write
/// buffers come in blocks of 1 MiB; left alone, glibc raises its limit beyond that when the first is freed, and keeps them
/// from then on: 27 B for each of a million locks (docs/design/0011-allocators.md).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const GIVES_BACK_FROM: libc::c_int = 512 << 10;

/// Call before the first store is opened. Does nothing where the C library is not glibc.
pub(crate) fn give_back_freed_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "nix has no mallopt")]
        // SAFETY: `mallopt` is thread-safe and takes any value; it reads no memory of ours. What it refuses it leaves as it was.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, GIVES_BACK_FROM) };
    }
}
