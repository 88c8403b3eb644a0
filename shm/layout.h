/*
 * layout.h - the bytes of the shared segment.  Only shm/ and tests/ include it.
 *
 * This is an ABI: a running master and a droverctl built last week may disagree about it.
 * Changing a size or an offset below means a new SB_LAYOUT_VERSION in the same commit; the
 * static_asserts at the end make an unnoticed change fail the build.
 *
 * The segment, in this order, each part on a page boundary.  The parts before the models have
 * room in the file from the start, models and columns get theirs before their first use
 * (shm/scoreboard.h), and the file ends with the last column that has.
 *
 *   sb_header                                      constant once the file has its name
 *   sb_live                                        a few words about the whole
 *   sb_proc   [n_workers + 2]                      the last two: health, master
 *   sb_node   [n_nodes]
 *   sb_hot    [n_nodes]                            what a routing decision reads of each node
 *   sb gauges [n_nodes][gauge_stride]              one 8-byte word per node and worker
 *   sb_stats  [n_nodes]
 *   sb_table  [n_workers]                          counts of the request tables and rings
 *   sb_prefix_set[n_prefix_sets]                   which node has seen which prompts
 *   sb_session_set[n_session_sets]                 where a session was last
 *   budgets   [2][SB_BUDGET_MODELS]                one 8-byte word per model: retries, hedges
 *   sb_loads  [n_nodes]
 *   sb_usage  [SB_USAGE_ROWS]
 *   sb_outcomes[n_nodes]                           what passive ejection goes by
 *   queue heads [n_nodes][head_stride]             one 8-byte word per node and worker
 *   queue totals[n_workers]                        one 4-byte word per worker
 *   offers    [n_workers][offer_stride]            one bit per worker and node
 *   speed owners[SB_SPEEDS_ROWS]                   8-byte words: model and class of a row
 *   speeds    [SB_SPEEDS_ROWS + 1][n_nodes]        one 8-byte word each, two floats
 *   tries     [SB_SPEEDS_ROWS + 1][n_nodes + SB_CLOCK_WORDS]  8-byte words: instants by the
 *                                                  row's clock, and the clock
 *   sb_model_queue[SB_MODEL_QUEUES]                whose row it is; its last refusal
 *   model waiting[SB_MODEL_QUEUES][waiting_stride] one 4-byte word per row and worker
 *   sb_taught_head                                 a word about all lessons; poison
 *   sb_taught [n_nodes]                            what refusals taught about each node
 *   plans     [n_nodes][gauge_stride]              one 8-byte word per node and worker
 *   sb_aliases                                     the configuration's names of models
 *   models    [n_nodes][SB_NODE_MODELS_BYTES / 8]  the cold part's table of models
 *   columns   [n_workers], each:
 *     sb_request[requests_per_worker]              open requests
 *     sb_ring                                      the last routing decisions
 *
 * Rules for everything in this file:
 *   1. Fixed-width types only.  No pointer, bool, enum, long, size_t or time_t.
 *   2. Each field has one writing process at a time, named after "W:", or is only ever added
 *      to.  Anyone may read.
 *   3. Fields with different writers do not share a cache line, except the gauges: see there.
 *   4. Fields that change after the file has its name are _Atomic and relaxed, unless "order:"
 *      says more.
 *   5. Text that does not fit a word is guarded by a sequence counter: see shm/seqlock.h.
 */
#ifndef DROVER_SHM_LAYOUT_H
#define DROVER_SHM_LAYOUT_H

#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/histogram.h"
#include "shm/share/node_set.h"

#define SB_MAGIC          UINT64_C(0x4452414f42564f44) /* "DOVBOARD" in memory, little-endian */
#define SB_LAYOUT_VERSION 30u
#define SB_CACHE_LINE     64u
#define SB_PAGE           4096u

#define SB_MAX_NODES    1024u
#define SB_MAX_WORKERS  128u
#define SB_MAX_REQUESTS 65536u

