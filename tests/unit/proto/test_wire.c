/* test_wire.c - bounded decoding of protobuf from strangers. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "proto/drover_inference.pb-c.h"
#include "proto/drover_registry.pb-c.h"
#include "proto/wire.h"

static size_t pack_request(uint8_t *out)
{
    Drover__V1__InferRequest request = DROVER__V1__INFER_REQUEST__INIT;
    Drover__V1__BodyEdit edit = DROVER__V1__BODY_EDIT__INIT;
    Drover__V1__Header header = DROVER__V1__HEADER__INIT, *headers[1] = {&header};
    char id[] = "req-1", model[] = "m\xc3\xbcller", name[] = "x-a", value[] = "1";

    request.request_id = id;
    request.model = model;
    request.attempt = 7;
    request.body.data = (uint8_t *)id;
    request.body.len = 5;
    request.edit = &edit;
    edit.set_model = model;
    request.n_headers = 1;
    request.headers = headers;
    header.name = name;
    header.value = value;
    return drover__v1__infer_request__pack(&request, out);
}

static void *unpack_request(struct wire_arena *arena, const uint8_t *bytes, size_t n,
                            struct error *err)
{
    return wire_unpack(&drover__v1__infer_request__descriptor, arena, bytes, n, err);
}

Test(wire, a_message_comes_out_as_it_went_in)
{
    struct wire_arena arena;
    struct error err = {0};
    uint8_t bytes[256];
    size_t n = pack_request(bytes);
    Drover__V1__InferRequest *request;

    wire_arena_init(&arena);
    request = unpack_request(&arena, bytes, n, &err);
    cr_assert_not_null(request, "%s", err.text);
    cr_assert_str_eq(request->request_id, "req-1");
    cr_assert_str_eq(request->model, "m\xc3\xbcller");
    cr_assert_eq(request->attempt, 7);
    cr_assert_eq(request->body.len, 5);
    cr_assert_eq(request->n_headers, 1);
    cr_assert_str_eq(request->headers[0]->value, "1");
    wire_arena_finish(&arena);
}

Test(wire, no_bytes_are_the_empty_message)
{
    struct wire_arena arena;
    Drover__V1__InferRequest *request;

    wire_arena_init(&arena);
    request = unpack_request(&arena, NULL, 0, NULL);
    cr_assert_not_null(request);
    cr_assert_str_eq(request->model, "");
    wire_arena_finish(&arena);
}

Test(wire, a_cut_at_any_byte_is_an_error_or_a_shorter_message_but_never_a_crash)
{
    struct wire_arena arena;
    uint8_t bytes[256];
    size_t n = pack_request(bytes), cut;
    unsigned refused = 0;

    wire_arena_init(&arena);
    for (cut = 0; cut < n; cut++) {
        uint8_t *copy = malloc(cut + 1); /* so that ASan sees a read past the end */

        memcpy(copy, bytes, cut);
        refused += unpack_request(&arena, copy, cut, NULL) == NULL;
        free(copy);
    }
    cr_assert_gt(refused, n / 2);
    wire_arena_finish(&arena);
}

Test(wire, random_changes_never_crash_it)
{
    struct wire_arena arena;
    uint8_t bytes[256], changed[256];
    size_t n = pack_request(bytes);
    unsigned round;

    srandom(2);
    wire_arena_init(&arena);
    for (round = 0; round < 50000; round++) {
        unsigned flips = 1 + (unsigned)random() % 4;

        memcpy(changed, bytes, n);
        while (flips-- != 0)
            changed[(size_t)random() % n] = (uint8_t)random();
        if (unpack_request(&arena, changed, n, NULL) != NULL)
            cr_assert_leq(arena.used + arena.spilled, 2 * n + 65536);
    }
    wire_arena_finish(&arena);
}

Test(wire, strings_must_be_utf8_without_nul_at_any_depth)
{
    static const struct {
        const char *bytes;
        size_t n;
    } bad[] = {
        {"\x22\x02\xc3\x28", 4},     /* model, broken UTF-8 */
        {"\x22\x01\x00", 3},         /* model with a NUL */
        {"\x22\x02\xc0\x80", 4},     /* model, overlong NUL */
        {"\x22\x03\xed\xa0\x80", 5}, /* model, a surrogate */
        {"\x4a\x03\x0a\x01\xff", 5}, /* headers[0].name */
        {"\x42\x03\x0a\x01\xff", 5}, /* edit.set_model */
    };
    struct wire_arena arena;
    struct error err = {0};
    size_t i;

    wire_arena_init(&arena);
    for (i = 0; i < ARRAY_LEN(bad); i++)
        cr_expect_null(unpack_request(&arena, (const uint8_t *)bad[i].bytes, bad[i].n, &err),
                       "case %zu", i);
    /* Bytes fields hold what they like. */
    cr_expect_not_null(unpack_request(&arena, (const uint8_t *)"\x2a\x02\xff\x00", 4, &err));
    wire_arena_finish(&arena);
}

Test(wire, sixty_four_unknown_fields_are_taken_and_one_more_is_not)
{
    struct wire_arena arena;
    struct error err = {0};
    uint8_t bytes[3 * 65];
    size_t i;

    for (i = 0; i < 65; i++)
        memcpy(bytes + 3 * i, "\xa0\x1f\x01", 3); /* field 500, a varint */
    wire_arena_init(&arena);
    cr_assert_not_null(unpack_request(&arena, bytes, 3 * 64, &err), "%s", err.text);
    cr_assert_null(unpack_request(&arena, bytes, 3 * 65, &err));
    cr_assert_str_eq(err.text, "more than 64 unknown fields");
    wire_arena_finish(&arena);
}

