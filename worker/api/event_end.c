/* event_end.c - does what a client has of a stream end between two events? */
#include "worker/api/event_end.h"

#include <string.h>

void event_end_note(struct event_end *end, const void *bytes, size_t n)
{
    const size_t room = sizeof(end->last);
    size_t kept;

    if (n == 0)
        return;
    if (n >= room) {
        memcpy(end->last, (const char *)bytes + n - room, room);
        end->count = (uint8_t)room;
        return;
    }
    kept = end->count < room - n ? end->count : room - n;
    memmove(end->last, end->last + end->count - kept, kept);
    memcpy(end->last + kept, bytes, n);
    end->count = (uint8_t)(kept + n);
}

static bool is_line_end(char c)
{
    return c == '\n' || c == '\r';
}

bool event_end_is_here(const struct event_end *end, bool lines)
{
    size_t n = end->count;

    if (n == 0)
        return true;
    if (lines)
        return end->last[n - 1] == '\n';
    if (!is_line_end(end->last[n - 1]))
        return false;
    n -= n > 1 && end->last[n - 1] == '\n' && end->last[n - 2] == '\r' ? 2 : 1;
    return n == 0 || is_line_end(end->last[n - 1]);
}
