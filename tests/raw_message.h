/*
 * raw_message.h - any bytes as a protobuf message, for tests that speak no protobuf.
 *
 * The message has no field but one that its descriptor does not know; packing writes the tag of
 * that field and then its bytes as they are.  So the first byte must be below 0x80, which is a
 * tag of one byte.
 */
#ifndef DROVER_TESTS_RAW_MESSAGE_H
#define DROVER_TESTS_RAW_MESSAGE_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

struct raw_message {
    ProtobufCMessage base;
    ProtobufCMessageUnknownField field;
};

/* Borrows the bytes.  `raw` must not move afterwards. */
static inline const ProtobufCMessage *raw_message(struct raw_message *raw, const void *bytes,
                                                  size_t n)
{
    static const ProtobufCMessageDescriptor nothing = {
        .magic = PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC,
        .name = "Raw",
        .sizeof_message = sizeof(ProtobufCMessage)};
    const uint8_t *from = bytes;

    *raw = (struct raw_message){.base = {.descriptor = &nothing}};
    if (n == 0)
        return &raw->base;
    raw->field = (ProtobufCMessageUnknownField){.tag = (uint32_t)(from[0] & 0x7f) >> 3,
                                                .wire_type = (ProtobufCWireType)(from[0] & 7),
                                                .len = n - 1,
                                                .data = (uint8_t *)(uintptr_t)(from + 1)};
    raw->base.n_unknown_fields = 1;
    raw->base.unknown_fields = &raw->field;
    return &raw->base;
}

#endif
