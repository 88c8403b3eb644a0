/*
 * scoreboard.c - creating, checking and mapping the segment.
 *
 * A header is believed only when everything in it equals what this program computes from its
 * four counts, and when the file is as long as that demands with one column or more.
 */
#include "shm/scoreboard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "shm/facts/nodes.h"
#include "shm/segment.h"

static uint64_t align_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

static bool counts_in_range(uint32_t nodes, uint32_t workers, uint32_t requests)
{
    return nodes >= 1 && nodes <= SB_MAX_NODES && workers >= 1 && workers <= SB_MAX_WORKERS &&
           requests >= 1 && requests <= SB_MAX_REQUESTS;
}

static bool prefix_sets_in_range(uint32_t sets)
{
    return sets >= 1 && sets <= SB_PREFIX_MAX_ENTRIES / SB_PREFIX_WAYS;
}

/* Everything follows from the four counts, which are in range: nothing overflows. */
static void compute_geometry(struct sb_geometry *g, uint32_t nodes, uint32_t workers,
                             uint32_t requests, uint32_t prefix_sets)
{
    uint64_t at;

    *g = (struct sb_geometry){
        .n_nodes = nodes,
        .n_workers = workers,
        .requests_per_worker = requests,
        .n_prefix_sets = prefix_sets,
        /* As many sessions as windows, or a little more. */
        .n_session_sets =
            (prefix_sets * SB_PREFIX_WAYS + SB_SESSION_WAYS - 1) / SB_SESSION_WAYS,
        .gauge_stride = (uint32_t)align_up(workers, SB_CACHE_LINE / 8),
        .head_stride = (uint32_t)align_up(workers, SB_CACHE_LINE / 8),
        .offer_stride = (uint32_t)align_up((nodes + 63) / 64, SB_CACHE_LINE / 8),
        .waiting_stride = (uint32_t)align_up(workers, SB_CACHE_LINE / 4),
        .models_bytes = SB_NODE_MODELS_BYTES,
        .proc_bytes = sizeof(struct sb_proc),
        .node_bytes = sizeof(struct sb_node),
        .stats_bytes = sizeof(struct sb_stats),
        .request_bytes = sizeof(struct sb_request),
        .ring_bytes = sizeof(struct sb_ring),
    };
    at = align_up(sizeof(struct sb_header), SB_PAGE);
    g->live_offset = at;
    at = align_up(at + sizeof(struct sb_live), SB_PAGE);
    g->procs_offset = at;
    at = align_up(at + (workers + UINT64_C(2)) * sizeof(struct sb_proc), SB_PAGE);
    g->nodes_offset = at;
    at = align_up(at + (uint64_t)nodes * sizeof(struct sb_node), SB_PAGE);
    g->hot_offset = at;
    at = align_up(at + (uint64_t)nodes * sizeof(struct sb_hot), SB_PAGE);
    g->gauges_offset = at;
    at = align_up(at + (uint64_t)nodes * g->gauge_stride * 8, SB_PAGE);
    g->stats_offset = at;
    at = align_up(at + (uint64_t)nodes * sizeof(struct sb_stats), SB_PAGE);
    g->tables_offset = at;
    at = align_up(at + (uint64_t)workers * sizeof(struct sb_table), SB_PAGE);
    g->prefix_offset = at;
    at = align_up(at + (uint64_t)prefix_sets * sizeof(struct sb_prefix_set), SB_PAGE);
    g->sessions_offset = at;
    at = align_up(at + (uint64_t)g->n_session_sets * sizeof(struct sb_session_set), SB_PAGE);
    g->budgets_offset = at;
    at = align_up(at + 2 * SB_BUDGET_MODELS * sizeof(uint64_t), SB_PAGE);
    g->loads_offset = at;
    at = align_up(at + (uint64_t)nodes * sizeof(struct sb_loads), SB_PAGE);
    g->usage_offset = at;
    at = align_up(at + SB_USAGE_ROWS * sizeof(struct sb_usage), SB_PAGE);
    g->outcomes_offset = at;
    at = align_up(at + (uint64_t)nodes * sizeof(struct sb_outcomes), SB_PAGE);
    g->queue_heads_offset = at;
    at = align_up(at + (uint64_t)nodes * g->head_stride * 8, SB_PAGE);
    g->queue_totals_offset = at;
    at = align_up(at + (uint64_t)workers * sizeof(uint32_t), SB_PAGE);
    g->offers_offset = at;
    at = align_up(at + (uint64_t)workers * g->offer_stride * 8, SB_PAGE);
    g->speed_owners_offset = at;
    at = align_up(at + SB_SPEEDS_ROWS * sizeof(uint64_t), SB_PAGE);
    g->speeds_offset = at;
    at = align_up(at + (SB_SPEEDS_ROWS + UINT64_C(1)) * nodes * sizeof(uint64_t), SB_PAGE);
    g->tries_offset = at;
    at = align_up(at + (SB_SPEEDS_ROWS + UINT64_C(1)) * ((uint64_t)nodes + SB_CLOCK_WORDS) *
                           sizeof(uint64_t),
                  SB_PAGE);
    g->model_queues_offset = at;
    at = align_up(at + SB_MODEL_QUEUES * sizeof(struct sb_model_queue), SB_PAGE);
    g->model_waiting_offset = at;
    at = align_up(at + (uint64_t)SB_MODEL_QUEUES * g->waiting_stride * 4, SB_PAGE);
    g->taught_head_offset = at;
    at = align_up(at + sizeof(struct sb_taught_head), SB_PAGE);
    g->taught_offset = at;
    at = align_up(at + (uint64_t)nodes * sizeof(struct sb_taught), SB_PAGE);
    g->plans_offset = at;
    at = align_up(at + (uint64_t)nodes * g->gauge_stride * 8, SB_PAGE);
    g->aliases_offset = at;
    at = align_up(at + sizeof(struct sb_aliases), SB_PAGE);
    g->models_offset = at;
    at = align_up(at + (uint64_t)nodes * SB_NODE_MODELS_BYTES, SB_PAGE);
    g->columns_offset = at;
    g->ring_offset = align_up((uint64_t)requests * sizeof(struct sb_request), SB_CACHE_LINE);
    g->column_bytes = align_up(g->ring_offset + sizeof(struct sb_ring), SB_PAGE);
    g->total_bytes = at + workers * g->column_bytes;
}

