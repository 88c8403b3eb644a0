/*
 * switch.h - a new generation of workers takes the seats, or the old one gets them back.
 *
 * A reload fills every worker seat anew while the old child waits beside it (`previous`).  When
 * all new ones serve, the old ones are ordered to finish (commit); when one fails before
 * it served, the new ones are ended and the old ones get their seats back (rollback).
 */
#ifndef DROVER_MASTER_SWITCH_H
#define DROVER_MASTER_SWITCH_H

#include "base/attrs.h"

struct config;
struct error;
struct supervisor;

enum switch_state {
    SWITCH_WAITING = 0, /* not all new workers serve yet */
    SWITCH_READY,
    SWITCH_FAILED,
};

/* A reload: new workers, `count` of them, from `next`; a health process that has to be started
 * meanwhile gets the old one.  DRV_EAGAIN: a reload is under way, drover is stopping, or
 * earlier generations leave no room in the process table; DRV_ESYS: none in the scoreboard. */
MUST_CHECK int switch_begin(struct supervisor *sup, const struct config *next, unsigned count,
                            struct error *err);
enum switch_state switch_state(const struct supervisor *sup);
/* The old ones finish their streams; those older still get the grace.  Health gets HUP. */
void switch_commit(struct supervisor *sup);
/* The new ones go; `config` is the old one again. */
void switch_rollback(struct supervisor *sup, const struct config *config);

#endif
