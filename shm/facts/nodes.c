/*
 * nodes.c - the node table.
 *
 * The state and its reason share one word, so no reader sees the one with the other's old
 * value.  The cold part goes through shm/seqlock.h.  nodes_epoch() moves after what it
 * announces.
 */
#include "shm/facts/nodes.h"

#include <math.h>
#include <string.h>

#include "shm/facts/outcomes.h"
#include "shm/facts/speeds.h"
#include "shm/facts/stats.h"
#include "shm/segment.h"
#include "shm/seqlock.h"
#include "shm/share/loads.h"
#include "shm/share/taught.h"

static_assert(sizeof(struct node_model) == 520, "node_model: new layout version");
static_assert(offsetof(struct node_info, origin) == 284, "node_info: new layout version");
static_assert(offsetof(struct node_info, models) == 600, "node_info: new layout version");
static_assert(offsetof(struct node_info, models) == SB_NODE_HEAD_BYTES, "new layout version");
static_assert(sizeof(((struct node_info *)NULL)->models) == SB_NODE_MODELS_BYTES,
              "new layout version");

#define HOLD_LIMIT_S 1e9 /* no slot is held for so long */

/* All of the cold part but the models. */
#define HEAD_BYTES offsetof(struct node_info, models)
static_assert(HEAD_BYTES % 8 == 0, "the models begin at a word");

/* The beginning of the cold part, which is all that a search needs. */
struct name_part {
    uint32_t generation;
    char name[NODE_NAME_BYTES];
};
static_assert(offsetof(struct node_info, name) == offsetof(struct name_part, name), "the same");

static uint32_t float_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* A float from the segment, finite and not negative. */
static float safe_float(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return isfinite(value) && value > 0 ? value : 0;
}

