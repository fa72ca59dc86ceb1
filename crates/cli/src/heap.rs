//! The two heaps of a server: jemalloc for Rust's memory, the C library's malloc for RocksDB's.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// From this size on, in bytes, the C library takes a block from the kernel and gives it back when
/// the block is freed. RocksDB's write buffers come in blocks of 1 MiB. Without this setting glibc
/// raises its limit beyond 1 MiB when the first block is freed, and keeps the blocks from then on.
/// That costs 27 B for each of a million locks (docs/design/0011-allocators.md).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const GIVES_BACK_FROM: libc::c_int = 512 << 10;

/// Sets the limit for glibc. Call it before the first store is opened. With another C library it
/// does nothing.
pub(crate) fn give_back_freed_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "nix has no mallopt")]
        // SAFETY: `mallopt` is thread-safe and takes any value; it reads no memory of ours. A value
        // that it refuses changes nothing.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, GIVES_BACK_FROM) };
    }
}
