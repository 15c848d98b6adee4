// Preloaded into the program: the call with number L2P_FAIL_CALL of those that change files below L2P_FAIL_BELOW fails
// once with the error L2P_FAIL_ERROR; a write that fails has written the first half of its bytes. Every call is
// a line of the file L2P_FAIL_LOG: its name and its path.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int calls;

// Whether this call is the one that fails.
static int fails(const char* name, const char* path) {
    const char *below = getenv("L2P_FAIL_BELOW"), *log = getenv("L2P_FAIL_LOG");
    if (!below || strncmp(path, below, strlen(below)) != 0) return 0;
    const int call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (log) {
        char line[4096];
        const int n = snprintf(line, sizeof line, "%s %s\n", name, path);
        const int to = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0644);
        if (syscall(SYS_write, to, line, n) != n) abort();
        syscall(SYS_close, to);
    }
    const char* const wanted = getenv("L2P_FAIL_CALL");
    if (!wanted || atoi(wanted) != call) return 0;
    errno = atoi(getenv("L2P_FAIL_ERROR"));
    return 1;
}

static int fails_at(const char* name, int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    const ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return fails(name, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void* bytes, size_t n) {
    if (!fails_at("write", file)) return REAL(write)(file, bytes, n);
    const int error = errno;
    if (n > 1 && REAL(write)(file, bytes, n / 2) < 0) abort();
    return errno = error, -1;
}
ssize_t writev(int file, const struct iovec* pieces, int n) {
    return fails_at("writev", file) ? -1 : REAL(writev)(file, pieces, n);
}
int fsync(int file) { return fails_at("fsync", file) ? -1 : REAL(fsync)(file); }
int fdatasync(int file) { return fails_at("fdatasync", file) ? -1 : REAL(fdatasync)(file); }
int ftruncate64(int file, off64_t n) { return fails_at("ftruncate", file) ? -1 : REAL(ftruncate64)(file, n); }
int rename(const char* from, const char* to) { return fails("rename", to) ? -1 : REAL(rename)(from, to); }
int unlink(const char* path) { return fails("unlink", path) ? -1 : REAL(unlink)(path); }
int mkdir(const char* path, mode_t mode) { return fails("mkdir", path) ? -1 : REAL(mkdir)(path, mode); }
int open64(const char* path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    if (flags & O_CREAT && fails("create", path)) return -1;
    return REAL(open64)(path, flags, mode);
}