/* How much of everything there is, as numbers, so that the layout depends on no module.  The
 * module that gives such a number its meaning has a name of its own for it, and asserts that
 * the two are the same: a change of one bumps SB_LAYOUT_VERSION and changes the other. */
#define SB_PROC_COUNTERS          8u
#define SB_NODE_HEAD_BYTES        600u    /* struct node_info without its models */
#define SB_NODE_MODELS_BYTES      532480u /* its models */
#define SB_AVERAGES               2u
#define SB_HISTOGRAMS             4u
#define SB_COUNTERS               15u
#define SB_REQUEST_ID_BYTES       65u
#define SB_REQUEST_MODEL_BYTES    64u
#define SB_DECISION_BYTES         1432u /* struct decision */
#define SB_DECISIONS_PER_WORKER   256u
#define SB_BUDGET_MODELS          64u
#define SB_LOADS_PER_NODE         8u
#define SB_USAGE_ROWS             512u
#define SB_USAGE_COUNTERS         3u
#define SB_USAGE_NAME_BYTES       64u
#define SB_OUTCOMES               6u
#define SB_SPEEDS_ROWS            512u
#define SB_CLOCK_WORDS            2u
#define SB_MODEL_QUEUES           1024u
#define SB_TAUGHT_PER_NODE        32u
#define SB_POISON                 64u
#define SB_ALIASES                1024u
#define SB_ALIAS_BYTES            512u /* struct alias_view */
#define SB_PREFIX_DEFAULT_ENTRIES 65536u
#define SB_PREFIX_MAX_ENTRIES     16777216u

/* Where the parts are.  A reader computes the same from the four counts and compares. */
struct sb_geometry {
    uint32_t n_nodes;
    uint32_t n_workers;
    uint32_t requests_per_worker;
    uint32_t n_prefix_sets;
    uint32_t n_session_sets; /* follows from n_prefix_sets */
    uint32_t gauge_stride;   /* words from one node's row of gauges to the next */
    uint32_t head_stride;    /* ... of queue heads */
    uint32_t offer_stride;   /* words from one worker's row of offers to the next */
    uint32_t waiting_stride; /* ... from one model's row of waiting counts to the next */
    uint32_t models_bytes;   /* from one node's models to the next */
    uint32_t proc_bytes; /* sizeof of the elements, so that two builds that disagree notice */
    uint32_t node_bytes;
    uint32_t stats_bytes;
    uint32_t request_bytes;
    uint32_t ring_bytes;
    uint64_t live_offset;
    uint64_t procs_offset;
    uint64_t nodes_offset;
    uint64_t hot_offset;
    uint64_t gauges_offset;
    uint64_t stats_offset;
    uint64_t tables_offset;
    uint64_t prefix_offset;
    uint64_t sessions_offset;
    uint64_t budgets_offset;
    uint64_t loads_offset;
    uint64_t usage_offset;
    uint64_t outcomes_offset;
    uint64_t queue_heads_offset;
    uint64_t queue_totals_offset;
    uint64_t offers_offset;
    uint64_t speed_owners_offset;
    uint64_t speeds_offset;
    uint64_t tries_offset;
    uint64_t model_queues_offset;
    uint64_t model_waiting_offset;
    uint64_t taught_head_offset;
    uint64_t taught_offset;
    uint64_t plans_offset;
    uint64_t aliases_offset;
    uint64_t models_offset; /* all before it is there from the start */
    uint64_t columns_offset;
    uint64_t column_bytes;
    uint64_t ring_offset; /* in a column */
    uint64_t total_bytes; /* of a file with all columns */
};

/* W: master, before it renames the file into place; constant afterwards, so plain fields. */
struct sb_header {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t header_bytes;
    uint64_t created_wall_ms;
    uint64_t reserved0; /* zero */
    struct sb_geometry geometry;
};

/* Words about the whole. */
struct sb_live {
    /* W: master.  Generation of the configuration in force << 32 | workers wanted. */
    alignas(SB_CACHE_LINE) _Atomic uint64_t config;
    /* W: health.  Grows with every change of a node's cold part or state.  order: release, so
     * that a reader that sees it moved sees the change. */
    alignas(SB_CACHE_LINE) _Atomic uint64_t nodes_epoch;
    /* Only grows, by master and workers: worker columns ever used are below this.  order:
     * sequentially consistent, see shm/share/gauges.c. */
    alignas(SB_CACHE_LINE) _Atomic uint32_t columns;
};

