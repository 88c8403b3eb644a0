/*
 * control.c - the control socket's messages in both directions, as they come in pieces.
 *
 * Input: a byte (its lowest bit: replies rather than requests), a byte for the size of the
 * pieces, then the stream.
 */
#include "proto/control.h"

#include "base/error.h"
#include "base/text/buf.h"
#include "tests/fuzz/fuzz.h"

static void requests(struct buf *in)
{
    struct control_request request, again;
    struct error err = {0};
    struct buf out = BUF_INIT;
    int rc;

    while ((rc = control_decode_request(&request, in, &err)) == 0 || rc == DRV_EINVAL) {
        if (rc == DRV_EINVAL) {
            MUST(err.text[0] != '\0');
            continue;
        }
        MUST(request.op != CONTROL_NONE && memchr(request.node, '\0', sizeof(request.node)));
        MUST(request.op != CONTROL_SCALE || (request.workers >= 1 && request.workers <= 64));
        control_encode_request(&out, &request);
        MUST(!out.failed && control_decode_request(&again, &out, &err) == 0);
        MUST(again.op == request.op && strcmp(again.node, request.node) == 0);
        MUST(buf_size(&out) == 0);
    }
    MUST(rc == DRV_EAGAIN || rc == DRV_ETOOBIG);
    if (rc == DRV_ETOOBIG)
        buf_reset(in);
    buf_finish(&out);
}

static void replies(struct buf *in)
{
    struct control_reply reply, again;
    struct error err = {0};
    struct buf out = BUF_INIT;
    int rc;

    while ((rc = control_decode_reply(&reply, in, &err)) == 0 || rc == DRV_EINVAL) {
        if (rc == DRV_EINVAL)
            continue;
        MUST(memchr(reply.text, '\0', sizeof(reply.text)) != NULL);
        control_encode_reply(&out, &reply);
        MUST(!out.failed && control_decode_reply(&again, &out, &err) == 0);
        MUST(again.done == reply.done && strcmp(again.text, reply.text) == 0);
    }
    MUST(rc == DRV_EAGAIN || rc == DRV_ETOOBIG);
    if (rc == DRV_ETOOBIG)
        buf_reset(in);
    buf_finish(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint32_t kind = input_byte(&in);
    size_t step = input_byte(&in), n;
    struct buf stream = BUF_INIT;

    do {
        const uint8_t *piece = input_piece(&in, step, &n);

        buf_add(&stream, piece, n);
        if ((kind & 1) == 0)
            requests(&stream);
        else
            replies(&stream);
    } while (in.left != 0);
    buf_finish(&stream);
    return 0;
}
