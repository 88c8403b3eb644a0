/*
 * poison.h - the requests of the last minute under which engines died.
 *
 * A request under which two engines died within POISON_US, or one engine twice, is refused for
 * POISON_US by all workers, so that the client's own retries do not go on killing.  The deaths
 * are those before any output, of the request itself or of one with the same bytes, as one
 * engine alone shows each request one death only.  One engine's death under several requests
 * of the same bytes is one: of different requests its deaths are POISON_APART_US apart.
 * Copies that are at an engine already are not stopped.
 *
 * An operator ends engines, too.  So an engine whose node is drained or leaves does not die,
 * and a request that is answered elsewhere killed none: its death is forgotten.
 *
 * A hash is kept, keyed with a number that is drawn anew with each scoreboard; there are
 * POISON_ENTRIES.  Of more the oldest go, those of one death first.
 */
#ifndef DROVER_SHM_SHARE_POISON_H
#define DROVER_SHM_SHARE_POISON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct scoreboard;

#define POISON_ENTRIES  64u
#define POISON_US       UINT64_C(60000000)
#define POISON_APART_US UINT64_C(1000000)

/* The request as it came: the same one again is the same bytes for the same model. */
struct poison_request {
    uint64_t model_hash;
    int operation;
    const void *body;
    size_t n;
};

/* The engine of `node` died under it; `again`: not the first one under this very request. True:
 * it is poison from now on. */
MUST_CHECK bool poison_note_death(struct scoreboard *board,
                                  const struct poison_request *request, unsigned node,
                                  bool again, uint64_t now_mono_us);
/* It has an answer, before it was poison. */
void poison_forget(struct scoreboard *board, const struct poison_request *request,
                   uint64_t now_mono_us);

/* Is it poison?  Cheap where no engine died within POISON_US. */
MUST_CHECK bool poison_is(const struct scoreboard *board, const struct poison_request *request,
                          uint64_t now_mono_us);

#endif