static int check_params(const struct scoreboard_params *params, uint32_t windows,
                        struct error *err)
{
    if (!counts_in_range(params->max_nodes, params->max_workers, params->requests_per_worker) ||
        params->workers > params->max_workers)
        return error_set(err, DRV_EINVAL,
                         "%u nodes, %u of %u workers of %u requests: out of range (1..%u, "
                         "1..%u, 1..%u)",
                         params->max_nodes, params->workers, params->max_workers,
                         params->requests_per_worker, SB_MAX_NODES, SB_MAX_WORKERS,
                         SB_MAX_REQUESTS);
    if (windows > SB_PREFIX_MAX_ENTRIES)
        return error_set(err, DRV_EINVAL, "%u windows in the prefix index: more than %u",
                         windows, SB_PREFIX_MAX_ENTRIES);
    return 0;
}

static int geometry_of(struct sb_geometry *g, const struct scoreboard_params *params,
                       struct error *err)
{
    uint32_t windows =
        params->prefix_entries == 0 ? SB_PREFIX_DEFAULT_ENTRIES : params->prefix_entries;
    int rc = check_params(params, windows, err);

    if (rc == 0)
        compute_geometry(g, params->max_nodes, params->max_workers, params->requests_per_worker,
                         (windows + SB_PREFIX_WAYS - 1) / SB_PREFIX_WAYS);
    return rc;
}

/* How many columns a file of `bytes` has.  0: none, or it ends elsewhere than with a column. */
static uint32_t columns_in(const struct sb_geometry *g, uint64_t bytes)
{
    uint64_t n;

    if (bytes <= g->columns_offset || bytes > g->total_bytes)
        return 0;
    n = (bytes - g->columns_offset) / g->column_bytes;
    return g->columns_offset + n * g->column_bytes == bytes ? (uint32_t)n : 0;
}

bool segment_has_column(const struct scoreboard *board, unsigned worker)
{
    struct segment_file *file = board->file;
    struct stat st;
    uint32_t known = atomic_load_explicit(&file->columns, memory_order_relaxed);

    if (worker < known)
        return true;
    if (worker >= board->geometry.n_workers || fstat(file->fd, &st) == -1)
        return false;
    known = columns_in(&board->geometry, (uint64_t)st.st_size);
    if (worker >= known)
        return false;
    atomic_store_explicit(&file->columns, known, memory_order_relaxed);
    return true;
}

