/*
 * wire.c - decoding protobuf from peers that are not trusted.
 *
 * Two passes.  The first walks the wire form, guided by the descriptor, and refuses what
 * protobuf-c would let through: strings that are not UTF-8 or hold a NUL, deep nesting, many
 * unknown fields.  The second is protobuf-c, with an allocator that hands out pieces of the
 * arena and gives up at the budget: a few bytes on the wire can ask for far more memory (an
 * empty repeated message costs 2 bytes there and some 80 here).
 */
#include "proto/wire.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text/text.h"

#define MAX_DEPTH   8
#define MAX_UNKNOWN 64
/* A thousand models with sixteen aliases each fit.  60,000 headers in 3 MB would hold up all
 * streams of a worker for 20 to 80 ms. */
#define MAX_FIELDS     32768
#define BUDGET_BASE    ((size_t)524288) /* a thousand models of a few bytes each fit */
#define KEEP_BYTES     ((size_t)262144) /* largest block kept from message to message */
#define FIRST_BYTES    ((size_t)4096)
#define ALIGN_UP(n)    (((n) + 15) & ~(size_t)15)
#define WIRE_VARINT    0
#define WIRE_FIXED64   1
#define WIRE_DELIMITED 2
#define WIRE_FIXED32   5

/* A block of memory for a message that outgrew the arena's own. */
struct spill {
    struct spill *next;
    max_align_t bytes[];
};

void wire_arena_init(struct wire_arena *arena)
{
    memset(arena, 0, sizeof(*arena));
}

static void free_spill(struct wire_arena *arena)
{
    while (arena->spill != NULL) {
        struct spill *spill = arena->spill;

        arena->spill = spill->next;
        free(spill);
    }
    arena->spilled = 0;
}

void wire_arena_finish(struct wire_arena *arena)
{
    free_spill(arena);
    free(arena->block);
    wire_arena_init(arena);
}

/* Starts over.  A message that spilled shows how large the block should have been. */
static void arena_reset(struct wire_arena *arena, size_t n)
{
    size_t want = ALIGN_UP(arena->used + arena->spilled);

    free_spill(arena);
    if (want < FIRST_BYTES)
        want = FIRST_BYTES;
    if (want > KEEP_BYTES)
        want = KEEP_BYTES;
    if (want > arena->cap) {
        uint8_t *block = malloc(want);

        if (block != NULL) {
            free(arena->block);
            arena->block = block;
            arena->cap = want;
        }
    }
    arena->used = 0;
    arena->budget = n > (SIZE_MAX - BUDGET_BASE) / 2 ? SIZE_MAX : 2 * n + BUDGET_BASE;
}

static void *arena_alloc(void *data, size_t size)
{
    struct wire_arena *arena = data;
    size_t left = arena->budget - (arena->used + arena->spilled);
    struct spill *spill;

    if (size > left || ALIGN_UP(size) > left)
        return NULL;
    size = ALIGN_UP(size);
    if (size <= arena->cap - arena->used) {
        void *p = arena->block + arena->used;

        arena->used += size;
        return p;
    }
    spill = malloc(sizeof(*spill) + size);
    if (spill == NULL)
        return NULL;
    spill->next = arena->spill;
    arena->spill = spill;
    arena->spilled += size;
    return spill->bytes;
}

static void arena_free(void *data, void *pointer)
{
    (void)data;
    (void)pointer;
}

/* ---- the walk over the wire form ------------------------------------------------------- */

struct wire_walk {
    const uint8_t *at, *end;
    unsigned fields;  /* seen so far, at any depth */
    unsigned unknown; /* ... that no descriptor knows */
    struct error *err;
};

static int malformed(struct wire_walk *walk)
{
    return error_set(walk->err, DRV_EINVAL, "malformed protobuf");
}

static int read_varint(struct wire_walk *walk, uint64_t *value)
{
    unsigned shift;

    *value = 0;
    for (shift = 0; shift < 70 && walk->at < walk->end; shift += 7) {
        uint8_t byte = *walk->at++;

        if (shift == 63 && byte > 1)
            break;
        *value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            return 0;
    }
    return malformed(walk);
}

