/* policy.c - which node gets a request. */
#include "worker/policy.h"

#include <stdbool.h>

static bool has_room(const struct policy_candidate *c)
{
    return c->inflight < c->cap;
}

/* The n-th tie replaces the one held with probability 1/n, so each of them is as likely. */
static bool replaces(uint64_t *random, uint32_t ties)
{
    *random = *random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*random >> 33) % ties == 0;
}

static int least_conn(const struct policy_candidate *candidates, size_t n, uint64_t random)
{
    int best = -1;
    uint64_t best_use = 0, best_share = 1;
    uint32_t ties = 1;

    for (size_t i = 0; i < n; i++) {
        const struct policy_candidate *c = &candidates[i];
        uint64_t use = (uint64_t)c->inflight + 1;
        uint64_t share = (uint64_t)c->slots * c->weight;

        if (!has_room(c))
            continue;
        /* use / share < best_use / best_share, without dividing; none of them passes 2^39. */
        if (best == -1 || use * best_share < best_use * share) {
            ties = 1;
        } else if (use * best_share == best_use * share) {
            ties++;
            if (!replaces(&random, ties))
                continue;
        } else {
            continue;
        }
        best = (int)i;
        best_use = use;
        best_share = share;
    }
    return best;
}

static int round_robin(const struct policy_candidate *candidates, size_t n, uint32_t *cursor)
{
    for (size_t step = 0; step < n; step++) {
        size_t i = (*cursor + step) % n;

        if (has_room(&candidates[i])) {
            *cursor = (uint32_t)((i + 1) % n);
            return (int)i;
        }
    }
    return -1;
}

int policy_choose(enum policy_kind kind, const struct policy_candidate *candidates, size_t n,
                  uint32_t *cursor, uint64_t random)
{
    switch (kind) {
    case POLICY_ROUND_ROBIN:
        return round_robin(candidates, n, cursor);
    case POLICY_LEAST_CONN:
    case POLICY_FASTEST:
    case POLICY_RANDOM2:
    case POLICY_PREFIX_HASH:
        break; /* the config admits none but the two above yet */
    }
    return least_conn(candidates, n, random);
}