struct sb_proc {
    /* W: master. */
    alignas(SB_CACHE_LINE) _Atomic uint32_t pid; /* 0 = none */
    _Atomic uint32_t generation;                 /* of the config it was started with */
    _Atomic uint32_t restarts;                   /* times this row was filled after a crash */
    uint32_t reserved0;                          /* zero */
    _Atomic uint64_t started_mono_us;
    /* W: the process itself; the master before fork() and after waitpid(). */
    alignas(SB_CACHE_LINE) _Atomic uint32_t state; /* enum proc_state */
    uint32_t reserved1;                            /* zero */
    _Atomic uint64_t heartbeat_mono_us;
    _Atomic uint64_t counter[SB_PROC_COUNTERS];
};

#define SB_NODE_HEAD_WORDS (SB_NODE_HEAD_BYTES / 8)

/* W: health, all of it. */
struct sb_node {
    /* Of the cold part; odd while it changes.  See shm/seqlock.h. */
    alignas(SB_CACHE_LINE) _Atomic uint32_t seq;
    _Atomic uint32_t drain_wanted;    /* 0 or 1 */
    _Atomic uint64_t since_mono_us;   /* when the state took its value */
    _Atomic uint64_t reason_mono_us;  /* when it or its reason did */
    _Atomic uint64_t checked_mono_us; /* last verdict; 0 = never */
    _Atomic uint64_t report_mono_us;  /* last load report; 0 = never */
    _Atomic uint32_t rtt_us;
    _Atomic uint32_t reported_running;
    _Atomic uint32_t reported_queued;
    _Atomic uint32_t kv_used_fraction; /* bits of a float, as are the three below */
    _Atomic uint32_t ttft_p50_us;
    _Atomic uint32_t ttft_p99_us;
    _Atomic uint32_t tpot_p50_us;
    _Atomic uint32_t requests_per_s;
    _Atomic uint32_t tokens_per_s;
    _Atomic uint32_t success_fraction;
    /* The cold part: struct node_info, word by word, its models apart; its own fields are all
     * of fixed width. */
    alignas(SB_CACHE_LINE) _Atomic uint64_t head[SB_NODE_HEAD_WORDS];
};

/*
 * The rest of what a routing decision reads of a node, beside its gauges: one cache line, in a
 * table without gaps, because a decision goes through all nodes.  That is why words of health
 * and of the workers share a line, against rule 3: a reader of the ones wants the others.
 */
struct sb_hot {
    /* W: health. */
    alignas(SB_CACHE_LINE) _Atomic uint32_t generation; /* of the row; order: release */
    _Atomic uint32_t state_reason; /* enum node_state | enum node_reason << 8: never torn */
    _Atomic uint32_t slots_now;
    uint32_t reserved0; /* zero */
    /* Bits of a double.  Any worker, by compare-and-swap; health zeroes them for a new node.
     */
    _Atomic uint64_t average[SB_AVERAGES];
    /* When a connection to the node was last lost.  Any worker, by compare-and-swap; health
     * zeroes it for a new node.  See outcomes_note_loss(). */
    _Atomic uint64_t lost_mono_us; /* 0 = never */
    /* Any worker; health zeroes them for a new node.  See shm/facts/speeds.h.  0 = never. */
    _Atomic uint64_t work_mono_us;   /* since then the engine is at what is now its first */
    _Atomic uint64_t failed_mono_us; /* an event of failure began; compare-and-swap */
};

