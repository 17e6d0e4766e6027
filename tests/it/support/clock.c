/* Loaded into a server by LD_PRELOAD: its wall clock jumps by the seconds in the file that CLOCK_JUMP_FILE
 * names, at any time while it runs. The monotonic clock is left alone, as when a machine's time is set.
 * (libfaketime cannot do it: it calls malloc before jemalloc is ready, and the server never starts.) */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const long long *jump;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("CLOCK_JUMP_FILE");
  int file = path ? open(path, O_RDONLY) : -1;
  if (file >= 0) {
    void *seen = mmap(0, sizeof *jump, PROT_READ, MAP_SHARED, file, 0);
    if (seen != MAP_FAILED) jump = seen;
    close(file);
  }
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, clock, now);
  if (!failed && jump && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *jump;
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec t;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &t)) return -1;
  now->tv_sec = t.tv_sec;
  now->tv_usec = t.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *where) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (where) *where = t.tv_sec;
  return t.tv_sec;
}
