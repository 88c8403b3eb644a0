/*
 * requests.h - the requests each worker has open, for droverctl.
 *
 * W: the worker, its own table.  The text of a row is guarded by a sequence counter; phase,
 * node and tokens are single words.  The master clears a dead worker's table.
 */
#ifndef DROVER_SHM_FACTS_REQUESTS_H
#define DROVER_SHM_FACTS_REQUESTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct scoreboard;

enum request_phase {
    REQUEST_FREE = 0,
    REQUEST_QUEUED = 1,  /* here, waiting for a node */
    REQUEST_SENT = 2,    /* sent, nothing back yet */
    REQUEST_PREFILL = 3, /* accepted by the node, no content yet */
    REQUEST_DECODE = 4,  /* content is flowing */
    REQUEST_FLUSH = 5,   /* the node is done, the client is still reading */
};
const char *request_phase_name(enum request_phase phase); /* "prefill" */

#define REQUEST_ID_BYTES    65
#define REQUEST_MODEL_BYTES 64
#define REQUEST_NO_NODE     UINT32_MAX

struct request_view {
    char id[REQUEST_ID_BYTES];
    char model[REQUEST_MODEL_BYTES]; /* cut if longer */
    enum request_phase phase;
    uint32_t node;    /* node_id, or REQUEST_NO_NODE */
    uint32_t attempt; /* 0 = first */
    uint32_t tokens_out;
    uint32_t prompt_tokens; /* estimate */
    uint64_t opened_mono_us;
    uint64_t phase_mono_us; /* when the phase began */
};

/* Opens a row: its number, or -1 when the table is full (the request goes on without one).
 * Finding a row costs O(1): the handle keeps a free list private to the process. */
MUST_CHECK int requests_open(struct scoreboard *board, unsigned worker, const char *id,
                             const char *model, uint32_t prompt_tokens, uint64_t now_mono_us);
/* All of these ignore row -1. */
void requests_phase(struct scoreboard *board, unsigned worker, int row,
                    enum request_phase phase, uint64_t now_mono_us);
void requests_node(struct scoreboard *board, unsigned worker, int row, uint32_t node,
                   uint32_t attempt);
void requests_tokens(struct scoreboard *board, unsigned worker, int row, uint32_t tokens_out);
void requests_close(struct scoreboard *board, unsigned worker, int row);

/* W: master, for a worker that is gone. */
void requests_clear_worker(struct scoreboard *board, unsigned worker);

/* False: free, out of range, or torn in a bounded number of tries. */
MUST_CHECK bool requests_read(const struct scoreboard *board, unsigned worker, unsigned row,
                              struct request_view *out);
/* Open requests of a worker: a counter it keeps, not a scan.  `high` (may be NULL) gets the
 * number of rows that were ever used, beyond which there is nothing to read. */
uint32_t requests_count(const struct scoreboard *board, unsigned worker, uint32_t *high);

#endif
