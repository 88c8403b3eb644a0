/*
 * control.h - the messages between droverctl and the master, over a Unix stream socket.
 *
 * Framing: 4 bytes of big-endian length, then one msgpack map of that many bytes, at most 64
 * KiB. Request: {"v":1, "op":"drain", "node":"box1", ...}.  Reply: {"v":1, "ok":true, ...} or
 * {"v":1, "ok":false, "error":"one line"}.  One request and its reply per connection; a reply
 * may be preceded by progress messages {"v":1, "progress":"..."}.  The peer's uid must be 0,
 * the master's own or that of `user` in the configuration. Unknown keys are ignored; an unknown
 * op is an error reply.
 *
 *   op        arguments           what the master does
 *   drain     node                forwards the command to the health process
 *   undrain   node                likewise
 *   reload                        as SIGHUP; the reply has the outcome
 *   upgrade                       as SIGUSR2; progress, then the outcome
 *   scale     workers (1..64)     as TTIN/TTOU
 *   stop      quick (bool)        as QUIT, or TERM when quick
 */
#ifndef DROVER_PROTO_CONTROL_H
#define DROVER_PROTO_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct buf;
struct error;

#define CONTROL_MAX_BYTES   65536
#define CONTROL_WISH_BYTES  4096 /* of one that the master passes to the health process */
#define CONTROL_SOCKET_NAME "control.sock" /* inside runtime_dir */

enum control_op {
    CONTROL_NONE = 0,
    CONTROL_DRAIN,
    CONTROL_UNDRAIN,
    CONTROL_RELOAD,
    CONTROL_UPGRADE,
    CONTROL_SCALE,
    CONTROL_STOP,
};
const char *control_op_name(enum control_op op);

struct control_request {
    enum control_op op;
    char node[64];    /* drain, undrain */
    uint32_t workers; /* scale */
    bool quick;       /* stop */
};

struct control_reply {
    bool done; /* false: a progress message, more follow */
    bool ok;
    char text[512]; /* the error, the progress, or the outcome */
};

/* Appends one framed message to `out`; check out->failed. */
void control_encode_request(struct buf *out, const struct control_request *request);
void control_encode_reply(struct buf *out, const struct control_reply *reply);

/*
 * Takes one message from the front of `in` if it is complete.
 * 0: decoded and consumed.  DRV_EAGAIN: incomplete.  DRV_EINVAL: garbage, an unknown op, an
 * argument missing or out of range; consumed, and `err` is fit for an error reply.
 * DRV_ETOOBIG: the same, but not consumed: nothing after it can be understood.  DRV_ENOMEM.
 */
MUST_CHECK int control_decode_request(struct control_request *out, struct buf *in,
                                      struct error *err);
MUST_CHECK int control_decode_reply(struct control_reply *out, struct buf *in,
                                    struct error *err);

/* Are these bytes one framed message, no more and no less?  Its content is not checked. */
MUST_CHECK bool control_is_frame(const uint8_t *bytes, size_t n);

#endif
