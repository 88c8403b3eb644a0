/*
 * message.c - every protobuf message that a peer may send us: within its memory budget, or
 * refused; and what was taken says the same after it is packed again.
 *
 * Input: a byte that chooses the message, then its bytes.
 */
#include "base/attrs.h"
#include "base/error.h"
#include "proto/drover_inference.pb-c.h"
#include "proto/drover_registry.pb-c.h"
#include "proto/grpc_health_v1.pb-c.h"
#include "proto/wire.h"
#include "tests/fuzz/fuzz.h"

static const ProtobufCMessageDescriptor *const kinds[] = {
    &drover__v1__infer_request__descriptor,
    &drover__v1__infer_event__descriptor,
    &drover__v1__describe_request__descriptor,
    &drover__v1__describe_response__descriptor,
    &drover__v1__watch_load_request__descriptor,
    &drover__v1__load_report__descriptor,
    &drover__v1__node_frame__descriptor,
    &drover__v1__coordinator_frame__descriptor,
    &grpc__health__v1__health_check_request__descriptor,
    &grpc__health__v1__health_check_response__descriptor,
};

static ProtobufCMessage *take(const ProtobufCMessageDescriptor *kind, struct wire_arena *arena,
                              const uint8_t *bytes, size_t n)
{
    struct error err = {0};
    ProtobufCMessage *message = wire_unpack(kind, arena, bytes, n, &err);

    MUST(arena->used + arena->spilled <= 2 * n + 65536 + 4096);
    MUST(message != NULL || err.text[0] != '\0');
    return message;
}

static uint8_t *pack(const ProtobufCMessage *message, size_t *n)
{
    uint8_t *bytes;

    *n = protobuf_c_message_get_packed_size(message);
    bytes = malloc(*n == 0 ? 1 : *n);
    MUST(bytes != NULL);
    MUST(protobuf_c_message_pack(message, bytes) == *n);
    return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    const ProtobufCMessageDescriptor *kind = kinds[input_byte(&in) % ARRAY_LEN(kinds)];
    char *bytes = input_copy(in.at, in.left);
    ProtobufCMessage *message;
    struct wire_arena arena;

    wire_arena_init(&arena);
    message = take(kind, &arena, (const uint8_t *)bytes, in.left);
    if (message != NULL) {
        size_t first_len, second_len;
        uint8_t *first = pack(message, &first_len), *second;

        /* Shorter spellings have a smaller budget, so this may be refused. */
        message = take(kind, &arena, first, first_len);
        if (message != NULL) {
            second = pack(message, &second_len);
            MUST(first_len == second_len && memcmp(first, second, first_len) == 0);
            free(second);
        }
        free(first);
    }
    wire_arena_finish(&arena);
    free(bytes);
    return 0;
}