Test(wire, many_tiny_entries_hit_the_budget)
{
    struct wire_arena arena;
    struct error err = {0};
    struct buf bytes = BUF_INIT;
    size_t i;

    for (i = 0; i < 20000; i++)
        buf_add(&bytes, "\x62\x00", 2); /* Register.models: an empty Model */
    wire_arena_init(&arena);
    cr_assert_null(wire_unpack(&drover__v1__register__descriptor, &arena, buf_head(&bytes),
                               buf_size(&bytes), &err));
    cr_assert_leq(arena.used + arena.spilled, 2 * 40000 + 524288);
    /* A few are fine, and the arena is as good as new. */
    cr_assert_not_null(
        wire_unpack(&drover__v1__register__descriptor, &arena, buf_head(&bytes), 128, &err));
    buf_finish(&bytes);
    wire_arena_finish(&arena);
}

/* A head of so many headers, each with a value of so many bytes. */
static bool takes_headers(unsigned count, unsigned value_bytes, struct error *err)
{
    Drover__V1__InferEvent event = DROVER__V1__INFER_EVENT__INIT;
    Drover__V1__ResponseHead head = DROVER__V1__RESPONSE_HEAD__INIT;
    Drover__V1__Header header = DROVER__V1__HEADER__INIT;
    Drover__V1__Header **headers = calloc(count, sizeof(*headers));
    char name[] = "openai-a", *value = calloc(1, value_bytes + 1);
    struct wire_arena arena;
    uint8_t *bytes;
    size_t n;
    bool taken;

    cr_assert(headers != NULL && value != NULL);
    memset(value, 'v', value_bytes);
    header.name = name;
    header.value = value;
    for (unsigned i = 0; i < count; i++)
        headers[i] = &header;
    head.n_headers = count;
    head.headers = headers;
    event.event_case = DROVER__V1__INFER_EVENT__EVENT_HEAD;
    event.head = &head;
    n = drover__v1__infer_event__get_packed_size(&event);
    bytes = malloc(n);
    cr_assert_not_null(bytes);
    cr_assert_eq(drover__v1__infer_event__pack(&event, bytes), n);
    wire_arena_init(&arena);
    taken = wire_unpack(&drover__v1__infer_event__descriptor, &arena, bytes, n, err) != NULL;
    wire_arena_finish(&arena);
    free(bytes);
    free(value);
    free(headers);
    return taken;
}

/* The head, and three fields of each header. */
Test(wire, a_message_of_more_than_32768_fields_is_not_decoded)
{
    struct error err = {0};

    cr_assert(takes_headers(10922, 150, &err), "%s", err.text);
    cr_assert_not(takes_headers(10923, 150, &err));
    cr_assert_not_null(strstr(err.text, "32768 fields"), "%s", err.text);
    err = (struct error){0};
    cr_assert_not(takes_headers(80000, 15, &err));
    cr_assert_not_null(strstr(err.text, "32768 fields"), "%s", err.text);
}

Test(wire, malformed_wire_forms_are_refused)
{
    static const struct {
        const char *bytes;
        size_t n;
    } bad[] = {
        {"\x00\x01", 2},                                          /* field 0 */
        {"\x0b\x0c", 2},                                          /* a group */
        {"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12}, /* 11-byte varint */
        {"\x2a\xff\xff\xff\xff\x0f", 6},                          /* 4 GiB of body */
        {"\x2a\x05 hi", 5},                                       /* body cut short */
        {"\xa1\x1f\x01", 3},                                      /* unknown fixed64, cut */
        {"\x80", 1},                                              /* half a tag */
        {"\x0e", 1},                                              /* wire type 6 */
    };
    struct wire_arena arena;
    size_t i;

    wire_arena_init(&arena);
    for (i = 0; i < ARRAY_LEN(bad); i++)
        cr_expect_null(unpack_request(&arena, (const uint8_t *)bad[i].bytes, bad[i].n, NULL),
                       "case %zu", i);
    wire_arena_finish(&arena);
}

Test(wire, the_arena_stops_allocating_after_the_first_messages)
{
    struct wire_arena arena;
    uint8_t bytes[256];
    size_t n = pack_request(bytes);
    const uint8_t *block;

    wire_arena_init(&arena);
    cr_assert_not_null(unpack_request(&arena, bytes, n, NULL));
    cr_assert_not_null(unpack_request(&arena, bytes, n, NULL));
    block = arena.block;
    cr_assert_not_null(unpack_request(&arena, bytes, n, NULL));
    cr_assert_eq(arena.block, block);
    cr_assert_null(arena.spill);
    wire_arena_finish(&arena);
}

static bool other(const char *path)
{
    return wire_is_other_version(path, strlen(path));
}

Test(wire, another_major_version_is_known_by_its_package)
{
    cr_expect(other("/drover.v2.Registry/Attach"));
    cr_expect(other("/drover.v10.Inference/Infer"));
    cr_expect(other("/drover.v0.X"));
    cr_expect_not(other("/drover.v1.Registry/Attach"));
    cr_expect_not(other("/drover.v1.Registry/Dance"), "of a later minor version");
    cr_expect_not(other("/drover.v.Registry/Attach"));
    cr_expect_not(other("/drover.v2"));
    cr_expect_not(other("/drover.v"));
    cr_expect_not(other("/drover.v2beta.Registry/Attach"));
    cr_expect_not(other("/grpc.health.v1.Health/Check"));
    cr_expect_not(other(""));
}
