/* odd.c - decides whether a node refuses or answers nothing more often than its peers. */
#include "policy/fault/odd.h"

#include <math.h>

static double all_of(struct odd_counts counts)
{
    return (double)counts.answered + counts.contradicted;
}

static double share_of(struct odd_counts counts)
{
    return counts.contradicted / all_of(counts);
}

static bool is_measure(struct odd_counts counts)
{
    return all_of(counts) >= ODD_LEAST;
}

struct odd_counts odd_better(struct odd_counts one, struct odd_counts other)
{
    if (!is_measure(one))
        return other;
    if (!is_measure(other))
        return one;
    if (share_of(one) != share_of(other))
        return share_of(one) < share_of(other) ? one : other;
    return all_of(one) > all_of(other) ? one : other;
}

static bool has_two(uint64_t bits)
{
    return (bits & (bits - 1)) != 0;
}

/* One client contradicts, and others are answered. */
static bool is_one_against_others(struct odd_counts node)
{
    uint64_t by = node.contradicted_clients;

    return by != 0 && !has_two(by) && has_two(node.answered_clients & ~by);
}

bool odd_is(struct odd_counts node, struct odd_counts best, uint32_t success_pct)
{
    double pooled, error;

    if (success_pct == 0 || node.contradicted < ODD_LEAST || !is_measure(best) ||
        share_of(node) * 100 <= 100 - (double)success_pct || is_one_against_others(node))
        return false;
    pooled = ((double)node.contradicted + best.contradicted) / (all_of(node) + all_of(best));
    error = sqrt(pooled * (1 - pooled) * (1 / all_of(node) + 1 / all_of(best)));
    return share_of(node) - share_of(best) > ODD_SIGMAS * error;
}