/* Is this header, a private copy, one that this program can read in a file of `file_bytes`? */
static int check_header(const struct sb_header *header, uint64_t file_bytes, struct error *err)
{
    const struct sb_geometry *g = &header->geometry;
    struct sb_geometry want;

    if (header->magic != SB_MAGIC)
        return error_set(err, DRV_ECORRUPT, "not a Drover scoreboard");
    if (header->layout_version != SB_LAYOUT_VERSION)
        return error_set(err, DRV_EVERSION, "has layout version %u, this program reads %u",
                         header->layout_version, SB_LAYOUT_VERSION);
    if (header->header_bytes != sizeof(*header) ||
        !counts_in_range(g->n_nodes, g->n_workers, g->requests_per_worker) ||
        !prefix_sets_in_range(g->n_prefix_sets))
        return error_set(err, DRV_ECORRUPT, "its header is damaged");
    compute_geometry(&want, g->n_nodes, g->n_workers, g->requests_per_worker, g->n_prefix_sets);
    if (memcmp(&want, g, sizeof(want)) != 0)
        return error_set(err, DRV_ECORRUPT, "its header contradicts itself");
    if (columns_in(g, file_bytes) == 0)
        return error_set(err, DRV_ECORRUPT,
                         "is %llu bytes long, its header says %llu and %llu for each worker",
                         (unsigned long long)file_bytes, (unsigned long long)g->columns_offset,
                         (unsigned long long)g->column_bytes);
    return 0;
}

/* ---- room in the file ---- */

/* A page of tmpfs that is touched first when the file system is full kills with SIGBUS; taken
 * here it is an error.  Bytes that are there stay; at an error nothing was taken. */
static int take_room(const struct scoreboard *board, uint64_t at, uint64_t bytes,
                     struct error *err)
{
    int rc;

    do {
        rc = posix_fallocate(board->file->fd, (off_t)at, (off_t)bytes);
    } while (rc == EINTR);
    if (rc == 0)
        return 0;
    return error_set(err, DRV_ESYS, "no room for %llu KiB of the scoreboard in runtime_dir: %s",
                     (unsigned long long)((bytes + 1023) / 1024), strerror(rc));
}

int scoreboard_room_for_workers(struct scoreboard *board, uint32_t workers, struct error *err)
{
    const struct sb_geometry *g = &board->geometry;
    uint32_t have = atomic_load_explicit(&board->file->columns, memory_order_relaxed);
    int rc;

    if (workers > g->n_workers)
        return error_set(err, DRV_EINVAL, "%u workers: at most %u", workers, g->n_workers);
    if (workers <= have)
        return 0;
    rc = take_room(board, g->columns_offset + have * g->column_bytes,
                   (workers - have) * g->column_bytes, err);
    if (rc == 0)
        atomic_store_explicit(&board->file->columns, workers, memory_order_relaxed);
    return rc;
}

int scoreboard_room_for_models(struct scoreboard *board, unsigned node, uint32_t models,
                               struct error *err)
{
    const struct sb_geometry *g = &board->geometry;

    if (node >= g->n_nodes || models > NODE_MAX_MODELS)
        return error_set(err, DRV_EINVAL, "node %u, %u models", node, models);
    if (models == 0)
        return 0;
    return take_room(board, g->models_offset + (uint64_t)node * g->models_bytes,
                     models * sizeof(struct node_model), err);
}

uint64_t scoreboard_bytes(const struct scoreboard_params *params)
{
    struct sb_geometry g;
    struct error err;

    if (geometry_of(&g, params, &err) != 0)
        return 0;
    return g.models_offset + params->workers * g.column_bytes;
}

/* Reads the header into private memory, so that a file cut meanwhile is an error, no signal. */
static int read_header(struct sb_header *header, int fd, uint64_t *file_bytes,
                       struct error *err)
{
    struct stat st;
    ssize_t n;

    if (fstat(fd, &st) == -1)
        return error_sys(err, "fstat");
    if (!S_ISREG(st.st_mode))
        return error_set(err, DRV_ECORRUPT, "not a regular file");
    *file_bytes = (uint64_t)st.st_size;
    n = pread(fd, header, sizeof(*header), 0);
    if (n == -1)
        return error_sys(err, "read");
    if ((size_t)n < sizeof(*header))
        return error_set(err, DRV_ECORRUPT, "only %zd bytes long", n);
    return 0;
}

/* A handle without a mapping, which owns `fd`; NULL: the caller still does. */
static struct scoreboard *new_handle(const struct sb_header *header, int fd, bool writable)
{
    struct scoreboard *board = calloc(1, sizeof(*board));

    if (board == NULL)
        return NULL;
    board->file = calloc(1, sizeof(*board->file));
    if (board->file == NULL) {
        free(board);
        return NULL;
    }
    board->file->fd = fd;
    board->writable = writable;
    board->created_wall_ms = header->created_wall_ms;
    board->geometry = header->geometry;
    return board;
}

/* With the place for the columns that the file will get. */
static int map_segment(struct scoreboard *board, int prot, struct error *err)
{
    void *map = mmap(NULL, board->geometry.total_bytes, prot, MAP_SHARED, board->file->fd, 0);

    if (map == MAP_FAILED)
        return error_sys(err, "mmap");
    board->map = map;
    return 0;
}

