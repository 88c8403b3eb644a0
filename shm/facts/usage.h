/*
 * usage.h - the usage of each API key, by the key's name.
 *
 * A row belongs to a name from its first claim until the master ends, so that a reload which
 * takes a key away and brings it back goes on counting.  When all rows are taken, further names
 * are not counted.  The counters only grow; any worker adds.
 */
#ifndef DROVER_SHM_FACTS_USAGE_H
#define DROVER_SHM_FACTS_USAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct scoreboard;

#define USAGE_ROWS       512u /* two full files of keys */
#define USAGE_NAME_BYTES 64   /* with NUL */

enum usage_counter {
    USAGE_REQUESTS, /* requests with this key, with any outcome */
    USAGE_PROMPT_TOKENS,
    USAGE_OUTPUT_TOKENS,
    USAGE_COUNTERS
};

struct usage_view {
    char name[USAGE_NAME_BYTES];
    uint64_t counter[USAGE_COUNTERS];
};

/* W: any worker, before it serves.  The row of a name, made if there is none; -1: no room.
 * Costs a walk over the rows. */
MUST_CHECK int usage_claim(struct scoreboard *board, const char *name);

/* W: any worker.  Row -1 is ignored. */
void usage_add(struct scoreboard *board, int row, enum usage_counter which, uint64_t n);

/* False: out of range, or free, or its name is still being written. */
MUST_CHECK bool usage_read(const struct scoreboard *board, unsigned row,
                           struct usage_view *out);

#endif
