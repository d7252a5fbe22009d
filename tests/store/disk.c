/* Stands between SQLite and the kernel (LD_PRELOAD): writes down what is written and synced below a folder, and lets
 * syncs fail on request. Compiled by tests/store/disk.py.
 *
 * DISK_FOLDER   files below it are watched (the -shm file is not: it does not outlive a power cut)
 * DISK_LOG      record of what happened, see below; nothing is recorded without it
 * DISK_FAIL     "first:count": of the syncs of watched files (from 1), these fail with EIO; without DISK_LOG too
 * DISK_FAIL_FILE  a file: syncs fail as long as it exists
 *
 * A record: char operation, uint8 length of name, uint64 offset, uint64 length, name, data (for 'w' and 'r' alone).
 * w write, t truncate (offset = new size), s sync, S failed sync, c create, u unlink, r rename (data = new name),
 * d sync of the folder.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 4096
static char *names[FILES]; /* by descriptor; "" is the folder itself */
static char folder[PATH_MAX];
static size_t folder_length;
static const char *fail_file;
static long fail_first, fail_count, syncs;
static int log_file = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void) {
    const char *wanted = getenv("DISK_FOLDER"), *log_name = getenv("DISK_LOG"), *fail = getenv("DISK_FAIL");
    if (!wanted || !realpath(wanted, folder)) return;
    folder_length = strlen(folder);
    fail_file = getenv("DISK_FAIL_FILE");
    if (fail) sscanf(fail, "%ld:%ld", &fail_first, &fail_count);
    if (log_name) log_file = REAL(open64)(log_name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void put(char operation, const char *name, uint64_t offset, uint64_t length, const void *data) {
    uint8_t name_length = (uint8_t)strlen(name);
    char head[18];
    if (log_file < 0) return;
    head[0] = operation;
    head[1] = (char)name_length;
    memcpy(head + 2, &offset, 8);
    memcpy(head + 10, &length, 8);
    struct iovec parts[3] = {{head, 18}, {(void *)name, name_length}, {(void *)data, data ? length : 0}};
    if (writev(log_file, parts, 3) < 0) abort();
}

static const char *watched(int descriptor) {
    return descriptor >= 0 && descriptor < FILES ? names[descriptor] : NULL;
}

/* The part of a path below the folder, NULL if it is not to be watched. */
static const char *below(const char *path) {
    static __thread char full[PATH_MAX];
    char parent[PATH_MAX];
    if (!folder_length || !path) return NULL;
    const char *slash = strrchr(path, '/');
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    if (realpath(path, full) == NULL) {
        if (!realpath(parent, full)) return NULL;
        strncat(full, slash ? slash : path, sizeof full - strlen(full) - 1);
    }
    if (strncmp(full, folder, folder_length)) return NULL;
    if (!full[folder_length]) return full + folder_length;
    if (full[folder_length] != '/') return NULL;
    const char *name = full + folder_length + 1;
    size_t length = strlen(name);
    if (length > 4 && !strcmp(name + length - 4, "-shm")) return NULL;
    return strlen(name) < 255 ? name : NULL;
}

static int opened(const char *path, int flags, int existed, int descriptor) {
    if (descriptor < 0 || descriptor >= FILES) return descriptor;
    pthread_mutex_lock(&mutex);
    const char *name = below(path);
    free(names[descriptor]);
    names[descriptor] = name ? strdup(name) : NULL;
    if (name && *name && !existed) put('c', name, 0, 0, NULL);
    if (name && *name && existed && (flags & O_TRUNC)) put('t', name, 0, 0, NULL);
    pthread_mutex_unlock(&mutex);
    return descriptor;
}

#define OPEN(function, PARAMETERS, CALL)                                      \
    int function PARAMETERS {                                                 \
        mode_t mode = 0;                                                      \
        if (flags & O_CREAT) {                                                \
            va_list arguments;                                                \
            va_start(arguments, flags);                                       \
            mode = va_arg(arguments, mode_t);                                 \
            va_end(arguments);                                                \
        }                                                                     \
        int existed = access(path, F_OK) == 0;                                \
        return opened(path, flags, existed, REAL(function) CALL);             \
    }
OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))

