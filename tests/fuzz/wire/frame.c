/*
 * frame.c - gRPC framing: any bytes, cut anywhere, give the same messages as in one piece.
 *
 * Input: a byte for the size limit, a byte for the size of the pieces, then the stream.
 */
#include "proto/rpc/frame.h"

#include "tests/fuzz/fuzz.h"

struct outcome {
    enum frame_result end;
    unsigned messages;
    size_t bytes;
    uint32_t sum; /* over all bytes of all messages */
    int partial;
};

static void note(struct outcome *o, const uint8_t *message, size_t n)
{
    o->messages++;
    o->bytes += n;
    for (size_t i = 0; i < n; i++)
        o->sum = o->sum * 31 + message[i] + 1;
}

static struct outcome run(const uint8_t *bytes, size_t n, size_t max_bytes, size_t step)
{
    struct input in = {bytes, n};
    struct frame_reader reader;
    struct outcome o = {.end = FRAME_MORE};

    frame_reader_init(&reader, max_bytes);
    do {
        size_t len;
        const uint8_t *from = input_piece(&in, step, &len);
        char *piece = input_copy(from, len);
        const uint8_t *p = (const uint8_t *)piece;

        for (;;) {
            const uint8_t *message = NULL;
            size_t message_len = 0;

            o.end = frame_read(&reader, &p, &len, &message, &message_len);
            if (o.end != FRAME_MESSAGE)
                break;
            MUST(message_len <= max_bytes);
            note(&o, message, message_len);
        }
        MUST(o.end != FRAME_MORE || len == 0);
        free(piece);
    } while (o.end == FRAME_MORE && in.left != 0);
    o.partial = frame_reader_partial(&reader);
    frame_reader_finish(&reader);
    return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    size_t max_bytes = input_byte(&in) * 16, step = input_byte(&in);
    struct outcome whole = run(in.at, in.left, max_bytes, 0),
                   cut = run(in.at, in.left, max_bytes, step);

    MUST(whole.end == cut.end);
    MUST(whole.messages == cut.messages && whole.bytes == cut.bytes && whole.sum == cut.sum);
    MUST(whole.end != FRAME_MORE || whole.partial == cut.partial);
    MUST(whole.bytes + 5 * (size_t)whole.messages <= size);
    return 0;
}