/*
 * Gauges.  W: worker w, its words [n][w] of every row; the master zeroes them once worker w is
 * dead.  order: see shm/share/gauges.c.
 *
 *   bits 63..48  low half of the node's row's generation
 *   bit  47      worker w is in the middle of a claim
 *   bits 46..32  requests in flight
 *   bits 31..0   microseconds of prefill that are charged for requests not yet at first token
 *
 * The words of different workers lie side by side, against rule 3, on purpose: a routing
 * decision reads the whole row of every node, and a request writes three words in its whole
 * life.  Packed, a row of 8 workers is one cache line; padded it would be eight, each of them
 * as likely to have been touched by its owner since the last look.
 */
#define SB_GAUGE_GENERATION(word) ((uint16_t)((word) >> 48))
#define SB_GAUGE_CLAIMING         (UINT64_C(1) << 47)
#define SB_GAUGE_INFLIGHT(word)   ((uint32_t)((word) >> 32) & 0x7fffu)
#define SB_GAUGE_CHARGE_US(word)  ((uint32_t)(word))
#define SB_GAUGE_MAX_INFLIGHT     0x7fffu

/*
 * Plans.  W: worker w, its words [n][w] of every row; the master zeroes them once worker w is
 * dead.  Bits as those of gauges, without bit 47: requests that are planned there and not sent,
 * and the prefill charged for them.  Side by side as gauges are.
 */

/* Any worker adds; health zeroes it all for a new node of the row. */
struct sb_histogram {
    _Atomic uint64_t bucket[HISTOGRAM_BUCKETS];
    _Atomic uint64_t sum_us;
    uint64_t reserved0[7]; /* zero; keeps each histogram on its own cache lines */
};

struct sb_stats {
    alignas(SB_CACHE_LINE) struct sb_histogram histogram[SB_HISTOGRAMS];
    _Atomic uint64_t counter[SB_COUNTERS];
};

/* W: worker w, for table [w]; the master once worker w is dead. */
struct sb_table {
    alignas(SB_CACHE_LINE) _Atomic uint32_t count; /* rows in use */
    _Atomic uint32_t high;                         /* rows ever used: beyond are only zeros */
    /* Routing decisions ever written to the worker's ring, never cleared.  order: release */
    _Atomic uint64_t decisions;
};

/* The sequence counter of a request guards this. */
struct sb_request_text {
    char id[SB_REQUEST_ID_BYTES];
    char model[SB_REQUEST_MODEL_BYTES];
    uint8_t reserved0[7]; /* zero */
};
#define SB_REQUEST_TEXT_WORDS (sizeof(struct sb_request_text) / 8)

/* W: worker w, for rows [w][...]; the master once worker w is dead. */
struct sb_request {
    _Atomic uint32_t seq;   /* of the whole row's identity: odd while it changes hands */
    _Atomic uint32_t phase; /* enum request_phase; REQUEST_FREE = nothing here */
    _Atomic uint32_t node;
    _Atomic uint32_t attempt;
    _Atomic uint32_t tokens_out;
    _Atomic uint32_t prompt_tokens;
    _Atomic uint64_t opened_mono_us;
    _Atomic uint64_t phase_mono_us;
    _Atomic uint64_t text[SB_REQUEST_TEXT_WORDS];
};

/*
 * The prefix index.  W: any worker.  An entry belongs to one hash; a hash that more nodes hold
 * than fit one entry has several entries in its set.  order: see shm/share/prefix.c.
 *
 * `hash` below SB_PREFIX_RESERVED is not a hash: 0 = free, else 1 + the stamp of the second in
 * which a worker began to fill the entry.
 *
 * A holder: bits 31..18 stamp (last use, in seconds, never 0), 17..10 low bits of the node's
 * generation, 9..0 node_id; 0 = none.
 */
#define SB_PREFIX_WAYS     4u
#define SB_PREFIX_HOLDERS  6u
#define SB_PREFIX_RESERVED UINT64_C(0x10000)
struct sb_prefix_entry {
    _Atomic uint64_t hash;
    _Atomic uint32_t holder[SB_PREFIX_HOLDERS];
};
struct sb_prefix_set {
    alignas(SB_CACHE_LINE) struct sb_prefix_entry way[SB_PREFIX_WAYS];
};
/* Sessions.  W: any worker.  Low half of the session's hash << 32 | a holder as above. */
#define SB_SESSION_WAYS 8u
struct sb_session_set {
    alignas(SB_CACHE_LINE) _Atomic uint64_t word[SB_SESSION_WAYS];
};

