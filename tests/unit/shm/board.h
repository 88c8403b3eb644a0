/* board.h - a scoreboard in a temporary directory, for the tests of shm/. */
#ifndef DROVER_TESTS_SHM_BOARD_H
#define DROVER_TESTS_SHM_BOARD_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "shm/facts/decisions.h"
#include "shm/layout.h"
#include "shm/scoreboard.h"
#include "shm/segment.h"
#include "shm/share/gauges.h"

struct temporary {
    char dir[64];
    char path[96]; /* of the scoreboard */
};

static inline void temporary_make(struct temporary *t)
{
    (void)snprintf(t->dir, sizeof(t->dir), "/tmp/drover-shm-XXXXXX");
    cr_assert_not_null(mkdtemp(t->dir));
    (void)snprintf(t->path, sizeof(t->path), "%s/%s", t->dir, SCOREBOARD_FILE_NAME);
}

static inline void temporary_remove(struct temporary *t)
{
    (void)unlink(t->path);
    (void)rmdir(t->dir);
}

static inline struct scoreboard *board_make_prefix(struct temporary *t, uint32_t nodes,
                                                   uint32_t workers, uint32_t requests,
                                                   uint32_t prefix_entries)
{
    const struct scoreboard_params params = {.max_nodes = nodes,
                                             .max_workers = workers,
                                             .requests_per_worker = requests,
                                             .prefix_entries = prefix_entries};
    struct scoreboard *board;
    struct error err = {0};

    temporary_make(t);
    cr_assert_eq(scoreboard_create(&board, t->path, &params, &err), 0, "%s", err.text);
    return board;
}

/* With a small prefix index. */
static inline struct scoreboard *board_make(struct temporary *t, uint32_t nodes,
                                            uint32_t workers, uint32_t requests)
{
    return board_make_prefix(t, nodes, workers, requests, 64);
}

/* One worker's own word of gauges_sum(). */
static inline struct gauge board_gauge(const struct scoreboard *board, unsigned worker,
                                       unsigned node, uint32_t generation)
{
    uint64_t word = atomic_load(&segment_gauges(board, node)[worker]);

    if (SB_GAUGE_GENERATION(word) != (uint16_t)generation)
        return (struct gauge){0};
    return (struct gauge){.inflight = SB_GAUGE_INFLIGHT(word),
                          .charged_us = SB_GAUGE_CHARGE_US(word)};
}

#define BOARD_ANY_ATTEMPT UINT32_MAX
/* The last decision for this attempt of the request, or for any. */
static inline bool board_decision(const struct scoreboard *board, const char *id,
                                  uint32_t attempt, struct decision *out)
{
    struct decision_cursor cursor = {0};
    struct decision one;
    bool found = false;

    while (decisions_next(board, id, &cursor, &one)) {
        if (attempt != BOARD_ANY_ATTEMPT && one.attempt != attempt)
            continue;
        *out = one;
        found = true;
    }
    return found;
}

static inline void board_drop(struct temporary *t, struct scoreboard *board)
{
    scoreboard_detach(board);
    temporary_remove(t);
}

#endif
