/*
 * nodes.h - the node table.  W: the health process alone.
 *
 * A row has a cold part (the node's identity: struct node_info, guarded by a sequence counter)
 * and a hot part (state, reported load, windowed figures: one relaxed atomic word each).  A
 * row's generation grows by one each time a node takes it, which identifies data of an earlier
 * node. nodes_epoch() grows with every change of a cold part or a state: a worker looks again
 * when it moved.
 */
#ifndef DROVER_SHM_FACTS_NODES_H
#define DROVER_SHM_FACTS_NODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/model_about.h"
#include "policy/fault/node_state.h"

struct scoreboard;

enum node_origin {
    NODE_ORIGIN_STATIC = 0,   /* from the config */
    NODE_ORIGIN_REGISTRY = 1, /* joined by itself */
};

#define NODE_NAME_BYTES    64  /* with NUL */
#define NODE_MODEL_BYTES   256 /* with NUL */
#define NODE_ADDRESS_BYTES 72  /* "[v6]:port", numeric, with NUL */
#define NODE_VERSION_BYTES 64
#define NODE_DETAIL_BYTES  256 /* with NUL */
#define NODE_MAX_MODELS    1024

struct node_model {
    char id[NODE_MODEL_BYTES];
    uint32_t state;       /* enum drover.v1.ModelState, by value */
    uint32_t max_context; /* tokens; 0 = unknown */
    uint32_t operations;  /* bit (1 << drover.v1.Operation) */
    uint32_t load_ms;     /* to become resident, when LOADABLE; 0 = unknown */
    uint32_t alias_of;    /* 0, or 1 + index of the model this is another name of */
    uint32_t has, lacks;  /* as the engine says: bit (1 << enum ability); neither: not known */
    uint32_t largest_context; /* tokens that it can be loaded with; 0 = unknown */
    struct model_about about;
};

/* The cold part: a private copy, which does not change under the reader. */
struct node_info {
    uint32_t generation; /* of the row, when this was read */
    char name[NODE_NAME_BYTES];
    char address[NODE_ADDRESS_BYTES]; /* numeric host:port of its Inference service */
    char engine_version[NODE_VERSION_BYTES];
    char agent_version[NODE_VERSION_BYTES];
    uint8_t instance_id[16]; /* of the drover-node process; zero = unknown */
    uint32_t origin;         /* enum node_origin */
    uint32_t engine;         /* enum drover.v1.EngineKind, by value */
    uint32_t slots;          /* after the config's override; at least 1 */
    uint32_t queue;          /* requests it may hold beyond its slots */
    uint32_t slots_source;   /* enum drover.v1.SlotsSource, by value */
    uint32_t slots_min;      /* bounds of what the node may learn; 0 = unknown */
    uint32_t slots_max;
    uint32_t weight;       /* percent */
    uint32_t tls;          /* 1: connect with TLS */
    uint32_t config_index; /* static nodes: 1 + index in config->nodes, for its TLS files */
    float prefill_tokens_per_s; /* as reported; 0 = unknown */
    float decode_tokens_per_s;
    uint32_t max_request_bytes;     /* largest request message it takes; 0 = unknown */
    uint32_t max_body_bytes;        /* largest body it takes in parts; 0 = it knows no parts */
    char detail[NODE_DETAIL_BYTES]; /* why it is not usable, or what it lacks; "" = all well */
    uint32_t models_count;
    struct node_model models[NODE_MAX_MODELS]; /* last: only those in use are copied */
};

/* The hot part. */
struct node_status {
    uint32_t generation;
    enum node_state state;
    enum node_reason reason;
    bool drain_wanted;        /* the operator wants it drained; apart from `state` */
    uint64_t since_mono_us;   /* when `state` took its value */
    uint64_t reason_mono_us;  /* when it or `reason` did */
    uint64_t checked_mono_us; /* last verdict; 0 = never */
    uint32_t slots_now; /* slots open to traffic at present (capacity ramp); <= info.slots */
    uint32_t rtt_us;    /* of the last probe; 0 = unknown */
    uint32_t reported_running; /* as the node said, over all coordinators */
    uint32_t reported_queued;
    float kv_used_fraction;
    uint64_t report_mono_us; /* when the last load report came; 0 = never */
    /* Over the last 60 s, by health: */
    uint32_t ttft_p50_us, ttft_p99_us;
    uint32_t tpot_p50_us;
    float requests_per_s, tokens_per_s;
    float success_fraction; /* of finished requests; 1 when there were none */
};

