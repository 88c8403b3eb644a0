/* sse.c - cuts the body of a streamed answer into whole server-sent events, or NDJSON lines. */
#include "node/stream/sse.h"

#include <string.h>

#include "base/error.h"

void sse_init(struct sse *sse, enum sse_mode mode)
{
    memset(sse, 0, sizeof(*sse));
    sse->mode = mode;
}

void sse_finish(struct sse *sse)
{
    buf_finish(&sse->in);
    buf_finish(&sse->joined);
}

int sse_feed(struct sse *sse, const void *bytes, size_t n)
{
    if (sse->given != 0) {
        buf_consume(&sse->in, sse->given);
        sse->given = 0;
    }
    buf_add(&sse->in, bytes, n);
    return sse->in.failed ? DRV_ENOMEM : 0;
}

/* Drops n bytes that belong to no event. */
static void drop(struct sse *sse, size_t n)
{
    buf_consume(&sse->in, n);
    sse->scanned = 0;
    sse->line_start = 0;
}

/* False when more bytes are needed to see whether the stream begins with a byte-order mark. */
static bool skip_mark(struct sse *sse)
{
    static const uint8_t mark[3] = {0xef, 0xbb, 0xbf};
    size_t have = buf_size(&sse->in);

    if (sse->started)
        return true;
    if (have == 0)
        return false;
    if (memcmp(buf_head(&sse->in), mark, have < 3 ? have : 3) == 0) {
        if (have < 3)
            return false;
        buf_consume(&sse->in, 3);
    }
    sse->started = true;
    return true;
}

/* An error that a server, or a proxy before it, writes into a stream as if there were none. */
static bool is_bare_error(const char *line, size_t n)
{
    static const char begin[] = "{\"error\"";

    return n >= sizeof(begin) - 1 && memcmp(line, begin, sizeof(begin) - 1) == 0;
}

static void add_data(struct sse *sse, struct sse_event *event, const char *value, size_t n,
                     unsigned *data_lines)
{
    if ((*data_lines)++ == 0) {
        event->data = value;
        event->data_len = n;
        return;
    }
    if (*data_lines == 2) {
        buf_reset(&sse->joined);
        buf_add(&sse->joined, event->data, event->data_len);
    }
    buf_add(&sse->joined, "\n", 1);
    buf_add(&sse->joined, value, n);
}

static void set_name(struct sse_event *event, const char *name, size_t n)
{
    event->name = name;
    event->name_len = n;
}

/* One line of the event that is no comment: its name and value go where they belong. */
static void take_field(struct sse *sse, struct sse_event *event, const char *line, size_t n,
                       unsigned *data_lines)
{
    const char *colon = memchr(line, ':', n);
    size_t name_len = colon == NULL ? n : (size_t)(colon - line);
    const char *value = colon == NULL ? line + n : colon + 1;
    size_t value_len = (size_t)(line + n - value);

    if (is_bare_error(line, n)) {
        set_name(event, "error", 5);
        add_data(sse, event, line, n, data_lines);
        return;
    }
    if (value_len != 0 && value[0] == ' ') {
        value++;
        value_len--;
    }
    if (name_len == 5 && memcmp(line, "event", 5) == 0) {
        set_name(event, value, value_len);
    } else if (name_len == 4 && memcmp(line, "data", 4) == 0) {
        add_data(sse, event, value, value_len, data_lines);
    } else if (name_len == 5 && memcmp(line, "error", 5) == 0 && event->name_len == 0) {
        /* Old llama-servers put an error that comes in mid-stream into a field of its own. */
        set_name(event, line, name_len);
        add_data(sse, event, value, value_len, data_lines);
    }
}

/* Both bytes that end a line are looked for in one block after the other, so that the search
 * for one does not run far beyond the other again and again. */
#define BLOCK_BYTES 256

/* Where the line with bytes[at] in it ends, or n. */
static size_t line_end(const struct sse *sse, const void *bytes, size_t at, size_t n)
{
    while (at < n) {
        const uint8_t *from = (const uint8_t *)bytes + at, *cr = NULL;
        size_t block = n - at < BLOCK_BYTES ? n - at : BLOCK_BYTES;
        const uint8_t *lf = memchr(from, '\n', block);

        if (sse->mode != SSE_LINES)
            cr = memchr(from, '\r', lf == NULL ? block : (size_t)(lf - from));
        if (cr != NULL || lf != NULL)
            return at + (size_t)((cr != NULL ? cr : lf) - from);
        at += block;
    }
    return n;
}