#define SB_DECISION_WORDS ((SB_DECISION_BYTES + 7) / 8)
struct sb_decision {
    _Atomic uint32_t seq;                        /* of `content` */
    uint32_t reserved0;                          /* zero */
    _Atomic uint64_t content[SB_DECISION_WORDS]; /* struct decision, up to its last candidate */
};
/* W: worker w, for [w].  Never cleared. */
struct sb_ring {
    alignas(SB_CACHE_LINE) struct sb_decision entry[SB_DECISIONS_PER_WORKER];
};

/*
 * Budgets.  W: any worker, compare-and-swap.  Bits 63..32 tag of the model (never 0), 31..14
 * last use in seconds, 13..0 thousandths of tokens that are missing from the bucket (retries)
 * or are in it (hedges); 0 = free.
 *
 * Loads.  W: any worker, compare-and-swap.  Bits 63..40 tag of model and generation (never 0),
 * 39..32 worker, 31..0 the claim's end on CLOCK_MONOTONIC in units of 16 ms; 0 = free.
 */
struct sb_loads {
    alignas(SB_CACHE_LINE) _Atomic uint64_t word[SB_LOADS_PER_NODE];
};

/* W: any worker: `owner` by compare-and-swap, the name of a row that it owns, and it adds. */
struct sb_usage {
    alignas(SB_CACHE_LINE) _Atomic uint64_t owner; /* hash of the name; 0 = free */
    _Atomic uint64_t counter[SB_USAGE_COUNTERS];
    alignas(SB_CACHE_LINE) _Atomic uint64_t name[SB_USAGE_NAME_BYTES / 8];
};

/* Any worker adds; health zeroes it all for a new node of the row. */
struct sb_outcomes {
    alignas(SB_CACHE_LINE) _Atomic uint64_t total[SB_OUTCOMES];
    _Atomic uint64_t progress_mono_us; /* last token; 0 = never */
    _Atomic uint64_t unsure_mono_us;   /* last refusal or empty answer; 0 = never */
    /* A bit for each client that it answered, or that contradicted it; health takes them. */
    _Atomic uint64_t answered_clients, contradicted_clients;
    _Atomic uint32_t run; /* failures since the last success */
    /* W: health.  Low half of the number of probation results it had counted when the present
     * probation began: see outcomes_probed(). */
    _Atomic uint32_t probations_judged;
};

/*
 * Queue heads.  W: worker w, its words [n][w] of every row; the master zeroes them once worker
 * w is dead.  Bits 63..48 low half of the node's generation, 47..0 key; 0 = nothing waits
 * there. A row fills whole cache lines.  order: see shm/queue/queue_heads.c, for the totals
 * too.
 *
 * The words of different workers lie side by side, against rule 3, as gauges do and for the
 * same reason: a process that makes room on a node reads its row, and waiting workers write it
 * seldom.
 *
 * Offers.  W: any process sets a bit of row w, worker w takes them all.  A row fills whole
 * cache lines.
 *
 * Model waiting.  W: worker w, its words [row][w]; the master zeroes them once worker w is
 * dead. The words of different workers lie side by side, as queue heads do.
 */

/* Any worker takes a free row, once and for good, and moves the time of the last refusal on. */
struct sb_model_queue {
    /* order: acquire and release; a row is taken by a compare-and-swap from 0. */
    alignas(SB_CACHE_LINE) _Atomic uint64_t model_hash;
    _Atomic uint64_t refused_mono_us; /* 0 = never */
};