static int skip(struct wire_walk *walk, uint64_t n)
{
    if (n > (uint64_t)(walk->end - walk->at))
        return malformed(walk);
    walk->at += n;
    return 0;
}

static int walk_message(struct wire_walk *walk, const ProtobufCMessageDescriptor *descriptor,
                        unsigned depth);

static int walk_delimited(struct wire_walk *walk, const ProtobufCFieldDescriptor *field,
                          unsigned depth)
{
    const uint8_t *body, *end = walk->end;
    uint64_t n;
    int rc;

    rc = read_varint(walk, &n);
    if (rc != 0)
        return rc;
    body = walk->at;
    rc = skip(walk, n);
    if (rc != 0 || field == NULL)
        return rc;
    if (field->type == PROTOBUF_C_TYPE_STRING && !text_is_utf8(body, (size_t)n))
        return error_set(walk->err, DRV_EINVAL, "%s is not UTF-8 text", field->name);
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        const uint8_t *after = walk->at;

        walk->at = body;
        walk->end = after;
        rc = walk_message(walk, field->descriptor, depth + 1);
        walk->at = after;
        walk->end = end;
    }
    return rc;
}

static int walk_message(struct wire_walk *walk, const ProtobufCMessageDescriptor *descriptor,
                        unsigned depth)
{
    if (depth > MAX_DEPTH)
        return error_set(walk->err, DRV_EINVAL, "messages nested deeper than %d", MAX_DEPTH);
    while (walk->at < walk->end) {
        const ProtobufCFieldDescriptor *field;
        uint64_t tag, value;
        int rc = read_varint(walk, &tag);

        if (rc != 0)
            return rc;
        if (tag >> 3 == 0 || tag > UINT32_MAX)
            return malformed(walk);
        field = protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(tag >> 3));
        if (++walk->fields > MAX_FIELDS)
            return error_set(walk->err, DRV_ETOOBIG, "more than %d fields", MAX_FIELDS);
        if (field == NULL && ++walk->unknown > MAX_UNKNOWN)
            return error_set(walk->err, DRV_ETOOBIG, "more than %d unknown fields",
                             MAX_UNKNOWN);
        switch (tag & 7) {
        case WIRE_VARINT:
            rc = read_varint(walk, &value);
            break;
        case WIRE_FIXED64:
            rc = skip(walk, 8);
            break;
        case WIRE_FIXED32:
            rc = skip(walk, 4);
            break;
        case WIRE_DELIMITED:
            rc = walk_delimited(walk, field, depth);
            break;
        default: /* groups have been out of use for a decade */
            rc = malformed(walk);
        }
        if (rc != 0)
            return rc;
    }
    return 0;
}

ProtobufCMessage *wire_unpack(const ProtobufCMessageDescriptor *descriptor,
                              struct wire_arena *arena, const uint8_t *bytes, size_t n,
                              struct error *err)
{
    ProtobufCAllocator allocator = {arena_alloc, arena_free, arena};
    struct wire_walk walk = {.at = bytes, .end = n == 0 ? bytes : bytes + n, .err = err};
    ProtobufCMessage *message;

    arena_reset(arena, n);
    if (walk_message(&walk, descriptor, 1) != 0)
        return NULL;
    /* protobuf-c wants a pointer even for no bytes. */
    message = protobuf_c_message_unpack(descriptor, &allocator, n,
                                        n == 0 ? (const uint8_t *)"" : bytes);
    if (message == NULL)
        (void)error_set(err, DRV_EINVAL, "malformed protobuf, or over the memory budget");
    return message;
}

/* ---- text ------------------------------------------------------------------------------ */

bool wire_is_other_version(const char *path, size_t n)
{
    static const char package[] = "/drover.v";
    size_t i = sizeof(package) - 1;
    size_t from = i;

    if (n <= i || memcmp(path, package, i) != 0)
        return false;
    while (i < n && path[i] >= '0' && path[i] <= '9')
        i++;
    if (i == from || i == n || path[i] != '.')
        return false;
    return i - from != 1 || path[from] != '1';
}
