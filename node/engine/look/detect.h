/*
 * detect.h - detects which engine answers at a URL, and reads its facts.
 *
 * A look is a short series of GETs.  This module says which path to ask next;
 * node/engine/look/looks.c does the asking, and the readers in node/engine/kinds/ turn the
 * answers into facts.  A full look begins at /v1/models, which every engine has, and settles
 * the kind.  A load look asks what shows the load, a light look what costs the engine least;
 * for when each is due see look_times.h.  An engine that shows no load gets none invented for
 * it.
 *
 * A server of no known kind is asked five pages, once: a later full look leaves out what
 * brought nothing, as long as /v1/models shows the same sort of server (its Server header, the
 * owners of the models) and every look is answered.  So a paid API sees one GET a look.  Pure.
 */
#ifndef DROVER_NODE_ENGINE_LOOK_DETECT_H
#define DROVER_NODE_ENGINE_LOOK_DETECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "node/engine/facts.h"
#include "node/engine/kinds/kind.h"
#include "node/engine/kinds/operations.h"
#include "node/engine/look/look_times.h"

/* Paths a look may still ask; a bit each, asked in this order. */
enum detect_step {
    DETECT_MODELS = 1 << 0,          /* /v1/models */
    DETECT_INFO = 1 << 1,            /* /info */
    DETECT_OLLAMA_VERSION = 1 << 2,  /* /api/version */
    DETECT_VERSION = 1 << 3,         /* /version */
    DETECT_PROPS = 1 << 4,           /* /props */
    DETECT_TAGS = 1 << 5,            /* /api/tags */
    DETECT_PS = 1 << 6,              /* /api/ps */
    DETECT_SLOTS = 1 << 7,           /* /slots */
    DETECT_SERVER_INFO = 1 << 8,     /* /server_info */
    DETECT_OLD_SERVER_INFO = 1 << 9, /* /get_server_info */
    DETECT_MODEL_INFO = 1 << 10,     /* /model_info */
    DETECT_OLD_MODEL_INFO = 1 << 11, /* /get_model_info */
    DETECT_METRICS = 1 << 12,        /* /metrics */
    DETECT_LM_STUDIO = 1 << 13,      /* /api/v0/models */
    DETECT_CARD = 1 << 14,           /* /v1/model */
    DETECT_HEALTH = 1 << 15,         /* /health */
};

#define DETECT_MAX_BUSY 8

/* A router is asked about the models that work for us, one after the other. */
struct detect_routed {
    char busy[DETECT_MAX_BUSY][ENGINE_MODEL_BYTES];
    uint32_t count;
    uint32_t at;     /* the one that is asked about */
    uint64_t work;   /* that those before it show */
    bool all_shown;  /* all of them showed it */
    char path[1024]; /* of the question */
};

struct detector {
    const char *url;                  /* borrowed: for what people read */
    const struct engine_offer *offer; /* borrowed */
    struct engine_facts facts;        /* of the last look that ended */
    struct engine_facts next;         /* of the look under way */
    uint32_t todo;                    /* steps still to ask */
    uint32_t asking;        /* the step whose answer is awaited; 0 = no look under way */
    uint32_t missing;       /* steps that this engine does not offer */
    uint32_t barren;        /* steps of a full look that brought nothing from this `sort` */
    uint64_t sort;          /* a hash of what /v1/models shows of the server itself; 0 = none */
    enum kind_page page;    /* as /v1/models showed it in the last full look */
    bool lists;             /* /v1/models was answered with a list in this look */
    bool has_version;       /* /version was answered with one */
    bool abandoned;         /* this look ended early, and its facts are the last one's */
    bool slots_seen;        /* /slots was answered in this look */
    enum look_level level;  /* of this look */
    bool load_seen;         /* this look has shown what runs */
    bool skips_load;        /* this full look leaves the load out */
    bool metrics_due;       /* the next load look reads the speeds, too */
    uint64_t began_mono_us; /* the last look */
    uint32_t working;       /* operations that this engine has answered, a bit each */
    const char *refuses_us; /* what it refused the last requests for; NULL = nothing */
    struct detect_routed routed;
    struct operations_missing missing_operations;
};

/* One answer.  status 0: none came (`why` says why and what to do about it, `timed_out` that it
 * was only slow, `refused` that nothing listens there). */
struct detect_answer {
    unsigned status;
    const char *server; /* the Server header, or "" */
    const uint8_t *body;
    size_t n;
    const char *why;
    bool timed_out;
    bool refused; /* nothing listens there */
};

/* `url` and `offer` must outlive the detector. */
void detect_init(struct detector *r, const char *url, const struct engine_offer *offer);

/* Starts a look; a full one while the engine is not known or not ready.  Returns the first path
 * to ask. */
const char *detect_begin(struct detector *r, enum look_level level, uint64_t now_mono_us);

/* Before a look: a request of ours works with this model; detect_none_busy() forgets them. */
void detect_busy(struct detector *r, const char *model);
void detect_none_busy(struct detector *r);

/* Does a load look show anything of this engine? */
MUST_CHECK bool detect_shows_load(const struct detector *r);

/* Takes the answer to the path asked last.  Returns the next path, or NULL: the look has ended
 * and `facts` is new. */
MUST_CHECK const char *detect_next(struct detector *r, const struct detect_answer *answer);

/* The engine answered a request of this operation (an enum drover.v1.Operation).  True: `facts`
 * have changed. */
MUST_CHECK bool detect_operation_works(struct detector *r, int operation);

/* The engine refused a request for what is wrong between it and us, which its list of models
 * did not show: `facts` say `why`, a constant, until a request is answered or the engine is
 * another. True: they have changed. */
MUST_CHECK bool detect_refuses_us(struct detector *r, const char *why);

/* The engine answered a request of this operation with "no such thing": `facts` no longer show
 * it for this model, until it is time to try again.  False: nothing changed, as it has worked
 * here, or the operator named the operations. */
MUST_CHECK bool detect_operation_missing(struct detector *r, const char *model, int operation,
                                         uint64_t now_mono_us);

/* Ends the look under way as if it had not begun: `facts` stay. */
void detect_abandon(struct detector *r);

#endif
