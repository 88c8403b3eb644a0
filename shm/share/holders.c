/* holders.c - which node has what an engine keeps. */
#include "shm/share/holders.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/hash.h"

#define MAGIC   UINT64_C(0x31524c4844565244) /* "DRVDHLR1" in memory, little-endian */
#define VERSION 1u
#define ROWS    (HOLDERS_ENTRIES / HOLDERS_ROW)

/* Plain fields are written before the file gets its name. */
struct file_header {
    uint64_t magic;
    uint32_t version;
    uint32_t entries;
    uint64_t seed; /* of the hashes of ids: what they are cannot be prepared elsewhere */
    _Atomic uint64_t clock; /* counts the entries that were written */
    uint8_t reserved[32];   /* zero */
};

struct holders_entry {
    _Atomic uint64_t check; /* the id's hash, crossed with the other three */
    _Atomic uint64_t node;
    _Atomic uint64_t owner;
    _Atomic uint64_t age; /* the clock's value; 0 = empty */
};

struct file {
    struct file_header header;
    struct holders_entry of[ROWS][HOLDERS_ROW];
};

_Static_assert(sizeof(struct file_header) == 64, "the header is one cache line");
_Static_assert(sizeof(struct holders_entry) == 32, "two entries a cache line");

struct holders {
    struct file *file;
};

/* ---- entries --------------------------------------------------------------------------- */

struct copy {
    uint64_t key, node, owner, age;
};

static uint64_t cross(const struct copy *c)
{
    return hash_spread(hash_mix(hash_mix(hash_mix(HASH_BASIS, c->node), c->owner), c->age));
}

static struct copy read_entry(const struct holders_entry *entry)
{
    struct copy c = {.node = atomic_load_explicit(&entry->node, memory_order_relaxed),
                     .owner = atomic_load_explicit(&entry->owner, memory_order_relaxed),
                     .age = atomic_load_explicit(&entry->age, memory_order_relaxed)};

    c.key = atomic_load_explicit(&entry->check, memory_order_relaxed) ^ cross(&c);
    return c;
}

static uint64_t key_of(const struct holders *holders, const char *id)
{
    return hash_spread(hash_mix(holders->file->header.seed, hash_text(id)));
}

void holders_note(struct holders *holders, const char *id, uint64_t node, uint64_t owner)
{
    uint64_t key = key_of(holders, id), least = UINT64_MAX;
    struct holders_entry *row = holders->file->of[key % ROWS], *to = row;
    struct copy new = {.key = key, .node = node, .owner = owner};

    for (unsigned i = 0; i < HOLDERS_ROW; i++) {
        struct copy c = read_entry(&row[i]);

        if (c.age != 0 && c.key == key) {
            to = &row[i];
            break;
        }
        if (c.age < least) {
            least = c.age;
            to = &row[i];
        }
    }
    new.age =
        atomic_fetch_add_explicit(&holders->file->header.clock, 1, memory_order_relaxed) + 1;
    atomic_store_explicit(&to->check, key ^ cross(&new), memory_order_relaxed);
    atomic_store_explicit(&to->node, node, memory_order_relaxed);
    atomic_store_explicit(&to->owner, owner, memory_order_relaxed);
    atomic_store_explicit(&to->age, new.age, memory_order_relaxed);
}

bool holders_find(const struct holders *holders, const char *id, uint64_t *node,
                  uint64_t *owner)
{
    uint64_t key = key_of(holders, id);
    const struct holders_entry *row = holders->file->of[key % ROWS];

    for (unsigned i = 0; i < HOLDERS_ROW; i++) {
        struct copy c = read_entry(&row[i]);

        if (c.age == 0 || c.key != key)
            continue;
        *node = c.node;
        *owner = c.owner;
        return true;
    }
    return false;
}

/* ---- the file -------------------------------------------------------------------------- */

static int map(struct file **out, int fd, struct error *err)
{
    int flags = fd == -1 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
    void *at = mmap(NULL, sizeof(struct file), PROT_READ | PROT_WRITE, flags, fd, 0);

    if (at == MAP_FAILED)
        return error_sys(err, "mmap");
    *out = at;
    return 0;
}

static int begin(struct file *file, struct error *err)
{
    file->header.version = VERSION;
    file->header.entries = HOLDERS_ENTRIES;
    if (getrandom(&file->header.seed, sizeof(file->header.seed), 0) !=
        (ssize_t)sizeof(file->header.seed))
        return error_sys(err, "getrandom");
    file->header.magic = MAGIC;
    return 0;
}

/* It appears under its name when it is whole. */
static int make_file(struct file **out, const char *path, struct error *err)
{
    char draft[PATH_MAX];
    int fd, rc;

    (void)snprintf(draft, sizeof(draft), "%s.new", path);
    (void)unlink(draft);
    fd = open(draft, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd == -1)
        return error_wrap(err, error_sys(err, "open"), "%s", draft);
    /* Its blocks are there before it is used: a full disk must not end a worker later. */
    errno = posix_fallocate(fd, 0, sizeof(struct file));
    rc = errno != 0 ? error_sys(err, "posix_fallocate") : map(out, fd, err);
    if (rc == 0)
        rc = begin(*out, err);
    if (rc == 0 && rename(draft, path) == -1)
        rc = error_sys(err, "rename");
    (void)close(fd);
    if (rc != 0)
        (void)unlink(draft);
    return rc == 0 ? 0 : error_wrap(err, rc, "%s", path);
}

/* Sets *out to the file that is there, or to NULL if that is none of this layout. */
static int open_file(struct file **out, const char *path, struct error *err)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW), rc = 0;
    struct stat st;

    *out = NULL;
    if (fd == -1)
        return errno == ENOENT ? 0 : error_wrap(err, error_sys(err, "open"), "%s", path);
    if (fstat(fd, &st) == -1)
        rc = error_sys(err, "fstat");
    else if (!S_ISREG(st.st_mode) || st.st_uid != geteuid())
        rc = error_set(err, DRV_EPERM, "not a file of ours");
    else if (st.st_size == (off_t)sizeof(struct file))
        rc = map(out, fd, err);
    (void)close(fd);
    if (*out != NULL && ((*out)->header.magic != MAGIC || (*out)->header.version != VERSION ||
                         (*out)->header.entries != HOLDERS_ENTRIES)) {
        (void)munmap(*out, sizeof(struct file));
        *out = NULL;
    }
    return rc == 0 ? 0 : error_wrap(err, rc, "%s", path);
}

int holders_open(struct holders **out, const char *dir, struct error *err)
{
    struct holders *holders = calloc(1, sizeof(*holders));
    char path[PATH_MAX - 8];
    int rc;

    *out = NULL;
    if (holders == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    if (dir == NULL) {
        rc = map(&holders->file, -1, err);
        if (rc == 0)
            rc = begin(holders->file, err);
    } else {
        (void)snprintf(path, sizeof(path), "%s/" HOLDERS_FILE_NAME, dir);
        rc = open_file(&holders->file, path, err);
        if (rc == 0 && holders->file == NULL)
            rc = make_file(&holders->file, path, err);
    }
    if (rc != 0) {
        holders_close(holders);
        return rc;
    }
    *out = holders;
    return 0;
}

void holders_close(struct holders *holders)
{
    if (holders == NULL)
        return;
    if (holders->file != NULL)
        (void)munmap(holders->file, sizeof(struct file));
    free(holders);
}
