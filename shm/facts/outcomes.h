/*
 * outcomes.h - how requests end on each node: the input of passive ejection.
 *
 * Any worker writes, the health process reads.  Only outcomes that the node causes are noted:
 * an answer is a success, even if the client dislikes it; a failure is the node's alone.  A
 * client's mistake, a client that left, a node that reported it is full, and trouble of the
 * worker itself (descriptors, ports, memory) are neither and are not noted.
 *
 * Totals only grow, so a worker that is killed falsifies nothing.  The run of failures is set
 * to 0 by each success: of a success and a failure at the same instant either may come first.
 */
#ifndef DROVER_SHM_FACTS_OUTCOMES_H
#define DROVER_SHM_FACTS_OUTCOMES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct scoreboard;

enum outcome {
    OUTCOME_OK = 0,           /* the attempt ended as the engine meant it */
    OUTCOME_FAILED,           /* the node's fault */
    OUTCOME_STALLED,          /* the same, and no request got a token there while it waited */
    OUTCOME_PROBATION_OK,     /* sent while the node was on PROBATION, and a success */
    OUTCOME_PROBATION_FAILED, /* ... and a failure of any kind */
    OUTCOME_CONTRADICTED,     /* it refused what another node answered, or answered nothing */
    OUTCOMES
};

struct outcomes {
    uint64_t total[OUTCOMES];  /* since the node took its row; STALLED are FAILED too */
    uint32_t run;              /* failures since the last success */
    uint64_t progress_mono_us; /* when a token last came, to within 100 ms; 0 = never */
};

/* Counts an attempt.  Ignored when the row has another generation.  STALLED counts as FAILED
 * too; the results of probations count in the run, but not in OK and FAILED; CONTRADICTED does
 * not count in the run. */
void outcomes_note(struct scoreboard *board, unsigned node, uint32_t generation,
                   enum outcome what);

/* Whose request it was that ended with OK or CONTRADICTED: any hash of the client. */
void outcomes_note_client(struct scoreboard *board, unsigned node, uint32_t generation,
                          enum outcome what, uint64_t client);
/* A bit for each of these clients, or for some together, since this was last asked. */
struct outcomes_clients {
    uint64_t answered, contradicted;
};
/* W: health. */
struct outcomes_clients outcomes_take_clients(struct scoreboard *board, unsigned node);

/* The node refused a request for no reason that is known, or answered without output, which may
 * be right.  True: output has come there within OUTCOMES_TRUST_US, and since the last such end,
 * so it is believed. */
#define OUTCOMES_TRUST_US UINT64_C(60000000)
MUST_CHECK bool outcomes_note_unsure(struct scoreboard *board, unsigned node,
                                     uint32_t generation, uint64_t now_mono_us);

/* A token came.  Cheap enough to be called for each one. */
void outcomes_progress(struct scoreboard *board, unsigned node, uint32_t generation,
                       uint64_t now_mono_us);

/* Has a request of the present probation ended, so that no other may be sent before the health
 * process has drawn its conclusion? */
bool outcomes_probed(const struct scoreboard *board, unsigned node);
/* W: health, before it publishes PROBATION.  `judged` is the number of results it has seen so
 * far: a result that came since is one of this probation, so none is lost between the two. */
void outcomes_begin_probation(struct scoreboard *board, unsigned node,
                              const struct outcomes *judged);

/*
 * A connection to the node broke, or could not be made.  True: the caller is the first of all
 * workers to report that within OUTCOMES_LOSS_US, so it reports it for all of them.  False:
 * another one has, or the row has another generation.
 *
 * Each worker has a connection of its own to a node, and each connection carries many requests.
 * A node that dies breaks them all at once: that is one event.
 */
#define OUTCOMES_LOSS_US UINT64_C(1000000)
MUST_CHECK bool outcomes_note_loss(struct scoreboard *board, unsigned node, uint32_t generation,
                                   uint64_t now_mono_us);
/* When that was last; 0 = never, or out of range. */
uint64_t outcomes_lost_mono_us(const struct scoreboard *board, unsigned node);

/* A private copy; all zero for a node that is out of range. */
void outcomes_read(const struct scoreboard *board, unsigned node, struct outcomes *out);

/* W: health, for nodes_claim(). */
void outcomes_zero(struct scoreboard *board, unsigned node);

#endif
