/*
 * estimate.h - learns a node's speed and predicts the next request's cost.  Pure.
 *
 * Learned, per node, model and class of operation: two moving averages, of the tokens B that
 * stood before a request's first token (its own uncached ones and those before it), and of the
 * seconds T that passed from sending it to that token.  Their quotient is the speed p.
 *
 * Three ends of an attempt teach three things:
 *
 *   an answer        status below 400, with content: one sample (B, T)
 *   the node failed  5xx, lost, garbage, silence: one slow sample for the event, however many
 *                    requests were open there: ten times the average, so that a node that fails
 *                    fast does not look fast, and no more, so that it is soon forgiven
 *   all else         4xx, refusals, questions, what is not the node's fault, cancelled: nothing
 *
 * A node's backlog is time: each request is charged u / p when it is sent, with the speed of
 * its own model and class, and taken off at its first token.  The work done since is not known
 * but guessed from the time that has passed.
 */
#ifndef DROVER_POLICY_ESTIMATE_H
#define DROVER_POLICY_ESTIMATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/kinds.h"
#include "policy/route/times.h"

/* ---- learning -------------------------------------------------------------------------- */

/* Both 0: no sample yet.  Also one sample. */
struct estimate_speed {
    float tokens;  /* B */
    float seconds; /* T */
};

enum estimate_lesson {
    ESTIMATE_NOTHING = 0,
    ESTIMATE_ANSWER,
    ESTIMATE_FAILURE,
};

struct estimate_end {
    unsigned status; /* of the engine's head; 0 = there was none */
    bool had_slot;   /* it did not have to wait for a slot or for the model */
    enum op_class op_class;
    bool content;     /* the first token came, or the whole answer */
    bool node_failed; /* it ended as a failure that is the node's own */
    bool before;      /* ... and before the first token */
};
enum estimate_lesson estimate_lesson(const struct estimate_end *end);

/* The sample of an answer: B = u + left_s * p at the time of sending, T since then. */
struct estimate_speed estimate_sample(uint32_t uncached_tokens, double left_s, double p,
                                      double took_s);

/* The sample of the node's own failure.  `usual` is the average when the request was sent:
 * later averages already contain samples of the same event. */
struct estimate_speed estimate_failure(struct estimate_speed usual, struct estimate_speed sent,
                                       const struct route_times *times);

/* The average after one more sample; the first is taken as it is.  A sample that is no number
 * changes nothing. */
struct estimate_speed estimate_learn(struct estimate_speed now, struct estimate_speed sample);

/* ---- knowing --------------------------------------------------------------------------- */

/* Inline, because a decision asks these two of every node. */
#define ESTIMATE_LEAST_LEFT 0.05

/* Tokens per second: learned, else what the node reports (0 = nothing), else a guess; at least
 * 1. */
static inline double estimate_tokens_per_s(struct estimate_speed learned, double reported,
                                           const struct route_times *times)
{
    double p;

    if (learned.seconds > 0 && learned.tokens > 0)
        p = (double)learned.tokens / (double)learned.seconds;
    else
        p = reported > 0 ? reported : times->guess_tokens_per_s;
    return p > 1 ? p : 1;
}

/* The charge of a request of so many uncached tokens. */
uint32_t estimate_charge_us(double uncached_tokens, double tokens_per_s);

struct estimate_backlog {
    double left_s;   /* until a request sent now would be looked at */
    double slowdown; /* at least 1: so many times longer than it should the engine takes */
};

/* The rest of `charged_us`.  The engine is at the request that is now its first since
 * `work_mono_us` (0 = not known): when that was sent, if no other was before its first token,
 * or when the one before it had its first token.  Not less than a twentieth is left, because
 * something is still to come; and once the time exceeds the charge by more than a first token
 * may take on any node, the node is slower than it was, or stands still. */
static inline struct estimate_backlog estimate_backlog(uint64_t charged_us,
                                                       uint64_t work_mono_us,
                                                       uint64_t now_mono_us,
                                                       const struct route_times *times)
{
    double charged = (double)charged_us, left = charged, slowdown = 1;

    if (charged_us != 0 && work_mono_us != 0 && work_mono_us < now_mono_us) {
        double worked = (double)(now_mono_us - work_mono_us);

        left = charged - worked;
        if (left < ESTIMATE_LEAST_LEFT * charged)
            left = ESTIMATE_LEAST_LEFT * charged;
        if (worked > times->silence_us && worked > charged)
            slowdown = worked / (charged > times->silence_us ? charged : times->silence_us);
    }
    return (struct estimate_backlog){.left_s = left * 1e-6, .slowdown = slowdown};
}

/* ---- trying ---------------------------------------------------------------------------- */

/*
 * A node that is never chosen is never measured, so a bad first impression, or none, would
 * last.
 *
 *   never measured          counts as the fastest, one request at a time
 *   not tried for a while   counts as the fastest where this request costs no more than the
 *                           regret more there, at its last known speed, than at the best node
 *
 * Both only while no prompt there is before its first token.  A try is of a model and class, as
 * the speed is.  The regret grows slowly for as long as the node is not tried: one that has
 * recovered is found, even if all prompts are long.  Of a time in which no
 * request comes at all 5 minutes count: after a night the first long prompt is no reason to try
 * a slow node.
 */
/* Seconds of regret; negative: no trial.  `tried_us`, `now_us`: by a clock that soon stands
 * while no request of the model and class comes.  `busy`: it has requests, so the sample would
 * not be as good. */
double estimate_regret_s(uint64_t tried_us, bool busy, uint64_t now_us,
                         const struct route_times *times);

#endif
