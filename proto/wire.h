/*
 * wire.h - decoding protobuf from peers that are not trusted.
 *
 * protobuf-c bounds neither memory nor strings.  wire_unpack() decodes into an arena with a
 * budget of 2 * bytes + 512 KiB, and refuses messages with more than 64 unknown fields, with
 * more than 32,768 fields in all, or with a string that is not UTF-8 or holds a NUL (protobuf-c
 * loses the length of a string, so this is checked on the wire, guided by the descriptor).
 * Nested messages are checked too, to a depth of 8.
 */
#ifndef DROVER_PROTO_WIRE_H
#define DROVER_PROTO_WIRE_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct error;

/* Memory for decoded messages, reused from message to message without malloc. */
struct wire_arena {
    uint8_t *block; /* owned */
    size_t cap;
    size_t used;
    size_t budget; /* bytes one message may take; set by wire_unpack() */
    void *spill;   /* owned list of blocks, when one message outgrew `block` */
    size_t spilled;
};
void wire_arena_init(struct wire_arena *arena);
void wire_arena_finish(struct wire_arena *arena);

/*
 * Decodes one message.  The result lives in the arena until the next wire_unpack() with it, and
 * is never freed singly.  NULL with `err` set: malformed, over the budget, bad string.
 */
MUST_CHECK ProtobufCMessage *wire_unpack(const ProtobufCMessageDescriptor *descriptor,
                                         struct wire_arena *arena, const uint8_t *bytes,
                                         size_t n, struct error *err);

/* Is this the path of a method of another major version of the protocol: "/drover.v2...."? */
MUST_CHECK bool wire_is_other_version(const char *path, size_t n);

#endif
