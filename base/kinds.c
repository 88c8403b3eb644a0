/* kinds.c - names of the kinds. */
#include "base/kinds.h"

const char *policy_name(enum policy_kind kind)
{
    switch (kind) {
    case POLICY_FASTEST:
        return "fastest";
    case POLICY_LEAST_CONN:
        return "least_conn";
    case POLICY_ROUND_ROBIN:
        return "round_robin";
    case POLICY_RANDOM2:
        return "random2";
    case POLICY_PREFIX_HASH:
        return "prefix_hash";
    }
    return "unknown";
}
