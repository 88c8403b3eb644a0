/* board.h - a scoreboard in a temporary directory, for the tests of shm/. */
#ifndef DROVER_TESTS_SHM_BOARD_H
#define DROVER_TESTS_SHM_BOARD_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "shm/scoreboard.h"

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

static inline void board_drop(struct temporary *t, struct scoreboard *board)
{
    scoreboard_detach(board);
    temporary_remove(t);
}

#endif
