/*
 * poison.h - the requests of the last minute under which engines died.
 *
 * A request under which two engines died is refused for POISON_US by all workers, so that the
 * client's own retries do not go on killing.  A hash is kept, keyed with a number that
 * is drawn anew with each scoreboard; there are POISON_ENTRIES, and of more the oldest go.
 */
#ifndef DROVER_SHM_SHARE_POISON_H
#define DROVER_SHM_SHARE_POISON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct scoreboard;

#define POISON_ENTRIES 64u
#define POISON_US      UINT64_C(60000000)

/* The request as it came: the same one again is the same bytes for the same model. */
struct poison_request {
    uint64_t model_hash;
    int operation;
    const void *body;
    size_t n;
};

void poison_note(struct scoreboard *board, const struct poison_request *request,
                 uint64_t now_mono_us);

/* Was it noted within POISON_US?  Cheap where none was. */
MUST_CHECK bool poison_is(const struct scoreboard *board, const struct poison_request *request,
                          uint64_t now_mono_us);

#endif
