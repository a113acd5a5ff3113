/* Counts the calls that change files below a folder, and lets one of them fail or kill the process.
 *
 * Loaded with LD_PRELOAD; see failing_calls.py. Nothing is counted before `failing_calls_arm`. Counted calls:
 * open, openat and creat for writing or creation, write, pwrite, writev, fsync, fdatasync, ftruncate, rename,
 * renameat, renameat2, link, linkat, unlink, unlinkat, mkdir and mkdirat. A call with a descriptor counts if the
 * path behind it (/proc/self/fd) is below the folder. Calls inside of libc (fopen, fwrite) are not seen.
 *
 * A loss of power empties all files below the folder that were written and not synced since. Renames stay.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NEEDS_NO_SPACE, NEEDS_SPACE };
enum { LOSES_POWER = -1, MOST = 4096 };

static char folder[PATH_MAX];
static size_t folder_length;
static long wanted;      /* the number of the call that fails, from 1; 0 = none */
static int error_number; /* 0 = kill the process; LOSES_POWER = empty what is not synced, then kill it */
static int lasting;      /* the later calls fail too; ENOSPC only those that need space */
static int log_fd = -1;  /* gets a line for each call that fails, or for all calls if `wanted` is 0 */
static atomic_int armed;
static atomic_long count;

void failing_calls_arm(const char *path, long n, int error, int lasts, int fd) {
    atomic_store(&armed, 0);
    atomic_store(&count, 0);
    snprintf(folder, sizeof folder, "%s", path);
    folder_length = strlen(folder);
    wanted = n, error_number = error, lasting = lasts, log_fd = fd;
    atomic_store(&armed, 1);
}

long failing_calls_disarm(void) {
    atomic_store(&armed, 0);
    return atomic_load(&count);
}

static int below(const char *path) {
    return strncmp(path, folder, folder_length) == 0 && (path[folder_length] == '/' || path[folder_length] == 0);
}

/* The path behind a descriptor, or of the current folder for AT_FDCWD; "" if there is none. */
static void path_of(int fd, char *out) {
    char link[64];
    if (fd == AT_FDCWD)
        strcpy(link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlink, link, out, PATH_MAX - 1);
    out[length < 0 ? 0 : length] = 0;
}

static void absolute(int at, const char *path, char *out) {
    out[0] = 0;
    if (path == NULL)
        return;
    if (path[0] != '/') {
        path_of(at, out);
        strncat(out, "/", PATH_MAX - strlen(out) - 1);
    }
    strncat(out, path, PATH_MAX - strlen(out) - 1);
}

static void tell(const char *name, const char *path) {
    char line[PATH_MAX + 32];
    int length = snprintf(line, sizeof line, "%s %s\n", name, path);
    if (log_fd >= 0)
        syscall(SYS_write, log_fd, line, (size_t)length);
}

/* Files that were written and not synced since: a second descriptor of each, which keeps its inode from reuse. */
static int unsynced[MOST];
static ino_t inodes[MOST];
static int unsynced_count;
static pthread_mutex_t unsynced_lock = PTHREAD_MUTEX_INITIALIZER;

static void note(int fd, int synced) {
    char full[PATH_MAX];
    struct stat found;
    int i, before = errno;
    if (!atomic_load(&armed) || error_number != LOSES_POWER)
        return;
    path_of(fd, full);
    if (below(full) && fstat(fd, &found) == 0) {
        pthread_mutex_lock(&unsynced_lock);
        for (i = 0; i < unsynced_count && inodes[i] != found.st_ino; i++)
            ;
        if (synced && i < unsynced_count) {
            close(unsynced[i]);
            unsynced_count--;
            unsynced[i] = unsynced[unsynced_count], inodes[i] = inodes[unsynced_count];
        } else if (!synced && i == unsynced_count && i < MOST) {
            unsynced[i] = fcntl(fd, F_DUPFD_CLOEXEC, 500), inodes[i] = found.st_ino;
            unsynced_count++;
        }
        pthread_mutex_unlock(&unsynced_lock);
    }
    errno = before;
}

/* Whether this call has to fail. `half` is called before a kill, to leave a torn write. */
static int fails(const char *name, const char *path, int space, int fd, const void *half, size_t bytes) {
    if (!below(path))
        return 0;
    long n = atomic_fetch_add(&count, 1) + 1;
    if (wanted == 0) {
        tell(name, path);
        return 0;
    }
    if (n < wanted || (n > wanted && (!lasting || (error_number == ENOSPC && space == NEEDS_NO_SPACE))))
        return 0;
    tell(name, path);
    if (error_number == 0 || error_number == LOSES_POWER) {
        for (int i = 0; i < unsynced_count; i++)
            syscall(SYS_ftruncate, unsynced[i], 0L);
        if (half != NULL && bytes > 1)
            syscall(SYS_write, fd, half, bytes / 2);
        syscall(SYS_kill, getpid(), SIGKILL);
        for (;;)
            pause();
    }
    errno = error_number;
    return 1;
}

static int fails_at(const char *name, int at, const char *path, int space) {
    if (!atomic_load(&armed))
        return 0;
    int before = errno;
    char full[PATH_MAX];
    absolute(at, path, full);
    errno = before;
    return fails(name, full, space, -1, NULL, 0);
}

static int fails_fd(const char *name, int fd, int space, const void *half, size_t bytes) {
    if (!atomic_load(&armed))
        return 0;
    int before = errno;
    char full[PATH_MAX];
    path_of(fd, full);
    errno = before;
    return fails(name, full, space, fd, half, bytes);
}

