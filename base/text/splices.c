/* splices.c - a long text with a few changes. */
#include "base/text/splices.h"

#include <assert.h>
#include <string.h>

#include "base/error.h"

void splices_init(struct splices *s, const void *text, size_t n)
{
    *s = (struct splices){.text = text, .n = n};
}

void splices_finish(struct splices *s)
{
    buf_finish(&s->added);
    *s = (struct splices){0};
}

int splices_add(struct splices *s, size_t at, size_t removed, const void *put, size_t put_len)
{
    size_t i = s->count, from = buf_size(&s->added);

    assert(at <= s->n && removed <= s->n - at);
    if (s->count == SPLICES_MAX)
        return DRV_EFULL;
    if (put_len != 0) {
        uint8_t *to = buf_reserve(&s->added, put_len);

        if (to == NULL) {
            s->added.failed = false;
            return DRV_ENOMEM;
        }
        memcpy(to, put, put_len);
        s->added.len += put_len;
    }
    for (; i > 0 && s->list[i - 1].at > at; i--)
        s->list[i] = s->list[i - 1];
    s->list[i] = (struct splices_change){
        .at = at, .removed = removed, .from = from, .inserted = put_len};
    s->count++;
    return 0;
}

size_t splices_size(const struct splices *s)
{
    size_t n = s->n;

    for (size_t i = 0; i < s->count; i++)
        n = n - s->list[i].removed + s->list[i].inserted;
    return n;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t splices_read(const struct splices *s, struct splices_reader *reader, void *to, size_t n)
{
    uint8_t *out = to;
    size_t done = 0, take;

    while (done < n) {
        const struct splices_change *next =
            reader->index < s->count ? &s->list[reader->index] : NULL;
        size_t stop = next == NULL ? s->n : next->at;

        take = least(n - done, stop - reader->at);
        if (take != 0)
            memcpy(out + done, s->text + reader->at, take);
        reader->at += take;
        done += take;
        if (reader->at < stop || next == NULL)
            break;
        take = least(n - done, next->inserted - reader->put);
        if (take != 0)
            memcpy(out + done, buf_head(&s->added) + next->from + reader->put, take);
        reader->put += take;
        done += take;
        if (reader->put < next->inserted)
            break;
        reader->at += next->removed;
        reader->put = 0;
        reader->index++;
    }
    return done;
}

bool splices_at_end(const struct splices *s, const struct splices_reader *reader)
{
    return reader->index == s->count && reader->at == s->n;
}
