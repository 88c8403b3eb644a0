/* retry.c - decides the next step after an attempt of a request. */
#include "policy/fault/retry.h"

#include "base/clock.h"

#define AWAY_MAX_DOUBLINGS 3

static enum retry_verdict after_failure(const struct retry_facts *facts)
{
    if (!facts->content_shown)
        return facts->attempts < facts->max_attempts && facts->budget_allows ? RETRY_AGAIN
                                                                             : RETRY_FAIL;
    return facts->resumable && facts->resumes < facts->max_resumes ? RETRY_RESUME : RETRY_FAIL;
}

/* Would one more node know better than those that refused, or answered nothing? */
static bool another_may_know(const struct retry_facts *facts)
{
    if (facts->end != RETRY_END_NO_ANSWER && facts->trusted >= RETRY_MAX_TRUSTED)
        return false;
    return facts->unsure <
           (facts->end == RETRY_END_UNSURE ? RETRY_MAX_REFUSALS : RETRY_MAX_EMPTY);
}

enum retry_verdict retry_decide(const struct retry_facts *facts)
{
    if (facts->client_gone || facts->end == RETRY_END_ANSWERED)
        return RETRY_DONE;
    if (facts->end == RETRY_END_REFUSED)
        return RETRY_FAIL;
    if (facts->other_runs)
        return RETRY_OTHER_GOES_ON;
    if (facts->end == RETRY_END_NO_NODE_LEFT)
        return (facts->content_shown || facts->all_away) && facts->wait_left ? RETRY_WAIT_NODE
                                                                             : RETRY_FAIL;
    if (facts->engines_died >= RETRY_MAX_DEATHS)
        return RETRY_FAIL;
    if (facts->end == RETRY_END_LACKS || facts->end == RETRY_END_AWAY)
        return facts->refusals < RETRY_MAX_REFUSALS ? RETRY_ELSEWHERE : RETRY_FAIL;
    if (facts->end == RETRY_END_UNSURE || facts->end == RETRY_END_EMPTY ||
        facts->end == RETRY_END_NO_ANSWER)
        return another_may_know(facts) ? RETRY_ELSEWHERE : RETRY_FAIL;
    if (facts->end == RETRY_END_BLAMED && facts->blamed >= RETRY_MAX_BLAMED)
        return RETRY_FAIL;
    if (facts->end == RETRY_END_FULL)
        return RETRY_PAUSE;
    if (facts->end == RETRY_END_SILENT && !facts->content_shown)
        return RETRY_FAIL;
    return after_failure(facts);
}

uint64_t retry_away_until(uint32_t away, uint64_t now_mono_us)
{
    uint32_t doublings = away == 0 ? 0 : away - 1;
    uint64_t until =
        now_mono_us +
        (US_PER_S << (doublings < AWAY_MAX_DOUBLINGS ? doublings : AWAY_MAX_DOUBLINGS));

    if (away >= RETRY_MAX_AWAY)
        return UINT64_MAX;
    return (until + RETRY_AWAY_STEP_US - 1) / RETRY_AWAY_STEP_US * RETRY_AWAY_STEP_US;
}
