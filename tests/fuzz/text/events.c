/*
 * events.c - what an engine streams, through the node: known by its first bytes, cut into
 * events, rid of token ids, observed, fitted to an answer that another node began, and
 * assembled into a whole one.  A whole one becomes a stream again.
 *
 * Input: a byte for the operation, a byte for the size of the pieces, then the stream.
 */
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "node/answer/as_stream.h"
#include "node/stream/assemble.h"
#include "node/stream/framing.h"
#include "node/stream/meter.h"
#include "node/stream/splice.h"
#include "node/stream/sse.h"
#include "node/stream/token_ids.h"
#include "tests/fuzz/fuzz.h"

struct listener {
    int operation;
    uint32_t sum, events; /* of what the cutter gave out */
    struct stream_meter o, rejoined;
    struct splice rejoin;
    struct token_ids ids;
    struct assembler *assembler;
};

static uint32_t add(uint32_t sum, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;

    for (size_t i = 0; i < n; i++)
        sum = sum * 31 + p[i] + 1;
    return sum * 31 + (uint32_t)n;
}

/* An event without its ids is as good as with them. */
static void strip(struct listener *l, const struct sse_event *event)
{
    struct json_value before, after;
    struct sse_event out;
    size_t count;

    MUST(token_ids_event(&l->ids, event, &out) == 0);
    if (json_check(&before, event->data, event->data_len, NULL) == 0)
        MUST(json_check(&after, out.data, out.data_len, NULL) == 0 &&
             after.type == before.type);
    else
        MUST(out.raw == event->raw && out.raw_len == event->raw_len);
    MUST(out.raw_len - out.data_len == event->raw_len - event->data_len);
    (void)token_ids_of_text(&l->ids, &count);
    MUST(!l->ids.lost || count == 0);
}

static void hear(struct listener *l, const struct sse_event *event)
{
    struct sse_event changed;
    struct seen seen;
    size_t raw_len = event->raw_len;
    int rc = 0;

    l->events++;
    /* A \n that comes later than its \r, which was an end by itself, may be left out. */
    while (raw_len != 0 && (event->raw[raw_len - 1] == '\r' || event->raw[raw_len - 1] == '\n'))
        raw_len--;
    l->sum = add(l->sum, event->raw, raw_len);
    l->sum = add(l->sum, event->data, event->data_len);
    l->sum = add(l->sum, event->name, event->name_len);
    meter_event(&l->o, event, &seen);
    MUST(memchr(l->o.response_id, '\0', sizeof(l->o.response_id)) != NULL);
    MUST(l->o.tokens <= l->events);
    if (seen.root.type != JSON_NONE && seen.kind != SEEN_ERROR && seen.kind != SEEN_DONE)
        rc = assembler_add(l->assembler, &seen.root);
    MUST(rc == 0 || rc == DRV_EINVAL || rc == DRV_ETOOBIG);
    strip(l, event);
    MUST(splice_event(&l->rejoin, event, &changed) == 0);
    meter_event(&l->rejoined, &changed, &seen);
    MUST(splice_check(&l->rejoin, &l->rejoined, &seen) <= SPLICE_ANEW);
}

/* A document as a stream: each event is whole JSON or the end, and many short parts cost no
 * more than so much. */
static void make_stream(int operation, const void *bytes, size_t n)
{
    struct buf out = BUF_INIT;
    struct json_value root, value;
    struct sse_event event;
    struct sse sse;
    int rc;

    if (!json_check_lenient(&root, bytes, n) || !framing_is_answer(operation, &root))
        return;
    rc = as_stream_write(&out, operation, &root, true);
    MUST(rc == 0 || rc == DRV_EINVAL);
    MUST(buf_size(&out) < 10 * n + (4 << 20));
    sse_init(&sse, meter_is_ndjson(operation) ? SSE_LINES : SSE_EVENTS);
    MUST(sse_feed(&sse, buf_head(&out), buf_size(&out)) == 0);
    while (rc == 0 && sse_next(&sse, &event) == 1)
        MUST(json_check_lenient(&value, event.data, event.data_len) ||
             (event.data_len == 6 && memcmp(event.data, "[DONE]", 6) == 0));
    MUST(rc != 0 || sse_end(&sse, &event) == 0);
    sse_finish(&sse);
    buf_finish(&out);
}

