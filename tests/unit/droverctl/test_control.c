/* test_control.c - the control socket's messages: there and back, cut, and garbage. */
#include "proto/control.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"

/* One frame around `n` bytes. */
static void frame(struct buf *out, const void *bytes, size_t n)
{
    const uint8_t head[4] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8),
                             (uint8_t)n};

    buf_add(out, head, sizeof(head));
    buf_add(out, bytes, n);
}

static int decode_bytes(const void *bytes, size_t n)
{
    struct control_request request;
    struct buf in = BUF_INIT;
    int rc;

    frame(&in, bytes, n);
    rc = control_decode_request(&request, &in, NULL);
    if (rc != 0)
        cr_assert_eq(request.op, CONTROL_NONE);
    buf_finish(&in);
    return rc;
}

Test(control, every_request_comes_back_as_it_was)
{
    static const struct control_request all[] = {{.op = CONTROL_DRAIN, .node = "box1"},
                                                 {.op = CONTROL_UNDRAIN, .node = "b"},
                                                 {.op = CONTROL_RELOAD},
                                                 {.op = CONTROL_UPGRADE},
                                                 {.op = CONTROL_SCALE, .workers = 64},
                                                 {.op = CONTROL_SCALE, .workers = 1},
                                                 {.op = CONTROL_STOP},
                                                 {.op = CONTROL_STOP, .quick = true}};
    struct control_request got;
    struct buf b = BUF_INIT;

    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        control_encode_request(&b, &all[i]);
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        cr_assert_eq(control_decode_request(&got, &b, NULL), 0);
        cr_assert_eq(got.op, all[i].op);
        cr_assert_str_eq(got.node, all[i].node);
        cr_assert_eq(got.workers, all[i].workers);
        cr_assert_eq(got.quick, all[i].quick);
    }
    cr_assert_eq(buf_size(&b), 0);
    buf_finish(&b);
}

Test(control, every_reply_comes_back_as_it_was)
{
    static const struct control_reply all[] = {{.done = true, .ok = true, .text = "3 workers"},
                                               {.done = true, .ok = true},
                                               {.done = true, .text = "no such node"},
                                               {.text = "starting workers"}};
    struct control_reply got;
    struct buf b = BUF_INIT;

    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        control_encode_reply(&b, &all[i]);
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        cr_assert_eq(control_decode_reply(&got, &b, NULL), 0);
        cr_assert_eq(got.done, all[i].done);
        cr_assert_eq(got.ok, all[i].ok);
        cr_assert_str_eq(got.text, all[i].text);
    }
    buf_finish(&b);
}

Test(control, the_bytes_of_a_request_are_those_the_header_describes)
{
    /* {"v":1, "op":"reload", "x":[nil]}, written out by hand: unknown keys are ignored */
    static const uint8_t bytes[] = {0x83, 0xa1, 'v', 0x01, 0xa2, 'o',  'p', 0xa6, 'r',
                                    'e',  'l',  'o', 'a',  'd',  0xa1, 'x', 0x91, 0xc0};

    cr_assert_eq(decode_bytes(bytes, sizeof(bytes)), 0);
}

Test(control, a_message_cut_anywhere_is_incomplete_and_stays_in_the_buffer)
{
    const struct control_request request = {.op = CONTROL_DRAIN, .node = "box1"};
    struct control_request got;
    struct buf whole = BUF_INIT;

    control_encode_request(&whole, &request);
    for (size_t n = 0; n < buf_size(&whole); n++) {
        struct buf part = BUF_INIT;

        buf_add(&part, buf_head(&whole), n);
        cr_assert_eq(control_decode_request(&got, &part, NULL), DRV_EAGAIN, "%zu", n);
        cr_assert_eq(buf_size(&part), n);
        buf_finish(&part);
    }
    buf_finish(&whole);
}

Test(control, a_body_cut_anywhere_is_garbage)
{
    const struct control_reply reply = {.done = true, .ok = true, .text = "done and dusted"};
    struct control_reply got;
    struct buf whole = BUF_INIT;

    control_encode_reply(&whole, &reply);
    for (size_t n = 0; n < buf_size(&whole) - 4; n++) {
        struct buf part = BUF_INIT;

        frame(&part, buf_head(&whole) + 4, n);
        cr_assert_eq(control_decode_reply(&got, &part, NULL), DRV_EINVAL, "%zu", n);
        cr_assert_eq(buf_size(&part), 0, "garbage is consumed");
        buf_finish(&part);
    }
    buf_finish(&whole);
}