int scoreboard_attach(struct scoreboard **out, const char *path, struct error *err)
{
    struct scoreboard *board = NULL;
    struct sb_header header;
    uint64_t file_bytes = 0;
    int fd, rc;

    *out = NULL;
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd == -1) {
        bool missing = errno == ENOENT;

        rc = error_sys(err, "open");
        if (missing)
            rc = DRV_ENOENT;
        goto fail;
    }
    rc = read_header(&header, fd, &file_bytes, err);
    if (rc != 0)
        goto fail;
    rc = check_header(&header, file_bytes, err);
    if (rc != 0)
        goto fail;
    board = new_handle(&header, fd, false);
    if (board == NULL) {
        rc = error_set(err, DRV_ENOMEM, "out of memory");
        goto fail;
    }
    rc = map_segment(board, PROT_READ, err);
    if (rc != 0)
        goto fail;
    *out = board;
    return 0;

fail: /* `rc` and `err` are set */
    if (board == NULL && fd != -1)
        (void)close(fd);
    scoreboard_detach(board);
    return error_wrap(err, rc, "scoreboard %s", path);
}

int scoreboard_create(struct scoreboard **out, const char *path,
                      const struct scoreboard_params *params, struct error *err)
{
    struct scoreboard *board = NULL;
    struct sb_header header = {
        .magic = SB_MAGIC,
        .layout_version = SB_LAYOUT_VERSION,
        .header_bytes = sizeof(header),
        .created_wall_ms = clock_wall_ms(),
    };
    uint32_t columns = params->workers == 0 ? params->max_workers : params->workers;
    char *temporary = NULL;
    int fd = -1, rc;

    *out = NULL;
    rc = geometry_of(&header.geometry, params, err);
    if (rc != 0)
        goto fail;
    if (asprintf(&temporary, "%s.new.%ld", path, (long)getpid()) == -1) {
        temporary = NULL;
        rc = error_set(err, DRV_ENOMEM, "out of memory");
        goto fail;
    }
    (void)unlink(temporary); /* of a process that died here and had our number */
    fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd == -1) {
        rc = error_sys(err, "create");
        goto fail;
    }
    board = new_handle(&header, fd, true);
    if (board == NULL) {
        (void)close(fd);
        rc = error_set(err, DRV_ENOMEM, "out of memory");
        goto fail_unlink;
    }
    rc = take_room(board, 0, header.geometry.models_offset, err);
    if (rc != 0)
        goto fail_unlink;
    /* Models have no room yet. */
    if (ftruncate(fd, (off_t)header.geometry.columns_offset) == -1) {
        rc = error_sys(err, "ftruncate");
        goto fail_unlink;
    }
    rc = scoreboard_room_for_workers(board, columns, err);
    if (rc != 0)
        goto fail_unlink;
    if (pwrite(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header)) {
        rc = error_sys(err, "write");
        goto fail_unlink;
    }
    rc = map_segment(board, PROT_READ | PROT_WRITE, err);
    if (rc != 0)
        goto fail_unlink;
    if (rename(temporary, path) == -1) {
        rc = error_sys(err, "rename");
        goto fail_unlink;
    }
    free(temporary);
    *out = board;
    return 0;

fail_unlink:
    (void)unlink(temporary);
fail: /* `rc` and `err` are set */
    scoreboard_detach(board);
    free(temporary);
    return error_wrap(err, rc, "scoreboard %s", path);
}

void scoreboard_detach(struct scoreboard *board)
{
    if (board == NULL)
        return;
    for (unsigned w = 0; w < SB_MAX_WORKERS; w++)
        free(board->free_rows[w].row);
    if (board->map != NULL)
        (void)munmap(board->map, board->geometry.total_bytes);
    (void)close(board->file->fd);
    free(board->file);
    free(board);
}

uint32_t scoreboard_max_nodes(const struct scoreboard *board)
{
    return board->geometry.n_nodes;
}

uint32_t scoreboard_max_workers(const struct scoreboard *board)
{
    return board->geometry.n_workers;
}

uint32_t scoreboard_requests_per_worker(const struct scoreboard *board)
{
    return board->geometry.requests_per_worker;
}

uint64_t scoreboard_created_wall_ms(const struct scoreboard *board)
{
    return board->created_wall_ms;
}

void scoreboard_set_config(struct scoreboard *board, uint32_t generation, uint32_t workers)
{
    if (!board->writable)
        return;
    atomic_store_explicit(&segment_live(board)->config, (uint64_t)generation << 32 | workers,
                          memory_order_relaxed);
}

void scoreboard_config(const struct scoreboard *board, uint32_t *generation, uint32_t *workers)
{
    uint64_t word = atomic_load_explicit(&segment_live(board)->config, memory_order_relaxed);

    *generation = (uint32_t)(word >> 32);
    *workers = (uint32_t)word;
}
