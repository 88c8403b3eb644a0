/* balance.c - which node gets a request. */
#include "policy/route/balance.h"

#include <math.h>

#include "base/hash.h"

#define SESSION_DISCOUNT 0.2
#define LOAD_BOUND_PCT   125 /* prefix_hash: of the fair share */

uint64_t balance_random(uint64_t *state)
{
    *state += HASH_GOLDEN;
    return hash_spread(*state);
}

/* The n-th tie replaces the one held with probability 1/n, so each of them is as likely. */
static bool replaces(uint64_t *random, uint32_t ties)
{
    return balance_random(random) % ties == 0;
}

static bool has_slot(const struct balance_candidate *c)
{
    return c->inflight < c->cap && c->inflight < c->slots;
}

/* a's share of use after one more against b's: < 0 when a's is less.  No product passes 2^64.
 */
static int compare_use(const struct balance_candidate *a, const struct balance_candidate *b)
{
    uint64_t left = ((uint64_t)a->inflight + 1) * b->slots * b->weight;
    uint64_t right = ((uint64_t)b->inflight + 1) * a->slots * a->weight;

    return (left > right) - (left < right);
}

/* ---- fastest --------------------------------------------------------------------------- */

/* Windows are cut from all bytes of a prompt, some of which (a picture's) count as few tokens.
 */
static uint32_t cached_tokens(const struct balance_candidate *c,
                              const struct balance_request *request)
{
    return c->matched_tokens < request->tokens ? c->matched_tokens : request->tokens;
}

/* Is a place beyond the slots worth it? */
static inline bool saves_wait(const struct balance_candidate *c,
                              const struct balance_request *request, double p,
                              const struct balance_terms *terms)
{
    return c->matched_tokens != 0 && cached_tokens(c, request) / p >= terms->wait_s;
}

/* Inline, because it is all that a decision does with most candidates. */
static inline void compute_terms(struct balance_terms *out, const struct balance_candidate *c,
                                 const struct balance_request *request, double p)
{
    uint32_t charged = c->inflight + c->planned;
    double n = charged, slots = c->slots == 0 ? 1 : c->slots;
    double waiting = n - slots + 1;

    out->uncached_tokens =
        c->matched_tokens < request->tokens ? request->tokens - c->matched_tokens : 1;
    out->wait_s = waiting > 0 ? waiting * (double)c->hold_s / slots : 0;
    out->prefill_s = (c->backlog_s + (double)out->uncached_tokens / p) * (double)c->slowdown *
                     (1 + n / slots);
    out->load_s = (double)c->load_s;
    out->cost_s = (out->wait_s + out->prefill_s) * 100 / c->weight + out->load_s;
    out->bonus_s = c->same_session ? out->cost_s * SESSION_DISCOUNT : 0;
    out->cost_s -= out->bonus_s;
    out->may_send = has_slot(c) || (c->inflight < c->cap && saves_wait(c, request, p, out));
    out->eligible = out->may_send || (charged < c->plan_cap &&
                                      (charged < c->slots || saves_wait(c, request, p, out)));
}

void balance_terms(struct balance_terms *out, const struct balance_candidate *candidate,
                   const struct balance_request *request)
{
    compute_terms(out, candidate, request, candidate->prefill_tokens_per_s);
}

/* The best so far of those looked at one after the other. */
struct choice {
    int at; /* -1 = none yet */
    double cost_s;
    uint32_t ties;
    uint64_t random;
};

static void offer(struct choice *choice, size_t at, double cost_s)
{
    if (choice->at == -1 || cost_s < choice->cost_s) {
        choice->ties = 1;
    } else if (cost_s <= choice->cost_s) {
        choice->ties++;
        if (!replaces(&choice->random, choice->ties))
            return;
    } else {
        return;
    }
    choice->at = (int)at;
    choice->cost_s = cost_s;
}

/* Those that may be tried, as if they were as fast as the fastest. */
static void offer_trials(struct choice *choice, const struct balance_candidate *candidates,
                         size_t n, const struct balance_request *request, double top_speed)
{
    double best_cost_s = choice->cost_s;

    for (size_t i = 0; i < n; i++) {
        const struct balance_candidate *c = &candidates[i];
        struct balance_terms terms;

        if (c->regret_s < 0 || c->inflight >= c->cap)
            continue;
        compute_terms(&terms, c, request, c->prefill_tokens_per_s);
        if (!terms.may_send || terms.cost_s > best_cost_s + (double)c->regret_s)
            continue;
        compute_terms(&terms, c, request, top_speed);
        if (choice->at != (int)i)
            offer(choice, i, terms.cost_s);
    }
}

