/*
 * noise.h - which nodes may have another line in the log.  Pure.
 *
 * Each name has lines in a burst, and one more every ten seconds: a node that joins in a loop,
 * or is up and down with each of its reports, does not push the others' lines out.  Names that
 * have been quiet for long make room for new ones; while all places are taken by others a new
 * name has no line, so that names made up in a loop are bounded, too.
 */
#ifndef DROVER_POLICY_NOISE_H
#define DROVER_POLICY_NOISE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

#define NOISE_PLACES     1024u
#define NOISE_NAME_BYTES 64 /* with NUL; longer ones are cut */
#define NOISE_BURST      40u
#define NOISE_REFILL_US  UINT64_C(10000000)

struct noise_place {
    char name[NOISE_NAME_BYTES];
    uint64_t clear_mono_us; /* when it will have the whole burst again; 0 = never used */
    uint32_t missed;        /* lines since the last that was allowed */
};

struct noise {
    struct noise_place place[NOISE_PLACES];
};

/* Counts a line about the name.  False: it is left out.  With true, *missed gets how many of
 * that name were left out since the last. */
MUST_CHECK bool noise_allows(struct noise *noise, const char *name, uint64_t now_mono_us,
                             uint32_t *missed);

#endif
