/*
 * control.c - the messages of the control socket, as msgpack maps in frames.
 *
 * Decoding walks over the bytes twice.  The first walk (check_shape) proves that they are one
 * complete value of modest depth whose counts are backed by bytes, because msgpack-c allocates
 * what a count promises before it has seen an element.  The second is msgpack-c's.
 */
#include "proto/control.h"

#include <msgpack.h>
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/text.h"

#define CONTROL_VERSION     1
#define CONTROL_MAX_WORKERS 64
#define FRAME_HEAD_BYTES    4
#define MAX_DEPTH           8

const char *control_op_name(enum control_op op)
{
    switch (op) {
    case CONTROL_NONE:
        return "none";
    case CONTROL_DRAIN:
        return "drain";
    case CONTROL_UNDRAIN:
        return "undrain";
    case CONTROL_RELOAD:
        return "reload";
    case CONTROL_UPGRADE:
        return "upgrade";
    case CONTROL_SCALE:
        return "scale";
    case CONTROL_STOP:
        return "stop";
    }
    return "none";
}

/* ---- encoding ---- */

static int add_bytes(void *data, const char *bytes, size_t n)
{
    struct buf *out = data;

    buf_add(out, bytes, n);
    return out->failed ? -1 : 0;
}

static void pack_text(msgpack_packer *packer, const char *text)
{
    (void)msgpack_pack_str_with_body(packer, text, strlen(text));
}

static void pack_bool(msgpack_packer *packer, bool value)
{
    if (value)
        (void)msgpack_pack_true(packer);
    else
        (void)msgpack_pack_false(packer);
}

/* Leaves room for the length and begins a map of `pairs`, the version among them. */
static void frame_begin(struct buf *out, msgpack_packer *packer, size_t pairs)
{
    static const uint8_t room[FRAME_HEAD_BYTES];

    buf_add(out, room, sizeof(room));
    msgpack_packer_init(packer, out, add_bytes);
    (void)msgpack_pack_map(packer, pairs);
    pack_text(packer, "v");
    (void)msgpack_pack_uint32(packer, CONTROL_VERSION);
}

/* Fills in the length of the frame that is the last thing in `out`; `before` is what
 * buf_size() was ahead of frame_begin(). */
static void frame_end(struct buf *out, size_t before)
{
    size_t n;
    uint8_t *head;

    if (out->failed)
        return;
    n = buf_size(out) - before - FRAME_HEAD_BYTES;
    head = buf_head(out) + before;
    head[0] = (uint8_t)(n >> 24);
    head[1] = (uint8_t)(n >> 16);
    head[2] = (uint8_t)(n >> 8);
    head[3] = (uint8_t)n;
}

void control_encode_request(struct buf *out, const struct control_request *request)
{
    size_t before = buf_size(out);
    msgpack_packer packer;

    frame_begin(out, &packer, 5);
    pack_text(&packer, "op");
    pack_text(&packer, control_op_name(request->op));
    pack_text(&packer, "node");
    pack_text(&packer, request->node);
    pack_text(&packer, "workers");
    (void)msgpack_pack_uint32(&packer, request->workers);
    pack_text(&packer, "quick");
    pack_bool(&packer, request->quick);
    frame_end(out, before);
}

void control_encode_reply(struct buf *out, const struct control_reply *reply)
{
    size_t before = buf_size(out);
    msgpack_packer packer;

    if (!reply->done) {
        frame_begin(out, &packer, 2);
        pack_text(&packer, "progress");
    } else {
        frame_begin(out, &packer, 3);
        pack_text(&packer, "ok");
        pack_bool(&packer, reply->ok);
        pack_text(&packer, reply->ok ? "text" : "error");
    }
    pack_text(&packer, reply->text);
    frame_end(out, before);
}

/* ---- decoding ---- */

/* Takes a big-endian number of `bytes` bytes; false at the end of the data. */
static bool take_number(const uint8_t **at, const uint8_t *end, unsigned bytes, uint64_t *out)
{
    if ((size_t)(end - *at) < bytes)
        return false;
    *out = 0;
    for (unsigned i = 0; i < bytes; i++)
        *out = *out << 8 | *(*at)++;
    return true;
}

/* Walks over the head of one msgpack value: *skip gets the bytes of it that follow, *children
 * the values inside.  False: cut short, or no msgpack. */