/* Acquire, so that nodes_status()'s second look at the generation comes after these. */
static uint32_t get32(const _Atomic uint32_t *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static void set32(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static uint64_t get64(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static void set64(_Atomic uint64_t *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

/* ---- slots ---- */

enum { SLOTS_LEARNED = 3, SLOTS_GUESSED = 4 }; /* of drover.v1.SlotsSource */

bool nodes_slots_learned(const struct node_info *info)
{
    return info->slots_source == SLOTS_LEARNED || info->slots_source == SLOTS_GUESSED;
}

const char *nodes_slots_source_name(uint32_t source)
{
    static const char *const names[] = {"unknown", "configured", "engine", "learned",
                                        "guessed"};

    return source < ARRAY_LEN(names) ? names[source] : names[0];
}

/* ---- private copies ---- */

static size_t used_bytes(const struct node_info *info)
{
    return offsetof(struct node_info, models) + info->models_count * sizeof(info->models[0]);
}

void node_info_copy(struct node_info *to, const struct node_info *from)
{
    memcpy(to, from, used_bytes(from));
}

bool node_info_equal(const struct node_info *a, const struct node_info *b)
{
    return a->models_count == b->models_count && memcmp(a, b, used_bytes(a)) == 0;
}

/* ---- writing ---- */

/* Order: release, so that a reader that sees a node UP also sees the writes before it. */
static void store_state(struct sb_hot *hot, enum node_state state, enum node_reason reason)
{
    atomic_store_explicit(&hot->state_reason, (uint32_t)state | (uint32_t)reason << 8,
                          memory_order_release);
}

static size_t models_bytes(const struct node_info *info)
{
    return info->models_count * sizeof(info->models[0]);
}

/* Only the models that are there: the others may have no room in the file. */
static void store_info(struct scoreboard *board, unsigned node, const struct node_info *info)
{
    struct sb_node *row = segment_node(board, node);

    seqlock_begin(&row->seq);
    seqlock_store(row->head, info, HEAD_BYTES);
    seqlock_store(segment_models(board, node), info->models, models_bytes(info));
    seqlock_end(&row->seq);
}

/* A row that has nothing but a generation. */
static void store_unnamed(struct scoreboard *board, unsigned node, uint32_t generation)
{
    struct node_info info;

    memset(&info, 0, HEAD_BYTES);
    info.generation = generation;
    info.slots = 1;
    store_info(board, node, &info);
}

static enum node_state load_state(const struct sb_hot *hot, enum node_reason *reason)
{
    uint32_t word = atomic_load_explicit(&hot->state_reason, memory_order_acquire);
    uint32_t state = word & 0xffu, why = word >> 8;

    if (reason != NULL)
        *reason = why <= NODE_REASON_LAST ? (enum node_reason)why : NODE_REASON_NONE;
    return state <= NODE_GONE ? (enum node_state)state : NODE_NONE;
}

/* An empty row; else the one whose node left longest ago; else -1. */
static int row_to_claim(const struct scoreboard *board)
{
    int oldest = -1;
    uint64_t oldest_since = UINT64_MAX;

    for (uint32_t node = 0; node < board->geometry.n_nodes; node++) {
        const struct sb_node *row = segment_node(board, node);
        enum node_state state = load_state(segment_hot(board, node), NULL);

        if (state == NODE_NONE)
            return (int)node;
        if (state == NODE_GONE && get64(&row->since_mono_us) < oldest_since) {
            oldest = (int)node;
            oldest_since = get64(&row->since_mono_us);
        }
    }
    return oldest;
}

/* Everything but generation, state, averages and cold part. */
static void zero_status(struct sb_node *row, struct sb_hot *hot)
{
    set32(&hot->slots_now, 0);
    set32(&row->drain_wanted, 0);
    set64(&row->since_mono_us, 0);
    set64(&row->reason_mono_us, 0);
    set64(&row->checked_mono_us, 0);
    set64(&row->report_mono_us, 0);
    set32(&row->rtt_us, 0);
    set32(&row->reported_running, 0);
    set32(&row->reported_queued, 0);
    set32(&row->kv_used_fraction, 0);
    set32(&row->ttft_p50_us, 0);
    set32(&row->ttft_p99_us, 0);
    set32(&row->tpot_p50_us, 0);
    set32(&row->requests_per_s, 0);
    set32(&row->tokens_per_s, 0);
    set32(&row->success_fraction, float_bits(1));
}

int nodes_claim(struct scoreboard *board, uint64_t now_mono_us)
{
    int node = board->writable ? row_to_claim(board) : -1;
    struct sb_node *row;
    struct sb_hot *hot;
    uint32_t generation;

    if (node == -1)
        return -1;
    row = segment_node(board, (unsigned)node);
    hot = segment_hot(board, (unsigned)node);
    /* The old node must not be seen with the new one's generation. */
    store_state(hot, NODE_NONE, NODE_REASON_NONE);
    generation = get32(&hot->generation) + 1;
    atomic_store_explicit(&hot->generation, generation, memory_order_release);
    stats_zero(board, (unsigned)node);
    speeds_zero(board, (unsigned)node);
    loads_zero(board, (unsigned)node);
    outcomes_zero(board, (unsigned)node);
    taught_zero(board, (unsigned)node);
    store_unnamed(board, (unsigned)node, generation);
    zero_status(row, hot);
    set64(&row->since_mono_us, now_mono_us);
    set64(&row->reason_mono_us, now_mono_us);
    store_state(hot, NODE_JOINING, NODE_REASON_NEW);
    segment_touch_nodes(board);
    return node;
}

/* An engine that says something new of its models is not the one that refused. */
static void forget_lessons(struct scoreboard *board, unsigned node,
                           const struct node_info *fresh)
{
    static struct node_info old; /* one thread; large */

    if (!nodes_read(board, node, &old) || old.models_count != fresh->models_count ||
        memcmp(old.models, fresh->models, models_bytes(fresh)) != 0)
        taught_zero(board, node);
}

void nodes_publish(struct scoreboard *board, unsigned node, const struct node_info *info)
{
    struct sb_node *row = segment_node_rw(board, node);
    struct sb_hot *hot = segment_hot(board, node);
    struct node_info copy;
    uint32_t slots_now;

    if (row == NULL)
        return;
    node_info_copy(&copy, info);
    copy.generation = get32(&hot->generation);
    if (copy.slots == 0)
        copy.slots = 1;
    forget_lessons(board, node, &copy);
    store_info(board, node, &copy);
    slots_now = get32(&hot->slots_now);
    if (slots_now == 0 || slots_now > copy.slots)
        set32(&hot->slots_now, copy.slots);
    segment_touch_nodes(board);
}

void nodes_set_state(struct scoreboard *board, unsigned node, enum node_state state,
                     enum node_reason reason, uint64_t now_mono_us)
{
    struct sb_node *row = segment_node_rw(board, node);
    struct sb_hot *hot = segment_hot(board, node);
    enum node_reason old_reason;
    enum node_state old_state;

    if (row == NULL)
        return;
    old_state = load_state(hot, &old_reason);
    if (old_state == state && old_reason == reason)
        return;
    if (old_state != state)
        set64(&row->since_mono_us, now_mono_us);
    set64(&row->reason_mono_us, now_mono_us);
    store_state(hot, state, reason);
    segment_touch_nodes(board);
}

void nodes_set_checked(struct scoreboard *board, unsigned node, uint64_t now_mono_us,
                       uint32_t rtt_us)
{
    struct sb_node *row = segment_node_rw(board, node);

    if (row == NULL)
        return;
    set64(&row->checked_mono_us, now_mono_us);
    set32(&row->rtt_us, rtt_us);
}

void nodes_set_drain_wanted(struct scoreboard *board, unsigned node, bool drain)
{
    struct sb_node *row = segment_node_rw(board, node);

    if (row == NULL)
        return;
    set32(&row->drain_wanted, drain);
    segment_touch_nodes(board);
}

void nodes_set_slots_now(struct scoreboard *board, unsigned node, uint32_t slots)
{
    struct sb_hot *hot = segment_hot(board, node);

    if (board->writable && hot != NULL)
        set32(&hot->slots_now, slots);
}

void nodes_set_load(struct scoreboard *board, unsigned node, uint32_t running, uint32_t queued,
                    float kv_used_fraction, uint64_t now_mono_us)
{
    struct sb_node *row = segment_node_rw(board, node);

    if (row == NULL)
        return;
    set32(&row->reported_running, running);
    set32(&row->reported_queued, queued);
    set32(&row->kv_used_fraction, float_bits(kv_used_fraction));
    set64(&row->report_mono_us, now_mono_us);
}

void nodes_set_window(struct scoreboard *board, unsigned node, const struct node_status *window)
{
    struct sb_node *row = segment_node_rw(board, node);

    if (row == NULL)
        return;
    set32(&row->ttft_p50_us, window->ttft_p50_us);
    set32(&row->ttft_p99_us, window->ttft_p99_us);
    set32(&row->tpot_p50_us, window->tpot_p50_us);
    set32(&row->requests_per_s, float_bits(window->requests_per_s));
    set32(&row->tokens_per_s, float_bits(window->tokens_per_s));
    set32(&row->success_fraction, float_bits(window->success_fraction));
}

void nodes_release(struct scoreboard *board, unsigned node)
{
    struct sb_node *row = segment_node_rw(board, node);
    struct sb_hot *hot = segment_hot(board, node);

    if (row == NULL)
        return;
    store_state(hot, NODE_NONE, NODE_REASON_NONE);
    store_unnamed(board, node, 0);
    zero_status(row, hot);
    segment_touch_nodes(board);
}

/* Has the row a node that was claimed, but never given a name? */
static bool nameless(const struct sb_node *row, const struct sb_hot *hot)
{
    struct name_part part = {0};

    seqlock_load(&part, row->head, sizeof(part));
    return load_state(hot, NULL) != NODE_NONE && part.name[0] == '\0';
}

void nodes_repair(struct scoreboard *board)
{
    if (!board->writable)
        return;
    for (uint32_t node = 0; node < board->geometry.n_nodes; node++) {
        struct sb_node *row = segment_node(board, node);

        if ((get32(&row->seq) & 1u) != 0 || nameless(row, segment_hot(board, node)))
            nodes_release(board, node);
    }
}

/* ---- reading ---- */

uint64_t nodes_epoch(const struct scoreboard *board)
{
    return atomic_load_explicit(&segment_live(board)->nodes_epoch, memory_order_acquire);
}

uint32_t nodes_version(const struct scoreboard *board, unsigned node)
{
    const struct sb_node *row = segment_node(board, node);

    return row == NULL ? 0 : get32(&row->seq);
}

static void sanitize_about(struct model_about *about)
{
    about->digest[sizeof(about->digest) - 1] = '\0';
    about->modified_at[sizeof(about->modified_at) - 1] = '\0';
    about->format[sizeof(about->format) - 1] = '\0';
    about->family[sizeof(about->family) - 1] = '\0';
    about->parameter_size[sizeof(about->parameter_size) - 1] = '\0';
    about->quantization[sizeof(about->quantization) - 1] = '\0';
    about->expires_at[sizeof(about->expires_at) - 1] = '\0';
}

/* For any bytes: text ends, counts and indices are in range. */
static void sanitize(struct node_info *info)
{
    info->name[sizeof(info->name) - 1] = '\0';
    info->address[sizeof(info->address) - 1] = '\0';
    info->engine_version[sizeof(info->engine_version) - 1] = '\0';
    info->agent_version[sizeof(info->agent_version) - 1] = '\0';
    if (info->origin > NODE_ORIGIN_REGISTRY)
        info->origin = NODE_ORIGIN_STATIC;
    if (info->slots == 0)
        info->slots = 1;
    info->tls = info->tls != 0;
    info->prefill_tokens_per_s = safe_float(float_bits(info->prefill_tokens_per_s));
    info->decode_tokens_per_s = safe_float(float_bits(info->decode_tokens_per_s));
    info->detail[sizeof(info->detail) - 1] = '\0';
    for (uint32_t m = 0; m < info->models_count; m++) {
        info->models[m].id[NODE_MODEL_BYTES - 1] = '\0';
        if (info->models[m].alias_of > info->models_count)
            info->models[m].alias_of = 0;
        sanitize_about(&info->models[m].about);
    }
}

/* A consistent copy of head and models; false after SEQLOCK_TRIES. */
static bool load_info(struct node_info *out, const struct scoreboard *board, unsigned node)
{
    const struct sb_node *row = segment_node(board, node);

    for (int i = 0; i < SEQLOCK_TRIES; i++) {
        uint32_t before = get32(&row->seq);

        if ((before & 1u) == 0) {
            seqlock_load(out, row->head, HEAD_BYTES);
            if (out->models_count > NODE_MAX_MODELS)
                out->models_count = NODE_MAX_MODELS;
            seqlock_load(out->models, segment_models(board, node), models_bytes(out));
            if (atomic_load_explicit(&row->seq, memory_order_relaxed) == before)
                return true;
        }
        seqlock_pause();
    }
    return false;
}

bool nodes_read(const struct scoreboard *board, unsigned node, struct node_info *out)
{
    memset(out, 0, HEAD_BYTES);
    if (node >= board->geometry.n_nodes ||
        load_state(segment_hot(board, node), NULL) == NODE_NONE)
        return false;
    if (!load_info(out, board, node))
        return false;
    sanitize(out);
    return true;
}

bool nodes_status(const struct scoreboard *board, unsigned node, struct node_status *out)
{
    const struct sb_node *row = segment_node(board, node);
    const struct sb_hot *hot = segment_hot(board, node);

    *out = (struct node_status){0};
    if (row == NULL)
        return false;
    for (int i = 0; i < SEQLOCK_TRIES; i++) {
        out->generation = segment_generation(hot);
        out->state = load_state(hot, &out->reason);
        if (out->state == NODE_NONE)
            return false;
        out->drain_wanted = get32(&row->drain_wanted) != 0;
        out->since_mono_us = get64(&row->since_mono_us);
        out->reason_mono_us = get64(&row->reason_mono_us);
        out->checked_mono_us = get64(&row->checked_mono_us);
        out->slots_now = get32(&hot->slots_now);
        out->rtt_us = get32(&row->rtt_us);
        out->reported_running = get32(&row->reported_running);
        out->reported_queued = get32(&row->reported_queued);
        out->kv_used_fraction = safe_float(get32(&row->kv_used_fraction));
        out->report_mono_us = get64(&row->report_mono_us);
        out->ttft_p50_us = get32(&row->ttft_p50_us);
        out->ttft_p99_us = get32(&row->ttft_p99_us);
        out->tpot_p50_us = get32(&row->tpot_p50_us);
        out->requests_per_s = safe_float(get32(&row->requests_per_s));
        out->tokens_per_s = safe_float(get32(&row->tokens_per_s));
        out->success_fraction = safe_float(get32(&row->success_fraction));
        if (out->success_fraction > 1)
            out->success_fraction = 1;
        if (segment_generation(hot) == out->generation)
            return true; /* the row did not change hands meanwhile */
    }
    return false;
}

bool nodes_hot(const struct scoreboard *board, unsigned node, struct node_hot *out)
{
    const struct sb_hot *hot = segment_hot(board, node);
    uint64_t hold_bits;

    if (hot == NULL)
        return false;
    for (int i = 0; i < SEQLOCK_TRIES; i++) {
        out->generation = segment_generation(hot);
        out->state = load_state(hot, NULL);
        out->slots_now = get32(&hot->slots_now);
        out->work_mono_us = get64(&hot->work_mono_us);
        hold_bits = get64(&hot->average[STATS_AVG_HOLD_S]);
        if (segment_generation(hot) != out->generation)
            continue;
        memcpy(&out->hold_s, &hold_bits, sizeof(out->hold_s));
        if (!(out->hold_s >= 0 && out->hold_s < HOLD_LIMIT_S))
            out->hold_s = 0;
        return out->state != NODE_NONE;
    }
    return false;
}

enum node_state nodes_state(const struct scoreboard *board, unsigned node)
{
    const struct sb_hot *hot = segment_hot(board, node);

    return hot == NULL ? NODE_NONE : load_state(hot, NULL);
}

int nodes_find(const struct scoreboard *board, const char *name)
{
    int gone = -1;

    if (name[0] == '\0')
        return -1;
    for (uint32_t node = 0; node < board->geometry.n_nodes; node++) {
        struct sb_node *row = segment_node(board, node);
        enum node_state state = load_state(segment_hot(board, node), NULL);
        struct name_part part = {0};

        if (state == NODE_NONE || !seqlock_read(&part, row->head, sizeof(part), &row->seq))
            continue;
        part.name[sizeof(part.name) - 1] = '\0';
        if (strcmp(part.name, name) != 0)
            continue;
        if (state != NODE_GONE)
            return (int)node;
        gone = (int)node; /* it may live on in another row */
    }
    return gone;
}
