/*
 * select.h - finds a node for a request and claims a place there.
 *
 * Gathers the nodes that could serve it (model, operation, state, not excluded), the
 * scoreboard's data of each, and how much of the prompt each has seen; asks the policy; claims
 * through the shared gauges; and when another worker was faster, asks again about the rest.
 * Writes each decision into the ring that `droverctl explain` shows.
 */
#ifndef DROVER_WORKER_SELECT_SELECT_H
#define DROVER_WORKER_SELECT_SELECT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "shm/facts/stats.h"

struct request;
struct worker_context;
struct upstream;
struct attempt;
struct queue_reach;
struct queue_rights;

enum select_result {
    SELECT_CLAIMED = 0, /* *out is the node; its gauges count the request */
    SELECT_PLANNED,     /* it has a plan now, perhaps the one that it had: see req->plan */
    SELECT_FULL,        /* some node could serve it, none may take it now */
    SELECT_LOST,        /* ... one could, and another worker was faster */
    SELECT_ALL_FAILED,  /* every node that could has failed for this request */
    SELECT_NOBODY,      /* no node that could is up */
};
/* Only PLANNED leaves a plan, and CLAIMED the one that was there: enqueue_remove() drops it.
 * For an attempt that is a hedge: one with a free slot, and not that of the other attempt.
 * `rights`: NULL = any place will do. */
MUST_CHECK enum select_result
select_node(struct attempt *attempt, const struct queue_rights *rights, struct upstream **out);

/* It waits, and has not looked at all nodes for a while: see policy/route/hold.h. */
MUST_CHECK bool select_look_is_due(const struct request *req);
/* Gives the charge of its plan back, if it has one. */
void select_drop_plan(struct request *req);

/* The nodes that it could be sent to: see gather_reach(). */
void select_reach(const struct request *req, struct queue_reach *out);
/* Equal for requests that select_reach() gives the same nodes for. */
uint64_t select_need(const struct request *req);

/* Reads what routing needs of the request's prompt.  Once per request, before select_node().
 */
void select_read_prompt(struct request *req);
/* Frees what is kept of the prompt, and of the nodes that failed. */
void select_finish(struct request *req);

/* Works out how long the request's prompt takes, for its key among those that wait.  Once known
 * it stays. */
void select_size(struct request *req);

/* First content, or the end of an answer without `output`: gives the prompt's tokens back, and
 * learns from how long the output took. */
void select_note_content(struct attempt *attempt, bool output);
/* The request fails, or has an answer without output.  With no node left for it, a single
 * failure was its node's; an answer that no other node contradicts ends a probation well. */
void select_settle_doubts(struct request *req, bool no_node_left);
/* The attempt is over: gives its place back, if it has one, and counts how it went. */
void select_release(struct attempt *attempt, enum stats_counter outcome);
/* The value of x-drover-session: whether the last attempt went to the node that held the
 * session.  NULL: there is no session, or it went to no node. */
const char *select_session_text(const struct request *req);
/* How long the node may be silent in the attempt's present phase. */
uint64_t select_silence_us(const struct attempt *attempt);

/* Is any node up and reachable that could take the request, whatever its load? */
bool select_any_up(const struct request *req);
/* Is one up, apart from the attempt's and from those that failed for the request? */
bool select_any_other_up(const struct attempt *attempt);

#endif
