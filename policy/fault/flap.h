/*
 * flap.h - a node that comes and goes must prove itself for longer each time.  Pure.
 *
 * A loss is a node that had traffic and went DOWN.  The third loss, each within a minute after
 * the node could come back from the one before, makes it wait before its passed probes count;
 * the next ones for twice as long, up to a minute.  After a minute without a loss the count
 * starts again.
 *
 * Names identify nodes, because a restarted process is a new instance each time.  When the
 * table is full, the name unused for longest is dropped.
 */
#ifndef DROVER_POLICY_FLAP_H
#define DROVER_POLICY_FLAP_H

#include <stdint.h>

#define FLAP_PLACES     1024u
#define FLAP_NAME_BYTES 64                 /* with NUL; longer ones are cut */
#define FLAP_FREE       2u                 /* losses in a row that cost nothing */
#define FLAP_PEACE_US   UINT64_C(60000000) /* after this all is forgotten */
#define FLAP_MAX_US     UINT64_C(60000000) /* the longest wait */

struct flap_place {
    char name[FLAP_NAME_BYTES];
    uint64_t until_mono_us; /* it waits so long; the time of the loss when it need not */
    uint32_t losses;        /* in a row; 0 = the place is free */
};

struct flap {
    struct flap_place place[FLAP_PLACES];
};

/* The node was lost.  `first_us`: the first wait; 0 = none ever. */
void flap_lost(struct flap *flap, const char *name, uint64_t first_us, uint64_t now_mono_us);

/* How much longer it has to wait; 0 = it need not. */
uint64_t flap_wait_us(const struct flap *flap, const char *name, uint64_t now_mono_us);

#endif
