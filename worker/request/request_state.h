/*
 * request_state.h - one request and its attempts, as the files that share its life see it.
 *
 * Data only.  The functions are in headers of their own, and each includes this one and those
 * below it, never those above:
 *
 *   request.c      the state machine: events, timers and retry_decide() change the state
 *   retry_facts.c  the end of an attempt, as facts for retry_decide()
 *   limits.c       time limits
 *   hedge.c        a second attempt beside one that is slow
 *   response.c     a node's answer, on its way to the client
 *   attempt.c      one try on one node, from its place there to the end of the call
 *   select.c       which node it goes to
 *   enqueue.c      its place in the queue
 */
#ifndef DROVER_WORKER_REQUEST_STATE_H
#define DROVER_WORKER_REQUEST_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/io/loop.h"
#include "base/text/buf.h"
#include "policy/route/abilities.h"
#include "policy/route/estimate.h"
#include "shm/facts/nodes.h"
#include "shm/facts/stats.h"
#include "worker/api/event_end.h"
#include "worker/api/surface.h"
#include "worker/queue/queue.h"
#include "worker/select/exclusions.h"

struct attempt;
struct client_request;
struct upstream;
struct node_call;
struct worker_context;

/*
 * An attempt, written by attempt.c alone:
 *
 *   ENDED    -> SENT                a place on a node is held, and the call is under way
 *   SENT     -> HEAD                the node gave the head of an answer
 *   HEAD     -> CONTENT             ... and the first token of it
 *   HEAD, CONTENT -> FINISHED       the answer is whole; the call has two seconds more to end
 *   any      -> ENDED               the call is over, and the place is given back
 *
 * Content may come without a token of progress having been shown: see enum shown.
 */
enum attempt_stage {
    ATTEMPT_ENDED = 0, /* also before it starts */
    ATTEMPT_SENT,
    ATTEMPT_HEAD,
    ATTEMPT_CONTENT,
    ATTEMPT_FINISHED,
};

/* Why the node has no answer, as it said: see drover_inference.proto. */
struct attempt_cause {
    enum attempt_cause_kind {
        ATTEMPT_CAUSE_NONE = 0,
        ATTEMPT_CAUSE_UNSURE,       /* not said: its engine refuses with a 4xx */
        ATTEMPT_CAUSE_EMPTY,        /* not said: its answer has no output */
        ATTEMPT_CAUSE_ABILITY,      /* it lacks `ability` */
        ATTEMPT_CAUSE_REQUEST,      /* its engine blames the request, with a 5xx */
        ATTEMPT_CAUSE_ENGINE_ERROR, /* its engine failed at the request */
        ATTEMPT_CAUSE_ENGINE_DIED,  /* ... and died of it, perhaps */
        ATTEMPT_CAUSE_ENGINE_AWAY,  /* ... cannot be reached; or the node cannot be */
    } kind;
    enum ability ability;
    uint64_t limit, needed; /* tokens or bytes; 0 = not known */
    bool no_answer;         /* of ENGINE_ERROR: a 200 that is none */
    bool of_model; /* of ENGINE_ERROR and ENGINE_DIED: the model failed there, not the node */
};

/* A failure of a node, or a refusal, that may be the request's doing.  It counts when another
 * node answers; a failure also when no other node was tried. */
struct doubt {
    unsigned node;
    uint32_t generation;
    bool on_probation;
    bool refused;  /* or answered with nothing */
    bool empty;    /* the latter, with a 200, which is an answer if no other node has one */
    bool of_model; /* a lesson at most: the node is not at fault */
    bool slow;     /* `speed` is a lesson of its speed */
    struct estimate_speed speed;
};
#define REQUEST_DOUBTS 16 /* as many as attempts can fail */

/* A node's refusal, or an answer without output, kept in case no other node can serve the
 * request. */
struct refusal_kept {
    unsigned status; /* 0 = there is none */
    bool is_answer;  /* the client may have it for its answer, whatever the others do */
    bool event_stream;
    enum ability ability;
    uint64_t limit; /* its figure */
    char content_type[128];
    struct buf headers; /* as in struct attempt */
    struct buf body;
};

/* Why an attempt ended without a whole answer. */
struct attempt_failure {
    enum api_error error;       /* the client's error if no other node helps */
    enum stats_counter counter; /* how it counts for the node */
    bool silent;                /* its time was up, and no sign shows whether the node works; or
                                 * it has worked: another one would only do the same again */
    bool unhinted;              /* full, and no word of when to come back */
    char message[256];
};

struct attempt_estimate {
    uint32_t uncached_tokens;    /* u */
    double left_s;               /* of the node's backlog */
    double tokens_per_s;         /* p */
    struct estimate_speed usual; /* the averages */
    bool had_slot;               /* no wait for a slot, or for a load, was in store */
};