int close(int descriptor) {
    if (watched(descriptor)) {
        pthread_mutex_lock(&mutex);
        free(names[descriptor]);
        names[descriptor] = NULL;
        pthread_mutex_unlock(&mutex);
    }
    return REAL(close)(descriptor);
}

static ssize_t written(int descriptor, const void *data, ssize_t done, uint64_t offset) {
    const char *name = watched(descriptor);
    if (name && *name && done > 0) put('w', name, offset, (uint64_t)done, data);
    return done;
}

#define WRITE(CALL, OFFSET)                                                   \
    if (!watched(descriptor)) return CALL;                                    \
    pthread_mutex_lock(&mutex);                                               \
    ssize_t done = CALL;                                                      \
    int saved = errno;                                                        \
    written(descriptor, data, done, OFFSET);                                  \
    errno = saved;                                                            \
    pthread_mutex_unlock(&mutex);                                             \
    return done;

ssize_t write(int descriptor, const void *data, size_t length) {
    WRITE(REAL(write)(descriptor, data, length), (uint64_t)(lseek(descriptor, 0, SEEK_CUR) - (done > 0 ? done : 0)))
}
ssize_t pwrite(int descriptor, const void *data, size_t length, off_t offset) {
    WRITE(REAL(pwrite)(descriptor, data, length, offset), (uint64_t)offset)
}
ssize_t pwrite64(int descriptor, const void *data, size_t length, off64_t offset) {
    WRITE(REAL(pwrite64)(descriptor, data, length, offset), (uint64_t)offset)
}

static int truncated(int descriptor, int result, uint64_t size) {
    const char *name = watched(descriptor);
    if (name && *name && result == 0) put('t', name, size, 0, NULL);
    return result;
}
int ftruncate(int descriptor, off_t size) { return truncated(descriptor, REAL(ftruncate)(descriptor, size), size); }
int ftruncate64(int descriptor, off64_t size) {
    return truncated(descriptor, REAL(ftruncate64)(descriptor, size), size);
}

static int synced(int descriptor, int (*real)(int)) {
    const char *name = watched(descriptor);
    if (!name) return real(descriptor);
    if (!*name) {
        int result = real(descriptor);
        put('d', "", 0, 0, NULL);
        return result;
    }
    pthread_mutex_lock(&mutex);
    long number = ++syncs;
    int fails = (number >= fail_first && number < fail_first + fail_count) ||
                (fail_file && access(fail_file, F_OK) == 0);
    int result = fails ? -1 : real(descriptor);
    put(result ? 'S' : 's', name, 0, 0, NULL);
    pthread_mutex_unlock(&mutex);
    if (fails) errno = EIO;
    return result;
}
int fsync(int descriptor) { return synced(descriptor, REAL(fsync)); }
int fdatasync(int descriptor) { return synced(descriptor, REAL(fdatasync)); }

int unlink(const char *path) {
    const char *name = below(path);
    char copy[256] = "";
    if (name) snprintf(copy, sizeof copy, "%s", name);
    int result = REAL(unlink)(path);
    if (name && *copy && result == 0) put('u', copy, 0, 0, NULL);
    return result;
}

int rename(const char *from, const char *to) {
    char old_name[256] = "", new_name[256] = "";
    const char *name = below(from);
    if (name) snprintf(old_name, sizeof old_name, "%s", name);
    name = below(to);
    if (name) snprintf(new_name, sizeof new_name, "%s", name);
    int result = REAL(rename)(from, to);
    if (result == 0 && *old_name && *new_name) put('r', old_name, 0, strlen(new_name), new_name);
    return result;
}