static bool take_head(const uint8_t **at, const uint8_t *end, uint64_t *skip,
                      uint64_t *children)
{
    /* Bytes of payload after 0xca..0xcf, 0xd0..0xd3 (numbers) and 0xd4..0xd8 (ext, with its
     * type byte). */
    static const uint8_t fixed[] = {4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 3, 5, 9, 17};
    uint8_t type;

    *skip = 0;
    *children = 0;
    if (*at == end)
        return false;
    type = *(*at)++;
    if (type <= 0x7f || type >= 0xe0 || type == 0xc0 || type == 0xc2 || type == 0xc3)
        return true;
    if (type <= 0x8f) {
        *children = 2u * (type & 0x0fu);
    } else if (type <= 0x9f) {
        *children = type & 0x0fu;
    } else if (type <= 0xbf) {
        *skip = type & 0x1fu;
    } else if (type >= 0xc4 && type <= 0xc6) {
        return take_number(at, end, 1u << (type - 0xc4), skip);
    } else if (type >= 0xc7 && type <= 0xc9) {
        if (!take_number(at, end, 1u << (type - 0xc7), skip))
            return false;
        *skip += 1;
    } else if (type >= 0xca && type <= 0xd8) {
        *skip = fixed[type - 0xca];
    } else if (type >= 0xd9 && type <= 0xdb) {
        return take_number(at, end, 1u << (type - 0xd9), skip);
    } else if (type == 0xdc || type == 0xdd) {
        return take_number(at, end, type == 0xdc ? 2 : 4, children);
    } else if (type == 0xde || type == 0xdf) {
        if (!take_number(at, end, type == 0xde ? 2 : 4, children))
            return false;
        *children *= 2;
    } else {
        return false; /* 0xc1 is not msgpack */
    }
    return true;
}

/* Are bytes[0..n) exactly one value, at most MAX_DEPTH containers deep? */
static bool check_shape(const uint8_t *bytes, size_t n)
{
    const uint8_t *at = bytes, *end = bytes + n;
    uint64_t open[MAX_DEPTH + 1] = {1}; /* values still to come, by depth */
    unsigned depth = 0;

    for (;;) {
        uint64_t skip, children;

        while (open[depth] == 0) {
            if (depth == 0)
                return at == end;
            depth--;
        }
        open[depth]--;
        if (!take_head(&at, end, &skip, &children) || skip > (uint64_t)(end - at))
            return false;
        at += skip;
        if (children > (uint64_t)(end - at))
            return false; /* each takes a byte at least */
        if (children != 0) {
            if (depth == MAX_DEPTH)
                return false;
            open[++depth] = children;
        }
    }
}

/* Finds the frame at the front of `in`: its bytes and their number. */
static int find_frame(const uint8_t **body, size_t *n, const struct buf *in, struct error *err)
{
    const uint8_t *head;

    if (buf_size(in) < FRAME_HEAD_BYTES)
        return DRV_EAGAIN;
    head = buf_head(in);
    *n = (size_t)head[0] << 24 | (size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3];
    if (*n > CONTROL_MAX_BYTES)
        return error_set(err, DRV_ETOOBIG, "control message of %zu bytes; at most %d", *n,
                         CONTROL_MAX_BYTES);
    if (buf_size(in) - FRAME_HEAD_BYTES < *n)
        return DRV_EAGAIN;
    *body = head + FRAME_HEAD_BYTES;
    return 0;
}

static bool is_text(const msgpack_object *object, const char *plain)
{
    return object->type == MSGPACK_OBJECT_STR &&
           text_equals(object->via.str.ptr, object->via.str.size, plain);
}

/* The value of a key; NULL when it is not there. */
static const msgpack_object *get(const msgpack_object_map *map, const char *key)
{
    for (uint32_t i = 0; i < map->size; i++)
        if (is_text(&map->ptr[i].key, key))
            return &map->ptr[i].val;
    return NULL;
}

/* Copies a text, cut if it is too long.  False when it is none or contains a NUL. */
static bool get_text(char *out, size_t cap, const msgpack_object *value)
{
    size_t n;

    if (value == NULL || value->type != MSGPACK_OBJECT_STR)
        return false;
    n = value->via.str.size;
    if (n != 0 && memchr(value->via.str.ptr, '\0', n) != NULL)
        return false;
    if (n > cap - 1)
        n = cap - 1;
    if (n != 0)
        memcpy(out, value->via.str.ptr, n);
    out[n] = '\0';
    return true;
}

/* The flag of a key, false when it is missing.  Returns false when it is no flag. */
static bool get_flag(bool *out, const msgpack_object *value)
{
    *out = false;
    if (value == NULL)
        return true;
    if (value->type != MSGPACK_OBJECT_BOOLEAN)
        return false;
    *out = value->via.boolean;
    return true;
}

/* Unpacks one frame into `zone` and checks its version. */
static int unpack(msgpack_object_map *map, msgpack_zone *zone, const uint8_t *body, size_t n,
                  struct error *err)
{
    const msgpack_object *version;
    msgpack_object root;