/*
 * A place on one node, the call there, and what the node said before it was shown.  A request
 * has one attempt at a time, and two for a while when it is hedged.
 */
struct attempt {
    struct request *request; /* its owner */
    enum attempt_stage stage;
    struct node_call *call; /* NULL iff ENDED */
    uint32_t number;        /* of the attempts of the request, from 0; none has it twice */
    int row;                /* in the scoreboard's request table, or -1 */
    bool is_hedge;          /* it began as the second of two */

    /* The claim on the node: private to select.c but for reading. */
    bool claimed;
    unsigned node;
    uint32_t generation;
    char model[NODE_MODEL_BYTES];     /* as the node there calls it; "" = was at none yet */
    uint64_t model_hash;              /* of that */
    uint32_t charge_us;               /* added to the gauge and not given back */
    struct attempt_estimate estimate; /* what was believed of the node when it was sent */
    bool on_probation;                /* the node was, at dispatch */
    bool excused;                     /* if it fails, that is not the node's fault */
    struct attempt_cause cause;
    bool loads_model; /* holds the claim to load it there */
    bool loading;     /* the engine there loads the model, as the node says */
    bool saw_load;    /* ... or did so before */
    char node_name[NODE_NAME_BYTES];
    uint64_t dispatch_mono_us;
    uint64_t
        hold_mono_us; /* since when it holds a slot: from its plan there on, if it had one */
    uint64_t progress_mono_us; /* last sign that it gets on */
    size_t unsent_bytes;       /* of the body, when last looked at */
    uint64_t content_mono_us;  /* first content; 0 = none yet */
    uint32_t queue_position;   /* at the node, as it said last; UINT32_MAX = not yet */
    uint64_t node_work;        /* signs of life of its engine, as it said then */

    /* The answer as far as it is held: private to response.c. */
    unsigned status; /* of the engine's head; 0 = none yet */
    bool event_stream;
    char content_type[128];
    struct buf headers;    /* name NUL value NUL ... of the held head */
    struct buf held;       /* body bytes not shown yet */
    uint64_t answer_bytes; /* of the body, so far */
};

/* Did it refuse for no reason that is known, or answer without output? */
static inline bool attempt_is_unsure(const struct attempt *attempt)
{
    return attempt->cause.kind == ATTEMPT_CAUSE_UNSURE ||
           attempt->cause.kind == ATTEMPT_CAUSE_EMPTY;
}

/*
 * A request, written by set_state() in request.c alone:
 *
 *   NEW       -> RUNNING | QUEUED (some node could serve it, or none is up yet) |
 *                FLUSHING (refused)
 *   QUEUED    -> RUNNING | WAIT_NODE | FLUSHING (too late)
 *   RUNNING   -> RUNNING (another attempt at once; one of two attempts ended) |
 *                QUEUED (no place; it keeps its key; also a resume) |
 *                WAIT_NODE (all nodes have failed for its answer, or are away) | FLUSHING
 *   WAIT_NODE -> QUEUED | RUNNING | FLUSHING
 *   FLUSHING  -> DONE
 *
 * When the client leaves: any -> DONE.  Deadline and shutdown: any before FLUSHING -> FLUSHING.
 * A request is freed when it is DONE and has no attempt.
 */
enum request_state {
    REQUEST_STATE_NEW = 0,
    REQUEST_STATE_QUEUED,    /* no node has room for it */
    REQUEST_STATE_RUNNING,   /* one attempt, or two */
    REQUEST_STATE_WAIT_NODE, /* in no queue; looks again for a node that comes back */
    REQUEST_STATE_FLUSHING,  /* all has been given to the responder, which may still write */
    REQUEST_STATE_DONE,      /* the client's side is over */
};

/* The part the client has seen: written by response.c alone, and never goes back. */
enum shown {
    SHOWN_NOTHING = 0,
    SHOWN_HEAD,    /* a status line, and perhaps comments */
    SHOWN_CONTENT, /* from here on no unseen retry is possible */
};

enum request_outcome {
    REQUEST_OUTCOME_NODE_ERROR = 0,
    REQUEST_OUTCOME_OK,
    REQUEST_OUTCOME_CLIENT_ERROR,
    REQUEST_OUTCOME_TIMEOUT,
    REQUEST_OUTCOME_REJECTED,
};

struct request {
    struct worker_context *context;
    struct client_request *client; /* borrowed; NULL iff DONE */
    struct request *prev, *next;   /* in context->first */
    enum request_state state;
    enum shown shown;
    enum request_outcome outcome;
    struct timer timer; /* fires at the earliest of the limits that apply */