/* The part of it that a routing decision goes by. */
struct node_hot {
    uint32_t generation;
    enum node_state state;
    uint32_t slots_now;
    uint64_t work_mono_us; /* see speeds_note_work(); 0 = never */
    double hold_s;         /* STATS_AVG_HOLD_S; 0 = not known yet */
};

/* The number of slots may be wrong: the node has learned or guessed it. */
MUST_CHECK bool nodes_slots_learned(const struct node_info *info);
/* "configured", "engine", "learned", "guessed"; "unknown". */
const char *nodes_slots_source_name(uint32_t source);

/* *to = *from, without the unused part of the table of models.  A struct assignment would copy
 * all of it. */
void node_info_copy(struct node_info *to, const struct node_info *from);
MUST_CHECK bool node_info_equal(const struct node_info *a, const struct node_info *b);

/* ---- writing: health only ---- */

/* Takes an empty or GONE row: bumps its generation, zeroes its histograms, counters and load
 * claims, state JOINING / NEW.  -1 when the table is full. */
MUST_CHECK int nodes_claim(struct scoreboard *board, uint64_t now_mono_us);
/* Replaces the cold part (info->generation is ignored).  slots_now is clamped to info->slots;
 * if it was 0 it becomes info->slots. */
void nodes_publish(struct scoreboard *board, unsigned node, const struct node_info *info);
void nodes_set_state(struct scoreboard *board, unsigned node, enum node_state state,
                     enum node_reason reason, uint64_t now_mono_us);
void nodes_set_checked(struct scoreboard *board, unsigned node, uint64_t now_mono_us,
                       uint32_t rtt_us);
void nodes_set_drain_wanted(struct scoreboard *board, unsigned node, bool drain);
void nodes_set_slots_now(struct scoreboard *board, unsigned node, uint32_t slots);
void nodes_set_load(struct scoreboard *board, unsigned node, uint32_t running, uint32_t queued,
                    float kv_used_fraction, uint64_t now_mono_us);
void nodes_set_window(struct scoreboard *board, unsigned node,
                      const struct node_status *window);
/* Empties a row. */
void nodes_release(struct scoreboard *board, unsigned node);
/* After a health process died: empties the rows that it left half-written (an odd sequence
 * counter, or claimed and never published) and makes every counter even again.  Call before
 * writing. */
void nodes_repair(struct scoreboard *board);

/* ---- reading: anyone ---- */

uint64_t nodes_epoch(const struct scoreboard *board);
/* Moves with every change of the row's cold part; odd while that is being written.  Read it
 * before nodes_read(): while it stays the same, so does what was read. */
uint32_t nodes_version(const struct scoreboard *board, unsigned node);
/* False: empty row, out of range, or no consistent copy in a bounded number of tries (the
 * caller keeps its last one).  Text fields are NUL-terminated and counts are in range whatever
 * the bytes. */
MUST_CHECK bool nodes_read(const struct scoreboard *board, unsigned node,
                           struct node_info *out);
MUST_CHECK bool nodes_status(const struct scoreboard *board, unsigned node,
                             struct node_status *out);
/* False: as above.  One cache line is read, which stats_read_average() needs too. */
MUST_CHECK bool nodes_hot(const struct scoreboard *board, unsigned node, struct node_hot *out);
/* Just the state; NODE_NONE when out of range.  Cheap. */
enum node_state nodes_state(const struct scoreboard *board, unsigned node);
/* The node_id of the node called `name`, whatever its state; -1 when there is none. */
MUST_CHECK int nodes_find(const struct scoreboard *board, const char *name);

#endif
