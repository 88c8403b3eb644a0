/*
 * gauge_audit.h - do the gauges agree with the request tables?  Pure.
 *
 * The two are written by workers at slightly different instants, so a single look proves
 * nothing.  A node counts as stable when two looks, one period apart, saw the same numbers and
 * nothing was sent or ended there in between; only then must the sum of its gauges be the
 * number of requests that the tables say are on it.
 */
#ifndef DROVER_POLICY_GAUGE_AUDIT_H
#define DROVER_POLICY_GAUGE_AUDIT_H

#include <stdbool.h>
#include <stdint.h>

/* One look at one node. */
struct gauge_audit_look {
    uint32_t generation; /* of the row; 0 = no look taken */
    uint32_t gauge;      /* sum of its gauges: requests in flight */
    uint32_t open;       /* rows of request tables that are certainly on it */
    uint32_t ending;     /* rows whose request may or may not hold its place any more */
    uint64_t traffic;    /* grows with everything sent there or ended there */
};

struct gauge_audit {
    struct gauge_audit_look last;
    bool violated; /* the present stable state is wrong and has been counted */
};

/* Takes a look.  True: a violation that was not there at the look before (count it, log it). */
bool gauge_audit_step(struct gauge_audit *gauge_audit, const struct gauge_audit_look *look);

#endif