/* The result of a call that wrote to a descriptor, or synced it. */
static ssize_t noted(int fd, ssize_t result, int synced) {
    if (result >= 0)
        note(fd, synced);
    return result;
}

static int fails_pair(const char *name, int a, const char *from, int b, const char *to, int space) {
    if (!atomic_load(&armed))
        return 0;
    int before = errno;
    char full[PATH_MAX];
    absolute(b, to, full);
    if (!below(full))
        absolute(a, from, full);
    errno = before;
    return fails(name, full, space, -1, NULL, 0);
}

/* Whether a file becomes longer if it has to hold `size` bytes. What is overwritten in place needs no space. */
static int grows(int fd, size_t size) {
    struct stat found;
    return fstat(fd, &found) != 0 || size > (size_t)found.st_size ? NEEDS_SPACE : NEEDS_NO_SPACE;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CHANGES (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)
#define MODE                                                                                                  \
    mode_t mode = 0;                                                                                           \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                                     \
        va_list words;                                                                                         \
        va_start(words, flags);                                                                                \
        mode = va_arg(words, mode_t);                                                                          \
        va_end(words);                                                                                         \
    }
#define OPEN(name)                                                                                             \
    int name(const char *path, int flags, ...) {                                                               \
        MODE return (flags & CHANGES) && fails_at("open", AT_FDCWD, path, (flags & O_CREAT) != 0)                         \
            ? -1                                                                                               \
            : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);                                           \
    }
#define OPENAT(name)                                                                                           \
    int name(int at, const char *path, int flags, ...) {                                                       \
        MODE return (flags & CHANGES) && fails_at("open", at, path, (flags & O_CREAT) != 0)                               \
            ? -1                                                                                               \
            : (int)syscall(SYS_openat, at, path, flags, mode);                                                 \
    }
#define CREAT(name)                                                                                            \
    int name(const char *path, mode_t mode) {                                                                  \
        return fails_at("creat", AT_FDCWD, path, NEEDS_SPACE)                                                  \
            ? -1                                                                                               \
            : (int)syscall(SYS_openat, AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);                    \
    }
#define PWRITE(name)                                                                                           \
    ssize_t name(int fd, const void *bytes, size_t size, off64_t at) {                                         \
        return fails_fd("pwrite", fd, grows(fd, at + size), NULL, 0) ? -1 : noted(fd, REAL(name)(fd, bytes, size, at), 0);   \
    }
#define FTRUNCATE(name)                                                                                        \
    int name(int fd, off64_t size) {                                                                           \
        return fails_fd("ftruncate", fd, NEEDS_SPACE, NULL, 0) ? -1 : (int)noted(fd, REAL(name)(fd, size), 0);                    \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
CREAT(creat)
CREAT(creat64)
PWRITE(pwrite)
PWRITE(pwrite64)
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

ssize_t write(int fd, const void *bytes, size_t size) {
    return fails_fd("write", fd, NEEDS_SPACE, bytes, size) ? -1 : noted(fd, REAL(write)(fd, bytes, size), 0);
}

ssize_t writev(int fd, const struct iovec *parts, int number) {
    const void *first = number > 0 ? parts[0].iov_base : NULL;
    size_t size = number > 0 ? parts[0].iov_len : 0;
    return fails_fd("writev", fd, NEEDS_SPACE, first, size) ? -1 : noted(fd, REAL(writev)(fd, parts, number), 0);
}

int fsync(int fd) {
    return fails_fd("fsync", fd, NEEDS_NO_SPACE, NULL, 0) ? -1 : (int)noted(fd, REAL(fsync)(fd), 1);
}

int fdatasync(int fd) {
    return fails_fd("fdatasync", fd, NEEDS_NO_SPACE, NULL, 0) ? -1 : (int)noted(fd, REAL(fdatasync)(fd), 1);
}

int rename(const char *from, const char *to) {
    return fails_pair("rename", AT_FDCWD, from, AT_FDCWD, to, NEEDS_NO_SPACE) ? -1 : REAL(rename)(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    return fails_pair("rename", a, from, b, to, NEEDS_NO_SPACE) ? -1 : REAL(renameat)(a, from, b, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    return fails_pair("rename", a, from, b, to, NEEDS_NO_SPACE) ? -1 : REAL(renameat2)(a, from, b, to, flags);
}

int link(const char *from, const char *to) {
    return fails_pair("link", AT_FDCWD, from, AT_FDCWD, to, NEEDS_SPACE) ? -1 : REAL(link)(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
    return fails_pair("link", a, from, b, to, NEEDS_SPACE) ? -1 : REAL(linkat)(a, from, b, to, flags);
}

int unlink(const char *path) {
    return fails_at("unlink", AT_FDCWD, path, NEEDS_NO_SPACE) ? -1 : REAL(unlink)(path);
}

int unlinkat(int at, const char *path, int flags) {
    return fails_at("unlink", at, path, NEEDS_NO_SPACE) ? -1 : REAL(unlinkat)(at, path, flags);
}

int mkdir(const char *path, mode_t mode) {
    return fails_at("mkdir", AT_FDCWD, path, NEEDS_SPACE) ? -1 : REAL(mkdir)(path, mode);
}

int mkdirat(int at, const char *path, mode_t mode) {
    return fails_at("mkdir", at, path, NEEDS_SPACE) ? -1 : REAL(mkdirat)(at, path, mode);
}
