/* Delays every fsync and fdatasync of a process by DELAY_MS, after the real one. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int delayed(long number, int fd) {
  int result = (int)syscall(number, fd);
  int error = errno;
  struct timespec delay = {DELAY_MS / 1000, DELAY_MS % 1000 * 1000000L};
  while (nanosleep(&delay, &delay) == -1 && errno == EINTR) {
  }
  errno = error;
  return result;
}

int fsync(int fd) { return delayed(SYS_fsync, fd); }
int fdatasync(int fd) { return delayed(SYS_fdatasync, fd); }
