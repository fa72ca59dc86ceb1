/* A disk that hangs, for one process: preloaded (LD_PRELOAD), it holds writes and syncs of files while a file exists.
 *
 *   PALISADE_HANG_WHILE   a path: calls are held for as long as something is there. Unset: nothing is ever held.
 *   PALISADE_HANG_THREAD  the name of the only thread that is held, as in /proc/PID/task/TID/comm (15 bytes), for example
 *                         log-writer. Unset: all threads are.
 *
 * Held are fsync, fdatasync, sync_file_range, fallocate, write, pwrite, writev and pwritev, of regular files other than the
 * standard streams. The caller sees what it would see of a disk that does not answer: a call that does not return. When the
 * file is gone, held calls go on and do what they were asked for. SIGKILL ends a held process at once, unlike one that is
 * in the kernel's state D.
 *
 *   cc -shared -fPIC -O2 -o hang.so hang.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* As they were at the start: the process may change its environment while another thread looks. */
static const char *hang_while, *hang_thread;

__attribute__((constructor)) static void start(void) {
    hang_while = getenv("PALISADE_HANG_WHILE");
    hang_thread = getenv("PALISADE_HANG_THREAD");
}

static int is_held(int fd) {
    struct stat file;
    char name[16] = "";
    if (!hang_while || fd <= 2 || access(hang_while, F_OK) != 0) return 0;
    if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode)) return 0;
    if (!hang_thread) return 1;
    prctl(PR_GET_NAME, name);
    return strncmp(name, hang_thread, sizeof name) == 0;
}

static void hold(int fd) {
    const struct timespec pause = {0, 5 * 1000 * 1000};
    while (is_held(fd)) nanosleep(&pause, NULL);
}

#define HELD(type, name, parameters, arguments)                                          \
    type name parameters {                                                               \
        static type(*next) parameters;                                                   \
        if (!next) next = (type(*) parameters)dlsym(RTLD_NEXT, #name);                   \
        hold(fd);                                                                        \
        return next arguments;                                                           \
    }

HELD(int, fsync, (int fd), (fd))
HELD(int, fdatasync, (int fd), (fd))
HELD(int, sync_file_range, (int fd, off64_t at, off64_t bytes, unsigned int flags), (fd, at, bytes, flags))
HELD(int, fallocate, (int fd, int mode, off_t at, off_t bytes), (fd, mode, at, bytes))
HELD(int, fallocate64, (int fd, int mode, off64_t at, off64_t bytes), (fd, mode, at, bytes))
HELD(ssize_t, write, (int fd, const void *from, size_t bytes), (fd, from, bytes))
HELD(ssize_t, pwrite, (int fd, const void *from, size_t bytes, off_t at), (fd, from, bytes, at))
HELD(ssize_t, pwrite64, (int fd, const void *from, size_t bytes, off64_t at), (fd, from, bytes, at))
HELD(ssize_t, writev, (int fd, const struct iovec *from, int count), (fd, from, count))
HELD(ssize_t, pwritev, (int fd, const struct iovec *from, int count, off_t at), (fd, from, count, at))
HELD(ssize_t, pwritev64, (int fd, const struct iovec *from, int count, off64_t at), (fd, from, count, at))