/* Takes the first n bytes of the buffer as one event. */
static int give(struct sse *sse, struct sse_event *event, size_t n)
{
    const char *text = (const char *)buf_head(&sse->in);
    unsigned data_lines = 0, fields = 0;
    size_t at = 0;

    memset(event, 0, sizeof(*event));
    event->raw = buf_head(&sse->in);
    event->raw_len = n;
    event->data = text;
    event->name = "";
    if (sse->mode == SSE_LINES) {
        event->data_len = n;
        while (event->data_len != 0 &&
               (text[event->data_len - 1] == '\n' || text[event->data_len - 1] == '\r'))
            event->data_len--;
    } else {
        while (at < n) {
            size_t end = line_end(sse, text, at, n);

            if (end != at && text[at] != ':') {
                take_field(sse, event, text + at, end - at, &data_lines);
                fields++;
            }
            at = end + 1;
        }
        if (data_lines > 1) {
            if (sse->joined.failed)
                return DRV_ENOMEM;
            event->data = (const char *)buf_head(&sse->joined);
            event->data_len = buf_size(&sse->joined);
        }
        event->comment = event->data_len == 0; /* an empty data line is none, by the standard */
        event->silent = event->comment && fields != 0;
    }
    sse->given = n;
    sse->scanned = 0;
    sse->line_start = 0;
    return 1;
}

/* An NDJSON line of nothing, perhaps of an engine that ends its lines in \r\n. */
static bool blank(const uint8_t *line, size_t n)
{
    return n == 0 || (n == 1 && line[0] == '\r');
}

int sse_next(struct sse *sse, struct sse_event *event)
{
    if (sse->given != 0) {
        buf_consume(&sse->in, sse->given);
        sse->given = 0;
    }
    if (!skip_mark(sse))
        return 0;
    if (sse->skip_lf && sse->scanned < buf_size(&sse->in)) {
        sse->skip_lf = false;
        if (buf_head(&sse->in)[sse->scanned] == '\n') {
            sse->saw_lf = true;
            if (sse->scanned == 0)
                drop(sse, 1);
            else
                sse->line_start = ++sse->scanned;
        }
    }
    while (sse->scanned < buf_size(&sse->in)) {
        const uint8_t *p = buf_head(&sse->in);
        size_t have = buf_size(&sse->in);
        size_t at = line_end(sse, p, sse->scanned, have);
        size_t end;
        bool empty_line;

        sse->scanned = at;
        if (at == have)
            break;
        end = at + 1;
        if (sse->mode == SSE_LINES) {
            if (!blank(p, at))
                return end > SSE_MAX_EVENT_BYTES ? DRV_ETOOBIG : give(sse, event, end);
            drop(sse, end);
            continue;
        }
        if (p[at] == '\n') {
            sse->saw_lf = true;
        } else if (end < have) {
            if (p[end] == '\n') {
                sse->saw_lf = true;
                end++;
            }
        } else if (sse->saw_lf) {
            break; /* the \n of this \r\n is still to come */
        } else {
            sse->skip_lf = true;
        }
        empty_line = at == sse->line_start;
        sse->line_start = end;
        sse->scanned = end;
        if (empty_line && at == 0)
            drop(sse, end); /* a blank line between events */
        else if (empty_line)
            return end > SSE_MAX_EVENT_BYTES ? DRV_ETOOBIG : give(sse, event, end);
        if (sse->skip_lf)
            break; /* the input ends in a lone \r: whether a \n follows is yet unknown */
    }
    return buf_size(&sse->in) > SSE_MAX_EVENT_BYTES ? DRV_ETOOBIG : 0;
}

int sse_end(struct sse *sse, struct sse_event *event)
{
    int rc;

    if (sse->given != 0) {
        buf_consume(&sse->in, sse->given);
        sse->given = 0;
    }
    while (buf_size(&sse->in) != 0 &&
           (*buf_head(&sse->in) == '\n' || *buf_head(&sse->in) == '\r'))
        drop(sse, 1);
    if (buf_size(&sse->in) == 0)
        return 0;
    rc = give(sse, event, buf_size(&sse->in));
    event->cut = true;
    return rc;
}
