/*
 * holders.h - which node has a response or a conversation that its engine keeps, by its id.
 *
 * The table outlives the processes: a file of fixed size in the state directory, which the
 * master maps before it forks, and which the workers of two masters may share during an
 * upgrade.  It has hashes only: of ids, of names of nodes (a name stays when a node starts
 * anew), and of the names of API keys.  An entry is four words, of which one is made of all:
 * one that is torn, because two processes wrote it at once or one was killed amid it, is no
 * entry.  Where a row of the table is full, its oldest entry is overwritten.
 */
#ifndef DROVER_SHM_SHARE_HOLDERS_H
#define DROVER_SHM_SHARE_HOLDERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct error;
struct holders; /* opaque */

#define HOLDERS_FILE_NAME "holders"
#define HOLDERS_ROW       16u
#define HOLDERS_ENTRIES   65536u /* of 32 bytes */

/*
 * Opens the file in `dir`, or makes it; one of another layout, or that is damaged, is replaced
 * by an empty one.  dir NULL: in memory alone, for the processes that are forked later.  On
 * success *out is to be released with holders_close().  DRV_ESYS, DRV_EPERM (it is not ours),
 * DRV_ENOMEM.
 */
MUST_CHECK int holders_open(struct holders **out, const char *dir, struct error *err);
/* NULL is allowed. */
void holders_close(struct holders *holders);

/* The node of this name's hash has `id` now, which belongs to the key of this name's hash (0:
 * no keys are in use). */
void holders_note(struct holders *holders, const char *id, uint64_t node, uint64_t owner);

/* False: nothing is known of it. */
MUST_CHECK bool holders_find(const struct holders *holders, const char *id, uint64_t *node,
                             uint64_t *owner);

#endif
