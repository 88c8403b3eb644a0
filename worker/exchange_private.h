/*
 * exchange_private.h - one exchange, as the files that share its life see it.
 *
 *   exchange.c  how it begins and ends, and what its client does
 *   relay.c     what its node says, on the way to the client
 *   recover.c   what fails, what takes too long, and what is done about it
 *   hedge.c     a second attempt beside one that is slow
 *   waiting.c   its place in line
 *   choose.c    which node it goes to
 */
#ifndef DROVER_WORKER_EXCHANGE_PRIVATE_H
#define DROVER_WORKER_EXCHANGE_PRIVATE_H

#include "base/buf.h"
#include "base/clock.h"
#include "policy/route/estimate.h"
#include "shm/nodes.h"
#include "shm/stats.h"
#include "worker/api/surface.h"
#include "worker/exchange.h"
#include "worker/routing/exclusions.h"

/* A node that said it is full is not asked again, by anybody here, for this long. */
#define EXCHANGE_FULL_PAUSE_US (50 * US_PER_MS)

enum exchange_phase {
    EXCHANGE_WAITING = 0,
    EXCHANGE_RUNNING,
    EXCHANGE_HOPING,
    EXCHANGE_ANSWERED,
};

struct leg_estimate {
    uint32_t uncached_tokens;    /* u */
    double left_s;               /* of the node's backlog */
    double tokens_per_s;         /* p */
    struct estimate_speed usual; /* the averages */
    bool had_slot;               /* no wait for a slot, or for a load, was in store */
};

/*
 * One leg of an exchange: a place on one node, the attempt that runs there, and what that said
 * before it was shown.  An exchange has one leg, and for a while two when it is hedged.
 */
struct leg {
    struct exchange *x;      /* whose it is */
    struct attempt *attempt; /* NULL iff none is under way */
    uint32_t number;         /* of the attempt */
    int row;                 /* in the scoreboard's request table, or -1 */
    bool is_hedge;           /* began as the second of two */

    /* The claim on the node: private to choose.c but for reading. */
    bool claimed;
    unsigned node;
    uint32_t generation;
    uint32_t charge_us;              /* added to the gauge and not given back */
    struct leg_estimate estimate;    /* what was believed of the node when it was sent */
    bool on_trial;                   /* the node was, at dispatch */
    bool excused;                    /* if the attempt fails, it is not the node's fault */
    bool loads_model;                /* holds the claim to load it there */
    struct fleet_node *pending_node; /* in whose list of legs not yet at first content it is */
    struct leg *pending_prev, *pending_next;
    char node_name[NODE_NAME_BYTES];
    uint64_t dispatch_mono_us;
    uint64_t progress_mono_us; /* last sign that it gets on */
    uint32_t queue_position;   /* at the node, as it said last; UINT32_MAX = not yet */
    uint64_t node_work;        /* done by its engine, as it said then */

    /* The answer as far as it is held. */
    unsigned status; /* of the engine's head; 0 = none yet */
    bool event_stream;
    char content_type[128];
    struct buf headers; /* name NUL value NUL ... of the held head */
    struct buf held;    /* body bytes not shown yet */
};

struct exchange {
    struct exchange_core *core;
    struct infer_request *request; /* borrowed; NULL once the responder is done or gone */
    struct exchange *prev, *next;  /* in core->first */
    enum exchange_phase phase;

    /* What routing knows of the request. */
    char model[NODE_MODEL_BYTES]; /* a copy: the request may be gone first */
    uint64_t model_hash;
    enum op_class op_class;
    uint64_t session_hash; /* of session and model; 0 = no session */
    /* Who held the session when the request got its first place: private to choose.c. */
    bool session_looked;
    int session_node; /* slot of a node that is not down; -1 = none */
    uint32_t session_generation;
    uint64_t *windows; /* owned; chained hashes of the prompt, or NULL */
    uint32_t windows_count;
    uint64_t prompt_bytes;    /* of the canonical prompt */
    uint64_t envelope_bytes;  /* of the message to a node, without a text to go on from */
    uint32_t prompt_estimate; /* tokens; at least 1 */

