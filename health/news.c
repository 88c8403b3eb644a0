/* news.c - which complaints about one node are worth a line of the log. */
#include "health/news.h"

bool news_tell(struct news *news, enum node_state state, enum node_reason reason,
               uint64_t now_mono_us, uint32_t *missed)
{
    uint32_t bit = UINT32_C(1) << ((uint32_t)reason % 32);

    if (news->state != state || now_mono_us - news->since_mono_us >= NEWS_AGAIN_US) {
        news->state = state;
        news->told = 0;
        news->since_mono_us = now_mono_us;
    }
    if ((news->told & bit) != 0) {
        news->missed++;
        return false;
    }
    news->told |= bit;
    *missed = news->missed;
    news->missed = 0;
    return true;
}