    if (!check_shape(body, n))
        return error_set(err, DRV_EINVAL, "control message is not msgpack");
    if (msgpack_unpack((const char *)body, n, NULL, zone, &root) != MSGPACK_UNPACK_SUCCESS)
        return error_set(err, DRV_EINVAL, "control message cannot be unpacked");
    if (root.type != MSGPACK_OBJECT_MAP)
        return error_set(err, DRV_EINVAL, "control message is not a map");
    *map = root.via.map;
    version = get(map, "v");
    if (version == NULL || version->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
        return error_set(err, DRV_EINVAL, "control message has no version");
    if (version->via.u64 != CONTROL_VERSION)
        return error_set(err, DRV_EINVAL, "control message has version %llu; this is %d",
                         (unsigned long long)version->via.u64, CONTROL_VERSION);
    return 0;
}

static int read_op(enum control_op *out, const msgpack_object_map *map, struct error *err)
{
    static const enum control_op all[] = {CONTROL_DRAIN,   CONTROL_UNDRAIN, CONTROL_RELOAD,
                                          CONTROL_UPGRADE, CONTROL_SCALE,   CONTROL_STOP};
    const msgpack_object *op = get(map, "op");

    if (op == NULL)
        return error_set(err, DRV_EINVAL, "control message has no op");
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (is_text(op, control_op_name(all[i]))) {
            *out = all[i];
            return 0;
        }
    }
    return error_set(err, DRV_EINVAL, "unknown op");
}

static int read_request(void *to, const msgpack_object_map *map, struct error *err)
{
    struct control_request *out = to;
    const msgpack_object *workers = get(map, "workers");
    const msgpack_object *node = get(map, "node");
    int rc = read_op(&out->op, map, err);

    if (rc != 0)
        return rc;
    if (out->op == CONTROL_DRAIN || out->op == CONTROL_UNDRAIN) {
        if (!get_text(out->node, sizeof(out->node), node) || out->node[0] == '\0' ||
            node->via.str.size >= sizeof(out->node))
            return error_set(err, DRV_EINVAL, "%s: node is missing or no name",
                             control_op_name(out->op));
    }
    if (out->op == CONTROL_SCALE) {
        if (workers == NULL || workers->type != MSGPACK_OBJECT_POSITIVE_INTEGER ||
            workers->via.u64 < 1 || workers->via.u64 > CONTROL_MAX_WORKERS)
            return error_set(err, DRV_EINVAL, "scale: workers must be 1 to %d",
                             CONTROL_MAX_WORKERS);
        out->workers = (uint32_t)workers->via.u64;
    }
    if (out->op == CONTROL_STOP && !get_flag(&out->quick, get(map, "quick")))
        return error_set(err, DRV_EINVAL, "stop: quick must be true or false");
    return 0;
}

static int read_reply(void *to, const msgpack_object_map *map, struct error *err)
{
    struct control_reply *out = to;
    const msgpack_object *ok = get(map, "ok");

    if (ok == NULL) {
        if (!get_text(out->text, sizeof(out->text), get(map, "progress")))
            return error_set(err, DRV_EINVAL, "control reply has neither ok nor progress");
        return 0;
    }
    out->done = true;
    if (!get_flag(&out->ok, ok))
        return error_set(err, DRV_EINVAL, "control reply: ok must be true or false");
    if (!get_text(out->text, sizeof(out->text), get(map, out->ok ? "text" : "error")) &&
        !out->ok)
        return error_set(err, DRV_EINVAL, "control reply has no error text");
    return 0;
}

/* One message off the front of `in`, read by `read` into `out`; consumed even when it is
 * garbage, so that what follows it can be read. */
static int decode(void *out, struct buf *in,
                  int (*read)(void *out, const msgpack_object_map *map, struct error *err),
                  struct error *err)
{
    msgpack_object_map map;
    const uint8_t *body = NULL;
    msgpack_zone zone;
    size_t n = 0;
    int rc;

    rc = find_frame(&body, &n, in, err);
    if (rc != 0)
        return rc;
    if (!msgpack_zone_init(&zone, MSGPACK_ZONE_CHUNK_SIZE))
        return error_set(err, DRV_ENOMEM, "out of memory");
    rc = unpack(&map, &zone, body, n, err);
    if (rc == 0)
        rc = read(out, &map, err);
    msgpack_zone_destroy(&zone);
    buf_consume(in, FRAME_HEAD_BYTES + n);
    return rc;
}

int control_decode_request(struct control_request *out, struct buf *in, struct error *err)
{
    int rc;

    *out = (struct control_request){0};
    rc = decode(out, in, read_request, err);
    if (rc != 0)
        *out = (struct control_request){0};
    return rc;
}

int control_decode_reply(struct control_reply *out, struct buf *in, struct error *err)
{
    int rc;

    *out = (struct control_reply){0};
    rc = decode(out, in, read_reply, err);
    if (rc != 0)
        *out = (struct control_reply){0};
    return rc;
}

bool control_is_frame(const uint8_t *bytes, size_t n)
{
    return n > FRAME_HEAD_BYTES && ((uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 |
                                    (uint32_t)bytes[2] << 8 | bytes[3]) == n - FRAME_HEAD_BYTES;
}