    /* In line: private to waiting.c. */
    struct wait_line *line; /* NULL iff not in line */
    struct exchange *wait_prev, *wait_next;
    uint64_t key;          /* smaller goes first */
    uint32_t position;     /* how many were before it when last counted */
    uint64_t wait_mono_us; /* when the present wait began */
    uint64_t waited_us;    /* in all before that */
    uint64_t lost_mono_us; /* since when no node is up; 0 = one is */

    struct leg legs[2];
    struct leg *leg;   /* in legs: whose answer is, or will be, the client's */
    struct leg *hedge; /* the other one while it runs, else NULL: private to hedge.c */
    uint32_t attempts; /* started so far, full nodes not counted */
    bool placed; /* it once had a place on a node: the line may not turn it away any more */
    uint32_t resumes;
    uint32_t bounces;           /* full nodes met */
    bool full_unhinted;         /* the last attempt ended with "full" and no word of when */
    bool hedged;                /* it had its second leg: there is one in a request's life */
    bool hedge_won;             /* ... and that is whose answer the client got */
    uint64_t hedge_due_mono_us; /* when to look whether to hedge; UINT64_MAX = never */
    struct exclusions excluded;

    /* The answer. */
    unsigned status;        /* as the client sees it; 0 = nothing yet */
    bool head_shown;        /* the client has a status line */
    bool content_shown;     /* ... and content: no more unseen retries */
    bool torn;              /* what was shown last does not end an event */
    bool finished;          /* finish came: the answer is whole */
    bool cut;               /* it was cut off here, as nothing else could tell of an error */
    uint32_t next_sequence; /* of an event after those shown, where they are numbered */

    /* For going on elsewhere. */
    bool resumable; /* all shown so far is in `text` */
    struct buf text;
    struct buf ids;      /* of the text, uint32_t each; of use unless ids_lost */
    uint64_t vocabulary; /* whose ids; 0 = none yet */
    bool ids_lost;       /* of some of the text they are not known */
    char response_id[128];
    uint64_t created;
    uint32_t resumed_tokens; /* output tokens of the attempts before this one */

    uint64_t started_mono_us;
    uint64_t content_mono_us; /* first content of the present attempt; 0 = none yet */
    uint64_t ttft_us;         /* of the exchange; 0 = no content yet */
    uint64_t comment_mono_us; /* when the client was last told that it waits */
    uint64_t hope_mono_us;    /* until when it hopes; 0 = it has not begun to */
    struct timer timer;       /* fires at the earliest of the limits that apply */

    uint32_t prompt_tokens, cached_tokens, output_tokens;
    enum api_error last_error; /* of the last failed attempt */
    char last_message[256];
    const char *outcome; /* for the access log */
    enum api_error told; /* the error the client was told, if any */
};

/* ---- exchange.c ---- */

/* Frees x once neither client nor node holds it.  Every path calls this last. */
void exchange_release_if_over(struct exchange *x);
/* Tries the nodes, or gets in line. */
void exchange_place(struct exchange *x);
/* Tells the client that it went wrong: a whole error answer, or the end of the one that has
 * begun. */
void exchange_answer_error(struct exchange *x, enum api_error error, const char *message,
                           unsigned retry_after_s);
/* The same, for what this worker refuses by itself. */
void exchange_reject(struct exchange *x, enum api_error error, const char *message,
                     unsigned retry_after_s);

enum exchange_try {
    EXCHANGE_TRY_STARTED = 0, /* an attempt runs, or the exchange has ended */
    EXCHANGE_TRY_NO_ROOM,     /* nodes could serve it, none may take it now */
};
/* `beyond_slots`: see choose_node(). */
enum exchange_try exchange_try_start(struct exchange *x, bool beyond_slots);
/* Sends the request to a node where the leg holds a place.  DRV_ENOMEM: the place is given
 * back. */
