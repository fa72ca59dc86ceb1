//! Finds commands that a guard could not end, because they become another user.
//!
//! The kill(2) of an ordinary user does not reach a process that has become root, as `sudo` does.
//! Such a command would work on after the lock has passed to another holder, so it is refused
//! before the lock is taken. A program that the command itself starts later cannot be seen here:
//! `no_new_privs` keeps that program from becoming another user.

use nix::sys::prctl;
use nix::unistd::{Group, User, getegid, geteuid, getuid};
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Whether a process of this user can get out of reach by starting a setuid program. Root reaches
/// all processes.
pub fn is_limited() -> bool {
    !geteuid().is_root()
}

/// The reason why this command would be out of reach; `None` if its file shows no such reason.
pub fn out_of_reach(command: &OsStr) -> Option<String> {
    // Where a process cannot gain privileges any more, the kernel ignores the bits.
    if !is_limited() || prctl::get_no_new_privs() == Ok(true) {
        return None;
    }
    let path = find(command)?;
    let file = path.metadata().ok()?;
    let (setuid, setgid) = (file.mode() & 0o4000 != 0, file.mode() & 0o2010 == 0o2010);
    if setuid && file.uid() != getuid().as_raw() {
        let user = User::from_uid(file.uid().into()).ok().flatten();
        let user = user.map_or_else(|| format!("user {}", file.uid()), |user| user.name);
        return Some(format!("{} becomes {user} (it is setuid)", path.display()));
    }
    if setgid && file.gid() != getegid().as_raw() {
        let group = Group::from_gid(file.gid().into()).ok().flatten();
        let group = group.map_or_else(|| file.gid().to_string(), |group| group.name);
        return Some(format!("{} joins group {group} (it is setgid)", path.display()));
    }
    has_capabilities(&path).then(|| format!("{} has capabilities of its own", path.display()))
}

/// The file that execvp(3) would run.
fn find(command: &OsStr) -> Option<PathBuf> {
    if command.as_bytes().contains(&b'/') {
        return Some(command.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut candidates = std::env::split_paths(&path).map(|dir| dir.join(command));
    candidates
        .find(|file| file.metadata().is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0))
}

fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    #[expect(
        unsafe_code,
        reason = "neither nix nor the standard library reads extended attributes"
    )]
    // SAFETY: both names end with a zero, and with a size of 0 the call writes nothing.
    let size = unsafe {
        libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0)
    };
    size > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_as_the_kernel_finds_them() {
        assert_eq!(find(OsStr::new("./x")), Some("./x".into()));
        assert!(find(OsStr::new("sh")).is_some_and(|path| path.is_absolute()));
        assert_eq!(find(OsStr::new("no-such-command-at-all")), None);
        assert!(!has_capabilities(Path::new("/bin/sh")));
    }
}