static int fastest(const struct balance_candidate *candidates, size_t n,
                   const struct balance_request *request, uint64_t random, float *cost_s)
{
    struct choice choice = {.at = -1, .random = random};
    double top_speed = 0;
    bool trials = false;

    for (size_t i = 0; i < n; i++) {
        const struct balance_candidate *c = &candidates[i];
        struct balance_terms terms;

        if (cost_s != NULL)
            cost_s[i] = INFINITY;
        if (c->prefill_tokens_per_s > top_speed)
            top_speed = c->prefill_tokens_per_s;
        if (c->inflight >= c->cap && c->inflight + c->planned >= c->plan_cap)
            continue;
        compute_terms(&terms, c, request, c->prefill_tokens_per_s);
        if (!terms.eligible)
            continue;
        trials |= c->regret_s >= 0;
        if (cost_s != NULL)
            cost_s[i] = (float)terms.cost_s;
        offer(&choice, i, terms.cost_s);
    }
    if (trials)
        offer_trials(&choice, candidates, n, request, top_speed);
    return choice.at;
}

/* ---- the others ------------------------------------------------------------------------ */

static int least_conn(const struct balance_candidate *candidates, size_t n, uint64_t random)
{
    int best = -1;
    uint32_t ties = 1;

    for (size_t i = 0; i < n; i++) {
        int order;

        if (!has_slot(&candidates[i]))
            continue;
        order = best == -1 ? -1 : compare_use(&candidates[i], &candidates[best]);
        if (order < 0) {
            ties = 1;
        } else if (order == 0) {
            ties++;
            if (!replaces(&random, ties))
                continue;
        } else {
            continue;
        }
        best = (int)i;
    }
    return best;
}

/* The k-th candidate that has a slot. */
static int nth_with_slot(const struct balance_candidate *candidates, size_t n, uint64_t k)
{
    for (size_t i = 0; i < n; i++) {
        if (has_slot(&candidates[i]) && k-- == 0)
            return (int)i;
    }
    return -1;
}

static int random2(const struct balance_candidate *candidates, size_t n, uint64_t random)
{
    uint64_t room = 0, a, b;
    int first, second;

    for (size_t i = 0; i < n; i++)
        room += has_slot(&candidates[i]);
    if (room == 0)
        return -1;
    a = balance_random(&random) % room;
    if (room == 1)
        return nth_with_slot(candidates, n, a);
    b = balance_random(&random) % (room - 1);
    b += b >= a; /* the second draw is never the first again */
    first = nth_with_slot(candidates, n, a);
    second = nth_with_slot(candidates, n, b);
    return compare_use(&candidates[second], &candidates[first]) < 0 ? second : first;
}

static int round_robin(const struct balance_candidate *candidates, size_t n, uint32_t *cursor)
{
    for (size_t step = 0; step < n; step++) {
        size_t i = (*cursor + step) % n;

        if (has_slot(&candidates[i])) {
            *cursor = (uint32_t)((i + 1) % n);
            return (int)i;
        }
    }
    return -1;
}

/* Rendezvous hashing, weighted by capacity: -capacity / ln(h), greatest first, gives each node
 * keys in proportion to its capacity and moves only a lost node's keys. */
static double rendezvous(const struct balance_candidate *c, uint64_t key)
{
    uint64_t h = hash_spread(key ^ hash_spread(c->id + HASH_GOLDEN));
    double unit = ((double)(h >> 11) + 0.5) / 9007199254740992.0;

    return -(double)c->slots * c->weight / log(unit);
}

/* How many requests may run there at once: one on probation, whatever its slots. */
static uint64_t capacity_of(const struct balance_candidate *c)
{
    return (uint64_t)(c->cap < c->slots ? c->cap : c->slots) * c->weight;
}

static int prefix_hash(const struct balance_candidate *candidates, size_t n, uint64_t key,
                       uint64_t random)
{
    uint64_t total = 1, capacity = 0;
    double best_score = 0;
    int best = -1;

    for (size_t i = 0; i < n; i++) {
        if (candidates[i].cap == 0)
            continue;
        total += candidates[i].inflight;
        capacity += capacity_of(&candidates[i]);
    }
    for (size_t i = 0; i < n; i++) {
        const struct balance_candidate *c = &candidates[i];
        /* inflight + 1 <= ceil(1.25 * total * share / capacity), in whole numbers */
        uint64_t share = capacity_of(c) * total * LOAD_BOUND_PCT;
        uint64_t bound = capacity == 0 ? 0 : (share + capacity * 100 - 1) / (capacity * 100);
        double score;

        if (!has_slot(c) || (uint64_t)c->inflight + 1 > bound)
            continue;
        score = rendezvous(c, key);
        if (best == -1 || score > best_score) {
            best = (int)i;
            best_score = score;
        }
    }
    /* No slot stays empty while a request waits for it. */
    return best != -1 ? best : least_conn(candidates, n, random);
}

int balance_choose(enum policy_kind kind, const struct balance_candidate *candidates, size_t n,
                   const struct balance_request *request, uint32_t *cursor, uint64_t random,
                   float *cost_s)
{
    switch (kind) {
    case POLICY_FASTEST:
        return fastest(candidates, n, request, random, cost_s);
    case POLICY_LEAST_CONN:
        return least_conn(candidates, n, random);
    case POLICY_ROUND_ROBIN:
        return round_robin(candidates, n, cursor);
    case POLICY_RANDOM2:
        return random2(candidates, n, random);
    case POLICY_PREFIX_HASH:
        return prefix_hash(candidates, n, request->key, random);
    }
    return -1;
}