MUST_CHECK int exchange_begin_attempt(struct leg *leg, struct fleet_node *node);
/* Stops what still runs, without blame: the place counts as `outcome`. */
void exchange_stop_legs(struct exchange *x, enum stats_counter outcome);

/* ---- relay.c ---- */

extern const struct attempt_events relay_events;
/* Tells how the request was routed, in the head of its answer, which has not begun. */
void relay_add_headers(struct exchange *x);
/* Opens the node's window again once little is left on its way to the client. */
void relay_release_if_low(struct leg *leg);
/* Begins a stream's answer before any node has: comments for a client that waits. */
void relay_show_waiting(struct exchange *x);

/* ---- recover.c ---- */

/* Content has been shown: could another node go on from it, once there is text?  Once not,
 * never again. */
bool recover_may_resume(const struct exchange *x);
/* Ends the attempt from our side, as a failure of the node. */
void recover_abandon(struct leg *leg, enum api_error error, enum stats_counter counter,
                     const char *message);
/* The attempt has failed by itself; its claim is still held. */
void recover_failed(struct leg *leg, enum api_error error, enum stats_counter counter,
                    const char *message);
/* Every node that could take it has failed for it.  True: its answer has begun, so it looks
 * again for a while; false: that is over, or was not worth it. */
MUST_CHECK bool recover_hope(struct exchange *x);
/* (Re)starts the timer for the limits of the present phase. */
void recover_arm(struct exchange *x);
/* How long the node may be silent in the present phase. */
uint64_t recover_silence_us(const struct exchange *x);

/* ---- hedge.c ---- */

/* An attempt has begun without a rival: works out when it is to be hedged. */
void hedge_plan(struct exchange *x);
/* It is hedge_due_mono_us: starts the second leg, or looks again a little later. */
void hedge_try(struct exchange *x);
/* This leg gave content, or a whole answer: it is the client's from here on, and the other, if
 * there is one, is stopped. */
void hedge_adopt(struct leg *leg);
/* This leg is over and its place given back.  True: there is another, now x->leg; else x->leg
 * stays what it is. */
bool hedge_leave(struct leg *leg);
/* An answer was whole: a little more may be hedged. */
void hedge_earn(struct exchange *x);

/* ---- waiting.c ---- */

/* Does anybody wait for this model, in any worker? */
bool waiting_has_line(const struct exchange *x);
/* Is the line too long for x?  Never for one that was let in before.  See
 * policy/route/admission.h. */
bool waiting_refuses(const struct exchange *x);
/* Puts x in line; false when memory is short. */
bool waiting_add(struct exchange *x);
void waiting_remove(struct exchange *x); /* fine when not in line */
/* How many of this worker's are before x, which is in line; about, if they are many. */
unsigned waiting_position(const struct exchange *x);
/* How long one of the model's line may wait at present. */
uint64_t waiting_limit_us(const struct exchange *x);
/* Seconds until x, which is in line, is likely to be served: 1..60. */
unsigned waiting_eta_s(const struct exchange *x);
/* x is turned away: notes that the line is too long, and gives the seconds for Retry-After. */
unsigned waiting_turn_away(struct exchange *x);
/* x found a place without standing in line: nobody who was turned away wanted it. */
void waiting_not_needed(const struct exchange *x);
/* A place for a model of this node came free: wakes who is first in line. */
void waiting_released(struct exchange_core *core);

/* ---- choose.c ---- */

/* First content: gives the prompt's tokens back and learns from how long they took. */
void choose_note_content(struct leg *leg);
/* The value of x-drover-session: whether the last attempt went to the node that held the
 * session.  NULL: there is no session, or it went to no node. */
const char *choose_session_text(const struct exchange *x);
/* The attempt is over: gives the place back, and counts how it went. */
void choose_release(struct leg *leg, enum stats_counter outcome);

#endif
