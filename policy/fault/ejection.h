/*
 * ejection.h - decides whether, and for how long, a failing node is ejected.  Pure.
 *
 * The rule is the failure accrual of Finagle (twitter/finagle, liveness/FailureAccrualPolicy):
 * a node is ejected after `failures` in a row, or when less than `success_pct` of the attempts
 * that ended within the window succeeded, given a minimum volume.  It stays out for a back-off
 * that doubles from one ejection to the next, with equal jitter: half of it is certain, the
 * other half random, so that nodes that failed together are not tried together.  A node that
 * then serves for as long as the longest back-off starts from the shortest again.
 *
 * A node may also be odd (policy/fault/odd.h), which its peers show: the caller asks, and this
 * file counts for it.
 *
 * A last reason is ours: a request was silent for the whole limit of its phase, and no other
 * request got a token there either.  One such is enough, for a node that answers pings and
 * never tokens would otherwise cost `failures` times that limit.  It is off when that rule is.
 */
#ifndef DROVER_POLICY_EJECTION_H
#define DROVER_POLICY_EJECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "policy/fault/node_state.h"
#include "policy/fault/odd.h"

#define EJECTION_STEPS 30u

struct ejection_limits {
    uint32_t failures;    /* in a row; 0 = this rule is off */
    uint32_t success_pct; /* 0 = this rule is off */
    uint32_t min_requests;
    uint64_t window_us;
    uint64_t backoff_us, backoff_max_us;
};

/* How the node's attempts ended.  The counts only grow while the node is the same. */
struct ejection_counts {
    uint64_t ok;           /* as the engine meant it */
    uint64_t failed;       /* the node's fault */
    uint64_t stalled;      /* of these: no other request there got a token meanwhile */
    uint64_t contradicted; /* refused, or answered with nothing, unlike another node */
    uint64_t probation_ok, probation_failed;
    /* Since the last look: whose, see odd.h. */
    uint64_t answered_clients, contradicted_clients;
    uint32_t run; /* failures since the last success */
};

struct ejection_step {
    uint32_t ok, failed, contradicted;
    uint64_t answered_clients, contradicted_clients;
};

struct ejection {
    struct ejection_counts last; /* as of the last look */
    uint64_t failed_then;        /* total of failures when counting (re)started */
    struct ejection_step step[EJECTION_STEPS];
    unsigned now;           /* the step being filled */
    uint64_t step_mono_us;  /* when it began */
    uint32_t times;         /* ejections that count for the back-off */
    uint64_t since_mono_us; /* when counting (re)started */
};

/* Starts with a clean record: what `now` shows was before. */
void ejection_init(struct ejection *ejection, const struct ejection_counts *now,
                   uint64_t now_mono_us);

/* The same for a node that returns to traffic, but its ejections are remembered. */
void ejection_restart(struct ejection *ejection, const struct ejection_counts *now,
                      uint64_t now_mono_us);

/* Takes a look at a node that is UP.  FAILURES, SUCCESS_RATE, NO_PROGRESS, or NONE: it is all
 * right.  `advances`: the node's own count of work grows, so its silence is no standstill. */
enum node_reason ejection_look(struct ejection *ejection, const struct ejection_limits *limits,
                               const struct ejection_counts *now, bool advances,
                               uint64_t now_mono_us);

/* The answers and contradictions within the window, as of the last look. */
struct odd_counts ejection_odd_counts(const struct ejection *ejection);

/* Counts an ejection and returns how long it lasts.  `random`: any 64 bits. */
uint64_t ejection_begin(struct ejection *ejection, const struct ejection_limits *limits,
                        uint64_t random);

/* A node on PROBATION: FAILURES: a request failed; PROBES_PASS: one went well; NONE: none
 * ended. */
enum node_reason ejection_probation(struct ejection *ejection,
                                    const struct ejection_counts *now);

/* Never below half: may one more of a model's `total` nodes be taken out when `serving` of them
 * are UP, the one in question included? */
bool ejection_allowed(uint32_t serving, uint32_t total);

#endif
