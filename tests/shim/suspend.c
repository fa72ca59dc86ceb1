/* A suspend that one process sees and the machine does not make: preloaded (LD_PRELOAD), it sets CLOCK_BOOTTIME ahead.
 *
 *   PALISADE_SUSPENDED   a path: the file holds the seconds for which the machine is said to have slept.
 *
 * Every other clock stays as it is. That is what a process finds after a suspend: the monotonic clock stood still, and
 * the clock that counts sleep did not.
 *
 *   cc -shared -fPIC -O2 -o suspend.so suspend.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long slept_s(void) {
    const char *path = getenv("PALISADE_SUSPENDED");
    char text[32] = "";
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    ssize_t bytes = read(fd, text, sizeof text - 1);
    close(fd);
    return bytes > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int outcome = next(clock, now);
    if (outcome == 0 && clock == CLOCK_BOOTTIME) now->tv_sec += slept_s();
    return outcome;
}