static void begin(struct listener *l, int operation)
{
    static const char text[] = "Hello \xe2\x98\xba";
    const struct splice_config config = {.operation = operation,
                                         .id = "chatcmpl-1",
                                         .created = 7,
                                         .item_id = "msg_1",
                                         .next_sequence = 4,
                                         .tokens = 2,
                                         .text = text,
                                         .text_len = sizeof(text) - 1};

    memset(l, 0, sizeof(*l));
    l->operation = operation;
    meter_init(&l->o, operation, true);
    meter_init(&l->rejoined, operation, true);
    token_ids_init(&l->ids);
    MUST(splice_init(&l->rejoin, &config) == 0);
    l->assembler = assembler_create(operation);
    MUST(l->assembler != NULL);
}

static void end(struct listener *l)
{
    struct json_value root;
    struct error err = {0};
    struct buf out = BUF_INIT;

    if (meter_sum_usage(&l->o))
        assembler_set_usage(l->assembler, &l->o.usage);
    if (assembler_write(l->assembler, &out, &err) == 0)
        MUST(json_check_lenient(&root, buf_head(&out), buf_size(&out)));
    make_stream(l->operation, buf_head(&out), buf_size(&out));
    buf_finish(&out);
    assembler_destroy(l->assembler);
    splice_finish(&l->rejoin);
    token_ids_finish(&l->ids);
    meter_finish(&l->o);
    meter_finish(&l->rejoined);
}

static void run(struct listener *l, int operation, const uint8_t *bytes, size_t n, size_t step)
{
    struct input in = {bytes, n};
    struct sse_event event;
    struct sse sse;
    size_t len;
    int rc;

    begin(l, operation);
    sse_init(&sse, meter_is_ndjson(operation) ? SSE_LINES : SSE_EVENTS);
    do {
        const uint8_t *piece = input_piece(&in, step, &len);

        MUST(sse_feed(&sse, piece, len) == 0);
        while ((rc = sse_next(&sse, &event)) == 1)
            hear(l, &event);
    } while (in.left != 0 && rc == 0);
    if (rc == 0 && sse_end(&sse, &event) == 1)
        hear(l, &event);
    sse_finish(&sse);
    end(l);
}

/* The first bytes decide: what is known of them does not change with those that follow. */
static void frame(int operation, const uint8_t *bytes, size_t n, size_t cut)
{
    enum framing all = framing_of(operation, bytes, n, true, FRAMING_UNDECIDED);
    enum framing some;
    size_t len = n;
    const char *text = framing_trim(bytes, &len);

    MUST(all != FRAMING_UNDECIDED);
    MUST((const uint8_t *)text >= bytes && (const uint8_t *)text + len <= bytes + n);
    if (cut > n)
        cut = n;
    some = framing_of(operation, bytes, cut, false, FRAMING_UNDECIDED);
    MUST(some == FRAMING_UNDECIDED || some == all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int streaming[] = {1, 2, 4, 6, 9, 10};
    struct input in = {data, size};
    int operation = streaming[input_byte(&in) % 6];
    size_t step = input_byte(&in);
    struct listener whole, cut;

    MUST(meter_streams(operation));
    frame(operation, in.at, in.left, step);
    make_stream(operation, in.at, in.left);
    run(&whole, operation, in.at, in.left, 0);
    run(&cut, operation, in.at, in.left, step);
    MUST(whole.events == cut.events);
    MUST(whole.sum == cut.sum);
    return 0;
}