/* W: any worker.  See shm/share/taught.c for the two words. */
struct sb_lesson {
    _Atomic uint64_t value; /* bits 63..32 its end in seconds, 31..0 the figure; 0 = free */
    _Atomic uint64_t crossed;
};
struct sb_taught {
    alignas(SB_CACHE_LINE) struct sb_lesson lesson[SB_TAUGHT_PER_NODE];
};
/* See shm/share/poison.c. */
struct sb_poison {
    _Atomic uint64_t until_mono_us; /* 0 = free */
    _Atomic uint64_t crossed;
};
struct sb_taught_head {
    alignas(SB_CACHE_LINE) _Atomic uint64_t epoch; /* only grows; order: release, acquire */
    /* That of the youngest; 0 = there never was one.  order: release, acquire */
    alignas(SB_CACHE_LINE) _Atomic uint64_t poison_until_mono_us;
    _Atomic uint64_t poison_key; /* 0 = not drawn yet */
    alignas(SB_CACHE_LINE) struct sb_poison poison[SB_POISON];
};

/* W: master. */
struct sb_aliases {
    alignas(SB_CACHE_LINE) _Atomic uint32_t seq; /* odd while they change: shm/seqlock.h */
    _Atomic uint32_t count;
    alignas(SB_CACHE_LINE) _Atomic uint64_t alias[SB_ALIASES][SB_ALIAS_BYTES / 8];
};

/* A reader that maps this elsewhere, or was built by another compiler, must agree. */
static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2,
              "a lock hidden inside an atomic would be private to one process");
static_assert(sizeof(_Atomic uint32_t) == 4 && sizeof(_Atomic uint64_t) == 8,
              "atomics are as wide as what they hold");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the magic number is little-endian");

/* If one of these fails: bump SB_LAYOUT_VERSION, then write the new number here. */
static_assert(sizeof(struct sb_geometry) == 304, "sb_geometry: new layout version");
static_assert(sizeof(struct sb_header) == 336, "sb_header: new layout version");
static_assert(offsetof(struct sb_header, geometry) == 32, "sb_header: new layout version");
static_assert(sizeof(struct sb_live) == 192, "sb_live: new layout version");
static_assert(sizeof(struct sb_proc) == 192, "sb_proc: new layout version");
static_assert(offsetof(struct sb_proc, state) == 64, "sb_proc: new layout version");
static_assert(sizeof(struct sb_node) == 768, "sb_node: new layout version");
static_assert(offsetof(struct sb_node, head) == 128, "sb_node: new layout version");
static_assert(sizeof(struct sb_hot) == 64, "sb_hot: new layout version");
static_assert(offsetof(struct sb_hot, lost_mono_us) == 32, "sb_hot: new layout version");
static_assert(sizeof(struct sb_histogram) == 3392, "sb_histogram: new layout version");
static_assert(sizeof(struct sb_stats) == 13696, "sb_stats: new layout version");
static_assert(sizeof(struct sb_table) == 64, "sb_table: new layout version");
static_assert(sizeof(struct sb_request) == 176, "sb_request: new layout version");
static_assert(offsetof(struct sb_request, text) == 40, "sb_request: new layout version");
static_assert(sizeof(struct sb_prefix_set) == 128, "sb_prefix_set: new layout version");
static_assert(sizeof(struct sb_session_set) == 64, "sb_session_set: new layout version");
static_assert(sizeof(struct sb_ring) == 368640, "sb_ring: new layout version");
static_assert(sizeof(struct sb_loads) == 64, "sb_loads: new layout version");
static_assert(sizeof(struct sb_usage) == 128, "sb_usage: new layout version");
static_assert(sizeof(struct sb_outcomes) == 128, "sb_outcomes: new layout version");
static_assert(sizeof(struct sb_model_queue) == 64, "sb_model_queue: new layout version");
static_assert(sizeof(struct sb_taught) == 512, "sb_taught: new layout version");
static_assert(sizeof(struct sb_taught_head) == 1152, "sb_taught_head: new layout version");
static_assert(sizeof(struct sb_aliases) == 524352, "sb_aliases: new layout version");
static_assert(SB_MAX_NODES <= 1024, "a holder has 10 bits for the node");
static_assert(SB_MAX_NODES <= NODE_SET_NODES, "a node set has a bit for every node");
static_assert(SB_MAX_WORKERS <= 256, "a load claim has 8 bits for the worker");

#endif
