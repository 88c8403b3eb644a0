/* signals.h - signals as something to read: all are blocked, those with a meaning queue up. */
#ifndef DROVER_MASTER_SIGNALS_H
#define DROVER_MASTER_SIGNALS_H

#include "base/attrs.h"

struct error;

/* Blocks every signal but those of a crash in this process, and so in every child, and returns
 * a descriptor for signals_next().  DRV_ESYS. */
MUST_CHECK int signals_open(struct error *err);

/* The next signal that a person or a program has sent us, or 0. */
MUST_CHECK int signals_next(int fd);

#endif