    /* Routing's view of it. */
    char model[NODE_MODEL_BYTES]; /* a copy: the client's side may be gone first */
    uint64_t model_hash;
    uint64_t caller; /* as client_request's */
    enum op_class op_class;
    uint64_t session_hash; /* of session and model; 0 = no session */
    /* The session's node when the request got its first place: private to select.c. */
    bool session_looked;
    int session_node; /* node_id of a node that is not down; -1 = none */
    uint32_t session_generation;
    uint64_t *windows; /* owned; chained hashes of the prompt, or NULL */
    uint32_t windows_count;
    uint64_t prompt_bytes;    /* of the canonical prompt */
    uint64_t envelope_bytes;  /* of the message to a node, without a text to go on from */
    uint32_t prompt_estimate; /* tokens; at least 1 */
    double prefill_s;         /* where it takes least; 0 until `sized` */
    bool sized;

    /* In the queue: private to enqueue.c. */
    struct queue_entry queued;
    uint32_t queue_row;    /* where it is counted, shm/queue/model_queues.h */
    uint64_t wait_mono_us; /* when the present wait began */
    uint64_t waited_us;    /* in all before that */
    uint64_t
        planned_mono_us; /* since when it has had a plan without a break; 0 = it has none */
    uint64_t planned_us; /* in all before that */

    /* Where it is planned while it waits: private to select.c but for reading. */
    struct request_plan plan;
    uint64_t looked_mono_us; /* when it last looked at all nodes for one */

    struct attempt pair[2];
    struct attempt *attempt; /* in pair: its answer is, or will be, the client's */
    struct attempt *hedge;   /* the other one while it runs, else NULL */
    uint32_t attempts;       /* started so far, full nodes not counted */
    uint32_t sent;           /* ... these counted */
    bool was_dispatched;     /* it once had a place on a node: the queue no longer rejects it */
    bool model_known;        /* when it came: no wait makes the model one that does not exist */
    uint32_t resumes;
    uint32_t full_nodes; /* met so far */
    bool was_refused;   /* a node did not take it on its connection; the next time it is away */
    bool full_unhinted; /* the last attempt ended with "full" and no word of when */
    bool hedged;        /* it had its second attempt: there is one in a request's life */
    bool hedge_won;     /* ... and the client got that one's answer */
    uint64_t hedge_due_mono_us; /* when to look whether to hedge; UINT64_MAX = never */
    struct exclusions excluded;

    /* The abilities that it needs, and its way with the nodes that were asked. */
    struct abilities_need need;
    uint32_t refusals;     /* of nodes that lack what it needs */
    uint32_t away;         /* times that a node or its engine could not be reached */
    uint32_t away_nodes;   /* ... each node counted once */
    uint32_t unsure;       /* refused with a 4xx, or without an answer, as far as is known */
    uint32_t trusted;      /* ... at nodes that had just answered others */
    uint32_t blamed;       /* by engines, with a 5xx */
    uint32_t engines_died; /* with it, while their drover-node lived */
    uint32_t unanswered_deaths; /* ... before any output */
    struct refusal_kept refusal;
    uint32_t doubts_count;
    struct doubt *doubts; /* owned, REQUEST_DOUBTS of them; NULL until the first */

    /* The answer. */
    unsigned status;        /* as the client sees it; 0 = nothing yet */
    struct event_end end;   /* of what was shown */
    bool torn;              /* it is inside an event */
    bool cut;               /* it was cut off here, the only way left to signal an error */
    uint32_t next_sequence; /* of an event after those shown, where they are numbered */

    /* For going on elsewhere: private to response.c but for reading. */
    bool resumable; /* all shown so far is in `text` */
    struct buf text;
    struct buf ids;      /* of the text, uint32_t each; of use unless ids_lost */
    uint64_t vocabulary; /* of the ids; 0 = none yet */
    bool ids_lost;       /* of some of the text they are not known */
    char response_id[128];
    char item_id[128]; /* of the message, where the API gives it one */
    uint64_t created;
    uint32_t resumed_tokens; /* output tokens of the attempts before this one */

    uint64_t started_mono_us;
    uint64_t ttft_us;           /* 0 = no content yet */
    uint64_t content_mono_us;   /* when content last came; 0 = none yet */
    uint64_t comment_mono_us;   /* when the client last got a comment */
    uint64_t no_node_mono_us;   /* since when no node is up; 0 = one is */
    uint64_t wait_node_mono_us; /* until when it waits for a node; 0 = it has not begun to */

    uint32_t prompt_tokens, cached_tokens, output_tokens;
    enum api_error last_error; /* of the last attempt that failed */
    char last_message[256];
    enum api_error reported; /* the error that the client got, if any */
};

#endif
