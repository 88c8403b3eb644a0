/*
 * aliases.h - the names that the configuration in force gives to models.
 *
 * The master has the configuration, and so have its children; droverctl has only the
 * scoreboard.  Nothing else reads this table.
 */
#ifndef DROVER_SHM_ALIASES_H
#define DROVER_SHM_ALIASES_H

#include <stdbool.h>

#include "base/attrs.h"
#include "shm/facts/nodes.h"

struct config;
struct scoreboard;

#define ALIASES_MAX 1024u /* as many as a configuration may have */

struct alias_view {
    char name[NODE_MODEL_BYTES];  /* what clients send */
    char model[NODE_MODEL_BYTES]; /* what nodes serve */
};

/* W: master. */
void aliases_publish(struct scoreboard *board, const struct config *config);

/* Any reader.  False: there is no such row, or it changes all the time.  Where the table
 * changes between two reads, rows of before and of after may be seen. */
MUST_CHECK bool aliases_read(const struct scoreboard *board, unsigned row,
                             struct alias_view *out);

#endif
