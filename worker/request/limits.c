/* limits.c - the time limits of a request. */
#include "worker/request/limits.h"

#include "base/clock.h"
#include "base/config/config.h"
#include "base/io/loop.h"
#include "shm/facts/nodes.h"
#include "worker/context.h"
#include "worker/request/request_state.h"
#include "worker/request/response.h"
#include "worker/select/enqueue.h"
#include "worker/select/select.h"

/* A request that waits for a node looks again this often. */
#define WAIT_NODE_LOOK_US (100 * US_PER_MS)
/* The limit of a wait depends on the nodes, and the client may be due a comment. */
#define QUEUED_LOOK_US (US_PER_S / 2)
/* How long a node may be silent depends on its state. */
#define RUNNING_LOOK_US US_PER_S
/* The node measures silence itself and more exactly; this is for a node that is frozen. */
#define SILENCE_SLACK_US (5 * US_PER_S)
/* ... and this long when the health process reports that it is frozen or gone. */
#define LOST_SILENCE_US (2 * US_PER_S)

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t now_of(const struct request *req)
{
    return loop_now_us(req->context->loop);
}

/* Content puts it off: an answer that flows has no limit. */
static uint64_t deadline_mono_us(const struct request *req)
{
    uint64_t limit_us = req->context->config->limits.request_timeout_ms * US_PER_MS;
    uint64_t since = req->content_mono_us == 0 ? req->started_mono_us : req->content_mono_us;

    if (response_client_lags(req->attempt))
        since = now_of(req);
    return since + limit_us;
}

bool limits_deadline_passed(const struct request *req)
{
    return now_of(req) >= deadline_mono_us(req);
}

/* When the present wait is over.  Without any node up it ends early, as none is working on it,
 * but not before a node that restarts, or has just joined, has had its time. */
static uint64_t wait_limit_mono_us(struct request *req)
{
    uint64_t due = enqueue_due_mono_us(req);

    if (select_any_up(req)) {
        req->no_node_mono_us = 0;
        return due;
    }
    if (req->no_node_mono_us == 0)
        req->no_node_mono_us = now_of(req);
    return earlier(due, req->no_node_mono_us + LIMITS_NO_NODE_US);
}

bool limits_wait_passed(struct request *req)
{
    return now_of(req) >= wait_limit_mono_us(req);
}

/* Is the node, or the engine behind it, out of reach or standing still, so that nothing more
 * can come?  A node that drains, or that says it cannot serve, still finishes what it has. */
static bool node_is_lost(const struct attempt *attempt)
{
    struct node_status status;

    if (!nodes_status(attempt->request->context->board, attempt->node, &status) ||
        status.generation != attempt->generation)
        return true; /* its row has been given away */
    switch (status.state) {
    case NODE_DOWN:
    case NODE_GONE:
        return status.reason == NODE_REASON_CONNECT_FAILED ||
               status.reason == NODE_REASON_PROBE_TIMEOUT ||
               status.reason == NODE_REASON_ENGINE_DOWN ||
               status.reason == NODE_REASON_LEASE_LOST;
    case NODE_EJECTED:
    case NODE_PROBATION:
        return status.reason == NODE_REASON_NO_PROGRESS;
    case NODE_NONE:
    case NODE_JOINING:
    case NODE_UP:
    case NODE_DRAINING:
        return false;
    }
    return false;
}

/* Could another node take it without the client noticing? */
static bool may_move(const struct attempt *attempt)
{
    const struct request *req = attempt->request;

    if (req->shown == SHOWN_CONTENT
            ? !response_may_resume(req)
            : req->attempts >= req->context->config->limits.max_attempts)
        return false;
    return select_any_other_up(attempt);
}

static uint64_t silence_limit_mono_us(const struct attempt *attempt)
{
    uint64_t limit = select_silence_us(attempt) + SILENCE_SLACK_US;

    if (response_client_lags(attempt))
        return UINT64_MAX; /* the node may send no more: the silence is the client's */
    if (limit > LOST_SILENCE_US && node_is_lost(attempt) && may_move(attempt))
        limit = LOST_SILENCE_US;
    return attempt->progress_mono_us + limit;
}

bool limits_silence_passed(const struct attempt *attempt)
{
    return now_of(attempt->request) >= silence_limit_mono_us(attempt);
}

static uint64_t running_look_mono_us(const struct request *req)
{
    uint64_t due = earlier(silence_limit_mono_us(req->attempt), req->hedge_due_mono_us);

    if (req->hedge != NULL)
        due = earlier(due, silence_limit_mono_us(req->hedge));
    return earlier(due, now_of(req) + RUNNING_LOOK_US);
}

uint64_t limits_look_mono_us(struct request *req)
{
    uint64_t due = deadline_mono_us(req);

    switch (req->state) {
    case REQUEST_STATE_QUEUED:
        return earlier(due, earlier(wait_limit_mono_us(req), now_of(req) + QUEUED_LOOK_US));
    case REQUEST_STATE_WAIT_NODE:
        return earlier(due, now_of(req) + WAIT_NODE_LOOK_US);
    case REQUEST_STATE_RUNNING:
        return earlier(due, running_look_mono_us(req));
    case REQUEST_STATE_NEW:
    case REQUEST_STATE_FLUSHING:
    case REQUEST_STATE_DONE:
        return due;
    }
    return due;
}