Test(control, any_one_byte_changed_is_decoded_or_refused_but_never_believed_blindly)
{
    const struct control_request request = {.op = CONTROL_SCALE, .workers = 5};
    struct buf whole = BUF_INIT;

    control_encode_request(&whole, &request);
    for (size_t at = 4; at < buf_size(&whole); at++) {
        for (unsigned value = 0; value < 256; value++) {
            uint8_t bytes[256];
            size_t n = buf_size(&whole) - 4;
            struct control_request got;
            struct buf in = BUF_INIT;

            memcpy(bytes, buf_head(&whole) + 4, n);
            bytes[at - 4] = (uint8_t)value;
            frame(&in, bytes, n);
            if (control_decode_request(&got, &in, NULL) == 0)
                cr_assert(got.op == CONTROL_SCALE && got.workers >= 1 && got.workers <= 64);
            buf_finish(&in);
        }
    }
    buf_finish(&whole);
}

Test(control, counts_that_promise_more_than_the_bytes_hold_are_refused)
{
    static const uint8_t map32[] = {0xdf, 0xff, 0xff, 0xff, 0xff, 0xa1, 'v', 1};
    static const uint8_t array32[] = {0x81, 0xa1, 'v', 0xdd, 0x7f, 0xff, 0xff, 0xff, 1};
    static const uint8_t str32[] = {0x81, 0xa1, 'v', 0xdb, 0xff, 0xff, 0xff, 0xff, 'x'};
    static const uint8_t bin32[] = {0x81, 0xa1, 'v', 0xc6, 0x80, 0, 0, 0, 'x'};
    static const uint8_t never[] = {0x81, 0xa1, 'v', 0xc1};
    static const uint8_t more[] = {0x81, 0xa1, 'v', 1, 0xc0};
    uint8_t deep[100];

    memset(deep, 0x91, sizeof(deep)); /* an array in an array in an array ... */
    deep[sizeof(deep) - 1] = 0xc0;
    cr_assert_eq(decode_bytes(map32, sizeof(map32)), DRV_EINVAL);
    cr_assert_eq(decode_bytes(array32, sizeof(array32)), DRV_EINVAL);
    cr_assert_eq(decode_bytes(str32, sizeof(str32)), DRV_EINVAL);
    cr_assert_eq(decode_bytes(bin32, sizeof(bin32)), DRV_EINVAL);
    cr_assert_eq(decode_bytes(never, sizeof(never)), DRV_EINVAL);
    cr_assert_eq(decode_bytes(more, sizeof(more)), DRV_EINVAL);
    cr_assert_eq(decode_bytes(deep, sizeof(deep)), DRV_EINVAL);
    cr_assert_eq(decode_bytes("", 0), DRV_EINVAL);
}

Test(control, random_bytes_are_refused)
{
    uint64_t seed = 99;

    for (int i = 0; i < 20000; i++) {
        uint8_t bytes[64];

        for (size_t at = 0; at < sizeof(bytes); at++) {
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            bytes[at] = (uint8_t)(seed >> 40);
        }
        bytes[0] = (uint8_t)(0x80 | (bytes[0] & 0x0f)); /* at least it is a map */
        cr_assert_eq(decode_bytes(bytes, 1 + seed % 63), DRV_EINVAL);
    }
}

static int refused(const struct control_request *request, struct error *err)
{
    struct control_request got;
    struct buf b = BUF_INIT;
    int rc;

    control_encode_request(&b, request);
    rc = control_decode_request(&got, &b, err);
    cr_assert_eq(buf_size(&b), 0);
    buf_finish(&b);
    return rc;
}

Test(control, missing_and_wrong_arguments_are_named)
{
    struct error err;

    cr_assert_eq(refused(&(struct control_request){.op = CONTROL_DRAIN}, &err), DRV_EINVAL);
    cr_assert_not_null(strstr(err.text, "node"));
    cr_assert_eq(refused(&(struct control_request){.op = CONTROL_SCALE}, &err), DRV_EINVAL);
    cr_assert_not_null(strstr(err.text, "1 to 64"));
    cr_assert_eq(refused(&(struct control_request){.op = CONTROL_SCALE, .workers = 65}, &err),
                 DRV_EINVAL);
    cr_assert_eq(refused(&(struct control_request){.op = CONTROL_NONE}, &err), DRV_EINVAL);
    cr_assert_not_null(strstr(err.text, "unknown op"));
}

Test(control, a_message_of_another_version_is_refused)
{
    static const uint8_t two[] = {0x82, 0xa1, 'v', 2,   0xa2, 'o', 'p',
                                  0xa6, 'r',  'e', 'l', 'o',  'a', 'd'};
    struct control_request got;
    struct error err;
    struct buf b = BUF_INIT;

    frame(&b, two, sizeof(two));
    cr_assert_eq(control_decode_request(&got, &b, &err), DRV_EINVAL);
    cr_assert_not_null(strstr(err.text, "version 2"));
    buf_finish(&b);
}

Test(control, a_frame_over_64_kib_is_refused_before_it_has_come)
{
    static const uint8_t head[] = {0x00, 0x01, 0x00, 0x01};
    struct control_request got;
    struct buf b = BUF_INIT;

    buf_add(&b, head, sizeof(head));
    cr_assert_eq(control_decode_request(&got, &b, NULL), DRV_ETOOBIG);
    buf_finish(&b);
}
