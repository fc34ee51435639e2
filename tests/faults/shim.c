// Faults of the system calls of one process at a time, by LD_PRELOAD: what the rules of the shared table FAULT_TABLE say (tests/faults/shim.py writes it).
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { SYNC_ERROR = 1, SYNC_DELAY_MS, NO_SPACE, CLOCK_OFFSET_MS, PROXY_PORT };
struct rule { int32_t pid; int32_t kind; int64_t value; };  // pid -1: every process
enum { RULES = 64 };
static volatile struct rule *table;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("FAULT_TABLE");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *found = mmap(NULL, RULES * sizeof(struct rule), PROT_READ, MAP_SHARED, fd, 0);
  if (found != MAP_FAILED) table = found;
  close(fd);
}

// The value of this process's rule of a kind; 0: none.
static int64_t rule(int kind) {
  for (int i = 0; table && i < RULES; i++)
    if (table[i].kind == kind && (table[i].pid == -1 || table[i].pid == getpid())) return table[i].value;
  return 0;
}

#define REAL(name) \
  static __typeof__(name) *real; \
  if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static void slow(void) {
  int64_t ms = rule(SYNC_DELAY_MS);
  if (ms) usleep((useconds_t)ms * 1000);
}

int fsync(int fd) {
  REAL(fsync);
  slow();
  if (rule(SYNC_ERROR)) { errno = EIO; return -1; }
  return real(fd);
}

int fdatasync(int fd) {
  REAL(fdatasync);
  slow();
  if (rule(SYNC_ERROR)) { errno = EIO; return -1; }
  return real(fd);
}

// Whether a write fails for want of space: of a file of a shard's data, while the rule is there.
static int full(int fd) {
  char link[64], path[4096];
  if (!rule(NO_SPACE)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  if (path[0] != '/' || !strstr(path, "/shard-")) return 0;
  errno = ENOSPC;
  return 1;
}

ssize_t write(int fd, const void *data, size_t n) { REAL(write); return full(fd) ? -1 : real(fd, data, n); }
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { REAL(pwrite); return full(fd) ? -1 : real(fd, data, n, at); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) { REAL(pwrite64); return full(fd) ? -1 : real(fd, data, n, at); }
ssize_t writev(int fd, const struct iovec *parts, int n) { REAL(writev); return full(fd) ? -1 : real(fd, parts, n); }
ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t at) { REAL(pwritev); return full(fd) ? -1 : real(fd, parts, n, at); }
ssize_t pwritev64(int fd, const struct iovec *parts, int n, off64_t at) { REAL(pwritev64); return full(fd) ? -1 : real(fd, parts, n, at); }
int fallocate(int fd, int mode, off_t at, off_t n) { REAL(fallocate); return full(fd) ? -1 : real(fd, mode, at, n); }
int fallocate64(int fd, int mode, off64_t at, off64_t n) { REAL(fallocate64); return full(fd) ? -1 : real(fd, mode, at, n); }
int posix_fallocate(int fd, off_t at, off_t n) { REAL(posix_fallocate); return full(fd) ? ENOSPC : real(fd, at, n); }
int posix_fallocate64(int fd, off64_t at, off64_t n) { REAL(posix_fallocate64); return full(fd) ? ENOSPC : real(fd, at, n); }

int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(clock_gettime);
  int result = real(clock, now);
  int64_t ms = clock == CLOCK_REALTIME ? rule(CLOCK_OFFSET_MS) : 0;
  if (ms) {
    int64_t ns = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + ms * 1000000;
    now->tv_sec = ns / 1000000000, now->tv_nsec = ns % 1000000000;
  }
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  now->tv_sec = time.tv_sec, now->tv_usec = time.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *where) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (where) *where = now.tv_sec;
  return now.tv_sec;
}

// To the proxy, who is told who calls and whom, and answers with an errno once it has got through.
struct __attribute__((packed)) hello { uint32_t magic; int32_t pid; uint32_t host; uint16_t port; };

int connect(int fd, const struct sockaddr *address, socklen_t n) {
  REAL(connect);
  int64_t port = rule(PROXY_PORT);
  int kind = 0;
  socklen_t size = sizeof kind;
  if (!port || getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) || kind != SOCK_STREAM) return real(fd, address, n);
  struct hello hello = {.magic = 0x50470001, .pid = getpid()};
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
  if (address->sa_family == AF_INET) {
    memcpy(&v4, address, sizeof v4);
    hello.host = v4.sin_addr.s_addr, hello.port = v4.sin_port;
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK), v4.sin_port = htons((uint16_t)port);
  } else if (address->sa_family == AF_INET6) {
    memcpy(&v6, address, sizeof v6);
    if (!IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) return real(fd, address, n);
    memcpy(&hello.host, v6.sin6_addr.s6_addr + 12, 4), hello.port = v6.sin6_port;
    uint32_t here = htonl(INADDR_LOOPBACK);
    memcpy(v6.sin6_addr.s6_addr + 12, &here, 4), v6.sin6_port = htons((uint16_t)port);
  } else {
    return real(fd, address, n);
  }
  if (hello.port == 0 || hello.port == htons((uint16_t)port)) return real(fd, address, n);
  int flags = fcntl(fd, F_GETFL);
  struct timeval patience = {.tv_sec = 2}, none = {0};
  fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  int result = real(fd, address->sa_family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6, n);
  if (result == 0) {
    uint8_t code = EHOSTUNREACH;
    if (send(fd, &hello, sizeof hello, MSG_NOSIGNAL) != sizeof hello || recv(fd, &code, 1, 0) != 1) code = EHOSTUNREACH;
    if (code) errno = code, result = -1;
  }
  int failed = errno;
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
  fcntl(fd, F_SETFL, flags);
  errno = failed;
  return result;
}
