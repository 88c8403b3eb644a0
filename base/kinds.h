/*
 * kinds.h - the kinds that a configuration names and that decisions take.
 *
 * They stand apart from config.h so that policy/ needs no configuration.  Policies are stored
 * in the scoreboard by value: append, never renumber.
 */
#ifndef DROVER_BASE_KINDS_H
#define DROVER_BASE_KINDS_H

/* How a node is chosen; policy/route/balance.h describes each. */
enum policy_kind {
    POLICY_FASTEST = 0,
    POLICY_LEAST_CONN = 1,
    POLICY_ROUND_ROBIN = 2,
    POLICY_RANDOM2 = 3,
    POLICY_PREFIX_HASH = 4,
};
const char *policy_name(enum policy_kind kind);

/* Which requests go first when several wait. */
enum request_priority {
    REQUEST_PRIORITY_DEFAULT = 0,
    REQUEST_PRIORITY_INTERACTIVE,
    REQUEST_PRIORITY_BULK,
};

#endif
